//! Priorities: where a node is saturated, functions of lower priority that run outside its own threads are held still until those of
//! higher priority need the node no more, or until it is time that they come further, too.
//!
//! Guests in the node's own threads take turns by priority at each slice (`runtime-wasm`); a container or process is the kernel's to
//! schedule, which knows nothing of priorities. So the node looks ten times a second while there is anything that could be held, and tells
//! what it has seen; what is answered is what to hold still and what to let go on, and why. It is held by the freezer of its control group:
//! whatever it was doing goes on where it was, and the time that it was held counts against nobody's deadline.
//!
//! What keeps it from flapping: it takes two looks in a row for something to be held, and four without calls of a higher priority for it to
//! go on; what goes on because it was held for long enough is not held again before it has run for a while.

use std::collections::BTreeMap;

use littoral_model::id::{AppId, FunctionName};
use littoral_model::manifest::Priority;

/// How often a node looks while there is something to hold, in milliseconds.
pub const LOOK_MS: u64 = 100;
/// How much of its processors' time a saturated node uses, at least, in thousandths.
pub const SATURATED_PERMILLE: u16 = 900;
/// What uses less of a node than this, in thousandths, takes nothing from others worth holding it for.
pub const USE_PERMILLE_MIN: u16 = 50;
/// In how many looks in a row it must be in the way to be held.
const LOOKS_TO_HOLD: u32 = 2;
/// After how many looks in a row without calls of higher priority it goes on.
const LOOKS_TO_LET_GO: u32 = 4;
/// After how long it goes on anyway, for its callers wait, too, in milliseconds: less than what those on other nodes allow for the way.
pub const HELD_MS_MAX: u64 = 4_000;
/// For how long it runs then before it may be held again, in milliseconds.
pub const RUN_MS_MIN: u64 = 500;
/// How many functions are remembered; a node serves fewer outside its threads.
const KNOWN_MAX: usize = 256;

type Key = (AppId, FunctionName);

/// How a function did since the last look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Load {
    /// What its manifest says.
    pub priority: Priority,
    /// Whether it can be held: it runs in containers.
    pub can_be_held: bool,
    /// How many of its calls have begun since, or run.
    pub calls: u64,
    /// How much of the node's processors' time it has used since, in thousandths; of what cannot be held it does not matter.
    pub use_permille: u16,
}

/// What a node has seen since its last look.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Look {
    /// How much of its processors' time it has used, in thousandths.
    pub busy_permille: u16,
    /// The functions that it serves.
    pub functions: BTreeMap<Key, Load>,
}

/// What is to be done with a function.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// To hold it still.
    Hold {
        /// The function of higher priority that has most calls.
        for_the_sake_of: Key,
        /// How much of its processors' time the node has used, in thousandths.
        busy_permille: u16,
        /// How much of that the function has used.
        use_permille: u16,
    },
    /// To let it go on.
    LetGo {
        /// For how long it was held, in milliseconds.
        held_ms: u64,
        /// Whether calls of higher priority still come.
        is_interlude: bool,
    },
    /// To let go on what is left of it: it is not served here any more, or not in containers.
    Release {
        /// For how long it was held, in milliseconds.
        held_ms: u64,
    },
}

/// What a node remembers of what it holds.
#[derive(Clone, Debug, Default)]
pub struct Yielding {
    standings: BTreeMap<Key, Standing>,
}

#[derive(Clone, Copy, Debug)]
enum Standing {
    /// It runs, not to be held before then, and was in the way in so many looks in a row.
    Runs { until_ms: u64, looks: u32 },
    /// It is held since then, and in so many looks in a row nothing of a higher priority was called.
    Held { since_ms: u64, calm: u32 },
}

impl Yielding {
    /// Whether a look is worth its cost: something that can be held has a lower priority than something else.
    #[must_use]
    pub fn is_concerned(&self, functions: impl IntoIterator<Item = (Priority, bool)>) -> bool {
        let (mut highest, mut lowest_held) = (None, None);
        for (priority, can_be_held) in functions {
            highest = highest.max(Some(priority));
            if can_be_held && lowest_held.is_none_or(|lowest| priority < lowest) {
                lowest_held = Some(priority);
            }
        }
        !self.standings.is_empty() || lowest_held.is_some_and(|lowest| Some(lowest) < highest)
    }

    /// What is to be done after a look.
    pub fn look(&mut self, now_ms: u64, look: &Look) -> Vec<(Key, Verdict)> {
        let mut verdicts = self.release(now_ms, look);
        let lowest = self.lowest_in_the_way(look);
        for (key, load) in look.functions.iter().filter(|(_, load)| load.can_be_held) {
            let urgent = urgent(look, load.priority);
            // One priority at a time: when the lowest is held, there may be enough for the others.
            let is_in_the_way = lowest == Some(load.priority) && load.use_permille >= USE_PERMILLE_MIN;
            let verdict = self.step(now_ms, key, urgent.is_some(), is_in_the_way);
            let verdict = match (verdict, urgent) {
                (Some(Step::Hold), Some(urgent)) => Verdict::Hold {
                    for_the_sake_of: urgent.clone(),
                    busy_permille: look.busy_permille,
                    use_permille: load.use_permille,
                },
                (Some(Step::LetGo { held_ms }), urgent) => Verdict::LetGo { held_ms, is_interlude: urgent.is_some() },
                _ => continue,
            };
            verdicts.push((key.clone(), verdict));
        }
        verdicts
    }

