//! Whose turn it is: on each thread, guests that have used up their slice wait here for the next one.
//!
//! Were all of them simply woken again, a thread full of long computations would keep a request that takes microseconds
//! waiting for a slice of each of them. So one alone goes on at a time, after the thread has looked for I/O and polled
//! whatever else is ready; and those that have used little go first. It is the multilevel feedback queue of operating
//! systems: a call that spins delays others by about one slice, and gets what is left. A call of a function of which they take long
//! begins behind those of others, as if it had used that much. Within a level a call goes on for as
//! long as it may before the next one has its turn, for each change of guests costs what the processor's caches held.
//! Functions take turns, too: one with many calls under way holds up another one's call no longer than one with few.
//! What has a higher priority goes before all that has a lower one, but for one turn in many, with which that comes to its end.
//! Among a function's short calls, and among those of some length, the one with the earliest deadline goes first.
//! A new call waits for a turn, too: one of WASI 0.2 when guests have run for a slice since the thread last looked for I/O, or were begun
//! that will; one of WASI 0.3, which runs in its instance's task, when those that came before it and have no answer yet will run for some
//! slices. A thread full of requests would otherwise begin all of them before it goes on sending what is half sent, and their answers would
//! fill memory. As many as fit into a slice begin after one look. Calls of typed handlers do not wait.

mod pace;

use std::collections::VecDeque;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Instant;

use littoral_model::manifest::Priority;

use crate::meter::charged_ns;
pub(crate) use pace::Takes;
use pace::{Pace, SLICE_NS};

/// A call that has used fewer slices than this goes before those that have used more, and need not share with its like:
/// most requests are done by then.
const SHORT_SLICES: u32 = 4;
/// The same for calls that compute for some time.
const LONG_SLICES: u32 = 32;
/// For how many slices those go on that have used more: they share what is left.
const ENDLESS_TURN_SLICES: u32 = 8;
/// One turn of so many is of the next level even if calls of the first one wait, so that it comes to an end some time.
const TURNS_FOR_THE_NEXT: u32 = 8;
/// The same for the last level.
const TURNS_FOR_THE_LAST: u32 = 64;

/// One turn of so many is of the next lower priority even if calls of a higher one wait, and the second such turn of the lowest.
const TURNS_FOR_THE_LOWER: u32 = 32;

/// So much work of WASI 0.3 may be begun that has no answer yet: as much as a short call may take, so that instances have many short
/// calls at hand each time they run.
const UNANSWERED_NS: u64 = SHORT_SLICES as u64 * SLICE_NS;

thread_local! {
    static OF_THIS_THREAD: Arc<Turns> = Arc::default();
}

/// A call's time was over before it had its turn.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Late;

/// Waits until a new call of a function may begin, which is expected to take so long, in nanoseconds, and ends by `due`.
pub(crate) async fn first(function: Function, takes_ns: u64, due: Instant) -> Result<(), Late> {
    let is_before = |turns: &Arc<Turns>| turns.lock().any_before(function.priority);
    let is_spent = Pace::of_this_thread(|pace| pace.is_spent(charged_ns()));
    begin(function, takes_ns, due, is_spent || OF_THIS_THREAD.with(is_before)).await
}

/// The same for a call that runs in its instance's task.
pub(crate) async fn first_in_task(function: Function, takes_ns: u64, due: Instant) -> Result<Unanswered, Late> {
    let unanswered = Unanswered { turns: OF_THIS_THREAD.with(Arc::clone), takes_ns };
    let before_ns = unanswered.turns.unanswered_ns.fetch_add(takes_ns, Ordering::Relaxed);
    // That its instance waits for its own next slice holds up no new call: it will have more at hand when it goes on.
    let waits = before_ns >= UNANSWERED_NS || unanswered.turns.lock().any_higher(function.priority);
    begin(function, takes_ns, due, waits).await?;
    Ok(unanswered)
}

async fn begin(function: Function, takes_ns: u64, due: Instant, waits: bool) -> Result<(), Late> {
    if !waits {
        Pace::of_this_thread(|pace| pace.expect(takes_ns));
        return Ok(());
    }
    let slices = if is_long(takes_ns) { SHORT_SLICES } else { 0 };
    turn(function, slices, true, takes_ns, due).await;
    if Instant::now() < due { Ok(()) } else { Err(Late) }
}

