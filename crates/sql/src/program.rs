//! All statements of an app, and what they add to its manifest.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use littoral_model::id::{FlowName, FunctionName, RegionId, StreamName};
use littoral_model::manifest::{
    FINDINGS_MAX, Finding, Findings, Flow, Manifest, OneOrMany, Placement, Query, Retention, Sink, Stream,
};
use littoral_model::unit::Time;

use crate::check::call::is_built_in;
use crate::plan::Plan;
use crate::query::{self, Compiled, Known, Table};
use crate::source::Source;
use crate::spread::Part;
use crate::stage::PORT_LATE;
use crate::statement::{CreateFlow, CreateFunction, CreateStream, Name, PortInto, Statement, Watermark, parse};
use crate::types::{Column, dead_letter_columns, record_columns};
use crate::user_function::UserFunction;

/// Behind the name of a flow whose rows come together by their keys: the stream between.
const BY_KEY: &str = "-by-key";

/// The flows of an app that are written in SQL.
#[derive(Clone, Debug, Default)]
pub struct Program {
    /// By name.
    pub flows: BTreeMap<FlowName, FlowPlan>,
    /// The columns of the streams that statements declare or flows write.
    pub columns: BTreeMap<StreamName, Vec<Column>>,
    /// The functions of the app that statements declare for expressions.
    pub functions: Vec<Arc<UserFunction>>,
}

/// A flow.
#[derive(Clone, Debug)]
pub struct FlowPlan {
    /// Of which statement: its own name, unless it is one of several of a statement.
    pub statement: FlowName,
    /// The name of its stage.
    pub stage: FunctionName,
    /// What the stage does.
    pub plan: Arc<Plan>,
}

impl Program {
    /// What the stage of that name does, if it is one of these.
    #[must_use]
    pub fn stage(&self, name: &FunctionName) -> Option<&Arc<Plan>> {
        self.flows.values().find(|flow| flow.stage == *name).map(|flow| &flow.plan)
    }
}

/// What is wrong with statements, in their texts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mistakes {
    /// Everything that is wrong.
    pub findings: Findings,
    texts: BTreeMap<String, String>,
}

impl Mistakes {
    /// All of them for people, each with its line.
    #[must_use]
    pub fn render(&self) -> String {
        let mut out = String::new();
        for finding in self.findings.iter() {
            finding.render(self.texts.get(&finding.file).map_or("", String::as_str), &mut out);
            out.push('\n');
        }
        out
    }
}

impl std::fmt::Display for Mistakes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.findings.fmt(f)
    }
}

impl std::error::Error for Mistakes {}

/// Adds the streams and flows of the manifest's statements to it, and answers what their stages do. Without statements
/// nothing changes.
///
/// # Errors
/// Everything that is wrong with the statements; the manifest is then as it was.
pub fn expand(manifest: &mut Manifest) -> Result<Program, Mistakes> {
    let named: Vec<(String, &str)> =
        manifest.sql.iter().map(|(name, sql)| (format!("{name}.sql"), sql.text.as_str())).collect();
    let mut sources: Vec<Source<'_>> = named.iter().map(|(file, text)| Source::new(file, text)).collect();
    let functions = manifest.functions.keys().map(ToString::to_string).collect();
    let mut expanded = Expansion {
        manifest: manifest.clone(),
        program: Program::default(),
        known: Known { functions, ..Known::default() },
        bare: BTreeSet::new(),
    };
    expanded.declare_known();
    let mut flows = Vec::new();
    for (place, source) in sources.iter_mut().enumerate() {
        for statement in parse(source) {
            match statement {
                Statement::Stream(stream) => expanded.stream(source, stream),
                Statement::Flow(flow) => flows.push((place, *flow)),
                Statement::Function(function) => expanded.function(source, function),
                Statement::Broken(name) => expanded.fail(&name),
                Statement::BrokenFunction(name) => {
                    expanded.known.declared.insert(name, None);
                }
            }
        }
    }
    expanded.all_flows(&mut sources, flows);
    if sources.iter().all(Source::is_fine) {
        let Expansion { manifest: full, program, .. } = expanded;
        drop(sources);
        *manifest = full;
        return Ok(program);
    }
    let found: Vec<Finding> = sources.into_iter().flat_map(|source| source.into_report().into_findings()).collect();
    let findings = Findings::new(found.into_iter().take(FINDINGS_MAX).collect());
    let texts = named.into_iter().map(|(file, text)| (file, text.to_owned())).collect();
    Err(Mistakes { findings, texts })
}

