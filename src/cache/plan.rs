//! What is evicted to make room: pure, from a listing of what was pulled.
//!
//! - The unit is a manifest of one repository, least recently used first; content goes with the last manifest that names
//!   it. Content that no manifest names is a unit of its own, as old as its fetching.
//! - An index is a unit apart from its children. It counts as used when any of its children is, and goes after them, so that
//!   what is asked for by tag can be found as long as one platform of it is here. An index whose children went remains
//!   good: they are fetched again when they are asked for, and without the upstream it is not served, as if they had never
//!   been pulled.
//! - What is being read stays, but not its manifest. What a client was told is here stays, and with it one manifest
//!   by which its repository has it. A manifest stays as long as anything that it names is being fetched.
//! - A plan that frees too little is none: it would cost content and gain nothing.
//! - What is due goes whatever it frees, and before all else.

use std::{
    collections::{HashMap, HashSet},
    time::SystemTime,
};

use crate::{
    storage::{Cached, CachedManifest, InUse},
    types::{CanonicalName, Digest},
};

/// What goes, in this order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    pub steps: Vec<Step>,
    /// What that frees.
    pub bytes: u64,
}

/// One unit: entries, then the content that nothing needs without them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    pub manifest: Option<(CanonicalName, Digest)>,
    pub contents: Vec<Digest>,
}

/// What a plan is to come to.
#[derive(Clone, Copy, Debug, Default)]
pub struct Goal {
    /// Bytes to be freed at least.
    pub needed: u64,
    /// Bytes to be freed if they can.
    pub wanted: u64,
    /// Due is what was not used since then, and what no manifest names. Without it nothing is.
    pub due: Option<SystemTime>,
}

/// How to come to the goal. `filling` is under way.
pub fn plan(cached: &Cached, filling: &HashSet<Digest>, goal: Goal) -> Option<Plan> {
    let manifests = &cached.manifests;
    // How many manifests claim a content, and how many of a repository one that was promised.
    let mut claims: HashMap<&Digest, usize> = HashMap::new();
    let mut promised: HashMap<(&CanonicalName, &Digest), usize> = HashMap::new();
    let is_promised = |digest: &Digest| cached.in_use.get(digest) == Some(&InUse::Promised);
    for manifest in manifests {
        for digest in claimed(manifest) {
            *claims.entry(digest).or_default() += 1;
            if is_promised(digest) {
                *promised.entry((&manifest.name, digest)).or_default() += 1;
            }
        }
    }
    let own_use: HashMap<(&CanonicalName, &Digest), SystemTime> = manifests
        .iter()
        .map(|manifest| ((&manifest.name, &manifest.digest), manifest.used))
        .collect();
    let mut units = Vec::new();
    for manifest in manifests {
        let children = manifest
            .names
            .iter()
            .filter_map(|named| own_use.get(&(&manifest.name, named)));
        let latest = children.max();
        let used = latest.map_or(manifest.used, |latest| manifest.used.max(*latest));
        let due = goal.due.is_some_and(|since| used < since);
        units.push((!due, used, latest.is_some(), Unit::Manifest(manifest)));
    }
    for (digest, content) in &cached.contents {
        if !claims.contains_key(digest) {
            let due = goal.due.is_some();
            units.push((!due, content.since, false, Unit::Loose(digest)));
        }
    }
    units.sort_by_key(|(spared, used, above, _)| (*spared, *used, *above));

    let mut plan = Plan::default();
    for (spared, _, _, unit) in units {
        if spared && plan.bytes >= goal.wanted {
            break;
        }
        let freed: Vec<&Digest> = match unit {
            Unit::Loose(digest) => vec![digest],
            Unit::Manifest(manifest) => {
                let stays = |digest: &Digest| {
                    filling.contains(digest) || promised.get(&(&manifest.name, digest)) == Some(&1)
                };
                let caches = |digest: &Digest| cached.contents.contains_key(digest);
                if claimed(manifest).any(stays) || (spared && !claimed(manifest).any(caches)) {
                    continue;
                }
                for digest in claimed(manifest) {
                    if let Some(left) = promised.get_mut(&(&manifest.name, digest)) {
                        *left -= 1;
                    }
                }
                claimed(manifest)
                    .filter(|digest| {
                        claims.get_mut(*digest).is_some_and(|left| {
                            *left -= 1;
                            *left == 0
                        })
                    })
                    .collect()
            }
        };
        let mut contents = Vec::new();
        for digest in freed {
            if let Some(content) = cached.contents.get(digest)
                && !cached.in_use.contains_key(digest)
                && !filling.contains(digest)
            {
                plan.bytes += content.size;
                contents.push(digest.clone());
            }
        }
        let manifest = match unit {
            Unit::Manifest(manifest) => Some((manifest.name.clone(), manifest.digest.clone())),
            Unit::Loose(_) if contents.is_empty() => continue,
            Unit::Loose(_) => None,
        };
        plan.steps.push(Step { manifest, contents });
    }
    (plan.bytes >= goal.needed).then_some(plan)
}

