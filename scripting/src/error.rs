//! What is wrong with a plugin and where, as people read it: file, line, column, the line itself and a caret.

use std::fmt;

use rhai::{EvalAltResult, Position};
use serde::Serialize;

use crate::guard::Stop;

/// One thing that is wrong with a plugin.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// The file below the plugin's directory.
    pub file: String,
    /// Line from 1, 0 where the whole file is meant.
    pub line: usize,
    /// Column from 1, 0 where the whole line is meant.
    pub column: usize,
    /// What is wrong.
    pub message: String,
    /// What to do about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
    /// The line that is meant.
    #[serde(skip)]
    pub source: Option<String>,
    /// Whether it keeps the plugin from being loaded.
    pub fatal: bool,
}

impl Finding {
    /// About a place in a source.
    pub(crate) fn at(
        file: &str,
        text: &str,
        position: Position,
        message: impl Into<String>,
    ) -> Self {
        let line = position.line().unwrap_or(0);
        Self {
            file: file.to_owned(),
            line,
            column: position.position().unwrap_or(0),
            message: message.into(),
            hint: None,
            source: line
                .checked_sub(1)
                .and_then(|index| text.lines().nth(index))
                .map(shorten),
            fatal: true,
        }
    }

    /// About a whole file.
    pub(crate) fn of_file(file: &str, message: impl Into<String>) -> Self {
        Self::at(file, "", Position::NONE, message)
    }

    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    pub(crate) fn warning(mut self) -> Self {
        self.fatal = false;
        self
    }
}

/// Longest line that is shown, in characters.
const SHOWN: usize = 200;

fn shorten(line: &str) -> String {
    line.replace('\t', " ").chars().take(SHOWN).collect()
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.file)?;
        if self.line > 0 {
            write!(f, ":{}", self.line)?;
            if self.column > 0 {
                write!(f, ":{}", self.column)?;
            }
        }
        let kind = if self.fatal { "" } else { "warning: " };
        write!(f, ": {kind}{}", self.message)?;
        if let Some(source) = &self.source {
            let number = self.line.to_string();
            write!(f, "\n  {number} | {source}")?;
            if self.column > 0 && self.column <= SHOWN {
                let indent = " ".repeat(number.len());
                let before = " ".repeat(self.column - 1);
                write!(f, "\n  {indent} | {before}^")?;
            }
        }
        if let Some(hint) = &self.hint {
            write!(f, "\n  help: {hint}")?;
        }
        Ok(())
    }
}

/// How a call ended without an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Fault {
    /// The script threw, or did what cannot be done.
    Error,
    /// Its time was up.
    Deadline,
    /// It used up its operations, processor time, sizes or depth.
    Limit,
    /// It held too much memory.
    Memory,
    /// No worker was free in time.
    Queue,
    /// The interpreter or a host function panicked.
    Panic,
    /// The hook is tripped.
    Tripped,
}

impl Fault {
    /// As metrics write it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Deadline => "deadline",
            Self::Limit => "limit",
            Self::Memory => "memory",
            Self::Queue => "queue",
            Self::Panic => "panic",
            Self::Tripped => "skipped",
        }
    }
}

/// A call that failed.
#[derive(Debug, Clone)]
pub struct Failure {
    /// How.
    pub fault: Fault,
    /// Where and why, with the calls that led there.
    pub finding: Finding,
    /// What the script threw, as its JSON value.
    pub thrown: Option<serde_json::Value>,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.finding)
    }
}

impl std::error::Error for Failure {}

impl Failure {
    pub(crate) fn new(fault: Fault, file: &str, message: impl Into<String>) -> Self {
        Self {
            fault,
            finding: Finding::of_file(file, message),
            thrown: None,
        }
    }

    /// A call that was stopped, whatever it says itself.
    pub(crate) fn of_stop(stop: Stop, file: &str) -> Self {
        let (fault, message) = of_stop(stop);
        Self::new(fault, file, message)
    }

    /// The same, once it is known that the call was stopped: whatever it says itself came of that.
    pub(crate) fn stopped(mut self, stop: Stop) -> Self {
        (self.fault, self.finding.message) = of_stop(stop);
        self.thrown = None;
        self
    }

    /// Says at least that it was there, or in what is called from there, where the interpreter does not tell the place.
    pub(crate) fn at_least(
        mut self,
        (file, place): (&str, Position),
        text_of: impl Fn(&str) -> Option<String>,
    ) -> Self {
        if self.finding.line == 0 && self.finding.file == file {
            let told = self.finding;
            let text = text_of(file).unwrap_or_default();
            self.finding = Finding {
                hint: told.hint,
                ..Finding::at(file, &text, place, told.message)
            };
        }
        self
    }

