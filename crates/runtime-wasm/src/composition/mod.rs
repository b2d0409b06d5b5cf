//! Composition by typed interfaces: a component imports an interface that another function of its app exports.
//!
//! `read` finds out which interfaces a component has, `check` whose export each import is and whether both sides have the
//! same types. An [`Exporter`] answers calls of what a component exports, in this process (`export`). An importer is
//! linked with host functions (`import`) that find the exporter through [`Exporters`], which the node supplies: here,
//! values are handed over as they are, elsewhere as bytes (`values`). The guest cannot tell which.

mod check;
mod export;
mod import;
mod read;
mod types;
mod values;

pub use check::{Part, compose};
pub use export::{CallContext, CallObserver, Exporter, ExporterSettings, Unobserved};
pub use import::{Exporters, Linking};
pub use read::interfaces;
pub use types::{Interface, Interfaces, Kind, Primitive, Signature, Type};

pub(crate) use export::Exports;
pub(crate) use import::{ComposedCallFailed, link};