/// A call that runs in its instance's task, or will, and has no answer yet; until this is dropped.
pub(crate) struct Unanswered {
    turns: Arc<Turns>,
    takes_ns: u64,
}

impl Drop for Unanswered {
    fn drop(&mut self) {
        self.turns.unanswered_ns.fetch_sub(self.takes_ns, Ordering::Relaxed);
    }
}

/// Waits for the next slice of a function's call, which has used so many of them and ends by `due`.
pub(crate) fn next(function: Function, slices: u32, due: Instant) -> Turn {
    turn(function, slices, false, SLICE_NS, due)
}

/// How many slices a call counts as having used when it begins, which is expected to take so long, in nanoseconds: with the first that
/// it uses it is one of the long calls, if they take as long as one of those.
pub(crate) fn slices_before(takes_ns: u64) -> u32 {
    if is_long(takes_ns) { SHORT_SLICES - 1 } else { 0 }
}

fn is_long(takes_ns: u64) -> bool {
    takes_ns >= u64::from(SHORT_SLICES) * SLICE_NS
}

fn turn(function: Function, slices: u32, is_new: bool, expected_ns: u64, due: Instant) -> Turn {
    Turn { turns: OF_THIS_THREAD.with(Arc::clone), function, slices, is_new, expected_ns, due, number: None }
}

/// Whose call it is, and which go before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Function {
    /// A number that no other function of this process has.
    pub(crate) number: usize,
    pub(crate) priority: Priority,
}

/// A wait for a turn; dropping it gives the turn to another.
pub(crate) struct Turn {
    turns: Arc<Turns>,
    function: Function,
    slices: u32,
    /// Whether the call has not begun.
    is_new: bool,
    expected_ns: u64,
    due: Instant,
    number: Option<u64>,
}

impl Future for Turn {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let mut waiting = self.turns.lock();
        match self.number {
            None => {
                let number = waiting.join(self.function, self.slices, self.is_new, self.due, context.waker());
                drop(waiting);
                self.number = Some(number);
                self.turns.pass_on();
                Poll::Pending
            }
            Some(number) if waiting.admitted == Some(number) => {
                waiting.admitted = None;
                let (more, is_next_new) = (waiting.any(), waiting.is_next_new());
                drop(waiting);
                self.number = None;
                let is_spent = Pace::of_this_thread(|pace| {
                    pace.expect(self.expected_ns);
                    pace.is_spent(charged_ns())
                });
                match (more, is_next_new && !is_spent) {
                    (true, true) => self.turns.wake_next(),
                    (true, false) => self.turns.pass_on(),
                    (false, _) => {}
                }
                Poll::Ready(())
            }
            Some(number) => {
                waiting.renew(number, context.waker());
                Poll::Pending
            }
        }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let Some(number) = self.number else { return };
        let mut waiting = self.turns.lock();
        let mut more = false;
        if waiting.admitted == Some(number) {
            waiting.admitted = None;
            more = waiting.any();
        } else {
            waiting.leave(number);
        }
        drop(waiting);
        if more {
            self.turns.pass_on();
        }
    }
}

/// The calls of one thread that wait.
#[derive(Default)]
struct Turns {
    waiting: Mutex<Waiting>,
    /// How long the calls are expected to take that run in tasks of instances, or will, and have no answer yet.
    unanswered_ns: AtomicU64,
}

#[derive(Default)]
struct Waiting {
    /// Those of high priority, of normal, of low.
    ranks: [Rank; 3],
    /// Who was woken and has not run yet.
    admitted: Option<u64>,
    numbers: u64,
    /// How many turns were given while calls of several priorities waited.
    turns: u32,
}

/// The calls of one priority.
#[derive(Default)]
struct Rank {
    /// Short calls, long ones, and those that may never end.
    levels: [Level; 3],
    /// How many turns were given while calls of several levels waited.
    turns: u32,
}

struct Place {
    number: u64,
    /// Whether it is of a call that has not begun.
    is_new: bool,
    due: Instant,
    waker: Waker,
}

/// Where a call goes among those of its function.
#[derive(Clone, Copy)]
enum Order {
    First,
    ByDeadline,
    Last,
}

