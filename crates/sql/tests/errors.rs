//! What is said about statements that are wrong.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, clippy::disallowed_methods, clippy::expect_used)]

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
    ("CREATE STREAM s; CREATE FLOW f AS SELECT key FROM s a JOIN s b ON true", "unsupported"),
    ("CREATE STREAM s; CREATE FLOW f AS SELECT key FROM s UNION ALL SELECT key FROM s", "unsupported"),
    ("CREATE STREAM s; CREATE FLOW f AS SELECT DISTINCT key FROM s", "unsupported"),
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
        "CREATE STREAM s; CREATE FLOW f AS SELECT key FROM TUMBEL(s, time, INTERVAL '1 s') GROUP BY key, window_start",
        "unknown-name",
    ),
    (
        "CREATE STREAM s PARTITIONS 2; CREATE FLOW f AS SELECT key FROM TUMBLE(s, time, INTERVAL '1 s') GROUP BY key, window_start",
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
        let rendered = mistakes(text);
        assert!(rendered.starts_with(&format!("error[{code}]: ")), "{text}\n{rendered}");
        assert!(rendered.contains("--> flows.sql:1:"), "{text}\n{rendered}");
    }
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
