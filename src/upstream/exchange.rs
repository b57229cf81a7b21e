//! One question to a registry: asked of its endpoints in order, within one budget of time.

use tokio::time::{Instant, sleep};

use super::{
    Cause, Effort, Error, Patience, Upstreams,
    answer::Answer,
    endpoint::{Ask, Endpoint},
};
use crate::types::RegistryHost;

/// In which order the endpoints are asked.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Order {
    /// Content is the same everywhere, and mirrors are there to be used.
    MirrorsFirst,
    /// Of listings a mirror may know only what went through it.
    MirrorsLast,
}

impl Upstreams {
    /// `None`: the registry itself says that it has no such thing.
    pub(super) async fn exchange(
        &self,
        registry: &RegistryHost,
        ask: Ask<'_>,
        order: Order,
    ) -> Result<Option<Answer>, Error> {
        let Some(upstream) = self.registries.get(registry) else {
            return Err(Error::new(registry, Cause::NotConfigured));
        };
        let until = ask.effort.until.min(Instant::now() + self.pace.budget);
        let mut endpoints: Vec<(&Endpoint, bool)> = upstream
            .mirrors
            .iter()
            .map(|mirror| (mirror, false))
            .collect();
        let at = match order {
            Order::MirrorsFirst => endpoints.len(),
            Order::MirrorsLast => 0,
        };
        endpoints.insert(at, (&upstream.itself, true));

        let mut told = Vec::new();
        let mut own = None;
        let count = endpoints.len() as u32;
        for (asked, (endpoint, is_itself)) in (0..).zip(endpoints) {
            // A silent endpoint leaves the others their share.
            let left = until.saturating_duration_since(Instant::now());
            let share = Instant::now() + left / (count - asked);
            let mut asked = endpoint.ask(ask, &self.pace, share).await;
            // Without a blob a client's pull ends for good.
            while is_itself
                && let Err(cause) = &asked
                && let Some(pause) = endpoint.may_be_back(ask, cause)
                && Instant::now() + pause < share
            {
                sleep(pause).await;
                let once = Ask {
                    effort: Effort {
                        patience: Patience::Once,
                        ..ask.effort
                    },
                    ..ask
                };
                asked = endpoint.ask(once, &self.pace, share).await;
            }
            let cause = match asked {
                Ok(Some(answer)) => return Ok(Some(answer)),
                Ok(None) if is_itself => return Ok(None),
                Ok(None) => {
                    told.push(format!("its mirror {} has no such thing", endpoint.base()));
                    continue;
                }
                Err(cause) => cause,
            };
            if is_itself {
                own = Some(cause);
                continue;
            }
            // That it is not asked was said when that began.
            if cause.rests().is_none() {
                log::info!("{registry}: its mirror {}: {cause}", endpoint.base());
            }
            told.push(format!("its mirror {}: {cause}", endpoint.base()));
        }
        let own = own.unwrap_or(Cause::NotConfigured);
        // What the registry itself has answered stands, whatever its mirrors did.
        let verdict = matches!(own, Cause::Unauthorized(_) | Cause::Status(400..=499));
        let cause = match told.is_empty() || verdict {
            true => own,
            false => Cause::Everywhere {
                mirrors: told.join("; "),
                cause: Box::new(own),
            },
        };
        Err(Error::new(registry, cause))
    }
}
