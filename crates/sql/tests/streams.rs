//! What flows add to the manifest, and what is known of the streams that they write.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, clippy::disallowed_methods, clippy::expect_used)]

mod common;

use common::{app, fine, lines, process, records, stage};
use littoral_model::manifest::{Manifest, OneOrMany, Stream};
use littoral_sql::expand;

const STREAM: &str = "CREATE STREAM s (m text, ts timestamp, v bigint);\n";

/// The manifest that statements come to, in which some streams are declared already.
fn expanded(streams: &[&str], text: &str) -> Manifest {
    let mut manifest = app(text);
    manifest.streams.extend(streams.iter().map(|name| (name.parse().unwrap(), Stream::default())));
    expand(&mut manifest).unwrap_or_else(|mistakes| panic!("{}", mistakes.render()));
    manifest
}

fn regions(manifest: &Manifest, stream: &str) -> Vec<String> {
    let stream = &manifest.streams[&stream.parse().unwrap()];
    stream.placement.region.iter().map(ToString::to_string).collect()
}

#[test]
fn what_a_flow_writes_stays_in_its_regions_whoever_declared_it() {
    let flows = "CREATE STREAM hot (v bigint) RETAIN '1 d' KEEP IN REGION 'us', 'eu'; CREATE STREAM bad PARTITIONS 1; \
                 CREATE FLOW other DEAD LETTER INTO odd AS SELECT v FROM s; \
                 CREATE FLOW hot KEEP IN REGION 'eu', 'asia' DEAD LETTER INTO bad AS SELECT v FROM s; \
                 CREATE FLOW named KEEP IN REGION 'eu' DEAD LETTER INTO odd AS SELECT v FROM s";
    let manifest = expanded(&["named"], &format!("{STREAM}{flows}"));
    assert_eq!(regions(&manifest, "hot"), ["eu"]);
    assert_eq!(regions(&manifest, "bad"), ["eu", "asia"]);
    assert_eq!(regions(&manifest, "odd"), ["eu"]);
    assert_eq!(regions(&manifest, "named"), ["eu"]);
    assert!(regions(&manifest, "other").is_empty());
    let mut manifest = app(&format!("{STREAM}CREATE FLOW hot KEEP IN REGION 'eu' AS SELECT v FROM s"));
    let mut declared = Stream::default();
    declared.placement.region = OneOrMany::One("us".parse().unwrap());
    manifest.streams.insert("hot".parse().unwrap(), declared);
    let mistakes = expand(&mut manifest).unwrap_err().render();
    assert!(mistakes.contains("error[contradiction]: the stream `hot` is kept in us already"), "{mistakes}");
}

#[test]
fn side_streams_are_read_like_others() {
    let text = format!(
        "CREATE FLOW again AS SELECT m, v FROM too_late; CREATE FLOW reasons AS SELECT stage, reason FROM bad; {STREAM} \
         CREATE STREAM bad RETAIN '1 d'; \
         CREATE FLOW f DEAD LETTER INTO bad LATE INTO too_late AS SELECT sum(v) AS v FROM TUMBLE(s, ts, INTERVAL '1 s') \
         GROUP BY window_start"
    );
    let program = fine(&text);
    let rows = records(&[r#"{"ts":"2024-01-01","v":1}"#, r#"{"m":"late","ts":"2023-01-01","v":2}"#]);
    let output = process(&mut stage(&program, "f"), &rows);
    let again = process(&mut stage(&program, "again"), &output.late.unwrap());
    assert_eq!(lines(again.rows.as_ref()), [r#"{"m":"late","v":2}"#]);
    assert_eq!(program.columns[&"bad".parse().unwrap()].len(), 3);
    expanded(&["too-late", "bad"], &text.replace("CREATE STREAM bad RETAIN '1 d';", ""));
}

#[test]
fn a_result_that_is_declared_without_columns_has_those_of_its_flow() {
    let program = fine(&format!("{STREAM}CREATE STREAM f RETAIN '1 d'; CREATE FLOW f AS SELECT v FROM s"));
    assert_eq!(program.columns[&"f".parse().unwrap()].len(), 1);
}

#[test]
fn queries_that_are_united_write_one_stream_under_the_names_of_the_first() {
    let text = format!(
        "{STREAM} CREATE STREAM t (k text, at timestamp, n double, WATERMARK FOR at AS at - INTERVAL '3 s'); \
         CREATE FLOW f AS SELECT m, v::double AS v FROM s UNION ALL SELECT k, n + 1 AS more FROM t WHERE n > 1 \
         UNION ALL SELECT 'x' AS x, 0.5::double AS half FROM s; \
         CREATE FLOW both AS SELECT at AS moment, n FROM t UNION ALL SELECT at, n FROM t; \
         CREATE FLOW sums AS SELECT sum(n) AS n FROM TUMBLE(both, moment, INTERVAL '1 s') GROUP BY window_start"
    );
    let manifest = expanded(&[], &text);
    let flows: Vec<_> = manifest.flows.iter().map(|(name, flow)| (name.as_str(), flow.source.as_str())).collect();
    assert_eq!(
        flows,
        [("both", "t"), ("both-2", "t"), ("f", "s"), ("f-2", "t"), ("f-3", "s"), ("sums", "both")],
        "{flows:?}"
    );
    assert!(manifest.streams.keys().all(|name| name.as_str() != "f-2"), "one stream has them all");
    let program = fine(&text);
    let rows = records(&[r#"{"k":"a","n":1}"#, r#"{"k":"b","n":2}"#]);
    assert_eq!(lines(process(&mut stage(&program, "f-2"), &rows).rows.as_ref()), [r#"{"m":"b","v":3.0}"#]);
    let rows = records(&[r#"{"m":"a","v":1}"#]);
    assert_eq!(lines(process(&mut stage(&program, "f-3"), &rows).rows.as_ref()), [r#"{"m":"x","v":0.5}"#]);
    let sums = program.flows[&"sums".parse().unwrap()].plan.operators().join("\n");
    assert!(sums.contains("watermark 3 s behind"), "{sums}");
}

#[test]
fn what_a_query_leaves_out_is_guessed_from_it() {
    let permille = |query: &str| {
        let manifest = expanded(&[], &format!("{STREAM}CREATE FLOW f AS {query}"));
        manifest.queries.values().map(|query| query.output_permille).collect::<Vec<_>>()
    };
    let all = permille("SELECT m, ts, v FROM s")[0];
    let narrow = permille("SELECT v FROM s")[0];
    let filtered = permille("SELECT m, ts, v FROM s WHERE v > 1")[0];
    assert_eq!(all, 1_000);
    assert!(narrow < all && filtered < all && permille("SELECT v FROM s WHERE v > 1")[0] < narrow.min(filtered));
    assert!(permille("SELECT m, ts, v, m || m AS twice FROM s")[0] > all);
    let windows =
        |from: &str| permille(&format!("SELECT m, window_end, sum(v) AS v FROM {from} GROUP BY m, window_end"));
    let tumbling = windows("TUMBLE(s, ts, INTERVAL '10 s')")[0];
    let hopping = windows("HOP(s, ts, INTERVAL '10 s', INTERVAL '30 s')")[0];
    assert!(tumbling * 5 < all && tumbling < hopping, "{tumbling} {hopping}");
}
