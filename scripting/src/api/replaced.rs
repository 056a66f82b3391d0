//! Functions of the interpreter that allocate by themselves: here each looks at the size of its result first.

use std::cmp::Ordering;

use rhai::{Array, Dynamic, EvalAltResult, FnPtr, ImmutableString, Map, Module, NativeCallContext};

use super::add;
use crate::error::{refusal, too_large};

type Answer<T> = Result<T, Box<EvalAltResult>>;

fn replaced(
    context: &NativeCallContext,
    text: &mut ImmutableString,
    wanted: &str,
    with: &str,
) -> Answer<()> {
    if wanted.is_empty() {
        return Err(refusal("replace: the text to be replaced is empty"));
    }
    let found = text.matches(wanted).count();
    let length = text.len() - found * wanted.len() + found.saturating_mul(with.len());
    if length > context.engine().max_string_size() {
        return Err(too_large("Length of string"));
    }
    *text = text.replace(wanted, with).into();
    Ok(())
}

fn pieces<'a>(context: &NativeCallContext, pieces: impl Iterator<Item = &'a str>) -> Answer<Array> {
    let most = context.engine().max_array_size();
    let mut array = Array::new();
    for piece in pieces {
        if array.len() >= most {
            return Err(too_large("Size of array"));
        }
        array.push(piece.into());
    }
    Ok(array)
}

/// Sorted by what `compare` says, equals in their order. Where that contradicts itself some order comes out, and an error
/// of its ends it: the interpreter's own swallows errors, and may panic.
fn sorted(
    items: Array,
    compare: &mut impl FnMut(&Dynamic, &Dynamic) -> Answer<Ordering>,
) -> Answer<Array> {
    if items.len() < 2 {
        return Ok(items);
    }
    let mut left = items;
    let right = left.split_off(left.len() / 2);
    let (left, right) = (sorted(left, compare)?, sorted(right, compare)?);
    let mut merged = Array::with_capacity(left.len() + right.len());
    let (mut left, mut right) = (left.into_iter().peekable(), right.into_iter().peekable());
    while let (Some(a), Some(b)) = (left.peek(), right.peek()) {
        let next = if compare(a, b)? == Ordering::Greater {
            right.next()
        } else {
            left.next()
        };
        merged.extend(next);
    }
    merged.extend(left);
    merged.extend(right);
    Ok(merged)
}

/// By a script's function: a number below, at or above 0, or whether the first comes first.
fn by_function(
    context: &NativeCallContext,
    function: &FnPtr,
    (a, b): (&Dynamic, &Dynamic),
) -> Answer<Ordering> {
    let said = function.call_raw(context, None, [a.clone(), b.clone()])?;
    if let Ok(number) = said.as_int() {
        return Ok(number.cmp(&0));
    }
    match said.as_bool() {
        Ok(true) => Ok(Ordering::Less),
        Ok(false) => Ok(Ordering::Greater),
        Err(other) => Err(refusal(format!(
            "sort: the function returns a number or a bool, not a {other}"
        ))),
    }
}

/// By nature, of two values of one type.
fn by_nature(a: &Dynamic, b: &Dynamic) -> Answer<Ordering> {
    let floats = (a.as_float(), b.as_float());
    let texts = (
        a.read_lock::<ImmutableString>(),
        b.read_lock::<ImmutableString>(),
    );
    if let (Ok(a), Ok(b)) = (a.as_int(), b.as_int()) {
        Ok(a.cmp(&b))
    } else if let (Ok(a), Ok(b)) = floats {
        Ok(a.total_cmp(&b))
    } else if let (Some(a), Some(b)) = texts {
        Ok(a.cmp(&b))
    } else if let (Ok(a), Ok(b)) = (a.as_char(), b.as_char()) {
        Ok(a.cmp(&b))
    } else if let (Ok(a), Ok(b)) = (a.as_bool(), b.as_bool()) {
        Ok(a.cmp(&b))
    } else if a.is_unit() && b.is_unit() {
        Ok(Ordering::Equal)
    } else {
        Err(refusal(format!(
            "sort: a {} and a {} have no order; sort(|a, b| ..) gives them one",
            a.type_name(),
            b.type_name()
        )))
    }
}

