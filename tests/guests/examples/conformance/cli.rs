//! `wasi:cli`: arguments, environment, standard streams, exit.
use wasip2::cli::{environment as wasi, exit, stderr, stdin, stdout};
use wasip2::io::streams::StreamError;

use crate::expect;

pub fn arguments() {
    let arguments = wasi::get_arguments();
    let arguments: Vec<_> = arguments.iter().skip(1).map(String::as_str).collect();
    expect!(&arguments[..], ["cli-arguments", "a b", "", "ü", "--dir", "'\"$"]);
}

pub fn environment() {
    let mut variables = wasi::get_environment();
    variables.sort();
    let variables: Vec<_> = variables.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    expect!(&variables[..], [("EMPTY", ""), ("EQUALS", "a=b"), ("NAME", "value with ü")]);
}

pub fn no_environment() {
    expect!(wasi::get_environment().len(), 0);
}

pub fn exit_failure() {
    exit::exit(Err(()));
}

pub fn exit_success() {
    exit::exit(Ok(()));
}

pub fn input_at_its_end() {
    let input = stdin::get_stdin();
    expect!(input.blocking_read(16), Err(StreamError::Closed));
}

pub fn output() {
    let output = stdout::get_stdout();
    expect!(output.check_write(), Ok(room) if room > 0);
    expect!(output.blocking_write_and_flush(b"one\n"), Ok(()));
    expect!(output.blocking_write_zeroes_and_flush(1), Ok(()));
    expect!(stderr::get_stderr().blocking_write_and_flush(b"not on standard output\n"), Ok(()));
    println!("two");
}
