//! What a test that is a program of its own was asked on its command line.

/// The arguments of this process.
pub(crate) struct Arguments(Vec<String>);

impl Arguments {
    pub(crate) fn read() -> Self {
        Self(std::env::args().skip(1).collect())
    }

    pub(crate) fn has(&self, name: &str) -> bool {
        self.0.iter().any(|argument| argument == name)
    }

    pub(crate) fn number(&self, name: &str) -> Option<u64> {
        let at = self.0.iter().position(|argument| argument == name)?;
        self.0.get(at + 1)?.parse().ok()
    }

    /// Answers tools that list tests; whether one asked.
    pub(crate) fn lists(&self, test: &str) -> bool {
        let asked = self.has("--list");
        if asked {
            println!("{test}: test");
        }
        asked
    }
}
