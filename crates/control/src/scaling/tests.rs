//! A function's instances in virtual time: what its requests meet, and for how long instances are held.

use super::*;

const SETTINGS: Settings = Settings { min: 0, max: 8, target: 1, idle_ms: 300_000, expects: true };
/// How long an instance takes to start here.
const START_MS: u64 = 500;

/// A function of which each request is answered by an instance of its own, in virtual time.
struct World {
    scaling: Scaling,
    now_ms: u64,
    /// When each instance is ready.
    instances: Vec<u64>,
    /// When each request ends.
    running: Vec<u64>,
    /// How long each takes of those that wait.
    waiting: Vec<u64>,
    idle_since_ms: Option<u64>,
    idle_times_ms: Vec<u64>,
    was_called: bool,
    wanted: Wanted,
    warm: u32,
    cold: u32,
    held_ms: u64,
}

impl World {
    /// It was deployed just now.
    fn new(settings: Settings) -> Self {
        let mut world = Self {
            scaling: Scaling::new(settings),
            now_ms: 0,
            instances: vec![],
            running: vec![],
            waiting: vec![],
            idle_since_ms: Some(0),
            idle_times_ms: vec![],
            was_called: false,
            wanted: Wanted { instances: 0, reason: Reason::Load, again_ms: None },
            warm: 0,
            cold: 0,
            held_ms: 0,
        };
        world.look(0, 0);
        world
    }

    fn ready(&self) -> usize {
        self.instances.iter().filter(|ready_ms| **ready_ms <= self.now_ms).count()
    }

    fn requests(&self) -> usize {
        self.running.len() + self.waiting.len()
    }

    /// So many requests of so long a time arrive now.
    fn arrive(&mut self, requests: usize, takes_ms: u64) {
        if let (Some(since_ms), true) = (self.idle_since_ms.take(), std::mem::replace(&mut self.was_called, true)) {
            self.idle_times_ms.push(self.now_ms - since_ms);
        }
        for _ in 0..requests {
            let has_room = self.running.len() < self.ready();
            *(if has_room { &mut self.warm } else { &mut self.cold }) += 1;
            self.waiting.push(takes_ms);
            self.serve();
        }
        self.look(0, self.requests());
    }

    fn serve(&mut self) {
        while !self.waiting.is_empty() && self.running.len() < self.ready() {
            let takes_ms = self.waiting.remove(0);
            self.running.push(self.now_ms + takes_ms);
        }
    }

    /// In steps of 100 ms, or to where something is due next if there are no requests.
    fn pass(&mut self, ms: u64) {
        let until_ms = self.now_ms + ms;
        while self.now_ms < until_ms {
            let due = self.instances.iter().copied().chain(self.wanted.again_ms).filter(|due| *due > self.now_ms);
            let next_ms = if self.requests() > 0 { self.now_ms + 100 } else { due.min().unwrap_or(u64::MAX) };
            let passed_ms = next_ms.min(until_ms) - self.now_ms;
            let requests = self.requests();
            self.held_ms += passed_ms * self.ready() as u64;
            self.now_ms += passed_ms;
            self.running.retain(|ends_ms| *ends_ms > self.now_ms);
            self.serve();
            if self.requests() == 0 {
                self.idle_since_ms.get_or_insert(self.now_ms);
            }
            self.look(passed_ms * requests as u64, requests);
        }
    }

    fn look(&mut self, busy_ms: u64, most: usize) {
        let seen = Seen {
            requests: self.requests() as u32,
            most: most as u32,
            busy_ms,
            idle_times_ms: std::mem::take(&mut self.idle_times_ms),
            idle_since_ms: self.idle_since_ms,
            ready: self.ready() as u32,
        };
        self.wanted = self.scaling.step(self.now_ms, &seen);
        while self.instances.len() < self.wanted.instances as usize {
            self.instances.push(self.now_ms + START_MS);
            self.scaling.started(START_MS);
        }
        self.instances.truncate((self.wanted.instances as usize).max(self.running.len()));
    }

