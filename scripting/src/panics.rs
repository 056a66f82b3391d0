//! What a panic of the interpreter or of a host function leaves behind: where it was, and nothing of what it said, for that may
//! hold whatever the script held.

use std::cell::{Cell, RefCell};
use std::panic::{AssertUnwindSafe, Location, catch_unwind};
use std::sync::Once;

use rhai::Position;

/// Where a panic was.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct Panicked {
    /// File and line of ours, where that is known.
    pub(crate) at: Option<String>,
    /// The call of a host function within the hook.
    pub(crate) called: Option<Position>,
}

impl Panicked {
    /// As a log says it.
    pub(crate) fn text(&self, what: &str) -> String {
        match &self.at {
            Some(at) => format!("{what} panicked at {at}"),
            None => format!("{what} panicked"),
        }
    }
}

thread_local! {
    static WITHIN: Cell<u32> = const { Cell::new(0) };
    static LAST: RefCell<Panicked> = const { RefCell::new(Panicked { at: None, called: None }) };
}

/// From now on a panic within a call of a script writes nothing: the call fails, and its failure is counted and logged. Any
/// other panic is told as before.
pub fn keep_quiet() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            let within = WITHIN.try_with(|within| within.get() > 0);
            if !within.unwrap_or(false) {
                return before(panic);
            }
            let at = panic.location().map(place);
            // What panics while this is looked at has nothing to add.
            let _ = LAST.try_with(|last| last.try_borrow_mut().map(|mut last| last.at = at));
        }));
    });
}

/// `gateway/src/hooks/outside.rs:12`, wherever it was built.
fn place(location: &Location<'_>) -> String {
    let file = location.file();
    let parts: Vec<&str> = file.split('/').collect();
    let source = parts.iter().rposition(|part| *part == "src");
    let from = source.map_or(parts.len() - 1, |at| at.saturating_sub(1));
    format!("{}:{}", parts[from..].join("/"), location.line())
}

struct Within;

impl Drop for Within {
    fn drop(&mut self) {
        WITHIN.with(|within| within.set(within.get() - 1));
    }
}

/// Does something that may panic.
pub(crate) fn catch<T>(work: impl FnOnce() -> T) -> Result<T, Panicked> {
    WITHIN.with(|within| within.set(within.get() + 1));
    let _within = Within;
    catch_unwind(AssertUnwindSafe(work)).map_err(|_what_it_said| LAST.take())
}

/// Notes the call of a host function, should that panic.
pub(crate) struct Calling {
    /// Where, if it stands in the hook itself.
    pub(crate) at: Option<Position>,
}

impl Drop for Calling {
    fn drop(&mut self) {
        if std::thread::panicking() {
            LAST.with_borrow_mut(|last| last.called = last.called.or(self.at));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_is_known_by_its_place() {
        keep_quiet();
        let panicked = catch(|| {
            let _calling = Calling {
                at: Some(Position::new(3, 4)),
            };
            panic!("hunter2");
        });
        let panicked = panicked.map(|(): ()| ()).unwrap_err();
        assert_eq!(panicked.called, Some(Position::new(3, 4)));
        let text = panicked.text("route");
        assert!(
            text.starts_with("route panicked at scripting/src/panics.rs:"),
            "{text}"
        );
        assert_eq!(catch(|| 1), Ok(1));
        assert_eq!(LAST.take(), Panicked::default());
    }
}
