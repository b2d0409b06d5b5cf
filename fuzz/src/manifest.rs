//! A manifest of any bytes is read or refused; each finding lies in the text and says something.

use littoral_model::manifest::{FINDINGS_MAX, parse};

/// Reads bytes as a manifest.
pub fn run(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let Err(findings) = parse("littoral.toml", text) else { return };
    assert!(!findings.is_empty() && findings.len() <= FINDINGS_MAX, "{} findings", findings.len());
    for finding in findings.iter() {
        assert!(!finding.code.is_empty() && !finding.message.is_empty(), "{finding:?}");
        let span = &finding.span;
        assert!(span.start <= span.end && span.end <= text.len(), "{finding:?} in {} bytes", text.len());
        assert!(text.is_char_boundary(span.start) && text.is_char_boundary(span.end), "{finding:?}");
        assert!(finding.line >= 1 && finding.column >= 1, "{finding:?}");
    }
    // What is shown to a user is made without failing.
    assert!(!findings.to_string().is_empty());
}
