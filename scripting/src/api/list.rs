//! `List`: as many values as memory holds, outside of the interpreter, whose arrays are short. For what clouds tell: it is
//! read one by one, and what is gathered in another is returned whole.

use std::sync::{Arc, Mutex, PoisonError};

use rhai::{Dynamic, EvalAltResult, FnPtr, Module, NativeCallContext};
use serde_json::Value;

use super::json::{from_json, to_json};
use super::{add, field};
use crate::error::refusal;

type Answer<T> = Result<T, Box<EvalAltResult>>;

/// Values that are JSON. Copies of it are the same list.
#[derive(Debug, Clone, Default)]
pub(crate) struct List(Arc<Mutex<Vec<Value>>>);

impl List {
    /// Of an array.
    pub(crate) fn of(items: Vec<Value>) -> Self {
        Self(Arc::new(Mutex::new(items)))
    }

    fn with<T>(&self, look: impl FnOnce(&mut Vec<Value>) -> T) -> T {
        look(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// All of it.
    pub(crate) fn to_json(&self) -> Value {
        Value::Array(self.to_values())
    }

    // A function that is called meanwhile may change the list.
    fn to_values(&self) -> Vec<Value> {
        self.with(|items| items.clone())
    }

    fn at(&self, index: usize) -> Option<Dynamic> {
        self.with(|items| items.get(index).map(from_json))
    }
}

impl IntoIterator for List {
    type Item = Dynamic;
    type IntoIter = Box<dyn Iterator<Item = Dynamic>>;

    fn into_iter(self) -> Self::IntoIter {
        let mut next = 0;
        Box::new(std::iter::from_fn(move || {
            next += 1;
            self.at(next - 1)
        }))
    }
}

pub(super) fn register(module: &mut Module) {
    module.set_custom_type_with_comments::<List>(
        "List",
        &["/// Many values, of which a script sees one at a time."],
    );
    module.set_iterable::<List>();
    add(
        module,
        "list",
        (
            "An empty list; it may grow longer than an array.",
            "let all = list(); all.push(#{ id: 1 }); all.len == 1 && all[0].id == 1",
        ),
        List::default,
    );
    add(
        module,
        "push",
        ("Puts a value at the list's end.", ""),
        |list: &mut List, value: Dynamic| -> Answer<()> {
            let value = to_json(&value).map_err(|e| refusal(format!("push: {e}")))?;
            list.with(|items| items.push(value));
            Ok(())
        },
    );
    add(
        module,
        "len",
        ("How many values are in the list.", "list().len() == 0"),
        |list: &mut List| list.with(|items| i64::try_from(items.len()).unwrap_or(i64::MAX)),
    );
    field(
        module,
        "is_empty",
        "Whether there is none.",
        |list: &mut List| list.with(|items| items.is_empty()),
    );
    add(
        module,
        "filter",
        (
            "A list of the values for which a function is true.",
            "let all = list(); all.push(1); all.push(2); all.filter(|n| n > 1)[0] == 2",
        ),
        |context: NativeCallContext, list: &mut List, function: FnPtr| -> Answer<List> {
            let mut kept = Vec::new();
            for value in list.to_values() {
                let said = function.call_raw(&context, None, [from_json(&value)])?;
                if said.as_bool().unwrap_or(false) {
                    kept.push(value);
                }
            }
            Ok(List::of(kept))
        },
    );
    add(
        module,
        "map",
        (
            "A list of what a function makes of each value.",
            "let all = list(); all.push(1); all.map(|n| n + 1)[0] == 2",
        ),
        |context: NativeCallContext, list: &mut List, function: FnPtr| -> Answer<List> {
            let mut made = Vec::new();
            for value in list.to_values() {
                let value = function.call_raw(&context, None, [from_json(&value)])?;
                made.push(to_json(&value).map_err(|e| refusal(format!("map: {e}")))?);
            }
            Ok(List::of(made))
        },
    );
    field(
        module,
        "len",
        "How many values are in the list.",
        |list: &mut List| list.with(|items| i64::try_from(items.len()).unwrap_or(i64::MAX)),
    );
    rhai::FuncRegistration::new_index_getter().set_into_module(
        module,
        |list: &mut List, index: i64| {
            // From the end, as with arrays, where it is negative.
            let length = list.with(|items| items.len());
            let from_end = usize::try_from(index.unsigned_abs()).unwrap_or(usize::MAX);
            let index = match usize::try_from(index) {
                Ok(index) => Some(index),
                Err(_negative) => length.checked_sub(from_end),
            };
            index.and_then(|index| list.at(index)).unwrap_or_default()
        },
    );
}
