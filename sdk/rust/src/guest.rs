//! Between a [`Stage`] and the generated bindings; what [`stage!`](crate::stage) expands to. A component holds one
//! stage, and a component has one thread.

use crate::batch::{Batch, Bitmap, Column, Field, Schema, Type, Values, Variable};
use crate::bindings::exports::littoral::flow::processor as wit;
use crate::bindings::littoral::flow::types;
use crate::output::Step;
use crate::stage::{Config, Stage};
use crate::testing::Harness;
use crate::{Error, Result};

/// Exports `$stage` under the name `$exported`.
#[doc(hidden)]
#[macro_export]
macro_rules! export_stage {
    ($exported:ident, $stage:ty) => {
        ::std::thread_local! {
            static STAGE: ::std::cell::RefCell<$crate::guest::Slot<$stage>> = const { ::std::cell::RefCell::new($crate::guest::Slot::new()) };
        }
        impl $crate::guest::Guest for $exported {
            fn open(input: $crate::guest::WitSchema, config: ::std::vec::Vec<(::std::string::String, ::std::string::String)>)
                -> ::std::result::Result<::std::vec::Vec<$crate::guest::OutputPort>, ::std::string::String>
            {
                STAGE.with_borrow_mut(|slot| slot.open(input, config))
            }
            fn process(rows: $crate::guest::WitBatch, watermark: i64)
                -> ::std::result::Result<$crate::guest::WitStep, ::std::string::String>
            {
                STAGE.with_borrow_mut(|slot| slot.process(rows, watermark))
            }
            fn on_timer(time: i64) -> ::std::result::Result<$crate::guest::WitStep, ::std::string::String> {
                STAGE.with_borrow_mut(|slot| slot.on_timer(time))
            }
            fn snapshot(groups: ::std::vec::Vec<u32>) -> ::std::vec::Vec<(u32, ::std::vec::Vec<u8>)> {
                STAGE.with_borrow_mut(|slot| slot.snapshot(&groups))
            }
            fn restore(groups: ::std::vec::Vec<(u32, ::std::vec::Vec<u8>)>) -> ::std::result::Result<(), ::std::string::String> {
                STAGE.with_borrow_mut(|slot| slot.restore(&groups))
            }
        }
        $crate::bindings::export!($exported with_types_in $crate::bindings);
    };
}

pub use types::{Batch as WitBatch, Schema as WitSchema};
pub use wit::{Guest, OutputPort, Step as WitStep};

const NOT_OPEN: &str = "`open` was not called, or failed; this is an error of the host";

/// The component's stage, once it is open.
pub struct Slot<S>(Option<Open<S>>);

struct Open<S> {
    harness: Harness<S>,
    input: Schema,
}

impl<S: Stage> Slot<S> {
    #[allow(clippy::new_without_default, reason = "const, and used by the macro only")]
    pub const fn new() -> Self {
        Self(None)
    }

    pub fn open(&mut self, input: types::Schema, config: Vec<(String, String)>) -> Result<Vec<OutputPort>, String> {
        let input = schema_in(input).map_err(text)?;
        let harness = Harness::<S>::open_with(&input, &Config::new(config)).map_err(text)?;
        let ports = harness.ports().iter();
        let ports =
            ports.map(|port| OutputPort { name: port.name.clone(), schema: schema_out(&port.schema) }).collect();
        self.0 = Some(Open { harness, input });
        Ok(ports)
    }

    pub fn process(&mut self, rows: types::Batch, watermark_us: i64) -> Result<wit::Step, String> {
        let open = self.0.as_mut().ok_or(NOT_OPEN)?;
        let batch = batch_in(&open.input, rows).map_err(text)?;
        let step = open.harness.process(&batch, watermark_us).map_err(text)?;
        step_out(&mut open.harness, step).map_err(text)
    }

    pub fn on_timer(&mut self, time_us: i64) -> Result<wit::Step, String> {
        let open = self.0.as_mut().ok_or(NOT_OPEN)?;
        let step = open.harness.on_timer(time_us).map_err(text)?;
        step_out(&mut open.harness, step).map_err(text)
    }

    pub fn snapshot(&mut self, groups: &[u32]) -> Vec<(u32, Vec<u8>)> {
        self.0.as_mut().map_or_else(Vec::new, |open| open.harness.snapshot(groups))
    }

    pub fn restore(&mut self, groups: &[(u32, Vec<u8>)]) -> Result<(), String> {
        self.0.as_mut().ok_or(NOT_OPEN)?.harness.restore(groups).map_err(text)
    }
}