    /// Reads what the interpreter says. `text_of` gives the text of a file by the name it was compiled under.
    pub(crate) fn of(
        error: &EvalAltResult,
        main: &str,
        text_of: impl Fn(&str) -> Option<String>,
    ) -> Self {
        let mut file = main.to_owned();
        let mut trace = Vec::new();
        let mut inner = error;
        loop {
            match inner {
                EvalAltResult::ErrorInFunctionCall(name, source, cause, position) => {
                    trace.push((name.clone(), *position));
                    if !source.is_empty() {
                        file.clone_from(source);
                    }
                    inner = cause;
                }
                EvalAltResult::ErrorInModule(_, cause, _) => inner = cause,
                _ => break,
            }
        }
        let (fault, message) = told(inner);
        let text = text_of(&file).unwrap_or_default();
        let mut finding = Finding::at(&file, &text, inner.position(), message);
        if !trace.is_empty() {
            let calls: Vec<String> = trace
                .iter()
                .map(|(name, position)| match position.line() {
                    Some(line) => format!("{name} called at line {line}"),
                    None => name.clone(),
                })
                .collect();
            finding.hint = Some(format!("in {}", calls.join(", in ")));
        }
        let thrown = match inner {
            EvalAltResult::ErrorRuntime(value, _) => crate::api::json::to_json(value).ok(),
            _ => None,
        };
        Self {
            fault,
            finding,
            thrown,
        }
    }
}

/// The kind of a failure, and its text without a position.
fn told(error: &EvalAltResult) -> (Fault, String) {
    use EvalAltResult as E;
    match error {
        E::ErrorTerminated(token, _) => {
            let stops = [Stop::Memory, Stop::Cpu, Stop::Operations];
            let stop = stops
                .into_iter()
                .find(|stop| token.as_int() == Ok(number(*stop)));
            of_stop(stop.unwrap_or(Stop::Deadline))
        }
        E::ErrorTooManyOperations(_) => of_stop(Stop::Operations),
        E::ErrorTooManyVariables(_) => (Fault::Limit, "it made more variables than it may".into()),
        E::ErrorStackOverflow(_) => (Fault::Limit, "its calls nest deeper than they may".into()),
        E::ErrorDataTooLarge(what, _) => (
            Fault::Limit,
            format!("{} is more than it may be", what.to_lowercase()),
        ),
        E::ErrorRuntime(value, _) => (
            Fault::Error,
            match crate::api::json::to_json(value) {
                Ok(serde_json::Value::String(text)) => text,
                Ok(value) => value.to_string(),
                Err(_) => format!("threw a {}", kind_of(value)),
            },
        ),
        other => {
            let mut bare = other.to_string();
            // The interpreter writes the position behind its text.
            if let Some(end) = bare.rfind(" (line ") {
                bare.truncate(end);
            }
            (Fault::Error, bare)
        }
    }
}

/// What the interpreter or a host function says, without the place.
pub(crate) fn text_of(error: &EvalAltResult) -> String {
    told(error).1
}

/// What a script's author calls the type of a value.
pub(crate) fn kind_of(value: &rhai::Dynamic) -> &str {
    let name = value.type_name();
    let name = name.rsplit("::").next().unwrap_or(name);
    name.trim_end_matches('>')
}

const fn number(stop: Stop) -> i64 {
    match stop {
        Stop::Deadline => 0,
        Stop::Memory => 1,
        Stop::Cpu => 2,
        Stop::Operations => 3,
    }
}

fn of_stop(stop: Stop) -> (Fault, String) {
    let (fault, text) = match stop {
        Stop::Deadline => (Fault::Deadline, "it ran past its deadline"),
        Stop::Memory => (Fault::Memory, "it held more memory than it may"),
        Stop::Cpu => (Fault::Limit, "it used more processor time than it may"),
        Stop::Operations => (Fault::Limit, "it took more operations than it may"),
    };
    (fault, text.to_owned())
}

/// The token under which the interpreter is told to stop.
pub(crate) fn token(stop: Stop) -> rhai::Dynamic {
    rhai::Dynamic::from_int(number(stop))
}

/// The error by which a host function stops a script, which cannot catch it.
pub(crate) fn stopped(stop: Stop) -> Box<EvalAltResult> {
    EvalAltResult::ErrorTerminated(token(stop), Position::NONE).into()
}

/// A text that a host function refuses with; scripts may catch it.
pub(crate) fn refusal(text: impl Into<String>) -> Box<EvalAltResult> {
    let text: String = text.into();
    EvalAltResult::ErrorRuntime(text.into(), Position::NONE).into()
}

/// A size that a host function refuses; scripts cannot catch it.
pub(crate) fn too_large(what: &str) -> Box<EvalAltResult> {
    EvalAltResult::ErrorDataTooLarge(what.to_owned(), Position::NONE).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finding_shows_the_line_and_points_at_the_column() {
        let text = "fn route(req) {\n    let x = ;\n}\n";
        let finding = Finding::at(
            "main.rhai",
            text,
            Position::new(2, 13),
            "an expression is missing",
        )
        .hint("write one");
        assert_eq!(
            finding.to_string(),
            "main.rhai:2:13: an expression is missing\n  2 |     let x = ;\n    |             ^\n  help: write one"
        );
    }

    #[test]
    fn a_failure_without_a_place_has_at_least_that_of_its_statement() {
        let text = "fn route(req) {\n    f();\n}\n";
        let failure = Failure::new(Fault::Limit, "main.rhai", "too much");
        let place = Position::new(2, 5);
        let told = failure.at_least(("main.rhai", place), |_| Some(text.to_owned()));
        assert_eq!(
            told.to_string(),
            "main.rhai:2:5: too much\n  2 |     f();\n    |     ^"
        );
        // What is known is not put aside.
        let told = told.at_least(("main.rhai", Position::new(1, 1)), |_| None);
        assert_eq!((told.finding.line, told.finding.column), (2, 5));
        let stopped = told.stopped(Stop::Deadline);
        assert_eq!((stopped.fault, stopped.finding.line), (Fault::Deadline, 2));
    }
}
