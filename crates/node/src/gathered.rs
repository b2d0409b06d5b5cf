//! Publications to one partition that come while earlier ones are being stored: they are stored together, as one entry.
//!
//! Nobody waits for others to come: the first is stored at once, and what comes until the disk has it is the next entry. The more
//! is published at the same time, the less of encoding, syncing and reading is done for each.

use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, MutexGuard};

use littoral_model::work::WorkId;
use tokio::sync::oneshot;

use crate::admin::types::AdminError;
use crate::publish::Row;
use crate::sync::lock;

/// How many entries of a partition may be on their way at the same time, unless they are full: one is written while the next
/// is encoded.
const UNDER_WAY_MAX: usize = 2;
/// With so many bytes an entry is full, and does not wait for others to be stored.
const FULL_BYTES: usize = 256 << 10;
/// So many bytes may wait for a partition; beyond that publications are turned down.
const WAITING_BYTES_MAX: usize = 16 << 20;
/// What a row counts beside its text.
const ROW_BYTES: usize = 16;

/// What waits to be stored.
#[derive(Default)]
pub(crate) struct Gathered(Mutex<HashMap<WorkId, Partition>>);

#[derive(Default)]
struct Partition {
    waiting: VecDeque<Publication>,
    bytes: usize,
    under_way: usize,
}

struct Publication {
    rows: Vec<Row>,
    bytes: usize,
    /// When it was published, in microseconds since 1970.
    at: i64,
    stored: oneshot::Sender<Result<(), AdminError>>,
}

/// Where it is told whether a publication was stored.
type Told = oneshot::Receiver<Result<(), AdminError>>;

/// Publications that are stored together.
#[derive(Default)]
struct Together {
    rows: Vec<Row>,
    oldest: i64,
    stored: Vec<oneshot::Sender<Result<(), AdminError>>>,
}

impl Gathered {
    /// Adds a publication, which is stored whole or not at all; where it is told, and whether the caller must begin to store
    /// ([`in_turns`](Gathered::in_turns)).
    ///
    /// # Errors
    /// When too much waits already.
    pub(crate) fn add(&self, work: &WorkId, rows: Vec<Row>, at: i64) -> Result<(Told, bool), AdminError> {
        let text = |(key, _, value): &Row| key.as_ref().map_or(0, String::len) + value.len() + ROW_BYTES;
        let bytes = rows.iter().map(text).sum();
        let (stored, told) = oneshot::channel();
        let mut partitions = self.lock();
        if !partitions.contains_key(work) {
            partitions.insert(work.clone(), Partition::default());
        }
        let Some(partition) = partitions.get_mut(work) else { return Ok((told, false)) };
        if partition.bytes > 0 && partition.bytes + bytes > WAITING_BYTES_MAX {
            let text = format!("{WAITING_BYTES_MAX} bytes wait to be stored in {work} already");
            return Err(AdminError::unavailable(text).hint("nothing of it was stored; publish it again later"));
        }
        partition.bytes += bytes;
        partition.waiting.push_back(Publication { rows, bytes, at, stored });
        let begins = partition.under_way < UNDER_WAY_MAX || partition.bytes >= FULL_BYTES;
        partition.under_way += usize::from(begins);
        Ok((told, begins))
    }

