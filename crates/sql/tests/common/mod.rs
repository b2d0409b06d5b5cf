//! Runs statements over records as the nodes do, without nodes.
#![allow(
    dead_code,
    unreachable_pub,
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    clippy::expect_used
)]

pub mod groups;
pub mod sides;

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow_array::{ArrayRef, RecordBatch, StringArray, TimestampMicrosecondArray};
use littoral_model::manifest::{Manifest, Sql};
use littoral_sql::{Mistakes, Notice, Output, Partitions, Program, Stage, expand};

/// An app without anything but statements.
pub fn app(text: &str) -> Manifest {
    let mut manifest = littoral_model::manifest::parse("littoral.toml", "name = \"app\"\nversion = \"1\"\n").unwrap();
    manifest.sql.insert("flows".parse().unwrap(), Sql { text: text.to_owned() });
    manifest
}

pub fn program(text: &str) -> Result<Program, Mistakes> {
    expand(&mut app(text))
}

/// Statements that are fine.
pub fn fine(text: &str) -> Program {
    program(text).unwrap_or_else(|mistakes| panic!("{}", mistakes.render()))
}

/// What is wrong with statements, for people.
pub fn mistakes(text: &str) -> String {
    match program(text) {
        Ok(_) => panic!("nothing was found wrong in\n{text}"),
        Err(mistakes) => mistakes.render(),
    }
}

/// The stage of the flow of that name.
pub fn stage(program: &Program, flow: &str) -> Stage {
    stage_of(program, flow, 0)
}

/// The same for one partition of what it reads.
pub fn stage_of(program: &Program, flow: &str, partition: u32) -> Stage {
    Stage::new(Arc::clone(&program.flows[&flow.parse().unwrap()].plan), partition)
}

/// Records as they are published from outside, one a second from 1970 on.
pub fn records(values: &[&str]) -> RecordBatch {
    let times = (0..values.len() as i64).map(|second| second * 1_000_000);
    let columns: Vec<(&str, ArrayRef, bool)> = vec![
        ("key", Arc::new(StringArray::from_iter(values.iter().map(|_| Some("k")))), true),
        ("time", Arc::new(TimestampMicrosecondArray::from_iter_values(times).with_timezone("+00:00")), false),
        ("value", Arc::new(StringArray::from_iter_values(values)), false),
    ];
    RecordBatch::try_from_iter_with_nullable(columns).unwrap()
}

/// The rows as JSON, one a line.
pub fn lines(rows: Option<&RecordBatch>) -> Vec<String> {
    let Some(rows) = rows else { return Vec::new() };
    let mut writer = arrow_json::WriterBuilder::new()
        .with_explicit_nulls(true)
        .build::<_, arrow_json::writer::LineDelimited>(Vec::new());
    writer.write(rows).unwrap();
    writer.finish().unwrap();
    String::from_utf8(writer.into_inner()).unwrap().lines().map(str::to_owned).collect()
}

/// Opens a stage and processes one batch.
pub fn process(stage: &mut Stage, rows: &RecordBatch) -> Output {
    if !Notice::is_of(rows.schema_ref()) {
        stage.open(rows.schema_ref()).unwrap();
    }
    stage.process(rows).unwrap()
}

/// A stage that is made anew from its state after every batch, if it is to be.
pub struct Running<'p> {
    program: &'p Program,
    flow: &'static str,
    partition: u32,
    first: Option<u32>,
    stage: Stage,
    pub state: BTreeMap<u32, Vec<u8>>,
    restarts: bool,
}

impl<'p> Running<'p> {
    pub fn new(program: &'p Program, flow: &'static str, partition: u32, restarts: bool) -> Self {
        let stage = stage_of(program, flow, partition);
        Self { program, flow, partition, first: None, stage, state: BTreeMap::new(), restarts }
    }

    /// The same with another program, where there were `first` partitions by key before the first change.
    pub fn goes_on_with(&mut self, program: &'p Program, first: u32) {
        (self.program, self.first) = (program, Some(first));
        self.restart();
    }

    pub fn take(&mut self, rows: &RecordBatch) -> Output {
        let output = process(&mut self.stage, rows);
        self.commit(output)
    }

    /// Whether there is more to put out.
    pub fn has_more(&self) -> bool {
        self.stage.has_more()
    }

    pub fn go_on(&mut self) -> Output {
        let output = self.stage.go_on().unwrap();
        self.commit(output)
    }

    /// Whether that comes before further rows.
    pub fn comes_first(&self) -> bool {
        self.stage.comes_first()
    }

    fn commit(&mut self, output: Output) -> Output {
        self.state.extend(self.stage.snapshot(&output.dirty));
        if self.restarts {
            self.restart();
        }
        output
    }

    fn restart(&mut self) {
        self.stage = stage_of(self.program, self.flow, self.partition)
            .changing(self.first.map(|first| Partitions { first, most: 16 }));
        let state: Vec<(u32, &[u8])> = self.state.iter().map(|(group, bytes)| (*group, bytes.as_slice())).collect();
        self.stage.restore(&state).unwrap();
    }
}

/// How a run goes about it.
#[derive(Debug)]
pub struct Way {
    /// How many rows a batch has, in turn.
    pub sizes: Vec<usize>,
    /// Which partition is heard of next, in turn.
    pub order: Vec<usize>,
    pub restarts: bool,
}