    fn reason(&self) -> String {
        self.wanted.reason.to_string()
    }
}

#[test]
fn from_zero_to_zero() {
    let mut world = World::new(SETTINGS);
    assert_eq!(
        (world.instances.len(), world.reason().as_str()),
        (1, "kept for 300 s after the last request"),
        "it was deployed just now"
    );
    world.pass(300_000);
    assert_eq!((world.instances.len(), world.reason().as_str()), (0, "no request for 300 s"));
    assert_eq!(world.wanted.again_ms, None, "only a request changes that");
    world.pass(10_000_000);
    world.arrive(1, 1_000);
    assert_eq!((world.instances.len(), world.cold, world.reason().as_str()), (1, 1, "the load of the last minute"));
    world.pass(2_000);
    assert_eq!((world.waiting.len(), world.running.len(), world.instances.len()), (0, 0, 1));
    world.pass(300_000);
    assert_eq!(world.instances.len(), 0);
}

#[test]
fn a_periodic_load_meets_warm_instances_and_nothing_is_held_between() {
    for (period_ms, jitter_ms) in [(20_000, 1_000), (60_000, 2_000), (1_200_000, 20_000), (3 * 3_600_000, 300_000)] {
        let mut world = World::new(Settings { idle_ms: 60_000, ..SETTINGS });
        let mut draw = 1_u64;
        for _ in 0..100 {
            draw = draw.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            world.arrive(1, 500);
            world.pass(period_ms - jitter_ms / 2 + (draw >> 33) % jitter_ms);
        }
        let share = f64::from(world.warm) / 100.0;
        assert!(share >= 0.95, "{share} of a period of {period_ms} ms");
        let held = world.held_ms as f64 / world.now_ms as f64;
        assert!(held < 0.5 || period_ms <= 20_000, "{held} held of a period of {period_ms} ms");
    }
}

#[test]
fn what_comes_together_is_started_ahead_together() {
    let mut world = World::new(Settings { idle_ms: 60_000, ..SETTINGS });
    for round in 0..10 {
        let before = world.cold;
        world.arrive(4, 1_000);
        assert!(round < 3 || world.cold == before, "{} were cold in round {round}", world.cold - before);
        world.pass(600_000);
    }
}

#[test]
fn a_rush_brings_instances_at_once_and_they_go_later() {
    let mut world = World::new(SETTINGS);
    world.arrive(1, 1_000);
    world.pass(2_000);
    world.arrive(6, 5_000);
    assert_eq!((world.instances.len(), world.reason().as_str()), (6, "many requests at once in the last minute"));
    world.pass(30_000);
    assert_eq!(world.instances.len(), 6, "another rush may follow");
    world.pass(60_000);
    assert_eq!(world.instances.len(), 1);
}

#[test]
fn there_are_never_more_and_never_fewer() {
    let mut world = World::new(Settings { min: 2, max: 3, ..SETTINGS });
    assert_eq!((world.instances.len(), world.reason().as_str()), (2, "`scale.min`"));
    world.arrive(20, 10_000);
    assert_eq!((world.instances.len(), world.reason().as_str()), (3, "`scale.max`: the load would take 20"));
    world.pass(10_000_000);
    assert_eq!(world.instances.len(), 2);
}

#[test]
fn a_steady_load_has_as_many_instances_as_its_target_asks_for() {
    let mut world = World::new(SETTINGS);
    // Three at once, all the time.
    for _ in 0..300 {
        world.arrive(3, 950);
        world.pass(1_000);
    }
    assert!((3..=4).contains(&world.instances.len()), "{}", world.instances.len());
}

#[test]
fn what_was_found_is_not_taken_away_at_once() {
    let mut world = World::new(SETTINGS);
    world.instances = vec![0; 3];
    world.scaling.found(0, 3);
    world.pass(50_000);
    assert_eq!(world.instances.len(), 3);
    world.pass(20_000);
    assert_eq!(world.instances.len(), 1);
}
