//! What reaches beyond the instance is denied until the manifest grants it, and a denial names the missing grant in the
//! guest's log.

use super::Attached;
use crate::host::Host;

/// What a guest wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wanted {
    /// To call a function.
    Call,
    /// To publish to a stream.
    Publish,
    /// To use a bucket.
    KeyValue,
}

impl Wanted {
    /// Its name in the manifest's grants.
    fn key(self) -> &'static str {
        match self {
            Self::Call => "call",
            Self::Publish => "publish",
            Self::KeyValue => "keyvalue",
        }
    }

    fn what(self) -> &'static str {
        match self {
            Self::Call => "a call of the function",
            Self::Publish => "a publication to the stream",
            Self::KeyValue => "the use of the bucket",
        }
    }
}

impl Host {
    /// The fabric and the name as it was granted, or why not, which is in the log already.
    pub(super) fn granted<'h, N: AsRef<str>>(
        &'h self,
        wanted: Wanted,
        granted: &'h [N],
        name: &str,
    ) -> Result<(&'h Attached, &'h N), String> {
        let (what, key) = (wanted.what(), wanted.key());
        let denied = |text: String| {
            self.report(&text);
            text
        };
        // The name is quoted with its special characters escaped: it must not break out of its line.
        let Some(attached) = &self.surroundings().attached else {
            let text =
                format!("{what} {name:?} was denied: there is no fabric under `littoral run`; deploy the component");
            return Err(denied(text));
        };
        match granted.iter().find(|granted| granted.as_ref() == name) {
            Some(found) => Ok((attached, found)),
            None => {
                let function = &attached.place.function;
                let text = format!(
                    "{what} {name:?} was denied; grant it with `{key} = [{name:?}]` in `[functions.{function}.grants]`"
                );
                Err(denied(text))
            }
        }
    }
}
