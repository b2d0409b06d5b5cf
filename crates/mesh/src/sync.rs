//! Short critical sections.

use std::sync::{Mutex, MutexGuard, PoisonError};

/// A lock that is never held across an await.
pub(crate) type Lock<T> = Mutex<T>;

/// Takes a lock. A panic of another holder leaves data that is still consistent: every section here is a few
/// assignments that do not panic in between.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