fn text(error: Error) -> String {
    error.to_string()
}

fn schema_in(schema: types::Schema) -> Result<Schema> {
    let fields = schema.fields.into_iter().map(|field| {
        let kind = match field.column_type {
            types::ColumnType::Boolean => Type::Bool,
            types::ColumnType::Int32 => Type::S32,
            types::ColumnType::Int64 => Type::S64,
            types::ColumnType::Float32 => Type::F32,
            types::ColumnType::Float64 => Type::F64,
            types::ColumnType::Timestamp => Type::Timestamp,
            types::ColumnType::Utf8 => Type::Utf8,
            types::ColumnType::Binary => Type::Binary,
            types::ColumnType::Tensor(_) => {
                return Err(Error::new(format!("the column `{}` is a tensor, which this SDK cannot read", field.name)));
            }
        };
        Ok(Field { name: field.name, kind, nullable: field.nullable })
    });
    Ok(Schema { fields: fields.collect::<Result<_>>()? })
}

fn schema_out(schema: &Schema) -> types::Schema {
    let fields = schema.fields.iter().map(|field| {
        let column_type = match field.kind {
            Type::Bool => types::ColumnType::Boolean,
            Type::S32 => types::ColumnType::Int32,
            Type::S64 => types::ColumnType::Int64,
            Type::F32 => types::ColumnType::Float32,
            Type::F64 => types::ColumnType::Float64,
            Type::Timestamp => types::ColumnType::Timestamp,
            Type::Utf8 => types::ColumnType::Utf8,
            Type::Binary => types::ColumnType::Binary,
        };
        types::Field { name: field.name.clone(), column_type, nullable: field.nullable }
    });
    types::Schema { fields: fields.collect() }
}

fn batch_in(schema: &Schema, batch: types::Batch) -> Result<Batch> {
    let columns = batch.columns.into_iter().map(|column| {
        let values = match column.values {
            types::Values::Boolean(values) => Values::Bool(values),
            types::Values::Int32(values) => Values::S32(values),
            types::Values::Int64(values) => Values::S64(values),
            types::Values::Float32(values) => Values::F32(values),
            types::Values::Float64(values) => Values::F64(values),
            types::Values::Timestamp(values) => Values::Timestamp(values),
            types::Values::Utf8(values) => Values::Utf8(Variable { offsets: values.offsets, bytes: values.bytes }),
            types::Values::Binary(values) => Values::Binary(Variable { offsets: values.offsets, bytes: values.bytes }),
            types::Values::Tensor(_) => return Err(Error::new("tensor columns cannot be read by this SDK")),
        };
        Ok(Column { values, validity: column.validity.map(Bitmap) })
    });
    Ok(Batch::new(schema.clone(), columns.collect::<Result<_>>()?, batch.rows as usize))
}

fn batch_out(batch: Batch) -> types::Batch {
    let rows = u32::try_from(batch.rows()).unwrap_or(u32::MAX);
    let columns = batch.into_columns().into_iter().map(|column| {
        let values = match column.values {
            Values::Bool(values) => types::Values::Boolean(values),
            Values::S32(values) => types::Values::Int32(values),
            Values::S64(values) => types::Values::Int64(values),
            Values::F32(values) => types::Values::Float32(values),
            Values::F64(values) => types::Values::Float64(values),
            Values::Timestamp(values) => types::Values::Timestamp(values),
            Values::Utf8(values) => {
                types::Values::Utf8(types::Variable { offsets: values.offsets, bytes: values.bytes })
            }
            Values::Binary(values) => {
                types::Values::Binary(types::Variable { offsets: values.offsets, bytes: values.bytes })
            }
        };
        types::Column { values, validity: column.validity.map(|bitmap| bitmap.0) }
    });
    types::Batch { columns: columns.collect(), rows }
}

fn step_out<S: Stage>(harness: &mut Harness<S>, step: Step) -> Result<wit::Step> {
    let mut outputs = Vec::with_capacity(step.outputs.len());
    for (name, batch) in step.outputs {
        let place = harness.ports().iter().position(|port| port.name == name);
        let place = place.and_then(|place| u32::try_from(place).ok());
        outputs.push((place.ok_or_else(|| Error::new(format!("there is no port `{name}`")))?, batch_out(batch)));
    }
    let rejected = step.rejected.into_iter();
    let rejected = rejected.map(|(row, reason)| wit::Rejection { row: u32::try_from(row).unwrap_or(u32::MAX), reason });
    Ok(wit::Step { outputs, rejected: rejected.collect(), dirty: harness.take_dirty(), timer: step.timer_us })
}
