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
        let names: Vec<String> = command.get_subcommands().map(|sub| sub.get_name().to_owned()).collect();
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
