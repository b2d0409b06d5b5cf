//! Write functions for Littoral in Rust.
//!
//! * A **stage** of a flow works on typed batches: implement [`Stage`] for a type and export it with [`stage!`], or
//!   export a plain function on a [`Batch`].
//! * A **handler** answers HTTP requests: export a function from [`http::Request`] to [`http::Response`] with
//!   [`handler!`].
//! * A **typed handler** is called without HTTP, by other functions above all: export a function from
//!   [`fabric::Payload`] to [`fabric::Payload`] with [`typed_handler!`].
//!
//! What the fabric gives each of them is in [`fabric`] and [`keyvalue`].
//!
//! Build with `cargo build --release --target wasm32-wasip2` and `crate-type = ["cdylib", "rlib"]`. Everything but the
//! export itself is ordinary Rust, so that tests run on the host: see [`testing`].
//!
//! ```
//! use littoral_sdk::prelude::*;
//!
//! fn fahrenheit(batch: &Batch, out: &mut Output) -> Result<()> {
//!     let celsius = batch.f64("celsius")?;
//!     for row in 0..batch.rows() {
//!         match celsius.get(row) {
//!             Some(value) if value.is_finite() => out.row(MAIN).f64(value * 1.8 + 32.0).end(),
//!             _ => out.reject(row, "the temperature is missing"),
//!         }
//!     }
//!     Ok(())
//! }
//!
//! littoral_sdk::stage!(fn fahrenheit => [Port::main([Field::new("fahrenheit", Type::F64)])]);
//! ```

pub mod batch;
pub mod devices;
pub mod fabric;
pub mod http;
pub mod keyed;
pub mod keyvalue;
pub mod output;
pub mod stage;
pub mod state;
pub mod testing;

#[cfg(target_arch = "wasm32")]
#[doc(hidden)]
#[allow(missing_docs, unsafe_code, unreachable_pub, clippy::all, clippy::restriction)]
pub mod bindings {
    //! Made from `wit/flow.wit`.
    wit_bindgen::generate!({
        path: "wit",
        world: "stage",
        pub_export_macro: true,
        default_bindings_module: "littoral_sdk::bindings",
    });
}
#[cfg(target_arch = "wasm32")]
#[doc(hidden)]
#[allow(missing_docs, unsafe_code, unreachable_pub, clippy::all, clippy::restriction)]
pub mod fabric_bindings {
    //! Made from `wit/fabric` and `wit/wasi`.
    wit_bindgen::generate!({
        path: ["wit/fabric", "wit/wasi/config", "wit/wasi/keyvalue", "wit/wasi/logging"],
        inline: "
            package littoral:sdk;
            world functions {
                include littoral:fabric/typed@0.1.0;
                include wasi:config/imports@0.2.0-rc.1;
                include wasi:keyvalue/imports@0.2.0-draft;
                include wasi:logging/imports@0.1.0-draft;
            }
        ",
        world: "littoral:sdk/functions",
        generate_all,
        pub_export_macro: true,
        default_bindings_module: "littoral_sdk::fabric_bindings",
    });
}
#[cfg(target_arch = "wasm32")]
#[doc(hidden)]
pub mod guest;
#[cfg(target_arch = "wasm32")]
#[doc(hidden)]
pub use wasip2;

pub use batch::{Batch, Field, Schema, Type};
pub use fabric::{call, context, publish};
pub use keyed::{KeyGroups, Keyed};
pub use output::{MAIN, Output, Port};
pub use stage::{Config, Stage};
pub use state::State;

/// What went wrong, for people. Anything that is an [`std::error::Error`] or a text becomes one with `?`.
#[derive(Clone, PartialEq, Eq)]
pub struct Error(String);

impl Error {
    /// An error with this text.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }
}

impl std::fmt::Display for Error {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::fmt::Debug for Error {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

// `Error` itself is no `std::error::Error`, as the two conversions would overlap; `anyhow` does the same.
impl<E: std::error::Error> From<E> for Error {
    fn from(error: E) -> Self {
        Self(error.to_string())
    }
}

/// A result whose error is a text for people.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What a stage needs: `use littoral_sdk::prelude::*`.
pub mod prelude {
    pub use crate::{
        Batch, Config, Error, Field, KeyGroups, Keyed, MAIN, Output, Port, Result, Schema, Stage, State, Type,
    };
}
