//! The functions of an app that export what its other functions import: here, or over the mesh.

use std::sync::Arc;

use bytes::Bytes;
use futures::FutureExt as _;
use futures::future::BoxFuture;
use littoral_model::composition::ComposedCall;
use littoral_model::id::{AppId, FunctionName};
use littoral_runtime::composition::{Exporter, Exporters};

use crate::exports::Exports;

/// The exporters of one app.
pub(crate) struct AppExporters {
    pub(crate) app: AppId,
    pub(crate) exports: Arc<Exports>,
}

impl Exporters for AppExporters {
    fn here(&self, function: &FunctionName) -> Option<Exporter> {
        Some(self.exports.here(&self.app, function)?.exporter().clone())
    }

    fn elsewhere(&self, function: &FunctionName, call: ComposedCall) -> BoxFuture<'static, Result<Bytes, String>> {
        Arc::clone(&self.exports).call(self.app.clone(), function.clone(), call).boxed()
    }
}
