//! The types of `wit/flow` as Wasmtime's `bindgen!` makes them, without Wasmtime: what the host has after it has read a
//! guest's memory.

pub(super) mod littoral {
    pub(crate) mod flow {
        pub(crate) mod types {
            use arbitrary::Arbitrary;

            #[derive(Debug)]
            pub(crate) enum ColumnTypeParam<'a> {
                Boolean,
                Int32,
                Int64,
                Float32,
                Float64,
                Timestamp,
                Utf8,
                Binary,
                #[allow(dead_code)]
                Tensor(&'a [u32]),
            }

            #[derive(Debug)]
            #[allow(dead_code)]
            pub(crate) struct FieldParam<'a> {
                pub(crate) name: &'a str,
                pub(crate) column_type: ColumnTypeParam<'a>,
                pub(crate) nullable: bool,
            }

            #[derive(Debug)]
            #[allow(dead_code)]
            pub(crate) struct SchemaParam<'a> {
                pub(crate) fields: &'a [FieldParam<'a>],
            }

            #[derive(Debug)]
            pub(crate) struct VariableParam<'a> {
                pub(crate) offsets: &'a [u32],
                pub(crate) bytes: &'a [u8],
            }

            #[derive(Debug)]
            pub(crate) enum ValuesParam<'a> {
                Boolean(&'a [bool]),
                Int32(&'a [i32]),
                Int64(&'a [i64]),
                Float32(&'a [f32]),
                Float64(&'a [f64]),
                Timestamp(&'a [i64]),
                Utf8(VariableParam<'a>),
                Binary(VariableParam<'a>),
                /// Reserved; the host makes none.
                #[allow(dead_code)]
                Tensor(&'a [u8]),
            }

            #[derive(Debug)]
            pub(crate) struct ColumnParam<'a> {
                pub(crate) values: ValuesParam<'a>,
                pub(crate) validity: Option<&'a [u8]>,
            }

            #[derive(Debug)]
            pub(crate) struct BatchParam<'a> {
                pub(crate) columns: &'a [ColumnParam<'a>],
                pub(crate) rows: u32,
            }

            #[derive(Debug, Arbitrary)]
            pub(crate) enum ColumnTypeResult {
                Boolean,
                Int32,
                Int64,
                Float32,
                Float64,
                Timestamp,
                Utf8,
                Binary,
                Tensor(#[allow(dead_code)] Vec<u32>),
            }

            #[derive(Debug, Arbitrary)]
            pub(crate) struct FieldResult {
                pub(crate) name: String,
                pub(crate) column_type: ColumnTypeResult,
                pub(crate) nullable: bool,
            }

            #[derive(Debug, Arbitrary)]
            pub(crate) struct SchemaResult {
                pub(crate) fields: Vec<FieldResult>,
            }

            #[derive(Debug, Arbitrary)]
            pub(crate) struct VariableResult {
                pub(crate) offsets: Vec<u32>,
                pub(crate) bytes: Vec<u8>,
            }

            #[derive(Debug, Arbitrary)]
            pub(crate) enum ValuesResult {
                Boolean(Vec<bool>),
                Int32(Vec<i32>),
                Int64(Vec<i64>),
                Float32(Vec<f32>),
                Float64(Vec<f64>),
                Timestamp(Vec<i64>),
                Utf8(VariableResult),
                Binary(VariableResult),
                Tensor(#[allow(dead_code)] Vec<u8>),
            }

            #[derive(Debug, Arbitrary)]
            pub(crate) struct ColumnResult {
                pub(crate) values: ValuesResult,
                pub(crate) validity: Option<Vec<u8>>,
            }

            #[derive(Debug, Arbitrary)]
            pub(crate) struct BatchResult {
                pub(crate) columns: Vec<ColumnResult>,
                pub(crate) rows: u32,
            }

            /// What a guest would hand back if it returned what it was given.
            impl From<BatchParam<'_>> for BatchResult {
                fn from(batch: BatchParam<'_>) -> Self {
                    let variable = |values: &VariableParam<'_>| VariableResult {
                        offsets: values.offsets.to_vec(),
                        bytes: values.bytes.to_vec(),
                    };
                    let columns = batch.columns.iter().map(|column| ColumnResult {
                        values: match &column.values {
                            ValuesParam::Boolean(values) => ValuesResult::Boolean(values.to_vec()),
                            ValuesParam::Int32(values) => ValuesResult::Int32(values.to_vec()),
                            ValuesParam::Int64(values) => ValuesResult::Int64(values.to_vec()),
                            ValuesParam::Float32(values) => ValuesResult::Float32(values.to_vec()),
                            ValuesParam::Float64(values) => ValuesResult::Float64(values.to_vec()),
                            ValuesParam::Timestamp(values) => ValuesResult::Timestamp(values.to_vec()),
                            ValuesParam::Utf8(values) => ValuesResult::Utf8(variable(values)),
                            ValuesParam::Binary(values) => ValuesResult::Binary(variable(values)),
                            ValuesParam::Tensor(values) => ValuesResult::Tensor(values.to_vec()),
                        },
                        validity: column.validity.map(<[u8]>::to_vec),
                    });
                    Self { columns: columns.collect(), rows: batch.rows }
                }
            }
        }
    }
}
