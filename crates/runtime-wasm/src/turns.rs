//! Whose turn it is: on each thread, guests that have used up their slice wait here for the next one.
//!
//! Were all of them simply woken again, a thread full of long computations would keep a request that takes microseconds
//! waiting for a slice of each of them. So one alone goes on at a time, after the thread has looked for I/O and polled
//! whatever else is ready; and those that have used little go first. It is the multilevel feedback queue of operating
//! systems, with two levels: a call that spins delays others by about one slice, and gets what is left.

use std::collections::VecDeque;
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Wake, Waker};

/// A call that has used fewer slices than this goes before those that have used more, and need not share with its like:
/// most requests are done by then.
const SHORT_SLICES: u32 = 4;
/// One turn of so many is a long call's even if short ones wait, so that it comes to an end some time.
const TURNS_FOR_A_LONG_ONE: u32 = 8;

thread_local! {
    static OF_THIS_THREAD: Arc<Turns> = Arc::default();
}

/// Waits for this call's next slice, when it has used so many of them.
pub(crate) fn next(slices: u32) -> Turn {
    Turn { turns: OF_THIS_THREAD.with(Arc::clone), slices, number: None }
}

/// A wait for a turn; dropping it gives the turn to another.
pub(crate) struct Turn {
    turns: Arc<Turns>,
    slices: u32,
    number: Option<u64>,
}

impl Future for Turn {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let mut waiting = self.turns.lock();
        match self.number {
            None => {
                let number = waiting.join(self.slices, context.waker());
                drop(waiting);
                self.number = Some(number);
                self.turns.pass_on();
                Poll::Pending
            }
            Some(number) if waiting.admitted == Some(number) => {
                waiting.admitted = None;
                let more = waiting.any();
                drop(waiting);
                self.number = None;
                if more {
                    self.turns.pass_on();
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
struct Turns(Mutex<Waiting>);

#[derive(Default)]
struct Waiting {
    short: VecDeque<Place>,
    long: VecDeque<Place>,
    /// Who was woken and has not run yet.
    admitted: Option<u64>,
    numbers: u64,
    /// How many turns short calls were given since the last one of a long call.
    turns_of_short: u32,
}

struct Place {
    number: u64,
    waker: Waker,
}

impl Turns {
    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
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
        let next = self.lock().admit();
        if let Some(next) = next {
            next.wake();
        }
    }
}

impl Waiting {
    fn join(&mut self, slices: u32, waker: &Waker) -> u64 {
        self.numbers += 1;
        let place = Place { number: self.numbers, waker: waker.clone() };
        match slices {
            0 | 1 => self.short.push_back(place),
            // It has begun: those that came after it wait until it is done, or has had its share.
            2..SHORT_SLICES => self.short.push_front(place),
            _ => self.long.push_back(place),
        }
        self.numbers
    }

    fn any(&self) -> bool {
        !self.short.is_empty() || !self.long.is_empty()
    }

    /// The one whose turn it is, unless another one has not run yet.
    fn admit(&mut self) -> Option<Waker> {
        if self.admitted.is_some() {
            return None;
        }
        let of_long = self.short.is_empty() || self.turns_of_short + 1 >= TURNS_FOR_A_LONG_ONE;
        let long = if of_long { self.long.pop_front() } else { None };
        self.turns_of_short = if long.is_some() { 0 } else { self.turns_of_short.saturating_add(1) };
        let place = long.or_else(|| self.short.pop_front())?;
        self.admitted = Some(place.number);
        Some(place.waker)
    }

    fn renew(&mut self, number: u64, waker: &Waker) {
        let mut places = self.short.iter_mut().chain(&mut self.long);
        if let Some(place) = places.find(|place| place.number == number) {
            place.waker.clone_from(waker);
        }
    }

    fn leave(&mut self, number: u64) {
        self.short.retain(|place| place.number != number);
        self.long.retain(|place| place.number != number);
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::rc::Rc;

    use tokio::task::LocalSet;

    use super::*;

    type Order = Rc<RefCell<Vec<&'static str>>>;

    /// A call that takes so many slices.
    async fn call(name: &'static str, slices: u32, order: Order) {
        for used in 1..=slices {
            order.borrow_mut().push(name);
            if used < slices {
                next(used).await;
            }
        }
    }

    async fn run(calls: &[(&'static str, u32)]) -> Vec<&'static str> {
        let (local, order) = (LocalSet::new(), Order::default());
        for (name, slices) in calls {
            local.spawn_local(call(name, *slices, Rc::clone(&order)));
        }
        local.await;
        order.take()
    }

    #[tokio::test]
    async fn a_call_goes_on_until_it_has_had_its_share_and_long_ones_take_turns() {
        let order = run(&[("a", 6), ("b", 6)]).await;
        assert_eq!(order.join(""), "abaaabbbabab");
    }

    #[tokio::test]
    async fn a_new_call_waits_for_one_slice_and_a_short_one_for_few() {
        let (local, order) = (LocalSet::new(), Order::default());
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
        let (local, order) = (LocalSet::new(), Order::default());
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
        let (local, order) = (LocalSet::new(), Order::default());
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
}
