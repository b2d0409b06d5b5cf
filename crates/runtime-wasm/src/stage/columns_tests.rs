//! Every type, nulls, slices, and guests that lie.

use super::*;

/// What a guest would hand back if it returned what it was given.
fn echoed(batch: &RecordBatch) -> Result<RecordBatch, String> {
    let borrowed = Borrowed::new(batch)?;
    let columns = borrowed.columns();
    let handed = borrowed.batch(&columns);
    let columns = handed.columns.iter().map(|column| ColumnResult {
        values: match &column.values {
            ValuesParam::Boolean(values) => ValuesResult::Boolean(values.to_vec()),
            ValuesParam::Int32(values) => ValuesResult::Int32(values.to_vec()),
            ValuesParam::Int64(values) => ValuesResult::Int64(values.to_vec()),
            ValuesParam::Float32(values) => ValuesResult::Float32(values.to_vec()),
            ValuesParam::Float64(values) => ValuesResult::Float64(values.to_vec()),
            ValuesParam::Timestamp(values) => ValuesResult::Timestamp(values.to_vec()),
            ValuesParam::Utf8(values) => ValuesResult::Utf8(variable(values.offsets, values.bytes)),
            ValuesParam::Binary(values) => ValuesResult::Binary(variable(values.offsets, values.bytes)),
            ValuesParam::Tensor(_) => unreachable!("no Arrow type becomes a tensor"),
        },
        validity: column.validity.map(<[u8]>::to_vec),
    });
    batch_out(&batch.schema(), BatchResult { columns: columns.collect(), rows: handed.rows })
}

fn variable(offsets: &[u32], bytes: &[u8]) -> VariableResult {
    VariableResult { offsets: offsets.to_vec(), bytes: bytes.to_vec() }
}

/// Every type, with a null in every third row.
fn all_types(rows: usize) -> RecordBatch {
    let some = |row: &usize| row % 3 != 1;
    let range = || 0..rows;
    let text: StringArray = range().map(|row| some(&row).then(|| "é".repeat(row % 5))).collect();
    let bytes: BinaryArray = range().map(|row| some(&row).then(|| vec![row as u8; row % 4])).collect();
    let time: TimestampMicrosecondArray = range().map(|row| some(&row).then_some(row as i64 * 1_000)).collect();
    let columns: Vec<(&str, ArrayRef)> = vec![
        ("bool", Arc::new(range().map(|row| some(&row).then_some(row % 2 == 0)).collect::<BooleanArray>())),
        ("s32", Arc::new(range().map(|row| some(&row).then_some(row as i32 - 5)).collect::<Int32Array>())),
        ("s64", Arc::new(range().map(|row| some(&row).then_some(row as i64 - 5)).collect::<Int64Array>())),
        ("f32", Arc::new(range().map(|row| some(&row).then_some(row as f32 / 2.0)).collect::<Float32Array>())),
        ("f64", Arc::new(range().map(|row| some(&row).then_some(row as f64 / 2.0)).collect::<Float64Array>())),
        ("time", Arc::new(time.with_timezone(UTC))),
        ("text", Arc::new(text)),
        ("bytes", Arc::new(bytes)),
        ("whole", Arc::new(StringArray::from_iter_values(range().map(|row| row.to_string())))),
    ];
    RecordBatch::try_from_iter_with_nullable(columns.into_iter().map(|(name, column)| (name, column, name != "whole")))
        .unwrap()
}

#[test]
fn every_type_survives_with_nulls_and_slices() {
    let batch = all_types(100);
    for (start, length) in [(0, 100), (0, 0), (8, 16), (1, 1), (3, 90), (99, 1), (64, 36)] {
        let slice = batch.slice(start, length);
        assert_eq!(echoed(&slice).unwrap(), slice, "rows {start} to {}", start + length);
    }
}

#[test]
fn a_batch_without_columns_keeps_its_rows() {
    let options = RecordBatchOptions::new().with_row_count(Some(7));
    let batch = RecordBatch::try_new_with_options(Arc::new(Schema::empty()), vec![], &options).unwrap();
    assert_eq!(echoed(&batch).unwrap().num_rows(), 7);
}

#[test]
fn numbers_and_texts_are_borrowed() {
    let batch = all_types(10);
    let borrowed = Borrowed::new(&batch).unwrap();
    let columns = borrowed.columns();
    let ValuesParam::Float64(values) = &columns[4].values else { panic!("the fifth column is f64") };
    assert_eq!(values.as_ptr(), batch.column(4).as_primitive::<Float64Type>().values().as_ptr());
    let ValuesParam::Utf8(values) = &columns[6].values else { panic!("the seventh column is text") };
    assert_eq!(values.offsets.as_ptr().cast(), batch.column(6).as_string::<i32>().offsets().as_ptr());
}

