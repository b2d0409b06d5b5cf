//! Where work that waits for the disk is done.

use tokio::runtime::{Handle, RuntimeFlavor};

use crate::error::StoreError;

/// Runs what waits for the disk away from the threads that must not wait. On a runtime of one thread it is done in
/// place: such a one has nobody else to keep going, and in the simulator a second thread would make the order of
/// events a matter of chance.
pub(crate) async fn blocking<T: Send + 'static>(
    body: impl FnOnce() -> Result<T, StoreError> + Send + 'static,
) -> Result<T, StoreError> {
    if Handle::current().runtime_flavor() == RuntimeFlavor::CurrentThread {
        return body();
    }
    // The only way for it to fail is that the runtime shuts down.
    tokio::task::spawn_blocking(body).await.unwrap_or(Err(StoreError::Closed))
}