#[derive(Clone, Copy)]
enum Unit<'a> {
    Manifest(&'a CachedManifest),
    Loose(&'a Digest),
}

/// What is content for a manifest's sake.
fn claimed(manifest: &CachedManifest) -> impl Iterator<Item = &Digest> {
    std::iter::once(&manifest.digest).chain(&manifest.names)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::{storage::CachedContent, types::Algorithm};

    fn digest(of: &str) -> Digest {
        Digest::of(Algorithm::Sha256, of.as_bytes())
    }

    fn at(second: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(second)
    }

    /// Manifests (repository, manifest, second of the last use, what it names), and contents of 10 bytes each.
    fn cached(manifests: &[(&str, &str, u64, &[&str])], contents: &[&str]) -> Cached {
        let manifest =
            |(name, manifest, used, names): &(&str, &str, u64, &[&str])| CachedManifest {
                name: format!("quay.io/{name}").parse().unwrap(),
                digest: digest(manifest),
                used: at(*used),
                names: names.iter().map(|name| digest(name)).collect(),
            };
        let content = CachedContent {
            size: 10,
            since: at(0),
        };
        Cached {
            manifests: manifests.iter().map(manifest).collect(),
            contents: contents.iter().map(|of| (digest(of), content)).collect(),
            in_use: HashMap::new(),
        }
    }

    /// `manifest: contents` for each step.
    fn planned(cached: &Cached, filling: &[&str], needed: u64) -> Option<Vec<String>> {
        let names = ["m1", "m2", "m3", "i", "a", "b", "c", "base", "loose"];
        let spelled = |digest: &Digest| {
            let found = names.iter().find(|name| self::digest(name) == *digest);
            (*found.unwrap()).to_owned()
        };
        let filling = filling.iter().map(|of| digest(of)).collect();
        let goal = Goal {
            needed,
            wanted: needed,
            due: None,
        };
        let plan = plan(cached, &filling, goal)?;
        let contents = plan
            .steps
            .iter()
            .map(|step| step.contents.len())
            .sum::<usize>();
        assert_eq!(plan.bytes, 10 * contents as u64);
        let step = |step: &Step| {
            let mut contents: Vec<String> = step.contents.iter().map(spelled).collect();
            contents.sort();
            let manifest = step.manifest.as_ref().map(|(_, digest)| spelled(digest));
            format!("{}: {}", manifest.unwrap_or_default(), contents.join(" "))
        };
        Some(plan.steps.iter().map(step).collect())
    }

    fn images() -> Cached {
        cached(
            &[
                ("x", "m2", 20, &["b", "base"]),
                ("x", "m1", 10, &["a", "base"]),
                ("y", "m3", 30, &["c", "base"]),
            ],
            &["m1", "m2", "m3", "a", "b", "c", "base"],
        )
    }

    #[test]
    fn the_least_recently_used_goes_first_and_no_more_than_needed() {
        assert_eq!(planned(&images(), &[], 20).unwrap(), ["m1: a m1"]);
        let two = ["m1: a m1", "m2: b m2"];
        assert_eq!(planned(&images(), &[], 21).unwrap(), two);
        let all = ["m1: a m1", "m2: b m2", "m3: base c m3"];
        assert_eq!(planned(&images(), &[], 70).unwrap(), all);
    }

    #[test]
    fn a_plan_that_frees_too_little_is_none() {
        assert_eq!(planned(&images(), &[], 71), None);
        assert_eq!(planned(&Cached::default(), &[], 1), None);
        assert_eq!(planned(&Cached::default(), &[], 0).unwrap(), [""; 0]);
    }

    #[test]
    fn content_that_is_local_too_frees_nothing() {
        let mut cached = images();
        for local in ["m1", "a", "base"] {
            cached.contents.remove(&digest(local));
        }
        assert_eq!(planned(&cached, &[], 10).unwrap(), ["m2: b m2"]);
    }

    #[test]
    fn content_that_nothing_names_goes_by_its_own_age() {
        let mut cached = images();
        let loose = CachedContent {
            size: 10,
            since: at(15),
        };
        cached.contents.insert(digest("loose"), loose);
        let steps = ["m1: a m1", ": loose"];
        assert_eq!(planned(&cached, &[], 30).unwrap(), steps);
    }

    #[test]
    fn what_is_read_stays_and_its_manifest_need_not() {
        let mut cached = images();
        cached.in_use.insert(digest("a"), InUse::Pinned);
        let steps = ["m1: m1", "m2: b m2"];
        assert_eq!(planned(&cached, &[], 20).unwrap(), steps);
        cached.in_use.insert(digest("base"), InUse::Pinned);
        assert_eq!(planned(&cached, &[], 51), None);
    }

    #[test]
    fn what_was_promised_stays_with_one_manifest_of_its_repository() {
        let mut cached = images();
        cached.in_use.insert(digest("a"), InUse::Promised);
        assert_eq!(planned(&cached, &[], 20).unwrap(), ["m2: b m2"]);
        // Two manifests of x name it and one of y, so that the older one of x may go.
        cached.in_use = HashMap::from([(digest("base"), InUse::Promised)]);
        assert_eq!(planned(&cached, &[], 20).unwrap(), ["m1: a m1"]);
        assert_eq!(planned(&cached, &[], 21), None);
    }

    #[test]
    fn what_is_being_fetched_keeps_its_manifest() {
        let cached = images();
        assert_eq!(planned(&cached, &["a"], 20).unwrap(), ["m2: b m2"]);
        assert_eq!(planned(&cached, &["base"], 1), None);
    }

    #[test]
    fn an_index_goes_after_its_children() {
        let cached = cached(
            &[
                ("x", "i", 10, &["m1", "m2"]),
                ("x", "m1", 40, &["a"]),
                ("x", "m2", 20, &["b"]),
                ("y", "m3", 30, &["c"]),
            ],
            &["i", "m1", "m2", "m3", "a", "b", "c"],
        );
        let steps = ["m2: b", "m3: c m3", "m1: a", "i: i m1 m2"];
        assert_eq!(planned(&cached, &[], 70).unwrap(), steps);
    }

    #[test]
    fn what_is_due_goes_whatever_it_frees_and_counts_for_the_rest() {
        let mut cached = images();
        let loose = CachedContent {
            size: 10,
            since: at(99),
        };
        cached.contents.insert(digest("loose"), loose);
        for local in ["m1", "a"] {
            cached.contents.remove(&digest(local));
        }
        let goal = |wanted, due| Goal {
            needed: 0,
            wanted,
            due: Some(at(due)),
        };
        let gone = |goal| {
            let plan = plan(&cached, &HashSet::new(), goal).unwrap();
            let manifests = plan.steps.iter().filter(|step| step.manifest.is_some());
            (manifests.count(), plan.bytes)
        };
        // What nothing names goes however young it is.
        assert_eq!(gone(goal(0, 0)), (0, 10));
        // The first image's own content is local, and it goes by its age all the same.
        assert_eq!(gone(goal(0, 10)), (0, 10));
        assert_eq!(gone(goal(0, 11)), (1, 10));
        assert_eq!(gone(goal(10, 0)), (0, 10));
        // The first one goes too, before the second, for the layer that both have.
        assert_eq!(gone(goal(11, 0)), (2, 30));
        assert_eq!(gone(goal(30, 11)), (2, 30));
        assert_eq!(gone(goal(u64::MAX, 99)), (3, 60));
    }
}
