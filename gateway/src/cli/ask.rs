//! Asking before something is destroyed.

use std::io::{IsTerminal as _, Write as _};

use super::Failure;

/// Goes on when `yes` was said already, or is answered to `what`, a question, on the terminal.
///
/// # Errors
/// Where there is no terminal to ask on, and for every answer but yes.
pub(super) fn confirmed(yes: bool, what: &str) -> Result<(), Failure> {
    if yes {
        return Ok(());
    }
    if !std::io::stdin().is_terminal() {
        let text = format!("{what} There is no terminal to ask on; --yes says so");
        return Err(Failure::Usage(text));
    }
    let mut out = std::io::stderr();
    let _closed_pipe = write!(out, "{what} [y/N] ").and_then(|()| out.flush());
    let mut answer = String::new();
    std::io::stdin()
        .read_line(&mut answer)
        .map_err(|e| Failure::Failed(format!("no answer: {e}")))?;
    match answer.trim().to_ascii_lowercase().as_str() {
        "y" | "yes" => Ok(()),
        _ => Err(Failure::Failed("nothing was changed".into())),
    }
}
