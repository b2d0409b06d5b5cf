//! What a test that is a program of its own was asked on its command line.

/// The arguments of this process.
pub struct Arguments(Vec<String>);

impl Arguments {
    pub fn read() -> Self {
        Self(std::env::args().skip(1).collect())
    }

    pub fn has(&self, name: &str) -> bool {
        self.0.iter().any(|argument| argument == name)
    }

    pub fn number(&self, name: &str) -> Option<u64> {
        let at = self.0.iter().position(|argument| argument == name)?;
        self.0.get(at + 1)?.parse().ok()
    }

    /// Answers tools that list tests; whether one asked.
    pub fn lists(&self, test: &str) -> bool {
        let asked = self.has("--list");
        if asked {
            println!("{test}: test");
        }
        asked
    }
}