/// The calls of one level, by function; the one whose turn is next first.
#[derive(Default)]
struct Level(VecDeque<(Function, VecDeque<Place>)>);

impl Level {
    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Takes in a call of a function. One that goes first does so before those of other functions, too.
    fn join(&mut self, function: Function, place: Place, order: Order) {
        let known = self.0.iter().position(|(other, _)| *other == function);
        let (_, mut calls) = known.and_then(|at| self.0.remove(at)).unwrap_or((function, VecDeque::new()));
        match order {
            Order::First => calls.push_front(place),
            Order::ByDeadline => {
                let behind = calls.iter().rposition(|other| other.due <= place.due).map_or(0, |last| last + 1);
                calls.insert(behind, place);
            }
            Order::Last => calls.push_back(place),
        }
        match (order, known) {
            (Order::First, _) => self.0.push_front((function, calls)),
            (_, Some(at)) => self.0.insert(at, (function, calls)),
            (_, None) => self.0.push_back((function, calls)),
        }
    }

    /// The call whose turn it is; its function's next one comes after those of all others.
    fn pop(&mut self) -> Option<Place> {
        let (function, mut calls) = self.0.pop_front()?;
        let place = calls.pop_front();
        if !calls.is_empty() {
            self.0.push_back((function, calls));
        }
        place
    }

    fn places(&mut self) -> impl Iterator<Item = &mut Place> {
        self.0.iter_mut().flat_map(|(_, calls)| calls)
    }

    fn leave(&mut self, number: u64) {
        for (_, calls) in &mut self.0 {
            calls.retain(|place| place.number != number);
        }
        self.0.retain(|(_, calls)| !calls.is_empty());
    }
}

impl Turns {
    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wake_next(&self) {
        let next = self.lock().admit();
        if let Some(next) = next {
            next.wake();
        }
    }

    /// Has the next one woken once the thread has looked for I/O.
    fn pass_on(self: &Arc<Self>) {
        // That moment is when Tokio wakes those who yield; so this yields in the name of all who wait.
        let waker = Waker::from(Arc::clone(self));
        let _ = pin!(tokio::task::yield_now()).poll(&mut Context::from_waker(&waker));
    }
}

impl Wake for Turns {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        Pace::of_this_thread(|pace| pace.look(charged_ns()));
        self.wake_next();
    }
}

impl Waiting {
    fn rank(&mut self, priority: Priority) -> &mut Rank {
        let [high, normal, low] = &mut self.ranks;
        match priority {
            Priority::High => high,
            Priority::Normal => normal,
            Priority::Low => low,
        }
    }

    fn join(&mut self, function: Function, slices: u32, is_new: bool, due: Instant, waker: &Waker) -> u64 {
        self.numbers += 1;
        let place = Place { number: self.numbers, is_new, due, waker: waker.clone() };
        self.rank(function.priority).join(function, slices, place);
        self.numbers
    }

    /// Whether any waits that goes before a new call of this priority: any of a higher one, or a short one.
    fn any_before(&mut self, priority: Priority) -> bool {
        self.any_higher(priority) || self.rank(priority).any_short()
    }

    fn any_higher(&self, priority: Priority) -> bool {
        let [high, normal, _] = &self.ranks;
        match priority {
            Priority::High => false,
            Priority::Normal => high.any(),
            Priority::Low => high.any() || normal.any(),
        }
    }

    /// Whether a new call is the next, unless it is another one's turn for once.
    fn is_next_new(&self) -> bool {
        let rank = self.ranks.iter().find(|rank| rank.any());
        rank.and_then(Rank::first).is_some_and(|place| place.is_new)
    }

    fn any(&self) -> bool {
        self.ranks.iter().any(Rank::any)
    }

    /// The one whose turn it is, unless another one has not run yet.
    fn admit(&mut self) -> Option<Waker> {
        if self.admitted.is_some() {
            return None;
        }
        let waiting = self.ranks.iter().filter(|rank| rank.any()).count();
        let passed_over = passed_over(&mut self.turns, waiting, TURNS_FOR_THE_LOWER, 2 * TURNS_FOR_THE_LOWER)?;
        let place = self.ranks.iter_mut().filter(|rank| rank.any()).nth(passed_over)?.pop()?;
        self.admitted = Some(place.number);
        Some(place.waker)
    }

