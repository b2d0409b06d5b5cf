//! Loads that change, on a function whose container computes four times as fast.
use super::*;

/// What a call takes, and how often one comes.
#[derive(Clone, Copy)]
struct Phase {
    seconds: u64,
    calls_per_s: f64,
    component_us: f64,
    container_us: f64,
}

const RARE: Phase = Phase { seconds: 300, calls_per_s: 0.2, component_us: 300.0, container_us: 500.0 };
const BUSY: Phase = Phase { seconds: 120, calls_per_s: 20.0, component_us: 40_000.0, container_us: 10_000.0 };

const COMPONENT_BYTES: f64 = 3.0 * 1_048_576.0;
const CONTAINER_BYTES: f64 = 4.0 * 1_048_576.0;

struct World {
    variants: Variants,
    now_ms: u64,
    owed: f64,
    component: Seen,
    container: Seen,
    switches: Vec<(u64, Variant, Why)>,
    /// For how many seconds each answered.
    served_s: [u64; 2],
}

impl World {
    fn new() -> Self {
        Self {
            variants: Variants::new(0, Variant::Component),
            now_ms: 0,
            owed: 0.0,
            component: Seen::default(),
            container: Seen::default(),
            switches: Vec::new(),
            served_s: [0; 2],
        }
    }

    fn run(&mut self, phase: Phase) {
        for _ in 0..phase.seconds {
            self.now_ms += 1_000;
            self.owed += phase.calls_per_s;
            let calls = self.owed.floor();
            self.owed -= calls;
            let serving = self.variants.serving();
            self.served_s[usize::from(serving == Variant::Container)] += 1;
            let seen = match serving {
                Variant::Component => {
                    let took_us = calls * phase.component_us;
                    self.component.memory_byte_us += (took_us * COMPONENT_BYTES) as u64;
                    did(&mut self.component, calls, took_us)
                }
                Variant::Container => {
                    self.container.memory_byte_us += (1_000_000.0 * CONTAINER_BYTES) as u64;
                    did(&mut self.container, calls, calls * phase.container_us)
                }
            };
            if let Some(why) = self.variants.look(self.now_ms, seen) {
                let then = if serving == Variant::Component { self.container } else { self.component };
                self.variants.switched(self.now_ms, why, seen, then);
                self.switches.push((self.now_ms, self.variants.serving(), why));
            }
        }
    }
}

fn did(seen: &mut Seen, calls: f64, took_us: f64) -> Seen {
    seen.calls += calls as u64;
    seen.took_us += took_us as u64;
    *seen
}

#[test]
fn each_load_is_answered_by_the_variant_that_costs_less() {
    let mut world = World::new();
    for _ in 0..3 {
        world.run(RARE);
        assert_eq!(world.variants.serving(), Variant::Component, "{:?}", world.switches);
        world.run(BUSY);
        assert_eq!(world.variants.serving(), Variant::Container, "{:?}", world.switches);
    }
    world.run(RARE);
    // There and back, once a phase; the first time it is tried, from then on it is known.
    let to: Vec<Variant> = world.switches.iter().map(|(_, variant, _)| *variant).collect();
    assert_eq!(to, [Variant::Container, Variant::Component].repeat(3), "{:?}", world.switches);
    assert!(matches!(world.switches[0].2, Why::Trial { .. }));
    assert!(matches!(world.switches[2].2, Why::Cheaper { .. }), "{:?}", world.switches);
    // The container answers for nearly all of the busy time, and for little of the other.
    assert!((300..=420).contains(&world.served_s[1]), "{:?}", world.served_s);
}

#[test]
fn a_container_that_is_no_better_is_tried_ever_more_seldom() {
    let mut world = World::new();
    world.run(Phase { seconds: 7_200, container_us: 45_000.0, ..BUSY });
    assert_eq!(world.variants.serving(), Variant::Component);
    let tried = world.switches.iter().filter(|(_, to, _)| *to == Variant::Container).count();
    assert!((1..=3).contains(&tried), "{:?}", world.switches);
    assert!(world.served_s[1] < 60, "{:?}", world.served_s);
}

#[test]
fn a_load_that_wavers_does_not_make_it_waver() {
    let mut world = World::new();
    for second in 0..600 {
        // Both variants cost about the same.
        let container_us = if second % 2 == 0 { 22_000.0 } else { 24_000.0 };
        world.run(Phase { seconds: 1, calls_per_s: 20.0, component_us: 40_000.0, container_us });
    }
    assert!(world.switches.len() <= 4, "{:?}", world.switches);
}

#[test]
fn a_container_that_nobody_calls_gives_way() {
    let mut world = World::new();
    while world.variants.serving() == Variant::Component {
        world.run(Phase { seconds: 1, ..BUSY });
    }
    // Not one call comes to it.
    world.run(Phase { seconds: 15, calls_per_s: 0.0, ..BUSY });
    assert_eq!(world.variants.serving(), Variant::Component);
    assert!(matches!(world.switches.last(), Some((_, _, Why::Idle { for_ms: 10_000.. }))), "{:?}", world.switches);
}

#[test]
fn a_container_whose_calls_fail_goes_though_they_are_quick() {
    let mut world = World::new();
    while world.variants.serving() == Variant::Component {
        world.run(Phase { seconds: 1, ..BUSY });
    }
    let begun_ms = world.now_ms;
    while world.variants.serving() == Variant::Container {
        world.container.failed += 20;
        world.run(Phase { seconds: 1, calls_per_s: 0.0, ..BUSY });
        assert!(world.now_ms < begun_ms + 10_000, "{:?}", world.switches);
    }
    assert!(matches!(world.switches.last(), Some((_, _, Why::Failing { .. }))), "{:?}", world.switches);
    // Known or not, it does not answer again at once.
    let switches = world.switches.len();
    world.run(Phase { seconds: 25, ..BUSY });
    assert_eq!(world.switches.len(), switches);
}

#[test]
fn a_container_with_long_calls_is_not_idle() {
    let mut world = World::new();
    while world.variants.serving() == Variant::Component {
        world.run(Phase { seconds: 1, ..BUSY });
    }
    for _ in 0..30 {
        world.now_ms += 1_000;
        let seen = Seen { in_flight: 3, ..world.container };
        assert_eq!(world.variants.look(world.now_ms, seen), None);
    }
}

#[test]
fn one_that_cannot_be_started_is_not_asked_for_at_once_again() {
    let mut variants = Variants::new(0, Variant::Component);
    let (mut seen, mut asked) = (Seen::default(), 0);
    for second in 1..=120 {
        let seen = did(&mut seen, 20.0, 800_000.0);
        let seen = Seen { memory_byte_us: seen.took_us * 3 * 1_048_576, ..seen };
        if variants.look(second * 1_000, seen).is_some() {
            variants.failed(second * 1_000);
            asked += 1;
        }
    }
    assert!((1..=3).contains(&asked), "{asked}");
    assert_eq!(variants.serving(), Variant::Component);
}