#[test]
fn a_guests_vector_becomes_the_buffer() {
    let values = vec![1.0, 2.0];
    let address = values.as_ptr();
    let schema: SchemaRef = Arc::new(Schema::new(vec![Field::new("v", DataType::Float64, false)]));
    let column = ColumnResult { values: ValuesResult::Float64(values), validity: None };
    let batch = batch_out(&schema, BatchResult { columns: vec![column], rows: 2 }).unwrap();
    assert_eq!(batch.column(0).as_primitive::<Float64Type>().values().as_ptr(), address);
}

#[test]
fn other_types_are_refused_by_name() {
    let column: ArrayRef = Arc::new(arrow_array::UInt8Array::from(vec![1]));
    let batch = RecordBatch::try_from_iter([("level", column)]).unwrap();
    let refusal = Borrowed::new(&batch).err().unwrap();
    assert!(refusal.contains("`level` is UInt8"), "{refusal}");
    assert_eq!(fields(&batch.schema()).err().unwrap(), refusal);
}

#[test]
fn a_lying_guest_is_caught() {
    let schema = |data_type| -> SchemaRef { Arc::new(Schema::new(vec![Field::new("v", data_type, false)])) };
    let check = |data_type, values, validity, expected: &str| {
        let batch = BatchResult { columns: vec![ColumnResult { values, validity }], rows: 2 };
        let refusal = batch_out(&schema(data_type), batch).unwrap_err();
        assert!(refusal.contains(expected), "`{refusal}` does not say `{expected}`");
    };
    let text = |offsets: &[u32], bytes: &[u8]| ValuesResult::Utf8(variable(offsets, bytes));
    check(DataType::Float64, ValuesResult::Float64(vec![1.0]), None, "has 1 values, the batch 2 rows");
    check(DataType::Boolean, ValuesResult::Boolean(vec![true; 3]), None, "has 3 values");
    check(DataType::Float64, ValuesResult::Int64(vec![1, 2]), None, "values of another type");
    check(DataType::Int64, ValuesResult::Int64(vec![1, 2]), Some(vec![]), "0 bytes of validity");
    check(DataType::Int64, ValuesResult::Int64(vec![1, 2]), Some(vec![1]), "null");
    check(DataType::Utf8, text(&[0, 1], b"ab"), None, "has 2 offsets");
    check(DataType::Utf8, text(&[0, 2, 1], b"ab"), None, "do not rise");
    check(DataType::Utf8, text(&[1, 1, 2], b"ab"), None, "do not rise from 0");
    check(DataType::Utf8, text(&[0, 1, 3], b"ab"), None, "beyond its 2 bytes");
    check(DataType::Utf8, text(&[0, 1, u32::MAX], b"ab"), None, "beyond");
    check(DataType::Utf8, text(&[0, 1, 2], &[0xc3, 0xa9]), None, "is no text");
    check(DataType::Utf8, text(&[0, 1, 2], &[0xff, 0xff]), None, "is no text");
    let empty = BatchResult { columns: vec![], rows: 2 };
    assert!(batch_out(&schema(DataType::Utf8), empty).unwrap_err().contains("0 columns"));
}

#[test]
fn schemas_survive() {
    let schema = all_types(1).schema();
    let described = fields(&schema).unwrap();
    let echoed = {
        let fields = super::schema(&described).fields.iter().map(|field| {
            super::super::bindings::littoral::flow::types::FieldResult {
                name: field.name.to_owned(),
                column_type: match field.column_type {
                    ColumnTypeParam::Boolean => ColumnTypeResult::Boolean,
                    ColumnTypeParam::Int32 => ColumnTypeResult::Int32,
                    ColumnTypeParam::Int64 => ColumnTypeResult::Int64,
                    ColumnTypeParam::Float32 => ColumnTypeResult::Float32,
                    ColumnTypeParam::Float64 => ColumnTypeResult::Float64,
                    ColumnTypeParam::Timestamp => ColumnTypeResult::Timestamp,
                    ColumnTypeParam::Utf8 => ColumnTypeResult::Utf8,
                    ColumnTypeParam::Binary => ColumnTypeResult::Binary,
                    ColumnTypeParam::Tensor(_) => unreachable!("no Arrow type becomes a tensor"),
                },
                nullable: field.nullable,
            }
        });
        SchemaResult { fields: fields.collect() }
    };
    assert_eq!(schema_out(echoed).unwrap(), schema);
}