/// Sorting by a function, or by nature, in place or as a copy.
fn sorting(module: &mut Module) {
    for name in ["sort", "sort_by"] {
        add(
            module,
            name,
            (
                "Sorts by a function that tells of two values whether the first comes first, or by a number below or above 0.",
                "let a = [2, 1]; a.sort(|x, y| x - y); a == [1, 2]",
            ),
            |context: NativeCallContext, array: &mut Array, function: FnPtr| -> Answer<()> {
                let compare =
                    &mut |a: &Dynamic, b: &Dynamic| by_function(&context, &function, (a, b));
                *array = sorted(array.clone(), compare)?;
                Ok(())
            },
        );
    }
    for name in ["order", "order_by"] {
        add(
            module,
            name,
            (
                "A copy that is sorted by a function.",
                "[2, 1].order(|x, y| x < y) == [1, 2]",
            ),
            |context: NativeCallContext, array: Array, function: FnPtr| -> Answer<Array> {
                sorted(array, &mut |a, b| by_function(&context, &function, (a, b)))
            },
        );
    }
    add(
        module,
        "sort",
        (
            "Sorts numbers, texts or characters.",
            "let a = [2, 1]; a.sort(); a == [1, 2]",
        ),
        |array: &mut Array| -> Answer<()> {
            *array = sorted(array.clone(), &mut by_nature)?;
            Ok(())
        },
    );
    add(
        module,
        "sort_desc",
        (
            "Sorts numbers, texts or characters, the greatest first.",
            "let a = [1, 2]; a.sort_desc(); a == [2, 1]",
        ),
        |array: &mut Array| -> Answer<()> {
            *array = sorted(array.clone(), &mut |a, b| by_nature(b, a))?;
            Ok(())
        },
    );
    add(
        module,
        "order",
        ("A sorted copy.", "[2, 1].order() == [1, 2]"),
        |array: Array| sorted(array, &mut by_nature),
    );
    add(
        module,
        "order_desc",
        (
            "A sorted copy, the greatest first.",
            "[1, 2].order_desc() == [2, 1]",
        ),
        |array: Array| sorted(array, &mut |a, b| by_nature(b, a)),
    );
    add(
        module,
        "dedup",
        (
            "Leaves out each value that a function calls equal to the one before.",
            "let a = [1, 1, 2]; a.dedup(|x, y| x == y); a == [1, 2]",
        ),
        |context: NativeCallContext, array: &mut Array, function: FnPtr| -> Answer<()> {
            let mut kept = Array::with_capacity(array.len());
            for item in array.iter() {
                let equal = match kept.last() {
                    Some(last) => {
                        let said =
                            function.call_raw(&context, None, [item.clone(), last.clone()])?;
                        said.as_bool().unwrap_or(false)
                    }
                    None => false,
                };
                if !equal {
                    kept.push(item.clone());
                }
            }
            *array = kept;
            Ok(())
        },
    );
}

/// Functions of the interpreter that are not there, with what stands for them.
pub(crate) const REMOVED: &[(&str, &str)] = &[
    ("splitn", "split and take what is wanted"),
    ("rsplit", "split and reverse"),
    ("rsplitn", "split and reverse"),
    ("to_json", "use json::text(value)"),
    ("parse_json", "use json::parse(text)"),
    ("sleep", "a script cannot wait"),
    ("timestamp", "use time::now()"),
    ("eval", "a script runs only what was checked"),
    ("curry", "pass the value as a parameter"),
    ("print", "use log::info(text)"),
    ("debug", "use log::debug(text)"),
];