    fn renew(&mut self, number: u64, waker: &Waker) {
        let mut places = self.levels().flat_map(Level::places);
        if let Some(place) = places.find(|place| place.number == number) {
            place.waker.clone_from(waker);
        }
    }

    fn leave(&mut self, number: u64) {
        self.levels().for_each(|level| level.leave(number));
    }

    fn levels(&mut self) -> impl Iterator<Item = &mut Level> {
        self.ranks.iter_mut().flat_map(|rank| &mut rank.levels)
    }
}

impl Rank {
    fn join(&mut self, function: Function, slices: u32, place: Place) {
        let [short, long, endless] = &mut self.levels;
        // What has begun goes on until it has had its share: those that came after it wait.
        let (level, has_begun, by_deadline) = match slices {
            0..SHORT_SLICES => (short, slices > 1, true),
            SHORT_SLICES..LONG_SLICES => (long, slices > SHORT_SLICES, true),
            // Of those that may never end, one with an early deadline would have all turns until then.
            _ => (endless, !slices.is_multiple_of(ENDLESS_TURN_SLICES), false),
        };
        let order = match (has_begun, by_deadline) {
            (true, _) => Order::First,
            (false, true) => Order::ByDeadline,
            (false, false) => Order::Last,
        };
        level.join(function, place, order);
    }

    fn first(&self) -> Option<&Place> {
        let level = self.levels.iter().find(|level| !level.is_empty())?;
        level.0.front().and_then(|(_, calls)| calls.front())
    }

    fn any_short(&self) -> bool {
        self.levels.first().is_some_and(|short| !short.is_empty())
    }

    fn any(&self) -> bool {
        self.levels.iter().any(|level| !level.is_empty())
    }

    fn pop(&mut self) -> Option<Place> {
        let waiting = self.levels.iter().filter(|level| !level.is_empty()).count();
        let passed_over = passed_over(&mut self.turns, waiting, TURNS_FOR_THE_NEXT, TURNS_FOR_THE_LAST)?;
        self.levels.iter_mut().filter(|level| !level.is_empty()).nth(passed_over)?.pop()
    }
}