    /// Forgets what cannot be held any more; its old containers may still have to finish what they were held in.
    fn release(&mut self, now_ms: u64, look: &Look) -> Vec<(Key, Verdict)> {
        let can_be_held = |key: &Key| look.functions.get(key).is_some_and(|load| load.can_be_held);
        let gone = self.standings.extract_if(.., |key, _| !can_be_held(key));
        let held = gone.filter_map(|(key, standing)| match standing {
            Standing::Held { since_ms, .. } => {
                Some((key, Verdict::Release { held_ms: now_ms.saturating_sub(since_ms) }))
            }
            Standing::Runs { .. } => None,
        });
        held.collect()
    }

    /// The lowest priority of what takes something from calls of a higher one, on a node that has not enough for all.
    fn lowest_in_the_way(&self, look: &Look) -> Option<Priority> {
        if look.busy_permille < SATURATED_PERMILLE {
            return None;
        }
        let in_the_way = look.functions.values().filter(|load| {
            load.can_be_held && load.use_permille >= USE_PERMILLE_MIN && urgent(look, load.priority).is_some()
        });
        in_the_way.map(|load| load.priority).min()
    }

    fn step(&mut self, now_ms: u64, key: &Key, is_urgent: bool, is_in_the_way: bool) -> Option<Step> {
        let known = self.standings.get(key).copied().unwrap_or(Standing::Runs { until_ms: 0, looks: 0 });
        let (standing, step) = match known {
            Standing::Runs { until_ms, looks } => {
                let looks = if is_in_the_way && now_ms >= until_ms { looks + 1 } else { 0 };
                if looks >= LOOKS_TO_HOLD {
                    (Some(Standing::Held { since_ms: now_ms, calm: 0 }), Some(Step::Hold))
                } else {
                    let is_known = looks > 0 || now_ms < until_ms;
                    (is_known.then_some(Standing::Runs { until_ms, looks }), None)
                }
            }
            Standing::Held { since_ms, calm } => {
                let (calm, held_ms) = (if is_urgent { 0 } else { calm + 1 }, now_ms.saturating_sub(since_ms));
                if calm >= LOOKS_TO_LET_GO || held_ms >= HELD_MS_MAX {
                    let runs = Standing::Runs { until_ms: now_ms + RUN_MS_MIN, looks: 0 };
                    (Some(runs), Some(Step::LetGo { held_ms }))
                } else {
                    (Some(Standing::Held { since_ms, calm }), None)
                }
            }
        };
        match standing {
            Some(standing) if self.standings.len() < KNOWN_MAX || self.standings.contains_key(key) => {
                self.standings.insert(key.clone(), standing);
                step
            }
            // Of what cannot be remembered nothing is held.
            Some(_) => None,
            None => {
                self.standings.remove(key);
                step
            }
        }
    }
}

#[derive(Clone, Copy)]
enum Step {
    Hold,
    LetGo { held_ms: u64 },
}

