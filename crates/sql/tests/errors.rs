//! What is said about statements that are wrong.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    clippy::disallowed_types,
    clippy::expect_used
)]

mod common;

use common::{mistakes, process, program, records, stage};

#[test]
fn several_mistakes_are_found_at_once_each_with_its_place() {
    insta::assert_snapshot!(mistakes(
        "CREATE STREAM readings (machine text, ts timestamp, temperature double, count bigint);

CREATE FLOW one AS
  SELECT machin, temperature * 'x' AS t, uper(machine) AS u
  FROM readings
  WHERE temperature;

CREATE FLOW two WITHIN '150 parsecs' AS SELECT * FROM readings;

CREATE FLOW three AS SELECT machine, avg(temperature) AS mean
  FROM TUMBLE(readings, ts, INTERVAL '5 minutes')
  GROUP BY window_start;

CREATE FLOW four AS SELECT machine FROM reading;

CREATE FLOW five AS SELECT count + 1, count / machine AS broken FROM readings ORDER BY count;

CREATE FLOW six AS SELECT machine, sum(count) AS n FROM readings GROUP BY machine;

CREATE STREAM odd (id uuid);

CREATE FLOW seven AS SELECT machine FROM readings WHERE ts > 'yesterday' AND now() > ts;

CREATE FLOW eight AS SELECT FROM;

CREAT FLOW nine AS SELECT machine FROM readings
"
    ));
}