/// A manifest that is being added to.
struct Expansion {
    manifest: Manifest,
    program: Program,
    known: Known,
    /// The streams that are declared without columns: if a flow writes one, it has those of the flow.
    bare: BTreeSet<StreamName>,
}

impl Expansion {
    /// The streams that the manifest declares: of their records nothing is known but what all have.
    fn declare_known(&mut self) {
        for (name, stream) in &self.manifest.streams {
            let table = Table { columns: record_columns(), watermark: None, partitions: partitions(stream) };
            self.known.tables.insert(name.to_string(), table);
        }
    }

    /// Notes that what makes a stream is wrong, unless its columns are declared.
    fn fail(&mut self, name: &str) {
        let is_declared = |(id, _): (&StreamName, &Vec<Column>)| id.as_str() == name && !self.bare.contains(id);
        if !self.program.columns.iter().any(is_declared) {
            self.known.tables.remove(name);
            self.known.failed.insert(name.to_owned());
        }
    }

    fn function(&mut self, source: &mut Source<'_>, create: CreateFunction) {
        let name = create.name.text.clone();
        let declared = self.user_function(source, create).map(Arc::new);
        if let Some(function) = &declared {
            self.manifest.called.insert(function.function.clone());
            self.program.functions.push(Arc::clone(function));
        }
        self.known.declared.insert(name, declared);
    }

    fn user_function(&mut self, source: &mut Source<'_>, create: CreateFunction) -> Option<UserFunction> {
        let CreateFunction { name, parameters, result, function, export } = create;
        if is_built_in(&name.text) || self.known.declared.contains_key(&name.text) {
            let message = format!("there is a function `{}` already", name.text);
            let help = "call it something else, and say which function of the app it is: AS 'function'";
            source.add("duplicate", name.at, message).help(help);
            return None;
        }
        let of_app = self.manifest.functions.iter().find(|(known, _)| known.as_str() == function.text);
        let Some((id, of_app)) = of_app else {
            let known = self.manifest.functions.keys().map(FunctionName::as_str);
            let message = format!("the app has no function `{}`", function.text);
            let adding = source.add("unknown-name", function.at, message);
            adding.one_of(known.clone()).nearest(&function.text, known);
            return None;
        };
        if of_app.is_contained() && !of_app.is_hybrid() {
            let message = format!("`{id}` is no component, and what expressions call has its types from one");
            source
                .add("unsupported", function.at, message)
                .help("give it a `component`, or call a function that has one");
            return None;
        }
        let calls_it = |other: &FunctionName| other == id;
        let routes = self.manifest.routes.iter().filter_map(|route| route.function.as_ref());
        let triggers = self.manifest.triggers.iter().map(|trigger| &trigger.function);
        if of_app.later.is_some() || routes.chain(triggers).any(calls_it) {
            let message = format!("function {id} answers calls of others; what expressions call runs in stages alone");
            let help = "give its component a second name in `[functions]`";
            source.add("contradiction", function.at, message).help(help);
            return None;
        }
        Some(UserFunction { name: name.text, function: id.clone(), export, parameters, result })
    }

    fn stream(&mut self, source: &mut Source<'_>, create: CreateStream) {
        let name = create.name.text.clone();
        if self.declare(source, create).is_none() {
            self.fail(&name);
        }
    }

