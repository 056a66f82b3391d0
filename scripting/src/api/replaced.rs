//! Functions of the interpreter that allocate by themselves: here each looks at the size of its result first.

use rhai::{Array, Dynamic, EvalAltResult, ImmutableString, Map, Module, NativeCallContext};

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
