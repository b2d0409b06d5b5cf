//! What the operators of the library share: settings as `library.toml` describes them, and columns that are handed on as they are.

mod columns;
mod moments;
mod settings;

pub use columns::{Columns, Keys, Measured, entry, fields_beside};
pub use moments::Moments;
pub use settings::Settings;