    fn declare(&mut self, source: &mut Source<'_>, create: CreateStream) -> Option<()> {
        let CreateStream { name, columns, watermark, settings } = create;
        let id = stream_name(source, &name)?;
        if self.program.columns.contains_key(&id) {
            let message = format!("there are two streams `{id}`");
            source.add("duplicate", name.at, message).help("drop one of them");
            return None;
        }
        if columns.is_none() {
            self.bare.insert(id.clone());
        }
        let columns = columns.unwrap_or_else(record_columns);
        if let Some(watermark) = &watermark {
            let moments = columns.iter().filter(|column| column.ty == crate::types::Type::Timestamp);
            let moments = moments.map(|column| column.name.as_str());
            if !moments.clone().any(|moment| moment == watermark.column) {
                let message = format!("there is no column `{}` of type timestamp for the watermark", watermark.column);
                source
                    .add("unknown-name", name.at, message)
                    .one_of(moments.clone())
                    .nearest(&watermark.column, moments);
                return None;
            }
        }
        if let Some(declared) = self.manifest.streams.get(&id) {
            if let Some(at) = settings.at {
                let message = format!("the manifest says already how `{id}` is kept");
                source.add("contradiction", at, message).help(format!("say it in [streams.{id}], or drop that"));
                return None;
            }
            let partitions = partitions(declared);
            self.known.tables.insert(id.to_string(), Table { columns: columns.clone(), watermark, partitions });
        } else {
            let placement = Placement {
                tier: settings.tier.map_or_else(OneOrMany::default, OneOrMany::One),
                region: regions(&settings.regions),
                ..Placement::default()
            };
            let retention = match (settings.age, settings.size) {
                (None, None) => Retention::default(),
                (age, size) => Retention { age, size },
            };
            let stream = Stream { partitions: settings.partitions, retention, placement, ..Stream::default() };
            let partitions = partitions(&stream);
            self.known.tables.insert(id.to_string(), Table { columns: columns.clone(), watermark, partitions });
            self.manifest.streams.insert(id.clone(), stream);
        }
        self.program.columns.insert(id, columns);
        Some(())
    }

