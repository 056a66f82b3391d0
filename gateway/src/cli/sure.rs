//! Asking before something is destroyed.

use std::io::{IsTerminal as _, Write as _};

use clap::Args;

use super::Failure;

/// Flags of what destroys something.
#[derive(Debug, Args)]
pub(super) struct SureArgs {
    /// Do not ask.
    #[arg(long)]
    yes: bool,
}

impl SureArgs {
    /// Has a person say that `deed` is meant, unless the command line does. What is `shown` before stands above the
    /// question, and is looked for only then.
    pub(super) async fn ask<F>(&self, deed: &str, shown: F) -> Result<(), Failure>
    where
        F: Future<Output = Result<String, Failure>>,
    {
        if self.yes {
            return Ok(());
        }
        if !std::io::stdin().is_terminal() {
            let text = format!("there is no terminal to ask on; say --yes to {deed}");
            return Err(Failure::Usage(text));
        }
        let shown = shown.await?;
        let mut out = std::io::stderr();
        let _closed_pipe = write!(out, "{shown}Really {deed}? [y/N] ");
        let _closed_pipe = out.flush();
        let mut answer = String::new();
        std::io::stdin()
            .read_line(&mut answer)
            .map_err(|e| Failure::Failed(format!("no answer: {e}")))?;
        match answer.trim().to_ascii_lowercase().as_str() {
            "y" | "yes" => Ok(()),
            _ => Err(Failure::Failed("nothing was changed".into())),
        }
    }
}
