//! Draws flows: streams, the stages between them with the nodes that they run on, and what was measured on the way.

use std::collections::{BTreeMap, BTreeSet};

use layout::adt::dag::NodeHandle;
use layout::backends::svg::SVGWriter;
use layout::core::base::Orientation;
use layout::core::color::Color;
use layout::core::geometry::Point;
use layout::core::style::StyleAttr;
use layout::std_shapes::shapes::{Arrow, Element, ShapeKind};
use layout::topo::layout::VisualGraph;
use littoral_model::entry::PORT_MAIN;

use super::Explanation;
use crate::output::bytes;

/// The size of letters, how wide one is at most, and what is left around a text, in pixels.
const FONT_PX: usize = 14;
const EDGE_FONT_PX: usize = 12;
const LETTER_PX: f64 = 8.5;
const LINE_PX: f64 = 18.0;
const MARGIN_PX: f64 = 24.0;
/// Streams, and stages.
const FILLS: [u32; 2] = [0xe8f1_faff, 0xfff4_e0ff];
const LINE: u32 = 0x3344_55ff;

/// The graph that is drawn.
struct Picture {
    graph: VisualGraph,
    streams: BTreeMap<String, NodeHandle>,
}

/// One stage of a flow, over all of its partitions.
#[derive(Default)]
struct Stage {
    nodes: BTreeSet<String>,
    partitions: usize,
}

/// The flows as an SVG document.
pub(super) fn draw(flows: &[Explanation]) -> String {
    let mut picture = Picture { graph: VisualGraph::new(Orientation::LeftToRight), streams: BTreeMap::new() };
    for flow in flows {
        picture.add(flow);
    }
    let mut svg = SVGWriter::new();
    picture.graph.do_it(false, false, false, &mut svg);
    picture.finish(&svg.finalize())
}

impl Picture {
    fn add(&mut self, flow: &Explanation) {
        let mut before = self.stream(&flow.source.name);
        for (functions, stage) in stages(flow) {
            let mut lines = vec![functions.replace('+', " + ")];
            let nodes: Vec<&str> = stage.nodes.iter().map(String::as_str).collect();
            let is_so = if flow.measured.is_some() { "on" } else { "would be on" };
            lines.push(format!("{is_so} {}", if nodes.is_empty() { "no node".to_owned() } else { nodes.join(", ") }));
            if stage.partitions > 1 {
                lines.push(format!("{} partitions", stage.partitions));
            }
            let node = self.node(&lines.join("\n"), 1);
            self.edge(before, node, &taken(flow, &functions));
            before = node;
        }
        for output in &flow.outputs {
            let stream = self.stream(&output.to.name);
            let port = if output.port == PORT_MAIN { Vec::new() } else { vec![output.port.clone()] };
            let sinks = flow.measured.iter().flat_map(|measured| &measured.sinks);
            let arrived = sinks.filter(|sink| sink.name == output.to.name && sink.rows > 0);
            let lines = arrived.map(|sink| {
                format!("{} rows, {}\np95 {:.0} ms old", sink.rows, bytes(sink.bytes), sink.latency.p95_ms)
            });
            self.edge(before, stream, &port.into_iter().chain(lines).collect::<Vec<_>>().join("\n"));
        }
    }

    /// Crops the document to what is in it, and puts letters before lines, which they leave out around themselves.
    fn finish(&self, svg: &str) -> String {
        let corners = self.graph.iter_nodes().map(|node| self.graph.pos(node).bbox(true).1);
        let (width, height) = corners.fold((0.0, 0.0), |(width, height): (f64, f64), corner| {
            (width.max(corner.x + MARGIN_PX), height.max(corner.y + MARGIN_PX))
        });
        let (before, rest) = svg.split_once("<svg ").unwrap_or(("", svg));
        let after = rest.split_once('>').map_or(rest, |(_, after)| after);
        let style = "text { font-family: system-ui, sans-serif; paint-order: stroke; stroke-linejoin: round; transform: translateY(4px); }";
        let around = format!(".a{EDGE_FONT_PX} {{ stroke: #fff; stroke-width: 4px; }}");
        let after = after
            .replace("font-family: Times, serif;", "")
            .replace("</style>", &format!("{style}\n{around}\n</style>"));
        let after = texts_last(&after);
        format!(
            "{before}<svg width=\"{width:.0}\" height=\"{height:.0}\" viewBox=\"0 0 {width:.0} {height:.0}\" xmlns=\"http://www.w3.org/2000/svg\">{after}"
        )
    }

    /// A stream, which several flows may read and write.
    fn stream(&mut self, name: &str) -> NodeHandle {
        if let Some(known) = self.streams.get(name) {
            return *known;
        }
        let node = self.node(name, 0);
        self.streams.insert(name.to_owned(), node);
        node
    }

