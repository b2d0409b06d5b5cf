//! What runs while nodes and links are struck: an app for each hall with two flows, and one with a function that is called.

use std::fs;
use std::path::Path;

use anyhow::Context as _;

use crate::guests::guest;

/// The halls, each a site of edge nodes with devices beside it.
pub(super) const HALLS: [&str; 2] = ["hall-a", "hall-b"];
/// The app whose function is called, and its route.
pub(super) const CALLED: &str = "calls";
/// The example's guests, in their order.
const GUESTS: [&str; 2] = ["clean", "score"];

/// Writes the app of a hall into a folder. What its devices read stays in the hall, durable on the device first, as the
/// machine-health example has it; what is published in the hall itself is on two disks there and goes to the cloud.
pub(super) fn write_hall(folder: &Path, hall: &str) -> anyhow::Result<()> {
    let mut text = format!("name = \"{hall}\"\nversion = \"1.0.0\"\n");
    let guests =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/machine-health/target/wasm32-wasip2/release");
    for guest in GUESTS {
        let file = format!("{guest}.wasm");
        fs::copy(guests.join(&file), folder.join(&file)).context("the example is not built: `make guests`")?;
        text += &format!(
            "\n[functions.{guest}]\ncomponent = \"{file}\"\nmemory = \"64MiB\"\ntimeout = \"1s\"\nplacement = {{ site = \"{hall}\" }}\n"
        );
    }
    let streams = [
        ("readings", format!("ack = \"local\"\nplacement = {{ tier = \"device\", labels = {{ hall = \"{hall}\" }} }}")),
        ("scores", format!("partitions = 2\nack = \"site\"\nplacement = {{ site = \"{hall}\" }}")),
        ("orders", format!("partitions = 2\nack = \"site\"\nplacement = {{ site = \"{hall}\" }}")),
        ("ledger", "partitions = 2\nack = \"site\"\nplacement = { tier = \"cloud\" }".to_owned()),
        ("alerts", "partitions = 1\nplacement = { tier = \"cloud\" }".to_owned()),
        ("notices", "partitions = 1\nplacement = { tier = \"cloud\" }".to_owned()),
    ];
    for (name, rest) in streams {
        text += &format!("\n[streams.{name}]\n{rest}\n");
    }
    for (name, source, scored, sink) in
        [("health", "readings", "scores", "alerts"), ("book", "orders", "ledger", "notices")]
    {
        text += &format!(
            "\n[flows.{name}]\nsource = \"{source}\"\nstages = [\"clean\", \"score\"]\nsink = \"{sink}\"\noutputs = {{ scored = \"{scored}\" }}\n"
        );
    }
    Ok(fs::write(folder.join("littoral.toml"), text)?)
}

/// Writes the app whose function every edge and cloud node serves.
pub(super) fn write_calls(folder: &Path) -> anyhow::Result<()> {
    fs::copy(guest("echo")?, folder.join("echo.wasm"))?;
    let text = format!(
        "name = \"{CALLED}\"\nversion = \"1.0.0\"\n\n[functions.echo]\ncomponent = \"echo.wasm\"\nmemory = \"8MiB\"\ntimeout = \"1s\"\n\
         placement = {{ tier = [\"edge\", \"cloud\"] }}\n\n[[routes]]\npath = \"/{CALLED}\"\nfunction = \"echo\"\n"
    );
    Ok(fs::write(folder.join("littoral.toml"), text)?)
}
