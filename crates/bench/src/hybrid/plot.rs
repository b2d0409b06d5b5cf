//! The picture of `bench-hybrid`: each call's latency over time, a strip for each contender, and when and why the variant changed.

use std::fmt::Write as _;
use std::time::Duration;

use super::Run;

const WIDTH: f64 = 1_200.0;
const LEFT: f64 = 70.0;
const STRIP: f64 = 170.0;
const GAP: f64 = 40.0;
/// The latencies between which a strip reaches, in milliseconds; it is logarithmic.
const LEAST_MS: f64 = 0.1;
const MOST_MS: f64 = 1_000.0;
/// How many characters of a reason fit under a strip in one line.
const LINE: usize = 170;

/// Draws it.
pub(super) fn svg(runs: &[Run], phase: Duration) -> String {
    let phases = runs.iter().map(|run| run.phases.len()).max().unwrap_or(1).max(1) as f64;
    let all_s = phases * phase.as_secs_f64();
    let x = |at_s: f64| LEFT + (at_s / all_s).clamp(0.0, 1.0) * (WIDTH - LEFT - 10.0);
    let y = |took_ms: f64| {
        let share = (took_ms.clamp(LEAST_MS, MOST_MS) / LEAST_MS).log10() / (MOST_MS / LEAST_MS).log10();
        (1.0 - share) * STRIP
    };
    let switches = runs.iter().map(|run| run.switches.len()).max().unwrap_or(0) as f64;
    let height = runs.len() as f64 * (STRIP + GAP) + switches * 16.0 + 30.0;
    let mut picture = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{height}\" font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n"
    );
    let mut draw = |text: std::fmt::Arguments<'_>| {
        // Writing to a text does not fail.
        let _ = writeln!(picture, "{text}");
    };
    let mut top = 24.0;
    for run in runs {
        draw(format_args!("<text x=\"{LEFT}\" y=\"{}\" font-weight=\"bold\">{}</text>", top - 6.0, run.name));
        for number in (1..run.phases.len()).step_by(2) {
            let (from, to) = (x(number as f64 * phase.as_secs_f64()), x((number + 1) as f64 * phase.as_secs_f64()));
            draw(format_args!(
                "<rect x=\"{from}\" y=\"{top}\" width=\"{}\" height=\"{STRIP}\" fill=\"#f0f0f0\"/>",
                to - from
            ));
        }
        for tick_ms in [0.1, 1.0, 10.0, 100.0, 1_000.0] {
            let at = top + y(tick_ms);
            draw(format_args!(
                "<line x1=\"{LEFT}\" x2=\"{}\" y1=\"{at}\" y2=\"{at}\" stroke=\"#cccccc\"/>",
                WIDTH - 10.0
            ));
            draw(format_args!("<text x=\"4\" y=\"{}\">{tick_ms} ms</text>", at + 4.0));
        }
        for (at_s, took_ms) in &run.calls {
            let (at, height) = (x(*at_s), top + y(*took_ms));
            draw(format_args!(
                "<circle cx=\"{at:.1}\" cy=\"{height:.1}\" r=\"1.5\" fill=\"#1f5fa8\" fill-opacity=\"0.6\"/>"
            ));
        }
        for (number, (at_s, _)) in run.switches.iter().enumerate() {
            let at = x(*at_s);
            draw(format_args!(
                "<line x1=\"{at}\" x2=\"{at}\" y1=\"{top}\" y2=\"{}\" stroke=\"#c0392b\"/>",
                top + STRIP
            ));
            draw(format_args!("<text x=\"{}\" y=\"{}\" fill=\"#c0392b\">{}</text>", at + 3.0, top + 12.0, number + 1));
        }
        top += STRIP + GAP;
    }
    for (number, (at_s, text)) in runs.iter().flat_map(|run| run.switches.iter().enumerate()) {
        let short: String = text.chars().take(LINE).collect();
        draw(format_args!(
            "<text x=\"{LEFT}\" y=\"{top}\" fill=\"#c0392b\">{}: {at_s:.0} s, {}</text>",
            number + 1,
            escaped(&short)
        ));
        top += 16.0;
    }
    picture + "</svg>\n"
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}
