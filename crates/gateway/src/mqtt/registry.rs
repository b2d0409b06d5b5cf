//! Who is connected: a session has one connection, the last that asked for it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

/// How long the connection before may take to end: longer than a publication that is under way.
const END_TIMEOUT: Duration = Duration::from_secs(20);

/// A client of a user.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct SessionKey {
    /// The user.
    pub user: String,
    /// The client's own name.
    pub client: String,
}

/// That another connection has taken a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Taken {
    /// Whether the session goes on in it.
    pub(crate) goes_on: bool,
}

/// The sessions that have a connection; as many as there are connections at most.
#[derive(Debug, Default)]
pub(crate) struct Registry(Mutex<HashMap<SessionKey, Place>>);

#[derive(Debug)]
struct Place {
    tell: watch::Sender<Option<Taken>>,
    /// Held by the connection that has the session, until all of it is durable.
    held: Arc<Semaphore>,
}

/// A connection's hold on a session; given back when dropped.
#[derive(Debug)]
pub(crate) struct Claim {
    registry: Arc<Registry>,
    pub(crate) session: SessionKey,
    told: watch::Receiver<Option<Taken>>,
    held: Option<OwnedSemaphorePermit>,
}

impl Registry {
    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<SessionKey, Place>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a session from whoever has it, once that one has ended; none if it does not end.
    pub(crate) async fn claim(self: &Arc<Self>, session: SessionKey, taken: Taken) -> Option<Claim> {
        let (tell, told) = watch::channel(None);
        let held = {
            let mut places = self.lock();
            let before = places.remove(&session);
            let held = before.as_ref().map_or_else(|| Arc::new(Semaphore::new(1)), |place| Arc::clone(&place.held));
            if let Some(before) = before {
                before.tell.send_replace(Some(taken));
            }
            places.insert(session.clone(), Place { tell, held: Arc::clone(&held) });
            held
        };
        let mut claim = Claim { registry: Arc::clone(self), session, told, held: None };
        let permit = tokio::time::timeout(END_TIMEOUT, held.acquire_owned()).await.ok()?.ok()?;
        claim.held = Some(permit);
        Some(claim)
    }
}

impl Claim {
    /// Waits until another connection takes the session.
    pub(crate) async fn taken(&mut self) -> Taken {
        match self.told.wait_for(Option::is_some).await.map(|taken| *taken) {
            Ok(Some(taken)) => taken,
            // Nobody can tell any more: the place went with the claim that replaced it.
            _ => Taken { goes_on: false },
        }
    }

    /// Lets another connection have the session: all of it is durable.
    pub(crate) fn release(&mut self) {
        self.held = None;
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        let mut places = self.registry.lock();
        // The place may be another's by now.
        if places.get(&self.session).is_some_and(|place| place.tell.subscribe().same_channel(&self.told)) {
            places.remove(&self.session);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key() -> SessionKey {
        SessionKey { user: "u".to_owned(), client: "c".to_owned() }
    }

    #[tokio::test(start_paused = true)]
    async fn the_last_connection_has_the_session_once_the_one_before_has_ended() {
        let registry = Arc::new(Registry::default());
        let mut first = registry.claim(key(), Taken { goes_on: true }).await.unwrap();
        let second = tokio::spawn({
            let registry = Arc::clone(&registry);
            async move { registry.claim(key(), Taken { goes_on: true }).await }
        });
        assert_eq!(first.taken().await, Taken { goes_on: true });
        assert!(!second.is_finished());
        first.release();
        let second = second.await.unwrap().unwrap();
        drop(first);
        assert_eq!(registry.lock().len(), 1, "the first does not take the second's place away");
        drop(second);
        assert!(registry.lock().is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn who_does_not_end_is_not_waited_for_for_ever() {
        let registry = Arc::new(Registry::default());
        let _first = registry.claim(key(), Taken { goes_on: true }).await.unwrap();
        assert!(registry.claim(key(), Taken { goes_on: false }).await.is_none());
        assert!(registry.lock().is_empty());
    }
}