/// Statements, and what their first finding is called.
const WRONG: &[(&str, &str)] = &[
    ("CREATE STREAM s (a text, a bigint)", "duplicate"),
    ("CREATE STREAM s (a interval)", "wrong-type"),
    ("CREATE STREAM s (a text, WATERMARK FOR a AS a)", "unknown-name"),
    ("CREATE STREAM s (a timestamp, WATERMARK FOR a AS b)", "wrong-watermark"),
    ("CREATE STREAM s PARTITIONS 0", "syntax"),
    ("CREATE STREAM s RETAIN '7 x'", "invalid-unit"),
    ("CREATE STREAM -s", "syntax"),
    ("CREATE STREAM \"No Name\"", "invalid-name"),
    ("CREATE STREAM s; CREATE STREAM s", "duplicate"),
    ("CREATE TABLE s (a text)", "syntax"),
    ("DROP STREAM s", "syntax"),
    ("CREATE STREAM s (a text) 'unended", "syntax"),
    ("CREATE STREAM s; CREATE FLOW f AS SELECT key FROM s; CREATE FLOW f AS SELECT key FROM s", "duplicate"),
    ("CREATE FLOW f AS SELECT key FROM g; CREATE FLOW g AS SELECT key FROM f", "cycle"),
    ("CREATE STREAM s; CREATE FLOW f PREFER moon AS SELECT key FROM s", "syntax"),
    ("CREATE STREAM s; CREATE FLOW f WITHIN '5 s' AT P99 AS SELECT key FROM s", "syntax"),
    ("CREATE STREAM s; CREATE FLOW f LATE INTO l AS SELECT key FROM s", "contradiction"),
    ("CREATE STREAM s; CREATE FLOW f AS SELECT key, key FROM s", "duplicate"),
    ("CREATE STREAM s; CREATE FLOW f AS SELECT time - time AS d FROM s", "wrong-type"),
    ("CREATE STREAM s; CREATE FLOW f AS SELECT a.key FROM s a JOIN s b ON true", "unbounded"),
    (
        "CREATE STREAM s; CREATE FLOW f AS SELECT key FROM s a JOIN s b ON a.key = b.key AND a.time = b.time",
        "ambiguous",
    ),
    ("CREATE STREAM s; CREATE FLOW f AS SELECT a.key FROM s a NATURAL JOIN s b", "unsupported"),
    ("CREATE STREAM s; CREATE FLOW f AS SELECT key FROM s UNION SELECT key FROM s", "unsupported"),
    ("CREATE STREAM s; CREATE FLOW f AS SELECT key FROM s EXCEPT SELECT key FROM s", "unsupported"),
    ("CREATE STREAM s; CREATE FLOW f AS SELECT key FROM s UNION ALL SELECT time FROM s", "wrong-type"),
    ("CREATE STREAM s; CREATE FLOW f AS SELECT key FROM s UNION ALL SELECT key, value FROM s", "wrong-type"),
    ("CREATE STREAM s; CREATE FLOW f AS SELECT key FROM s UNION ALL SELECT key FROM f", "cycle"),
    (
        "CREATE STREAM s; CREATE FLOW \"f-2\" AS SELECT key FROM s; CREATE FLOW f AS SELECT key FROM s UNION ALL SELECT key FROM s",
        "duplicate",
    ),
    ("CREATE STREAM s; CREATE FLOW f AS SELECT DISTINCT key FROM s", "unbounded"),
    (
        "CREATE STREAM s; CREATE FLOW f ALLOW LATENESS '1 s' AS SELECT key FROM SESSION(s, time, INTERVAL '1 s') GROUP BY key, window_start",
        "contradiction",
    ),
    ("CREATE STREAM s; CREATE FLOW f AS SELECT DISTINCT ON (key) key FROM s", "unsupported"),
    ("CREATE STREAM s; CREATE FLOW f AS SELECT DISTINCT key FROM TUMBLE(s, time, INTERVAL '1 s')", "unbounded"),
    (
        "CREATE STREAM s; CREATE FLOW f AS SELECT DISTINCT key, window_start FROM CUMULATE(s, time, INTERVAL '1 s', INTERVAL '2 s')",
        "unbounded",
    ),
    (
        "CREATE STREAM s; CREATE FLOW f AS SELECT DISTINCT key, window_end FROM TUMBLE(s, time, INTERVAL '1 s') GROUP BY key, window_end",
        "contradiction",
    ),
    (
        "CREATE STREAM s; CREATE FLOW f AS SELECT sum(DISTINCT octet_length(key)) AS n FROM TUMBLE(s, time, INTERVAL '1 s') GROUP BY window_end",
        "unsupported",
    ),
    (
        "CREATE STREAM s; CREATE FLOW f AS SELECT approx_quantile(octet_length(key), 1.5) AS n FROM TUMBLE(s, time, INTERVAL '1 s') GROUP BY window_end",
        "wrong-type",
    ),
    (
        "CREATE STREAM s; CREATE FLOW f AS SELECT approx_quantile(key, 0.5) AS n FROM TUMBLE(s, time, INTERVAL '1 s') GROUP BY window_end",
        "wrong-type",
    ),
    ("CREATE STREAM s; CREATE FLOW f AS SELECT (SELECT 1) AS k FROM s", "unsupported"),
    ("CREATE STREAM s; CREATE FLOW f AS SELECT key FROM s LIMIT 3", "unsupported"),
    ("CREATE STREAM s; CREATE FLOW f AS SELECT count(*) AS n FROM s", "misplaced-aggregate"),
    ("CREATE STREAM s; CREATE FLOW f AS SELECT key FROM TUMBLE(s, time, INTERVAL '1 s')", "unbounded"),
    (
        "CREATE STREAM s; CREATE FLOW f AS SELECT key FROM TUMBLE(s, key, INTERVAL '1 s') GROUP BY key, window_start",
        "wrong-type",
    ),
    (
        "CREATE STREAM s; CREATE FLOW f AS SELECT key FROM TUMBLE(s, time, INTERVAL '0 s') GROUP BY key, window_start",
        "invalid-interval",
    ),
    (
        "CREATE STREAM s; CREATE FLOW f AS SELECT key FROM HOP(s, time, INTERVAL '1 ms', INTERVAL '1 h') GROUP BY key, window_start",
        "out-of-range",
    ),
    (
        "CREATE STREAM s; CREATE FLOW f AS SELECT key FROM CUMULATE(s, time, INTERVAL '7 s', INTERVAL '1 min') GROUP BY key, window_start",
        "invalid-interval",
    ),
    (
        "CREATE STREAM s; CREATE FLOW f AS SELECT every(key) AS e FROM TUMBLE(s, time, INTERVAL '1 s') GROUP BY window_start",
        "wrong-type",
    ),
    (
        "CREATE STREAM s; CREATE FLOW f AS SELECT key FROM TUMBEL(s, time, INTERVAL '1 s') GROUP BY key, window_start",
        "unknown-name",
    ),
    (
        "CREATE STREAM s ON TIER device; CREATE FLOW f AS SELECT key FROM TUMBLE(s, time, INTERVAL '1 s') GROUP BY key, window_start",
        "partitioned",
    ),
    (
        "CREATE STREAM s; CREATE FLOW f AS SELECT sum(key) AS n FROM TUMBLE(s, time, INTERVAL '1 s') GROUP BY window_start",
        "wrong-type",
    ),
    (
        "CREATE STREAM s; CREATE FLOW f AS SELECT sum(count(*)) AS n FROM TUMBLE(s, time, INTERVAL '1 s') GROUP BY window_start",
        "misplaced-aggregate",
    ),
    (
        "CREATE STREAM s; CREATE FLOW f AS SELECT count(*) AS n FROM TUMBLE(s, time, INTERVAL '1 s') GROUP BY 1, window_start",
        "unsupported",
    ),
    ("CREATE STREAM s; CREATE FLOW f AS SELECT random() AS r FROM s", "volatile"),
    ("CREATE STREAM s; CREATE FLOW f AS SELECT CAST(time AS bigint) AS r FROM s", "wrong-type"),
    ("CREATE STREAM s; CREATE FLOW f AS SELECT INTERVAL '1 month' < INTERVAL '1 s' AS r FROM s", "invalid-interval"),
    ("CREATE STREAM s; CREATE FLOW f AS SELECT EXTRACT(century FROM time) AS r FROM s", "unknown-name"),
    ("CREATE STREAM s; CREATE FLOW f AS SELECT CASE WHEN true THEN 1 ELSE key END AS r FROM s", "wrong-type"),
    ("CREATE STREAM s; CREATE FLOW f AS SELECT EXTRACT(DAY FROM time - time) AS r FROM s", "unknown-name"),
    ("CREATE STREAM s; CREATE FLOW f AS SELECT date_part('day', time - time) AS r FROM s", "unknown-name"),
    ("CREATE STREAM s; CREATE FLOW f AS SELECT date_trunc('dow', time) AS r FROM s", "unknown-name"),
    ("CREATE STREAM s; CREATE FLOW f AS SELECT key FROM s AS t(b, a)", "unsupported"),
    ("CREATE STREAM s; CREATE FLOW f AS SELECT key FROM s TABLESAMPLE SYSTEM (5)", "unsupported"),
    ("CREATE STREAM s; CREATE FLOW f AS SELECT key FROM s WITH ORDINALITY", "unsupported"),
    ("CREATE STREAM s; CREATE FLOW f AS SELECT TOP 5 key FROM s", "unsupported"),
    ("CREATE STREAM s; CREATE FLOW f AS SELECT key INTO t FROM s", "unsupported"),
    ("CREATE STREAM s; CREATE FLOW f AS SELECT key FROM s FOR UPDATE", "unsupported"),
    ("CREATE STREAM s; CREATE FLOW f AS SELECT key FROM s GROUP BY ALL", "unsupported"),
    ("CREATE STREAM s; CREATE FLOW f AS SELECT key FROM s CLUSTER BY key", "unsupported"),
    ("CREATE STREAM s; CREATE FLOW f AS SELECT key FROM s SORT BY key", "unsupported"),
    ("CREATE STREAM s; CREATE FLOW f AS SELECT key FROM s DISTRIBUTE BY key", "unsupported"),
    ("CREATE STREAM s; CREATE FLOW f AS SELECT key FROM s LATERAL VIEW explode(key) t AS a", "unsupported"),
    ("CREATE STREAM s; CREATE FLOW f AS SELECT key FROM s WINDOW w AS (PARTITION BY key)", "unsupported"),
    (
        "CREATE STREAM s; CREATE FLOW f AS SELECT key FROM TUMBLE(s, time, INTERVAL '1 s') GROUP BY GROUPING SETS ((key), (window_start))",
        "unbounded",
    ),
    ("CREATE STREAM s; CREATE FLOW f AS SELECT value::varchar(3) AS v FROM s", "unsupported"),
    ("CREATE STREAM s; CREATE FLOW f AS SELECT CAST(value AS timestamp(0)) AS v FROM s", "unsupported"),
    ("CREATE STREAM s; CREATE FLOW f AS SELECT time + INTERVAL '1:30' MINUTE TO SECOND AS v FROM s", "unsupported"),
    ("CREATE STREAM s; CREATE FLOW f AS SELECT upper(DISTINCT value) AS v FROM s", "unsupported"),
    ("CREATE STREAM s; CREATE FLOW f ALLOW LATENESS '5 s' AS SELECT key FROM s", "contradiction"),
    ("CREATE STREAM s; CREATE FLOW f WITHIN '5 s' PREFER edge WITHIN '6 s' AS SELECT key FROM s", "duplicate"),
    ("CREATE STREAM s; CREATE FLOW f DEAD LETTER INTO a DEAD LETTER INTO b AS SELECT key FROM s", "duplicate"),
    ("CREATE STREAM s PARTITIONS 2 PARTITIONS 3", "duplicate"),
    ("CREATE STREAM s; CREATE FLOW f PARTITIONS 2 AS SELECT key FROM s", "contradiction"),
    (
        "CREATE STREAM s; CREATE FLOW f PARTITIONS 2 PARTITIONS 2 AS SELECT count(*) AS n FROM TUMBLE(s, time, INTERVAL '1 s') GROUP BY window_start",
        "duplicate",
    ),
    ("CREATE STREAM s; CREATE FLOW f PARTITIONS 0 AS SELECT key FROM s", "syntax"),
    ("CREATE STREAM s RETAIN '7 d' RETAIN '1GiB' RETAIN '8 d'", "duplicate"),
    ("CREATE STREAM s (a timestamp, WATERMARK FOR a AS a, WATERMARK FOR a AS a - '1 s')", "duplicate"),
    ("CREATE STREAM r (a text); CREATE STREAM s; CREATE FLOW r AS SELECT key FROM s", "wrong-type"),
    (
        "CREATE STREAM s (a timestamp, b timestamp, WATERMARK FOR a AS a); CREATE FLOW f AS SELECT count(*) AS n FROM TUMBLE(s, b, INTERVAL '1 s') GROUP BY window_start",
        "wrong-watermark",
    ),
    (
        "CREATE STREAM s; CREATE STREAM bad (a text); CREATE FLOW f DEAD LETTER INTO bad AS SELECT key FROM s",
        "wrong-type",
    ),
    (
        "CREATE STREAM s; CREATE STREAM l (key text); CREATE FLOW f LATE INTO l AS SELECT count(*) AS n FROM TUMBLE(s, time, INTERVAL '1 s') GROUP BY window_start",
        "wrong-type",
    ),
    (
        "CREATE STREAM s; CREATE FLOW f DEAD LETTER INTO g AS SELECT key FROM s; CREATE FLOW g AS SELECT key FROM s",
        "wrong-type",
    ),
    ("CREATE STREAM s; CREATE FLOW f DEAD LETTER INTO s AS SELECT key FROM s", "cycle"),
    ("CREATE FLOW f DEAD LETTER INTO bad AS SELECT stage FROM g; CREATE FLOW g AS SELECT stage FROM bad", "cycle"),
    (
        "CREATE STREAM s; CREATE STREAM f KEEP IN REGION 'us'; CREATE FLOW f KEEP IN REGION 'eu' AS SELECT key FROM s",
        "contradiction",
    ),
    (
        "CREATE STREAM s; CREATE FLOW f KEEP IN REGION 'eu' DEAD LETTER INTO bad AS SELECT key FROM s; CREATE FLOW g KEEP IN REGION 'us' DEAD LETTER INTO bad AS SELECT key FROM s",
        "contradiction",
    ),
];

