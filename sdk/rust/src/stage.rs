//! What a stage of a flow implements.

use crate::batch::{Batch, Schema};
use crate::keyed::KeyGroups;
use crate::output::{Output, Port};
use crate::{Error, Result};

/// What the manifest sets for the function: `env` in `littoral.toml`.
#[derive(Clone, Debug, Default)]
pub struct Config(Vec<(String, String)>);

impl Config {
    /// These settings.
    #[must_use]
    pub fn new(settings: Vec<(String, String)>) -> Self {
        Self(settings)
    }

    /// A setting.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// A setting, read as a number or whatever else; `default` if it is not set.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn parse<T: std::str::FromStr>(&self, name: &str, default: T) -> Result<T>
    where
        T::Err: std::fmt::Display,
    {
        match self.get(name) {
            None => Ok(default),
            Some(text) => {
                text.parse().map_err(|error| Error::new(format!("the setting `{name}` is `{text}`: {error}")))
            }
        }
    }
}

/// A stage of a flow: rows in, rows out, with state by key.
///
/// The host makes one for each partition and calls it with one batch at a time. It may drop it after any call and make
/// another elsewhere from the state saved last, so nothing that matters may be kept outside of [`Stage::state`].
pub trait Stage: Sized + 'static {
    /// Prepares for input of these columns.
    ///
    /// # Errors
    /// When the stage cannot work with them or with its settings; the error should say what it needs.
    fn open(input: &Schema, config: &Config) -> Result<Self>;

    /// What the stage puts out. Asked once, after `open`.
    fn ports(&self) -> Vec<Port>;

    /// Processes rows.
    ///
    /// # Errors
    /// An error is the whole batch's: the host tries its rows one by one. Reject single rows with [`Output::reject`].
    fn process(&mut self, batch: &Batch, out: &mut Output) -> Result<()>;

    /// Fires a timer that was set with [`Output::set_timer`].
    ///
    /// # Errors
    /// When the stage cannot go on.
    fn on_timer(&mut self, time_us: i64, out: &mut Output) -> Result<()> {
        let _ = (time_us, out);
        Ok(())
    }

    /// The state that is to be saved; always the same parts in the same order.
    fn state(&mut self) -> Vec<&mut dyn KeyGroups> {
        Vec::new()
    }
}

/// Exports a stage from this crate: a type that implements [`Stage`](crate::Stage), or a function on a batch and the
/// ports that it writes to.
///
/// ```
/// use littoral_sdk::prelude::*;
///
/// fn keep_hot(batch: &Batch, out: &mut Output) -> Result<()> {
///     let (times, values) = (batch.timestamp("time")?, batch.f64("value")?);
///     for row in 0..batch.rows() {
///         if let (Some(time), Some(value)) = (times.get(row), values.get(row)) {
///             if value > 90.0 {
///                 out.row(MAIN).timestamp(time).f64(value);
///             }
///         }
///     }
///     Ok(())
/// }
///
/// littoral_sdk::stage!(fn keep_hot => [Port::main([Field::new("time", Type::Timestamp), Field::new("value", Type::F64)])]);
/// ```
#[macro_export]
macro_rules! stage {
    (fn $function:path => $ports:expr) => {
        const _: () = {
            struct FunctionStage;
            impl $crate::Stage for FunctionStage {
                fn open(_input: &$crate::Schema, _config: &$crate::Config) -> $crate::Result<Self> {
                    ::std::result::Result::Ok(Self)
                }
                fn ports(&self) -> ::std::vec::Vec<$crate::Port> {
                    ::std::vec::Vec::from($ports)
                }
                fn process(&mut self, batch: &$crate::Batch, out: &mut $crate::Output) -> $crate::Result<()> {
                    $function(batch, out)
                }
            }
            $crate::stage!(FunctionStage);
        };
    };
    ($stage:ty) => {
        const _: () = {
            fn is_a_stage<S: $crate::Stage>() {}
            let _: fn() = is_a_stage::<$stage>;
        };
        #[cfg(target_arch = "wasm32")]
        const _: () = {
            struct Exported;
            $crate::export_stage!(Exported, $stage);
        };
    };
}
