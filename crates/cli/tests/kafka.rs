//! Sources and sinks of Kafka on real nodes: through kill -9 in the middle, with each record there once. With the feature `kafka`
//! against the broker that `LITTORAL_KAFKA` names, or else a broker that plays the part; without it, what a node says that has none.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod common;

use common::*;

fn reason(world: &World, node: &Node, kind: &str, name: &str) -> String {
    let told = node.json(world, &["get", kind, name, "-o", "json"]);
    told[0]["reason"].as_str().unwrap_or_default().to_owned()
}

#[cfg(not(feature = "kafka"))]
#[test]
fn a_node_without_kafka_says_so() {
    let world = World::new();
    let node = world.first("cloud-1");
    let cluster = "cluster = { brokers = [\"127.0.0.1:9092\"], grants = [\"127.0.0.1:9092\"] }";
    let manifest = format!(
        "[streams.a]\n[sources.back]\nstream = \"a\"\n[sources.back.kafka]\ntopic = \"t\"\n{cluster}\n\
         [sinks.out]\nstream = \"a\"\n[sinks.out.kafka]\ntopic = \"t\"\n{cluster}\n"
    );
    deploy_with(&world, &node, &manifest, &["--no-wait"]);
    for (kind, name) in [("sources", "back"), ("sinks", "out")] {
        eventually("it says what is missing", || {
            reason(&world, &node, kind, name).contains("built without Kafka: run one that is built with `cargo build")
        });
    }
    assert_eq!(node.stop(), 0);
}

#[cfg(feature = "kafka")]
mod with_kafka {
    use std::io::{BufRead as _, BufReader};
    use std::process::{Command, Stdio};

    use super::*;

    /// Some brokers, and a topic of theirs that is empty.
    struct Kafka {
        brokers: String,
        topic: String,
        _process: Option<Process>,
    }

    impl Kafka {
        fn start() -> Self {
            let set = |name: &str| std::env::var(name).ok();
            if let Some(brokers) = set("LITTORAL_KAFKA") {
                let topic =
                    set("LITTORAL_KAFKA_TOPIC").expect("LITTORAL_KAFKA_TOPIC names an empty topic of that broker");
                return Self { brokers, topic, _process: None };
            }
            let program = std::path::Path::new(env!("CARGO_BIN_EXE_littoral")).with_file_name("examples/kafka-broker");
            let mut command = Command::new(&program);
            let child = command.arg("3").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
            let mut process = Process(child.unwrap_or_else(|error| {
                panic!("{}: {error}; `make test-kafka` builds it", program.display());
            }));
            let mut brokers = String::new();
            BufReader::new(process.0.stdout.take().unwrap()).read_line(&mut brokers).unwrap();
            Self { brokers: brokers.trim().to_owned(), topic: "made".to_owned(), _process: Some(process) }
        }

        fn table(&self, kind: &str, stream: &str) -> String {
            let Self { brokers, topic, .. } = self;
            format!(
                "[{kind}.kafka]\nstream = \"{stream}\"\n[{kind}.kafka.kafka]\ntopic = \"{topic}\"\n\
                 cluster = {{ brokers = [\"{brokers}\"], grants = [\"127.0.0.0/8\", \"10.0.0.0/8\", \"172.16.0.0/12\", \"192.168.0.0/16\"] }}\n"
            )
        }
    }

    #[test]
    fn what_is_written_to_a_topic_and_read_from_it_is_there_once_whatever_is_killed() {
        const COUNT: u64 = 20_000;
        let kafka = Kafka::start();
        let world = World::new();
        let mut node = world.first("cloud-1");
        let manifest = format!(
            "[streams.made]\npartitions = 2\n[sources.load]\nstream = \"made\"\n[sources.load.generator]\nrate = 2000\ncount = {COUNT}\n\
             fields = {{ n = \"sequence\", m = [\"m1\", \"m2\", \"m3\", \"m4\", \"m5\"] }}\nkey = \"m\"\n[streams.back]\npartitions = 1\n{}{}",
            kafka.table("sinks", "made"),
            kafka.table("sources", "back")
        );
        deploy(&world, &node, &manifest);
        for share in [6, 3, 2] {
            eventually_within(STORY_MAX, "a part has been there and back", || {
                values(&world, &node, "plant/back").len() as u64 >= COUNT / share
            });
            // In the middle of a transaction, as likely as not.
            node.kill();
            node = world.start("cloud-1", &[]);
        }
        eventually_within(STORY_MAX, "all has been there and back", || {
            values(&world, &node, "plant/back").len() as u64 >= COUNT
        });
        let rows: Vec<serde_json::Value> =
            values(&world, &node, "plant/back").iter().map(|value| serde_json::from_str(value).unwrap()).collect();
        let mut numbers: Vec<u64> = rows.iter().map(|row| row["n"].as_u64().unwrap()).collect();
        for machine in ["m1", "m2", "m3", "m4", "m5"] {
            let of_one: Vec<u64> =
                rows.iter().filter(|row| row["m"] == machine).map(|row| row["n"].as_u64().unwrap()).collect();
            assert!(of_one.is_sorted(), "the records of {machine} are in their order");
        }
        numbers.sort_unstable();
        assert!(numbers == (0..COUNT).collect::<Vec<_>>(), "records are missing or there twice");
        for kind in ["sources", "sinks"] {
            eventually("nothing is the matter", || reason(&world, &node, kind, "kafka").is_empty());
            assert_eq!(connector(&world, &node, kind)["passed_over"], 0);
        }
        assert_eq!(node.stop(), 0);
    }
}