    /// Each flow after those that write what it reads.
    fn all_flows(&mut self, sources: &mut [Source<'_>], mut left: Vec<(usize, CreateFlow)>) {
        let mut names = BTreeSet::new();
        left.retain(|(place, flow)| {
            let is_new = names.insert(flow.name.text.clone());
            if let (false, Some(source)) = (is_new, sources.get_mut(*place)) {
                let message = format!("there are two flows `{}`", flow.name.text);
                source.add("duplicate", flow.name.at.clone(), message).help("rename one of them");
            }
            is_new
        });
        while !left.is_empty() {
            let pending: BTreeSet<String> =
                left.iter().flat_map(|(_, flow)| written(flow)).map(|name| name.text.clone()).collect();
            let is_ready =
                |flow: &CreateFlow| query::sources_of(&flow.query).iter().all(|from| !pending.contains(from));
            let Some(next) = left.iter().position(|(_, flow)| is_ready(flow)) else {
                let in_cycles = in_cycles(&left);
                for (place, flow) in left.into_iter().filter(|(_, flow)| in_cycles.contains(&flow.name.text)) {
                    let Some(source) = sources.get_mut(place) else { continue };
                    let message = format!("flow {} reads what comes of its own result", flow.name.text);
                    source.add("cycle", flow.name.at, message).help("write to a stream that leads nowhere back");
                }
                return;
            };
            let (place, flow) = left.swap_remove(next);
            if let Some(source) = sources.get_mut(place) {
                self.flow(source, flow);
            }
        }
    }

    fn flow(&mut self, source: &mut Source<'_>, flow: CreateFlow) {
        if self.add(source, &flow).is_none() {
            // What reads its result is checked as far as that goes: not at all.
            written(&flow).for_each(|name| self.fail(&name.text));
        }
    }

    fn add(&mut self, source: &mut Source<'_>, flow: &CreateFlow) -> Option<()> {
        let compiled = query::check(source, &self.known, flow);
        let ids = self.ids(source, flow)?;
        let compiled = compiled?;
        let mut is_fine = true;
        for one in &compiled {
            let result = (&flow.name, &ids.result);
            is_fine &= self.write(source, flow, result, one.plan.output(), one.watermark.clone());
            for (name, id) in flow.late.iter().zip(&ids.late) {
                for input in one.inputs() {
                    is_fine &= self.write(source, flow, (name, id), input, None);
                }
            }
        }
        for (name, id) in flow.dead_letter.iter().zip(&ids.dead_letter) {
            is_fine &= self.write(source, flow, (name, id), &dead_letter_columns(), None);
        }
        for into in &flow.ports {
            is_fine &= self.write_port(source, flow, &ids, into);
        }
        if !is_fine {
            return None;
        }
        for (number, one) in (1..).zip(compiled) {
            let arm = arm(flow, number);
            let Compiled { source: mut read, functions, spread, plan, .. } = one;
            if let Some(spread) = spread {
                let keyed = self.keyed(source, flow, &format!("{arm}{BY_KEY}"), spread.partitions)?;
                for Part { name, source: from, plan } in spread.parts {
                    self.insert(source, flow, &ids, (&format!("{arm}-{name}"), &from, &keyed), (Vec::new(), plan))?;
                }
                read = keyed.to_string();
            }
            self.insert(source, flow, &ids, (&arm, &read, &ids.result), (functions, plan))?;
        }
        Some(())
    }

    /// Adds the stream in which the rows of a query come together by their keys. They are forgotten once they are read.
    fn keyed(&mut self, source: &mut Source<'_>, flow: &CreateFlow, name: &str, partitions: u32) -> Option<StreamName> {
        let id = stream_name(source, &Name { text: name.to_owned(), at: flow.name.at.clone() })?;
        if self.manifest.streams.contains_key(&id) {
            let message = format!("the rows of the flow come together in a stream `{id}`, and there is another one");
            source.add("duplicate", flow.name.at.clone(), message).help("rename one of both");
            return None;
        }
        // Where the rows come together, so that those of several sites cross the links between them once.
        let placement = Placement { region: regions(&flow.regions), prefer: flow.prefer, ..Placement::default() };
        let retention = Retention { age: Some(Time::from_micros(0)), size: None };
        let stream = Stream { partitions: Some(partitions), retention, placement, ..Stream::default() };
        self.manifest.streams.insert(id.clone(), stream);
        Some(id)
    }

    /// Adds a flow from a stream to a stream: its rows go through functions, and then through the stage of a query.
    fn insert(
        &mut self,
        source: &mut Source<'_>,
        flow: &CreateFlow,
        ids: &Ids,
        (name, from, to): (&str, &str, &StreamName),
        (functions, plan): (Vec<FunctionName>, Plan),
    ) -> Option<()> {
        let (name, stage) = self.free(source, flow, name)?;
        let placement = Placement { region: regions(&flow.regions), prefer: flow.prefer, ..Placement::default() };
        let fingerprint = format!("sql:{:016x}", plan.fingerprint());
        let mut called: Vec<FunctionName> = plan.functions().iter().map(|of| of.function.clone()).collect();
        called.sort();
        called.dedup();
        // Functions before it may put out anything.
        let read = StreamName::new(from).ok().filter(|_| functions.is_empty());
        let read = read.and_then(|read| self.program.columns.get(&read));
        let output_permille = plan.output_permille(read.map_or(plan.input(), Vec::as_slice));
        let partitioning = plan.partitioning();
        let query = Query { placement, fingerprint, partitioning, functions: called, output_permille };
        self.manifest.queries.insert(stage.clone(), query);
        let late = ids.late.iter().filter(|_| plan.has_late_port).map(|late| (PORT_LATE.to_owned(), late.clone()));
        let has_ports = !functions.is_empty();
        let ports = ids.ports.clone().into_iter().filter(|_| has_ports);
        self.manifest.flows.insert(
            name.clone(),
            Flow {
                source: StreamName::new(from).ok()?,
                stages: functions.into_iter().chain([stage.clone()]).collect(),
                sink: Some(Sink::Stream(to.clone())),
                outputs: late.chain(ports).collect(),
                dead_letter: ids.dead_letter.clone(),
                slo: flow.within,
                shed: flow.sheds,
            },
        );
        self.program.columns.entry(to.clone()).or_insert_with(|| plan.output().to_vec());
        let statement = FlowName::new(&flow.name.text).ok()?;
        self.program.flows.insert(name, FlowPlan { statement, stage, plan: Arc::new(plan) });
        Some(())
    }

    /// The names of a flow that carries a query and of its stage, if they are free.
    fn free(&self, source: &mut Source<'_>, flow: &CreateFlow, text: &str) -> Option<(FlowName, FunctionName)> {
        let name = &flow.name;
        let is_taken = self.manifest.flows.keys().any(|known| known.as_str() == text)
            || self.manifest.functions.keys().any(|known| known.as_str() == text);
        if is_taken {
            let message = format!("the manifest has a flow or a function `{text}` already");
            source.add("duplicate", name.at.clone(), message).help("rename one of both");
            return None;
        }
        match FlowName::new(text).and_then(|flow| Ok((flow, FunctionName::new(text)?))) {
            Ok(ids) => Some(ids),
            Err(error) => {
                source.add("invalid-name", name.at.clone(), error.to_string());
                None
            }
        }
    }

    /// Notes that a flow writes rows of these columns to a stream, and that the stream stays where the flow does.
    fn write(
        &mut self,
        source: &mut Source<'_>,
        flow: &CreateFlow,
        (name, id): (&Name, &StreamName),
        columns: &[Column],
        watermark: Option<Watermark>,
    ) -> bool {
        let known = if self.bare.remove(id) { None } else { self.program.columns.get(id) };
        if let Some(known) = known
            && !agree(known, columns)
        {
            let list = |columns: &[Column]| {
                let columns: Vec<String> =
                    columns.iter().map(|column| format!("{} {}", column.name, column.ty)).collect();
                columns.join(", ")
            };
            let message = format!("the rows that go to the stream `{id}` are not of its columns: {}", list(columns));
            source.add("wrong-type", name.at.clone(), message).expected(list(known));
            return false;
        }
        let Some(partitions) = self.keep(source, flow, (name, id)) else { return false };
        let declared = self.known.tables.get(&name.text).and_then(|table| table.watermark.clone());
        let table = Table { columns: columns.to_vec(), watermark: declared.or(watermark), partitions };
        self.known.tables.insert(name.text.clone(), table);
        self.program.columns.insert(id.clone(), columns.to_vec());
        true
    }

    /// Notes that functions write rows to a stream, whose columns only it can say.
    fn write_port(&mut self, source: &mut Source<'_>, flow: &CreateFlow, ids: &Ids, into: &PortInto) -> bool {
        let PortInto { port, stream: name } = into;
        let Some(id) = ids.ports.get(&port.text) else { return false };
        if self.bare.contains(id) || !self.program.columns.contains_key(id) {
            self.known.tables.remove(&name.text);
            self.known.untyped.insert(name.text.clone());
        }
        self.keep(source, flow, (name, id)).is_some()
    }

    /// Has a stream that a flow writes stay where that does, if it can. Answers in how many partitions it is.
    fn keep(
        &mut self,
        source: &mut Source<'_>,
        flow: &CreateFlow,
        (name, id): (&Name, &StreamName),
    ) -> Option<Option<u32>> {
        let stream = self.manifest.streams.entry(id.clone()).or_default();
        let wanted = regions(&flow.regions);
        let Some(region) = both(&stream.placement.region, &wanted) else {
            let list = |regions: &OneOrMany<RegionId>| {
                let regions: Vec<&str> = regions.iter().map(RegionId::as_str).collect();
                regions.join(", ")
            };
            let message = format!("the stream `{id}` is kept in {} already", list(&stream.placement.region));
            source
                .add("contradiction", name.at.clone(), message)
                .expected(format!("one of {}, where the flow must stay", list(&wanted)))
                .help("keep both in the same regions");
            return None;
        };
        stream.placement.region = region;
        Some(partitions(stream))
    }

    /// The streams that a flow writes, if its own name is free.
    fn ids(&self, source: &mut Source<'_>, flow: &CreateFlow) -> Option<Ids> {
        self.free(source, flow, &arm(flow, 1))?;
        let side = |source: &mut Source<'_>, side: &Option<Name>| match side {
            None => Some(None),
            Some(side) => stream_name(source, side).map(Some),
        };
        let dead_letter = side(source, &flow.dead_letter)?;
        let late = side(source, &flow.late)?;
        let mut ports = BTreeMap::new();
        for into in &flow.ports {
            if ports.insert(into.port.text.clone(), stream_name(source, &into.stream)?).is_some() {
                let message = format!("the port `{}` goes into two streams", into.port.text);
                source.add("duplicate", into.port.at.clone(), message).help("drop one of them");
                return None;
            }
        }
        Some(Ids { result: stream_name(source, &flow.name)?, dead_letter, late, ports })
    }
}

