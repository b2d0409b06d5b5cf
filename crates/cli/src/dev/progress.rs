//! Tells how far a run is: with a bar on a terminal, else with a line now and then.

use std::io::IsTerminal as _;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use tokio::sync::watch;

/// How often a line is written where there is no terminal.
const LINE_EVERY: Duration = Duration::from_secs(5);
/// How often the bar is redrawn.
const DRAW_EVERY: Duration = Duration::from_millis(100);

/// Says what is done now.
pub(super) fn say(text: &str) {
    eprintln!("{text}");
}

/// Follows the number of records until the future is dropped.
pub(super) async fn follow(published: watch::Receiver<u64>, total: u64) {
    if !std::io::stderr().is_terminal() {
        loop {
            tokio::time::sleep(LINE_EVERY).await;
            let so_far = *published.borrow();
            say(&format!("published {so_far} of {total} records"));
        }
    }
    let bar = ProgressBar::new(total);
    // A template that is wrong would only cost the bar its looks.
    if let Ok(style) = ProgressStyle::with_template("{bar:40} {pos} of {len} records  {per_sec}  {elapsed}") {
        bar.set_style(style);
    }
    let _clear = Clear(bar.clone());
    loop {
        bar.set_position(*published.borrow());
        tokio::time::sleep(DRAW_EVERY).await;
    }
}

/// Takes the bar away when it is not needed any more.
struct Clear(ProgressBar);

impl Drop for Clear {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}