    fn node(&mut self, text: &str, kind: usize) -> NodeHandle {
        let fill = FILLS.get(kind).copied().map(Color::new);
        let look = StyleAttr::new(Color::new(LINE), 1, fill, if kind == 0 { 12 } else { 2 }, FONT_PX);
        self.graph.add_node(Element::create(ShapeKind::new_box(text), look, Orientation::LeftToRight, size(text)))
    }

    fn edge(&mut self, from: NodeHandle, to: NodeHandle, text: &str) {
        let mut arrow = Arrow::simple(text);
        arrow.look = StyleAttr::new(Color::new(LINE), 1, None, 0, EDGE_FONT_PX);
        self.graph.add_edge(arrow, from, to);
    }
}

/// The same document with all texts at its end.
fn texts_last(svg: &str) -> String {
    let (mut others, mut texts, mut rest) = (String::new(), String::new(), svg);
    while let Some((before, text)) = rest.split_once("<text") {
        let (text, after) = text.split_once("</text>").unwrap_or((text, ""));
        others.push_str(before);
        texts.extend(["<text", text, "</text>\n"]);
        rest = after;
    }
    match rest.rsplit_once("</svg>") {
        Some((rest, end)) => format!("{others}{rest}{texts}</svg>{end}"),
        None => others + rest + &texts,
    }
}

fn size(text: &str) -> Point {
    let widest = text.lines().map(|line| line.chars().count()).max().unwrap_or_default();
    Point::new(widest as f64 * LETTER_PX + MARGIN_PX, text.lines().count() as f64 * LINE_PX + MARGIN_PX)
}

/// The stages of a flow after fusion, in order, by what they run; on the nodes that run them, or would if they do not yet.
fn stages(flow: &Explanation) -> Vec<(String, Stage)> {
    let mut stages: Vec<(String, Stage)> = Vec::new();
    for row in &flow.stages {
        let functions = row.name.split_once(": ").map_or(row.name.as_str(), |(_, functions)| functions);
        let at = stages.iter().position(|(known, _)| known == functions).unwrap_or_else(|| {
            stages.push((functions.to_owned(), Stage::default()));
            stages.len() - 1
        });
        if let Some((_, stage)) = stages.get_mut(at) {
            let runs = flow.measured.iter().flat_map(|measured| &measured.stages);
            let mut runs =
                runs.filter(|run| row.partition == Some(run.partition) && run.functions.join("+") == functions);
            match runs.next() {
                Some(run) => stage.nodes.extend(run.owner.clone()),
                None => stage.nodes.extend(row.nodes.iter().cloned()),
            }
            stage.partitions += 1;
        }
    }
    stages
}

/// What a stage was measured to take in.
fn taken(flow: &Explanation, functions: &str) -> String {
    let measured = flow.measured.iter().flat_map(|measured| &measured.stages);
    let of_it = measured.filter(|stage| stage.functions.join("+") == functions);
    let (rows, taken) = of_it.fold((0, 0), |(rows, taken), stage| (rows + stage.rows_in, taken + stage.bytes_in));
    if rows == 0 { String::new() } else { format!("{rows} rows, {}", bytes(taken)) }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use littoral_node::admin::types::PlacementRow;

    use super::super::{FunctionNode, Output, StreamNode};
    use super::*;

    fn stream(name: &str) -> StreamNode {
        StreamNode { name: name.to_owned(), columns: Vec::new() }
    }

    fn flow(name: &str, source: &str, sink: &str) -> Explanation {
        let row = |partition| PlacementRow {
            kind: "stage".to_owned(),
            name: format!("{name}: clean+{name}"),
            partition: Some(partition),
            nodes: vec![format!("edge-{partition}")],
            replicas: Vec::new(),
            reasons: Vec::new(),
            excluded: Vec::new(),
        };
        Explanation {
            flow: name.to_owned(),
            source: stream(source),
            functions: vec![FunctionNode { name: name.to_owned(), operators: Vec::new(), expected_percent: None }],
            outputs: vec![Output { port: PORT_MAIN.to_owned(), to: stream(sink) }],
            stages: vec![row(1), row(2)],
            prediction: None,
            measured: None,
        }
    }

    #[test]
    fn a_stream_that_one_flow_writes_and_another_reads_is_drawn_once_and_cycles_are_fine() {
        let flows = [flow("one", "a", "b <&>"), flow("two", "b <&>", "a")];
        let svg = draw(&flows);
        assert_eq!(svg.matches("b &lt;&amp;&gt;").count(), 1, "{svg}");
        assert_eq!(svg.matches("clean + one").count(), 1, "{svg}");
        assert_eq!(svg.matches("would be on edge-1, edge-2").count(), 2, "{svg}");
        assert_eq!(svg.matches("<path").count(), 4, "{svg}");
        assert!(svg.rfind("<path").unwrap() < svg.find("<text").unwrap() && svg.ends_with("</svg>"), "{svg}");
    }
}