pub(super) fn register(module: &mut Module) {
    add(
        module,
        "replace",
        (
            "Replaces every occurrence within the text.",
            "let s = \"a-b\"; s.replace(\"-\", \"+\"); s == \"a+b\"",
        ),
        |context: NativeCallContext, text: &mut ImmutableString, wanted: &str, with: &str| {
            replaced(&context, text, wanted, with)
        },
    );
    add(
        module,
        "replace",
        ("Replaces every occurrence of a character by a text.", ""),
        |context: NativeCallContext, text: &mut ImmutableString, wanted: char, with: &str| {
            replaced(&context, text, wanted.encode_utf8(&mut [0; 4]), with)
        },
    );
    add(
        module,
        "replace",
        ("Replaces every occurrence of a text by a character.", ""),
        |context: NativeCallContext, text: &mut ImmutableString, wanted: &str, with: char| {
            replaced(&context, text, wanted, with.encode_utf8(&mut [0; 4]))
        },
    );
    add(
        module,
        "replace",
        ("Replaces every occurrence of a character by another.", ""),
        |context: NativeCallContext, text: &mut ImmutableString, wanted: char, with: char| {
            let (mut from, mut to) = ([0; 4], [0; 4]);
            let (from, to) = (wanted.encode_utf8(&mut from), with.encode_utf8(&mut to));
            replaced(&context, text, from, to)
        },
    );
    add(
        module,
        "split",
        (
            "The pieces of a text between delimiters.",
            "\"a,b\".split(\",\") == [\"a\", \"b\"]",
        ),
        |context: NativeCallContext, text: &mut ImmutableString, at: &str| -> Answer<Array> {
            if at.is_empty() {
                return Err(refusal("split: the delimiter is empty"));
            }
            pieces(&context, text.split(at))
        },
    );
    add(
        module,
        "split",
        (
            "The pieces of a text between a character.",
            "\"a b\".split(' ').len == 2",
        ),
        |context: NativeCallContext, text: &mut ImmutableString, at: char| -> Answer<Array> {
            pieces(&context, text.split(at))
        },
    );
    add(
        module,
        "split",
        (
            "The words of a text.",
            "\" a  b \".split() == [\"a\", \"b\"]",
        ),
        |context: NativeCallContext, text: &mut ImmutableString| -> Answer<Array> {
            pieces(&context, text.split_whitespace())
        },
    );
    add(
        module,
        "chars",
        ("The characters of a text.", "\"ab\".chars() == ['a', 'b']"),
        |context: NativeCallContext, text: &mut ImmutableString| -> Answer<Array> {
            let most = context.engine().max_array_size();
            let mut array = Array::new();
            for character in text.chars() {
                if array.len() >= most {
                    return Err(too_large("Size of array"));
                }
                array.push(character.into());
            }
            Ok(array)
        },
    );
    sorting(module);
    removed(module);
}

/// A name that could be reached past the walk must find nothing either.
fn removed(module: &mut Module) {
    fn gone(name: &str) -> Box<EvalAltResult> {
        refusal(format!("{name} is not there"))
    }
    for name in ["splitn", "rsplitn"] {
        module.set_native_fn(
            name,
            move |_: &mut ImmutableString, _: &str, _: i64| -> Answer<()> { Err(gone(name)) },
        );
        module.set_native_fn(
            name,
            move |_: &mut ImmutableString, _: char, _: i64| -> Answer<()> { Err(gone(name)) },
        );
    }
    module.set_native_fn("rsplit", |_: &mut ImmutableString, _: &str| -> Answer<()> {
        Err(gone("rsplit"))
    });
    module.set_native_fn("rsplit", |_: &mut ImmutableString, _: char| -> Answer<()> {
        Err(gone("rsplit"))
    });
    module.set_native_fn("to_chars", |_: &mut ImmutableString| -> Answer<()> {
        Err(gone("to_chars"))
    });
    module.set_native_fn("to_json", |_: &mut Map| -> Answer<()> {
        Err(gone("to_json"))
    });
    for name in ["print", "debug"] {
        module.set_native_fn(name, move |_: Dynamic| -> Answer<()> { Err(gone(name)) });
    }
}
