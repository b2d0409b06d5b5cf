//! The command line holds together, and its examples are commands.
#![allow(clippy::unwrap_used)]

use clap::CommandFactory as _;

use super::*;

#[test]
fn the_command_line_is_consistent() {
    Cli::command().debug_assert();
}

#[test]
fn every_command_has_an_example_that_parses() {
    fn visit(command: &mut clap::Command, path: &str) {
        let help = command.render_long_help().to_string();
        let (_, examples) = help.rsplit_once("Example").unwrap_or_else(|| panic!("{path} has no example"));
        assert!(examples.lines().any(|line| line.trim_start().starts_with("littoral ")), "{path}: {examples}");
        for example in examples.lines().filter(|line| line.trim_start().starts_with("littoral ")) {
            // A remark stands behind two blanks, a redirection or a further command behind its sign.
            let line = example.trim().split("  ").next().unwrap();
            let line = line.split([';', '>', '|', '&']).next().unwrap();
            let words = line.split_whitespace().map(|word| word.trim_matches(['\'', '"']));
            if let Err(error) = Cli::try_parse_from(words) {
                panic!("{path}: `{line}` is not a command: {error}");
            }
        }
        let names: Vec<String> =
            command.get_subcommands().filter(|sub| !sub.is_hide_set()).map(|sub| sub.get_name().to_owned()).collect();
        for name in names.iter().filter(|name| *name != "help") {
            visit(command.find_subcommand_mut(name).unwrap(), &format!("{path} {name}"));
        }
    }
    let mut command = Cli::command();
    command.build();
    visit(&mut command, "littoral");
}

#[test]
fn paths_and_pairs_say_how_they_are_written() {
    assert_eq!("my-app/readings".parse::<AppPath>().unwrap().name, "readings");
    assert!("readings".parse::<AppPath>().unwrap_err().contains("APP/NAME"));
    assert!("my-app/Read".parse::<AppPath>().is_err());
    assert_eq!(key_value("a=b=c").unwrap(), ("a".to_owned(), "b=c".to_owned()));
    assert!(key_value("=x").is_err());
    assert_eq!(header("a: b").unwrap(), ("a".to_owned(), "b".to_owned()));
}

/// The help of a command and of those below it, as a page.
fn page(command: &clap::Command, path: &str, out: &mut String) {
    use std::fmt::Write as _;
    let path = if path.is_empty() { command.get_name().to_owned() } else { format!("{path} {}", command.get_name()) };
    let level = "#".repeat(path.split(' ').count().min(4) + 1);
    // The flags that every command has are told once, and no environment of the machine's gets in.
    let mut alone = command.clone().mut_args(|arg| {
        let hide =
            arg.get_id() == "help" || (path != "littoral" && ["context", "socket"].contains(&arg.get_id().as_str()));
        arg.hide(hide).hide_env_values(true)
    });
    alone = alone.bin_name(&path).term_width(100).disable_help_subcommand(true);
    let help = alone.render_long_help().to_string();
    let lines: Vec<&str> = help.lines().map(str::trim_end).collect();
    writeln!(out, "{level} `{path}`\n\n```text\n{}\n```\n", lines.join("\n").trim()).unwrap();
    for below in command.get_subcommands().filter(|below| below.get_name() != "help" && !below.is_hide_set()) {
        page(below, &path, out);
    }
}

#[test]
fn the_reference_is_checked_in() {
    let mut text = "# The commands\n\n\
        Made from the help of the program; a test keeps both the same. Every command that asks a node takes\n\
        `--context` or `--socket`; without them it asks the node that was started last on this machine.\n\n\
        Exit statuses: 0 success, 1 a failure, 2 a wrong command line or an invalid manifest, 130 interrupted.\n\
        Errors go to standard error as `error: …`, with `help: …` where something can be done. `-o json` and\n\
        `-o yaml` give everything that the tables show and more.\n\n"
        .to_owned();
    page(&Cli::command(), "", &mut text);
    let text = text.trim_end().to_owned() + "\n";
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/reference/cli.md");
    if std::env::var("LITTORAL_BLESS").is_ok_and(|bless| bless == "1") {
        std::fs::write(&path, &text).unwrap();
    }
    let checked_in = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(checked_in == text, "{} is out of date; run this test with LITTORAL_BLESS=1", path.display());
}