/// What has calls of a higher priority; of several, that with most.
fn urgent(look: &Look, than: Priority) -> Option<&Key> {
    let urgent = look.functions.iter().filter(|(_, load)| load.priority > than && load.calls > 0);
    urgent.max_by_key(|(_, load)| load.calls).map(|(key, _)| key)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]
    use littoral_model::id::TenantId;

    use super::*;

    fn key(name: &str) -> Key {
        (AppId { tenant: TenantId::default_tenant(), app: "shop".parse().unwrap() }, name.parse().unwrap())
    }

    fn load(priority: Priority, can_be_held: bool, calls: u64, use_permille: u16) -> Load {
        Load { priority, can_be_held, calls, use_permille }
    }

    /// A job that takes most of a node, and calls of another function, so many in this look.
    fn look(busy_permille: u16, calls: u64) -> Look {
        let functions = [
            (key("job"), load(Priority::Low, true, 1, busy_permille.saturating_sub(100))),
            (key("web"), load(Priority::High, false, calls, 0)),
        ];
        Look { busy_permille, functions: functions.into() }
    }

    /// Says what is done in each look: `h` hold, `g` let go, `i` let go for a while, `.` nothing.
    fn run(yielding: &mut Yielding, from_ms: &mut u64, looks: &[Look]) -> String {
        let mut done = String::new();
        for look in looks {
            *from_ms += LOOK_MS;
            done.push(match yielding.look(*from_ms, look).as_slice() {
                [] => '.',
                [(of, Verdict::Hold { .. })] if *of == key("job") => 'h',
                [(of, Verdict::LetGo { is_interlude, .. })] if *of == key("job") => {
                    if *is_interlude {
                        'i'
                    } else {
                        'g'
                    }
                }
                _ => '?',
            });
        }
        done
    }

    #[test]
    fn a_job_in_the_way_is_held_after_two_looks_and_goes_on_when_the_calls_have_ended() {
        let (mut yielding, mut now) = (Yielding::default(), 0);
        let (spike, calm) = (look(1_000, 5), look(300, 0));
        // A node that is not saturated, a call now and then, and saturation without calls hold nothing.
        let none = [look(850, 5), look(1_000, 5), look(850, 5), look(1_000, 0), look(1_000, 5), look(1_000, 0)];
        assert_eq!(run(&mut yielding, &mut now, &none), "......");
        assert_eq!(run(&mut yielding, &mut now, &[spike.clone(), spike.clone(), spike.clone()]), ".h.");
        // While it is held the node has room; the calls still come.
        assert_eq!(run(&mut yielding, &mut now, &[look(400, 5), calm.clone(), calm.clone(), look(400, 1)]), "....");
        assert_eq!(run(&mut yielding, &mut now, &[calm.clone(), calm.clone(), calm.clone(), calm]), "...g");
        // It has a while of its own before it is held again.
        assert_eq!(run(&mut yielding, &mut now, &vec![spike; 7]), ".....h.");
    }

    #[test]
    fn what_is_held_for_long_comes_further() {
        let (mut yielding, mut now) = (Yielding::default(), 0);
        let done = run(&mut yielding, &mut now, &vec![look(1_000, 5); 600]);
        let held = done.matches('h').count();
        // Half a second of five, for ever.
        assert!((12..=14).contains(&held) && done.matches('i').count() + 1 >= held, "{done}");
    }

    #[test]
    fn the_lowest_is_held_first_and_none_for_its_own_like() {
        let mut look = look(1_000, 5);
        look.functions.insert(key("report"), load(Priority::Normal, true, 1, 400));
        look.functions.insert(key("idle"), load(Priority::Low, true, 0, 10));
        let mut yielding = Yielding::default();
        let mut held = Vec::new();
        for turn in 1..=6 {
            for (key, verdict) in yielding.look(turn * LOOK_MS, &look) {
                if let Verdict::Hold { for_the_sake_of, .. } = verdict {
                    held.push((key.1.to_string(), for_the_sake_of.1.to_string(), turn));
                    // What is held uses nothing.
                    look.functions.get_mut(&key).unwrap().use_permille = 0;
                }
            }
        }
        let named = |of: &str, turn| (of.to_owned(), "web".to_owned(), turn);
        assert_eq!(held, [named("job", 2), named("report", 4)]);
        // Among equals nothing is held.
        for load in look.functions.values_mut() {
            *load = Load { priority: Priority::Normal, use_permille: 500, ..*load };
        }
        let mut equals = Yielding::default();
        assert!((1..=9).all(|turn| equals.look(turn * LOOK_MS, &look).is_empty()));
    }

    #[test]
    fn a_node_looks_only_where_something_could_be_held() {
        let yielding = Yielding::default();
        assert!(!yielding.is_concerned([(Priority::Normal, true), (Priority::Normal, false)]));
        assert!(!yielding.is_concerned([(Priority::Low, false), (Priority::High, true)]));
        assert!(yielding.is_concerned([(Priority::Low, true), (Priority::Normal, false)]));
    }

    #[test]
    fn what_is_gone_is_let_go_once_and_forgotten() {
        let (mut yielding, mut now) = (Yielding::default(), 0);
        run(&mut yielding, &mut now, &vec![look(1_000, 5); 3]);
        assert!(yielding.is_concerned([]));
        let release = (key("job"), Verdict::Release { held_ms: 2 * LOOK_MS });
        assert_eq!(yielding.look(now + LOOK_MS, &Look::default()), [release]);
        assert!(!yielding.is_concerned([]) && yielding.look(now + 2 * LOOK_MS, &Look::default()).is_empty());
        // What runs is only forgotten.
        run(&mut yielding, &mut now, &[look(1_000, 5)]);
        assert!(yielding.is_concerned([]) && yielding.look(now + LOOK_MS, &Look::default()).is_empty());
        assert!(!yielding.is_concerned([]));
    }

    #[test]
    fn what_becomes_a_component_while_it_is_held_goes_on() {
        let (mut yielding, mut now) = (Yielding::default(), 0);
        let mut spike = look(1_000, 5);
        assert_eq!(run(&mut yielding, &mut now, &vec![spike.clone(); 2]), ".h");
        spike.functions.get_mut(&key("job")).unwrap().can_be_held = false;
        let verdicts = yielding.look(now + LOOK_MS, &spike);
        assert_eq!(verdicts, [(key("job"), Verdict::Release { held_ms: LOOK_MS })]);
    }
}
