//! The users, and whether a password is theirs. Knows no rules and no tokens.
//!
//! - A failed log-in takes the same time whether the user does not exist, has a password or has a hash of whatever cost,
//!   and comparing takes the same time wherever two passwords differ.
//! - The password that bcrypt last found right is remembered, as a hash under a key that ends with this process, so that
//!   a job's thousand requests pay for one. What is wrong is never remembered, so the memory is bounded by the users.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

use tokio::sync::Semaphore;

use super::{
    key::{Key, KeyError, Tag, random_password},
    user::{User, UserName, waste},
};
use crate::storage::blocking;

pub(super) struct Passwords {
    known: BTreeMap<UserName, Arc<Known>>,
    /// Makes the hashes that passwords are remembered and compared by.
    key: Key,
    /// What the password of a user is compared with of whom no hash is remembered, and of one who does not exist.
    nobody: Tag,
    /// The highest cost of a user's hash, if any has one: what every failed log-in takes.
    price: Option<u32>,
    /// bcrypt runs at once. A flood of wrong passwords must leave the machine something.
    turns: Arc<Semaphore>,
}

/// A user, and the hash of the password that is known to be right: from the start where the user has a plain one.
struct Known {
    user: Arc<User>,
    right: Mutex<Option<Tag>>,
}

impl Passwords {
    pub(super) fn new(users: Vec<User>) -> Result<Self, KeyError> {
        let key = Key::random()?;
        let price = users.iter().filter_map(|user| user.secret.cost()).max();
        let known = |user: User| {
            let right = user.secret.password().map(|password| {
                let name = user.name.as_str();
                key.tag(&[name.as_bytes(), password.as_bytes()])
            });
            let known = Known {
                right: Mutex::new(right),
                user: Arc::new(user),
            };
            (known.user.name.clone(), Arc::new(known))
        };
        let known = users.into_iter().map(known).collect();
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        Ok(Self {
            known,
            nobody: key.tag(&[random_password()?.as_bytes()]),
            key,
            price,
            turns: Arc::new(Semaphore::new(cores.div_ceil(2))),
        })
    }

    pub(super) fn user(&self, name: &str) -> Option<&Arc<User>> {
        self.known.get(name).map(|known| &known.user)
    }

    pub(super) fn names(&self) -> impl Iterator<Item = &UserName> {
        self.known.keys()
    }

    /// The user of that name, if the password is right.
    pub(super) async fn check(&self, name: &str, password: &str) -> Option<Arc<User>> {
        let given = self.key.tag(&[name.as_bytes(), password.as_bytes()]);
        let known = self.known.get(name);
        let is_right = || {
            let right = known.and_then(|known| *known.lock());
            given == right.unwrap_or(self.nobody)
        };
        if is_right() {
            return known.map(|known| Arc::clone(&known.user));
        }
        let price = self.price?;
        // Closed never: it lives as long as this does.
        let turn = Arc::clone(&self.turns).acquire_owned().await.ok()?;
        // Requests that came at once with the same password have waited for the first of them.
        if is_right() {
            return known.map(|known| Arc::clone(&known.user));
        }
        let (user, password) = (
            known.map(|known| Arc::clone(&known.user)),
            password.to_owned(),
        );
        let right = blocking(move || {
            // Held to the end of the work, also when the client has gone by then.
            let _turn = turn;
            let secret = user.as_ref().map(|user| &user.secret);
            if secret.is_some_and(|secret| secret.is_hash_of(&password)) {
                return true;
            }
            match secret.and_then(|secret| secret.cost()) {
                // Each cost has twice the rounds of the one before: those from `paid` on add up to what is missing.
                Some(paid) => waste(&password, paid..price),
                None => waste(&password, price..price + 1),
            }
            false
        });
        if !right.await {
            return None;
        }
        let known = known?;
        *known.lock() = Some(given);
        Some(Arc::clone(&known.user))
    }
}

impl Known {
    fn lock(&self) -> std::sync::MutexGuard<'_, Option<Tag>> {
        self.right.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