#[test]
fn each_mistake_has_its_name_and_its_place() {
    for (text, code) in WRONG {
        // What has no place would stand at the beginning.
        let rendered = mistakes(&format!("\n\n{text}"));
        assert!(rendered.starts_with(&format!("error[{code}]: ")), "{text}\n{rendered}");
        assert!(rendered.contains("--> flows.sql:3:"), "{text}\n{rendered}");
    }
}

#[test]
fn what_is_wrong_is_said_once_and_not_of_its_readers() {
    let readers =
        "CREATE FLOW g AS SELECT x FROM f; CREATE FLOW h AS SELECT y FROM g; CREATE FLOW i AS SELECT z FROM bad";
    for wrong in [
        "CREATE STREAM s; CREATE FLOW f DEAD LETTER INTO bad AS SELECT nothing FROM s",
        "CREATE STREAM bad RETAIN '1 d'; CREATE STREAM s; CREATE FLOW f DEAD LETTER INTO bad AS SELECT nothing FROM s",
        "CREATE STREAM f (a uuid); CREATE STREAM bad (stage text, reason text, row text, z text)",
        "CREATE STREAM f (a text, WATERMARK FOR a AS a); CREATE STREAM bad (z text)",
        "CREATE STREAM bad (z text); CREATE STREAM s; CREATE FLOW f AS SELECT FROM s",
    ] {
        let rendered = mistakes(&format!("{wrong}; {readers}"));
        assert_eq!(rendered.matches("error[").count(), 1, "{wrong}\n{rendered}");
    }
    let rendered =
        mistakes("CREATE STREAM s; CREATE FLOW f AS SELECT nothing FROM s; CREATE FLOW g AS SELECT x FROM ff");
    assert!(rendered.contains("there is no stream `ff`"), "{rendered}");
    let circle =
        "CREATE FLOW f AS SELECT key FROM g; CREATE FLOW g AS SELECT key FROM f; CREATE FLOW h AS SELECT x FROM g";
    let rendered = mistakes(circle);
    assert_eq!(rendered.matches("error[cycle]").count(), 2, "{rendered}");
    assert!(!rendered.contains("flow h "), "{rendered}");
}