/// How many of so many that wait this turn passes over: none, but one in so many is of the next, and one of the last. None if none waits.
fn passed_over(turns: &mut u32, waiting: usize, for_the_next: u32, for_the_last: u32) -> Option<usize> {
    let last = waiting.checked_sub(1)?;
    *turns = if last == 0 { 0 } else { turns.wrapping_add(1) };
    Some(match *turns {
        0 => 0,
        turns if turns.is_multiple_of(for_the_last) => last,
        turns if turns.is_multiple_of(for_the_next) => 1,
        _ => 0,
    })
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::rc::Rc;
    use std::time::Duration;

    use futures::FutureExt;
    use tokio::task::LocalSet;

    use super::*;

    type Seen = Rc<RefCell<Vec<&'static str>>>;

    /// A call that takes so many slices.
    async fn call(name: &'static str, slices: u32, order: Seen) {
        call_by(Instant::now() + Duration::from_secs(60), name, slices, order).await;
    }

    /// The same with a deadline.
    async fn call_by(due: Instant, name: &'static str, slices: u32, order: Seen) {
        // Names begin with what they are of, as "low a".
        let priority = match name.split(' ').next() {
            Some("high") => Priority::High,
            Some("low") => Priority::Low,
            _ => Priority::Normal,
        };
        let function = Function { number: name.as_ptr().addr(), priority };
        for used in 1..=slices {
            order.borrow_mut().push(name);
            if used < slices {
                next(function, used, due).await;
            }
        }
    }

    async fn run(calls: &[(&'static str, u32)]) -> Vec<&'static str> {
        let (local, order) = (LocalSet::new(), Seen::default());
        for (name, slices) in calls {
            local.spawn_local(call(name, *slices, Rc::clone(&order)));
        }
        local.await;
        order.take()
    }

    #[tokio::test]
    async fn a_call_goes_on_until_it_has_had_its_share_and_long_ones_take_turns() {
        let order = run(&[("a", 6), ("b", 6)]).await;
        assert_eq!(order.join(""), "abaaabbbaabb");
    }

    #[tokio::test]
    async fn a_function_with_many_calls_holds_up_another_one_no_longer_than_with_few() {
        let mut calls = vec![("many", 4); 50];
        calls.push(("one", 2));
        let order = run(&calls).await;
        let waited = order.iter().rposition(|name| *name == "one").unwrap();
        // The first slice of each call is its own; then one of the many goes on until it has had its share.
        assert!(waited <= 51 + 4, "{waited}");
    }

    const FUNCTION: Function = Function { number: 1, priority: Priority::Normal };

    fn in_a_minute() -> Instant {
        Instant::now() + Duration::from_secs(60)
    }

    #[tokio::test]
    async fn new_calls_begin_without_a_look_for_io_between_them_while_they_fit_into_a_slice() {
        let due = in_a_minute();
        let mut calls = [(1, SLICE_NS), (0, 0), (0, SLICE_NS), (0, 0)]
            .map(|(slices, takes_ns)| Box::pin(turn(FUNCTION, slices, slices == 0, takes_ns, due)));
        let mut begins = |call: usize| {
            let mut context = Context::from_waker(Waker::noop());
            calls.get_mut(call).unwrap().as_mut().poll(&mut context).is_ready()
        };
        assert!(!(0..4).any(&mut begins), "all wait for a look for I/O");
        let turns = OF_THIS_THREAD.with(Arc::clone);
        turns.wake_by_ref();
        assert!(begins(0) && !begins(1), "what goes on may take a whole slice");
        turns.wake_by_ref();
        assert!(begins(1) && begins(2) && !begins(3), "two fit into a slice");
        turns.wake_by_ref();
        assert!(begins(3));
    }

    #[tokio::test]
    async fn a_call_of_a_function_of_which_they_take_long_waits_for_short_ones_that_came_later() {
        let (due, later, long_ns) = (in_a_minute(), in_a_minute(), u64::from(SHORT_SLICES) * SLICE_NS);
        let (long, short) = (FUNCTION, Function { number: FUNCTION.number + 1, ..FUNCTION });
        let mut calls = [(long, long_ns, due), (short, 0, later), (long, long_ns - 1, due)]
            .map(|(function, takes_ns, due)| Box::pin(begin(function, takes_ns, due, true)));
        let mut begins = |call: usize| {
            let mut context = Context::from_waker(Waker::noop());
            calls.get_mut(call).unwrap().as_mut().poll(&mut context).is_ready()
        };
        assert!(!(0..3).any(&mut begins), "all wait for a look for I/O");
        let turns = OF_THIS_THREAD.with(Arc::clone);
        turns.wake_by_ref();
        assert!(!begins(0) && begins(1) && begins(2), "one slice more makes a call a long one");
        turns.wake_by_ref();
        assert!(begins(0));
        assert_eq!([long_ns, long_ns - 1].map(slices_before), [SHORT_SLICES - 1, 0]);
    }

    #[tokio::test]
    async fn what_may_compute_for_a_slice_goes_on_after_a_look_for_io_only() {
        let due = in_a_minute();
        let mut waiting = Waiting::default();
        waiting.join(FUNCTION, SHORT_SLICES, false, due, Waker::noop());
        assert!(!waiting.is_next_new());
        waiting.join(FUNCTION, 0, true, due, Waker::noop());
        assert!(waiting.is_next_new(), "short ones go first");
        waiting.join(FUNCTION, 2, false, due, Waker::noop());
        assert!(!waiting.is_next_new(), "what has begun goes before");
    }

    #[tokio::test]
    async fn calls_in_tasks_wait_when_those_before_them_have_no_answer_yet() {
        let begin = async || first_in_task(FUNCTION, UNANSWERED_NS / 2, in_a_minute()).now_or_never();
        let (one, two) = (begin().await, begin().await);
        assert!(one.is_some() && two.is_some() && begin().await.is_none(), "two fill it");
        drop(one);
        assert!(begin().await.is_some());
        // Who waited goes on all the same: it is a matter of a look for I/O.
        let (three, four) = (begin().await, first_in_task(FUNCTION, 0, in_a_minute()).await);
        assert!(three.is_some() && four.is_ok());
    }

    #[tokio::test]
    async fn a_call_whose_time_ends_while_it_waits_does_not_begin() {
        let _all = first_in_task(FUNCTION, UNANSWERED_NS, in_a_minute()).await.ok();
        assert!(first_in_task(FUNCTION, 0, Instant::now()).await.is_err());
        assert!(first_in_task(FUNCTION, 0, in_a_minute()).await.is_ok());
    }

    #[tokio::test]
    async fn of_a_functions_calls_that_wait_the_earliest_deadline_goes_first() {
        let (local, order) = (LocalSet::new(), Seen::default());
        let now = Instant::now();
        for (name, seconds) in [("d", 40), ("b", 20), ("a", 10), ("c", 30)] {
            let order = Rc::clone(&order);
            local.spawn_local(async move {
                next(FUNCTION, 0, now + Duration::from_secs(seconds)).await;
                order.borrow_mut().push(name);
            });
        }
        local.await;
        assert_eq!(order.take().concat(), "abcd");
    }

    #[tokio::test]
    async fn a_new_call_waits_for_one_slice_and_a_short_one_for_few() {
        let (local, order) = (LocalSet::new(), Seen::default());
        for _ in 0..5 {
            local.spawn_local(call("l", 1_000_000, Rc::clone(&order)));
        }
        let late = Rc::clone(&order);
        local
            .run_until(async move {
                while late.borrow().len() < 100 {
                    tokio::task::yield_now().await;
                }
                let begun = late.borrow().len();
                tokio::task::spawn_local(call("s", 3, Rc::clone(&late))).await.unwrap();
                let since: String = late.borrow().get(begun..).unwrap().concat();
                assert!(since.ends_with('s') && since.len() <= 3 + 4, "{since}");
            })
            .await;
    }

    #[tokio::test]
    async fn a_long_call_comes_to_its_end_beside_any_number_of_short_ones() {
        let (local, order) = (LocalSet::new(), Seen::default());
        for _ in 0..3 {
            let order = Rc::clone(&order);
            local.spawn_local(async move {
                loop {
                    call("s", 3, Rc::clone(&order)).await;
                    tokio::task::yield_now().await;
                }
            });
        }
        local.run_until(local.spawn_local(call("l", 50, Rc::clone(&order)))).await.unwrap();
        assert!(order.borrow().contains(&"s"));
    }

    #[tokio::test]
    async fn who_leaves_stops_nobody_else() {
        let (local, order) = (LocalSet::new(), Seen::default());
        let leaving: Vec<_> = (0..8).map(|_| local.spawn_local(call("x", 1_000_000, Rc::clone(&order)))).collect();
        let stays = local.spawn_local(call("l", 200, Rc::clone(&order)));
        local
            .run_until(async move {
                for task in leaving {
                    tokio::task::yield_now().await;
                    task.abort();
                }
                stays.await.unwrap();
            })
            .await;
    }

    #[tokio::test]
    async fn what_has_a_higher_priority_goes_first_and_the_lower_comes_to_its_end() {
        let order = run(&[("low", 40), ("normal", 40), ("high", 40), ("high 2", 40)]).await;
        let ended = |name| order.iter().rposition(|other| *other == name).unwrap();
        assert!(ended("high").max(ended("high 2")) < ended("normal") && ended("normal") < ended("low"), "{order:?}");
        // The first slice of each is its own. While others wait, the lower ones have one turn in 32.
        let low = |slices: &[&str]| slices.iter().filter(|name| !name.starts_with("high")).count();
        let until_high_ended = order.get(..ended("high").max(ended("high 2"))).unwrap();
        assert!((3..=5).contains(&low(until_high_ended)), "{order:?}");
    }

    #[tokio::test]
    async fn a_new_call_of_high_priority_waits_for_no_other_and_one_of_low_priority_for_all() {
        let function = |priority| Function { number: 1, priority };
        let mut waiting = Waiting::default();
        waiting.join(function(Priority::Normal), 0, true, Instant::now(), Waker::noop());
        let all = [Priority::High, Priority::Normal, Priority::Low];
        assert_eq!(all.map(|priority| waiting.any_before(priority)), [false, true, true]);
        assert_eq!(all.map(|priority| waiting.any_higher(priority)), [false, false, true]);
    }
}
