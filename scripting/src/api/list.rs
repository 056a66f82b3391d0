//! `List`: as many values as memory holds, outside of the interpreter, whose arrays are short. For what clouds tell: it is
//! read one by one, and what is gathered in another is returned whole.

use std::sync::{Arc, Mutex, PoisonError};

use rhai::{Dynamic, EvalAltResult, Module};
use serde_json::Value;

use super::json::{from_json, to_json};
use super::{add, field};
use crate::error::refusal;

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
        Value::Array(self.with(|items| items.clone()))
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
        |list: &mut List, value: Dynamic| -> Result<(), Box<EvalAltResult>> {
            let value = to_json(&value).map_err(|e| refusal(format!("push: {e}")))?;
            list.with(|items| items.push(value));
            Ok(())
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
            let index = usize::try_from(index).ok();
            index.and_then(|index| list.at(index)).unwrap_or_default()
        },
    );
}