#[test]
fn a_finding_stands_where_the_mistake_is() {
    let place = |query: &str| {
        let rendered = mistakes(&format!("CREATE STREAM s (a bigint);\nCREATE FLOW f AS\nSELECT {query}\nFROM s"));
        let place = rendered.split("--> flows.sql:").nth(1).unwrap().lines().next().unwrap().to_owned();
        (rendered.split(['[', ']']).nth(1).unwrap().to_owned(), place)
    };
    let many: Vec<String> = (0..300).map(|number| format!("a AS a{number}")).collect();
    for (query, code, at) in [
        ("1 AS \"Hélène\",\n  b", "unknown-name", "4:3"),
        ("'Hélène' AS h, b", "unknown-name", "3:23"),
        ("a,\n *", "duplicate", "4:2"),
        (&format!("a,\n  a{} AS b", " + 1".repeat(150)), "too-deep", "4:3"),
        (&many.join(", "), "too-large", "3:8"),
    ] {
        assert_eq!(place(query), (code.to_owned(), at.to_owned()), "{query}");
    }
}

#[test]
fn a_long_line_takes_no_longer_than_many_short_ones() {
    let flows: Vec<String> = (0..400)
        .map(|number| format!("CREATE FLOW f{number} AS SELECT {} AS v FROM s;", vec!["a"; 80].join(" + ")))
        .collect();
    let time = |between: &str| {
        let text = format!("CREATE STREAM s (a bigint);{between}{}", flows.join(between));
        let once = || {
            let begin = std::time::Instant::now();
            program(&text).unwrap();
            begin.elapsed()
        };
        once().min(once())
    };
    let (short, long) = (time("\n"), time(" "));
    // Other work on the machine may delay one of them; each character for each word would take a hundred times as long.
    assert!(long < short * 10, "{long:?} on one line, {short:?} on {}", flows.len());
}

