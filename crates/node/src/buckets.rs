//! Forgets the buckets of apps that were deleted.

use std::sync::Arc;

use littoral_store::buckets::Buckets;
use tokio_util::sync::CancellationToken;

use crate::intent::IntentStore;

/// Forgets buckets as apps are deleted, until the node stops.
pub(crate) async fn forget_deleted(buckets: Arc<Buckets>, intent: Arc<IntentStore>, stop: CancellationToken) {
    let mut apps = intent.watch();
    loop {
        let now = apps.borrow_and_update().clone();
        let held = buckets.apps();
        for app in now.intent.ended.iter().filter(|app| held.contains(&app.to_string())) {
            match buckets.forget(app).await {
                Ok(()) => tracing::info!(%app, "forgot the buckets of a deleted app"),
                Err(error) => tracing::warn!(%app, %error, "the buckets of a deleted app could not be forgotten"),
            }
        }
        tokio::select! {
            () = stop.cancelled() => return,
            changed = apps.changed() => if changed.is_err() { return },
        }
    }
}