/// The streams that a flow writes.
struct Ids {
    result: StreamName,
    dead_letter: Option<StreamName>,
    late: Option<StreamName>,
    /// By the name of a function's port.
    ports: BTreeMap<String, StreamName>,
}

/// The name of the flow that carries a query: the first has the name of what was created, those that are united with it a number
/// behind it.
fn arm(flow: &CreateFlow, number: usize) -> String {
    if number == 1 { flow.name.text.clone() } else { format!("{}-{number}", flow.name.text) }
}

fn stream_name(source: &mut Source<'_>, name: &Name) -> Option<StreamName> {
    match StreamName::new(&name.text) {
        Ok(id) => Some(id),
        Err(error) => {
            source.add("invalid-name", name.at.clone(), error.to_string());
            None
        }
    }
}

fn regions(names: &[String]) -> OneOrMany<RegionId> {
    OneOrMany::Many(names.iter().filter_map(|name| RegionId::new(name).ok()).collect())
}

/// The streams that a flow writes.
fn written(flow: &CreateFlow) -> impl Iterator<Item = &Name> {
    let ports = flow.ports.iter().map(|into| &into.stream);
    std::iter::once(&flow.name).chain(&flow.dead_letter).chain(&flow.late).chain(ports)
}

/// Of flows of which each waits for another those that wait for themselves; the others only read what comes of these.
fn in_cycles(flows: &[(usize, CreateFlow)]) -> BTreeSet<String> {
    let mut readers: BTreeMap<String, Vec<&CreateFlow>> = BTreeMap::new();
    for (_, flow) in flows {
        for from in query::sources_of(&flow.query) {
            readers.entry(from).or_default().push(flow);
        }
    }
    let feeds_itself = |flow: &CreateFlow| {
        let (mut fed, mut left) = (BTreeSet::new(), vec![flow]);
        while let Some(next) = left.pop() {
            let new = written(next).filter(|name| fed.insert(name.text.as_str()));
            left.extend(new.filter_map(|name| readers.get(&name.text)).flatten());
        }
        query::sources_of(&flow.query).iter().any(|from| fed.contains(from.as_str()))
    };
    flows.iter().filter(|(_, flow)| feeds_itself(flow)).map(|(_, flow)| flow.name.text.clone()).collect()
}

/// What is allowed by both; none if nothing is. Without any region it does not constrain.
fn both(one: &OneOrMany<RegionId>, other: &OneOrMany<RegionId>) -> Option<OneOrMany<RegionId>> {
    let is_open = |regions: &OneOrMany<RegionId>| regions.iter().next().is_none();
    if is_open(one) || is_open(other) {
        return Some(if is_open(one) { other.clone() } else { one.clone() });
    }
    let common: Vec<RegionId> =
        one.iter().filter(|region| other.iter().any(|other| other == *region)).cloned().collect();
    (!common.is_empty()).then_some(OneOrMany::Many(common))
}

/// In how many partitions the records of a stream are. One that says nothing may have a partition a device.
fn partitions(stream: &Stream) -> Option<u32> {
    let is_on_devices = stream.placement.tier.iter().any(|tier| *tier == littoral_model::id::Tier::Device);
    stream.partitions.or((!is_on_devices).then_some(1))
}

/// Whether a result has the columns that its stream declares.
fn agree(declared: &[Column], result: &[Column]) -> bool {
    let same = |(one, other): (&Column, &Column)| one.name == other.name && one.ty == other.ty;
    declared.len() == result.len() && declared.iter().zip(result).all(same)
}