#[test]
fn calls_within_calls_are_read_once() {
    let of = |levels: usize| format!("{}a{}", "coalesce(1, abs(".repeat(levels), "))".repeat(levels));
    let text =
        |levels: usize| format!("CREATE STREAM s (a bigint); CREATE FLOW f AS SELECT {} AS v FROM s", of(levels));
    let begin = std::time::Instant::now();
    program(&text(14)).unwrap();
    assert!(mistakes(&text(50)).contains("error[too-deep]"));
    // Read twice each, they would take minutes.
    assert!(begin.elapsed() < std::time::Duration::from_secs(10), "{:?}", begin.elapsed());
}

#[test]
fn what_nests_deeply_is_refused_and_overflows_no_stack() {
    fn nested(inner: String) -> String {
        format!("CREATE STREAM s (a bigint); CREATE FLOW f AS SELECT {inner} AS v FROM s")
    }
    let thread = std::thread::Builder::new().stack_size(1 << 20).spawn(move || {
        let within = |levels: usize| nested(format!("{}a{}", "(".repeat(levels), ")".repeat(levels)));
        let chain = |levels: usize| nested(format!("a{}", " + a".repeat(levels)));
        program(&within(10)).unwrap();
        program(&chain(90)).unwrap();
        // Each link has the whole chain before it for its operand, once.
        for link in ["BETWEEN false AND true", "IN (true, false)", "NOT IN (false, true)", "IS NOT TRUE"] {
            let of = |levels: usize| nested(format!("a BETWEEN 1 AND 2{}", format!(" {link}").repeat(levels)));
            let program = program(&of(90)).unwrap();
            let output = process(&mut stage(&program, "f"), &records(&[r#"{"a":1}"#]));
            assert_eq!((output.rows.unwrap().num_rows(), output.rejected), (1, vec![]));
            assert!(mistakes(&of(200)).contains("error[too-deep]"));
        }
        for (first, link, links) in [
            ("a", " + a", 96),
            ("a", " * 1.5", 96),
            ("a", " || 'x'", 96),
            ("a", "::text::bigint", 48),
            ("(a = 1)", " = true", 96),
            ("'{}'", " ->> 'k'", 96),
        ] {
            let program = program(&nested(format!("{first}{}", link.repeat(links)))).unwrap();
            assert!(process(&mut stage(&program, "f"), &records(&[r#"{"a":1}"#])).rows.is_some(), "{link}");
        }
        let case = |levels: usize| {
            nested(
                (0..levels).fold("a".to_owned(), |of, _| format!("CASE {of} WHEN 1 THEN 1 WHEN 2 THEN 3 ELSE 2 END")),
            )
        };
        program(&case(12)).unwrap();
        assert!(mistakes(&within(500)).contains("error[too-deep]"));
        assert!(mistakes(&chain(500)).contains("error[too-deep]"));
        assert!(mistakes(&chain(5_000)).contains("error[too-large]"));
        assert!(mistakes(&nested("-".repeat(1_900) + "a")).contains("error["));
    });
    thread.unwrap().join().unwrap();
}

#[test]
fn over_how_many_partitions_rows_are_spread_has_a_limit() {
    let text = |partitions: &str| {
        format!(
            "CREATE STREAM s; CREATE FLOW f PARTITIONS {partitions} AS \
             SELECT count(*) AS n FROM TUMBLE(s, time, INTERVAL '1 s') GROUP BY window_start"
        )
    };
    assert!(program(&text("16")).is_ok());
    for partitions in ["0", "17", "many"] {
        let rendered = mistakes(&text(partitions));
        assert!(rendered.contains("a number of partitions, 1 to 16"), "{rendered}");
    }
}
