//! How many requests a function has at once, on average over a long and a short window, as Knative's autoscaler has it
//! (<https://knative.dev/docs/serving/autoscaling/kpa-specific/>): the long one keeps instances from coming and going with each
//! gust, the short one sees a rush while it begins.

/// The length of a bucket.
const BUCKET_MS: u64 = 1_000;
/// The long window, in buckets: a minute.
pub(super) const STABLE_BUCKETS: usize = 60;
/// The short window, in buckets: a tenth of it.
const PANIC_BUCKETS: usize = 6;

/// What a function had to do in the last minute.
#[derive(Clone, Debug)]
pub(super) struct Load {
    buckets: [Second; STABLE_BUCKETS],
    since_ms: Option<u64>,
    told_ms: u64,
}

/// A second of the window.
#[derive(Clone, Copy, Debug, Default)]
struct Second {
    number: u64,
    /// How long its requests lasted together within it, in milliseconds.
    busy_ms: u64,
    /// The most that there were at once.
    most: u32,
}

impl Default for Load {
    fn default() -> Self {
        Self { buckets: [Second::default(); STABLE_BUCKETS], since_ms: None, told_ms: 0 }
    }
}

impl Load {
    /// Takes in how long requests lasted together since the last time, in milliseconds: two that ran side by side for a second are
    /// 2000. `most` is how many there were at once.
    pub(super) fn tell(&mut self, now_ms: u64, busy_ms: u64, most: u32) {
        let since = *self.since_ms.get_or_insert(now_ms);
        let before = self.told_ms.clamp(since.min(now_ms), now_ms);
        let span = now_ms - before;
        self.told_ms = now_ms;
        if let Some(second) = self.second(now_ms / BUCKET_MS) {
            second.most = second.most.max(most);
            second.busy_ms += if span == 0 { busy_ms } else { 0 };
        }
        // What lies before the window is forgotten at once.
        let mut at = before.max(now_ms.saturating_sub(STABLE_BUCKETS as u64 * BUCKET_MS));
        while at < now_ms {
            let end = ((at / BUCKET_MS + 1) * BUCKET_MS).min(now_ms);
            if let Some(second) = self.second(at / BUCKET_MS) {
                second.busy_ms += busy_ms * (end - at) / span;
            }
            at = end;
        }
    }

    /// A second, begun anew if its place was that of an earlier one.
    fn second(&mut self, number: u64) -> Option<&mut Second> {
        let slot = usize::try_from(number).unwrap_or(0) % STABLE_BUCKETS;
        let second = self.buckets.get_mut(slot)?;
        if second.number != number {
            *second = Second { number, ..Second::default() };
        }
        Some(second)
    }

    /// The most requests at once in the short window.
    pub(super) fn most(&self, now_ms: u64) -> u32 {
        self.last(now_ms, PANIC_BUCKETS).map(|second| second.most).max().unwrap_or(0)
    }

    /// How many instances it takes for what came in the long window and in the short one, with so many requests at once for each.
    pub(super) fn instances(&self, now_ms: u64, target: u32) -> (u32, u32) {
        (self.over(now_ms, STABLE_BUCKETS, target), self.over(now_ms, PANIC_BUCKETS, target))
    }

    fn over(&self, now_ms: u64, buckets: usize, target: u32) -> u32 {
        let busy: u64 = self.last(now_ms, buckets).map(|second| second.busy_ms).sum();
        let first = first_of(now_ms, buckets);
        // A function that has just begun has had less than a window.
        let begun = self.since_ms.unwrap_or(now_ms).max(first * BUCKET_MS);
        let span = (now_ms.saturating_sub(begun)).max(BUCKET_MS);
        u32::try_from(busy.div_ceil(span * u64::from(target.max(1)))).unwrap_or(u32::MAX)
    }

    fn last(&self, now_ms: u64, buckets: usize) -> impl Iterator<Item = &Second> {
        let seconds = first_of(now_ms, buckets)..=now_ms / BUCKET_MS;
        self.buckets.iter().filter(move |second| seconds.contains(&second.number))
    }
}

/// The first second of a window.
fn first_of(now_ms: u64, buckets: usize) -> u64 {
    (now_ms / BUCKET_MS + 1).saturating_sub(buckets as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rush_is_seen_by_the_short_window_first() {
        let mut load = Load::default();
        load.tell(0, 0, 0);
        for second in 1..=60 {
            load.tell(second * 1_000, 1_000, 1);
        }
        assert_eq!((load.instances(60_000, 1), load.most(60_000)), ((1, 1), 1));
        for second in 61..=66 {
            load.tell(second * 1_000, 10_000, 12);
        }
        let (stable, panic) = load.instances(66_000, 1);
        assert!(stable <= 2 && panic >= 9, "{stable} {panic}");
        assert_eq!(load.most(66_000), 12);
        for second in 67..=130 {
            load.tell(second * 1_000, 0, 0);
        }
        assert_eq!((load.instances(130_000, 1), load.most(130_000)), ((0, 0), 0));
    }

    #[test]
    fn what_was_not_told_for_long_is_spread() {
        let mut load = Load::default();
        load.tell(0, 0, 0);
        load.tell(600_000, 1_200_000, 3);
        assert_eq!(load.instances(600_000, 1), (2, 2));
    }
}