    /// Stores what waits, together, until nothing does.
    pub(crate) async fn in_turns<S>(&self, work: &WorkId, store: impl Fn(Vec<Row>, i64) -> S)
    where
        S: Future<Output = Result<(), AdminError>>,
    {
        let mut turn = Turn { gathered: self, work, is_over: false };
        while let Some(Together { rows, oldest, stored: told }) = turn.take() {
            let stored = store(rows, oldest).await;
            for told in told {
                // Whoever does not wait any more does not need to know.
                told.send(stored.clone()).ok();
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<WorkId, Partition>> {
        lock(&self.0)
    }
}

/// The right to store, which ends however the task does.
struct Turn<'g> {
    gathered: &'g Gathered,
    work: &'g WorkId,
    is_over: bool,
}

impl Turn<'_> {
    /// What is to be stored next. None when nothing waits: then the turn is over, and who comes next begins another.
    fn take(&mut self) -> Option<Together> {
        let mut partitions = self.gathered.lock();
        let partition = partitions.get_mut(self.work)?;
        // Whoever does not wait any more has given up, and may publish it again.
        while partition.waiting.front().is_some_and(|first| first.stored.is_closed()) {
            let gone = partition.waiting.pop_front();
            partition.bytes -= gone.map_or(0, |gone| gone.bytes);
        }
        let Some(first) = partition.waiting.pop_front() else {
            self.is_over = true;
            end(&mut partitions, self.work);
            return None;
        };
        let mut bytes = first.bytes;
        let mut together = Together { rows: first.rows, oldest: first.at, stored: vec![first.stored] };
        while let Some(next) = partition.waiting.front()
            && bytes + next.bytes <= FULL_BYTES
            && let Some(next) = partition.waiting.pop_front()
        {
            bytes += next.bytes;
            together.rows.extend(next.rows);
            together.oldest = together.oldest.min(next.at);
            together.stored.push(next.stored);
        }
        partition.bytes -= bytes;
        Some(together)
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        if !self.is_over {
            end(&mut self.gathered.lock(), self.work);
        }
    }
}

/// Ends a turn. What waits still after the last one, which was given up, nobody would store: it is told so.
fn end(partitions: &mut HashMap<WorkId, Partition>, work: &WorkId) {
    if let Some(partition) = partitions.get_mut(work) {
        partition.under_way -= 1;
        if partition.under_way == 0 {
            partitions.remove(work);
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::sync::Arc;

    use tokio::sync::Semaphore;

    use super::*;

    fn work() -> WorkId {
        "default/app/stream/readings/0@hall".parse().unwrap()
    }

    fn rows(text: &str, count: usize) -> Vec<Row> {
        vec![(None, 0, text.to_owned()); count]
    }

    /// The texts of an entry, and when the oldest was published.
    type Entry = (Vec<String>, i64);

    /// Stores what it is given, once it is let.
    #[derive(Clone)]
    struct Store {
        let_go: Arc<Semaphore>,
        entries: Arc<Mutex<Vec<Entry>>>,
    }

    impl Store {
        fn new() -> Self {
            Self { let_go: Arc::new(Semaphore::new(0)), entries: Arc::default() }
        }

        async fn take(self, rows: Vec<Row>, oldest: i64) -> Result<(), AdminError> {
            let fails = rows.iter().any(|(_, _, value)| value == "bad");
            lock(&self.entries).push((rows.into_iter().map(|(_, _, value)| value).collect(), oldest));
            self.let_go.acquire().await.unwrap().forget();
            if fails { Err(AdminError::unavailable("bad")) } else { Ok(()) }
        }

        fn begin(&self, gathered: &Arc<Gathered>) {
            let (gathered, store) = (Arc::clone(gathered), self.clone());
            tokio::spawn(
                async move { gathered.in_turns(&work(), |rows, oldest| store.clone().take(rows, oldest)).await },
            );
        }
    }

    #[tokio::test]
    async fn what_comes_meanwhile_is_stored_together() {
        let (gathered, store) = (Arc::<Gathered>::default(), Store::new());
        let mut told = Vec::new();
        for (number, at) in [30, 40, 60, 50].into_iter().enumerate() {
            let (one, begins) = gathered.add(&work(), rows(&number.to_string(), 2), at).unwrap();
            assert_eq!(begins, number < UNDER_WAY_MAX);
            if begins {
                store.begin(&gathered);
                tokio::task::yield_now().await;
            }
            told.push(one);
        }
        store.let_go.add_permits(3);
        for one in told {
            one.await.unwrap().unwrap();
        }
        let entries = lock(&store.entries).clone();
        let texts = |entry: usize| entries.get(entry).map(|(texts, oldest)| (texts.concat(), *oldest)).unwrap();
        assert_eq!(
            (texts(0), texts(1), texts(2)),
            (("00".to_owned(), 30), ("11".to_owned(), 40), ("2233".to_owned(), 50))
        );
        tokio::task::yield_now().await;
        assert!(gathered.lock().is_empty(), "what is idle is forgotten");
    }

    #[tokio::test]
    async fn a_full_entry_waits_for_nobody_and_a_failure_is_told_to_all_of_one() {
        let (gathered, store) = (Arc::<Gathered>::default(), Store::new());
        let mut told = Vec::new();
        for _ in 0..UNDER_WAY_MAX {
            let (one, begins) = gathered.add(&work(), rows("x", 1), 0).unwrap();
            assert!(begins);
            told.push(one);
            store.begin(&gathered);
            tokio::task::yield_now().await;
        }
        let (one, begins) = gathered.add(&work(), rows("bad", 1), 0).unwrap();
        assert!(!begins);
        let (two, begins) = gathered.add(&work(), rows("y", 1), 0).unwrap();
        assert!(!begins);
        let (large, begins) = gathered.add(&work(), rows(&"z".repeat(FULL_BYTES), 1), 0).unwrap();
        assert!(begins, "it is full");
        store.let_go.add_permits(2 * UNDER_WAY_MAX + 1);
        store.begin(&gathered);
        assert!(one.await.unwrap().is_err());
        assert!(two.await.unwrap().is_err());
        assert!(large.await.unwrap().is_ok());
    }

    #[tokio::test]
    async fn what_nobody_stores_any_more_is_not_waited_for() {
        let gathered = Gathered::default();
        let (told, begins) = gathered.add(&work(), rows("x", 1), 0).unwrap();
        assert!(begins);
        drop(Turn { gathered: &gathered, work: &work(), is_over: false });
        assert!(told.await.is_err());
    }

    #[tokio::test]
    async fn what_waits_is_bounded_and_what_was_given_up_is_not_stored() {
        let (gathered, store) = (Arc::<Gathered>::default(), Store::new());
        let mut told = Vec::new();
        for _ in 0..UNDER_WAY_MAX {
            let (one, begins) = gathered.add(&work(), rows("x", 1), 0).unwrap();
            assert!(begins);
            store.begin(&gathered);
            tokio::task::yield_now().await;
            told.push(one);
        }
        drop(gathered.add(&work(), rows("given up", 1), 0).unwrap());
        let (kept, _) = gathered.add(&work(), rows("kept", 1), 0).unwrap();
        let large = "z".repeat(FULL_BYTES / 2);
        let fits = (0..).take_while(|_| gathered.add(&work(), rows(&large, 1), 0).is_ok()).count();
        assert!((WAITING_BYTES_MAX / FULL_BYTES..=2 * WAITING_BYTES_MAX / FULL_BYTES).contains(&fits), "{fits}");
        store.let_go.add_permits(2 * fits);
        kept.await.unwrap().unwrap();
        let entries = lock(&store.entries).clone();
        assert!(entries.iter().all(|(texts, _)| !texts.contains(&"given up".to_owned())), "{}", entries.len());
    }
}
