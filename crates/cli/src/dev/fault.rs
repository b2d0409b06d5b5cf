//! Faults that strike while records flow, as they are written on the command line.

use std::str::FromStr;
use std::time::Duration;

use littoral_model::unit::Time;

use crate::failure::Usage;

/// What happens to whom, and when; the shares are of the records that are to be published.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Fault {
    /// As it was written.
    pub(super) text: String,
    /// The node, or for a cut also a site or a tier.
    pub(super) target: String,
    pub(super) at: f64,
    pub(super) kind: Kind,
}

/// What happens.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Kind {
    /// The node's process is killed, and started again from its disk after a while.
    Kill,
    /// The node's process stands still for so long.
    Pause(Duration),
    /// The node's process is killed and its data deleted; it does not come back.
    Wipe,
    /// Every link of the target is cut until this share of the records is published.
    Cut(f64),
    /// The node's process gets a tenth of the processor until this share of the records is published.
    Slow(f64),
}

impl FromStr for Fault {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> anyhow::Result<Self> {
        let wrong = |what: &str| {
            anyhow::Error::from(
                Usage::new(format!("--fault {text}: {what}"))
                    .hint("for instance kill:edge-1@50%, pause:edge-1@50%+20s, wipe:edge-1@50%, cut:cloud@30%..70% or slow:edge-1@20%..80%"),
            )
        };
        let (kind, rest) = text.split_once(':').ok_or_else(|| wrong("it does not say what happens"))?;
        let (target, when) = rest.split_once('@').ok_or_else(|| wrong("it does not say when"))?;
        let (at, kind) = match kind {
            "kill" => (share(when), Kind::Kill),
            "wipe" => (share(when), Kind::Wipe),
            "pause" => {
                let (at, time) = when.split_once('+').ok_or_else(|| wrong("a pause says for how long"))?;
                let time: Time = time.parse().map_err(|error| wrong(&format!("{error}")))?;
                (share(at), Kind::Pause(time.into()))
            }
            "cut" | "slow" => {
                let (from, to) = when.split_once("..").ok_or_else(|| wrong("it does not say until when"))?;
                let to = share(to).ok_or_else(|| wrong("it ends at no share from 0% to 100%"))?;
                (share(from), if kind == "cut" { Kind::Cut(to) } else { Kind::Slow(to) })
            }
            _ => return Err(wrong("what happens is one of kill, pause, wipe, cut, slow")),
        };
        let at = at.ok_or_else(|| wrong("it begins at no share from 0% to 100%"))?;
        if let Kind::Cut(to) | Kind::Slow(to) = kind
            && to <= at
        {
            return Err(wrong("it ends before it begins"));
        }
        if target.is_empty() {
            return Err(wrong("it does not say whom it strikes"));
        }
        Ok(Self { text: text.to_owned(), target: target.to_owned(), at, kind })
    }
}

/// `50%` as 0.5.
fn share(text: &str) -> Option<f64> {
    let percent: f64 = text.strip_suffix('%')?.parse().ok()?;
    (0.0..=100.0).contains(&percent).then_some(percent / 100.0)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn faults_are_read() {
        let fault: Fault = "pause:edge-1@50%+20s".parse().unwrap();
        assert_eq!((fault.target.as_str(), fault.at), ("edge-1", 0.5));
        assert_eq!(fault.kind, Kind::Pause(Duration::from_secs(20)));
        assert_eq!("cut:cloud@30%..70%".parse::<Fault>().unwrap().kind, Kind::Cut(0.7));
        assert_eq!("slow:edge-1@20%..80%".parse::<Fault>().unwrap().kind, Kind::Slow(0.8));
        assert_eq!("wipe:edge-1@12.5%".parse::<Fault>().unwrap().at, 0.125);
    }

    #[test]
    fn what_is_wrong_is_said_with_an_example() {
        for text in [
            "edge-1",
            "kill:edge-1",
            "burn:edge-1@50%",
            "kill:@5%",
            "kill:a@150%",
            "cut:a@70%..30%",
            "pause:a@5%",
            "pause:a@5%+20",
        ] {
            let error = text.parse::<Fault>().unwrap_err().to_string();
            assert!(error.contains(text), "{error}");
        }
    }
}
