//! The interpreter of a lane, with every limit set by name and everything left out that waits or allocates by itself.

use std::collections::BTreeSet;
use std::sync::{Arc, OnceLock};

use rhai::packages::{
    ArithmeticPackage, BasicArrayPackage, BasicBlobPackage, BasicFnPackage, BasicIteratorPackage,
    BasicMapPackage, BasicMathPackage, BasicStringPackage, BitFieldPackage, LogicPackage,
    MoreStringPackage, Package as _,
};
use rhai::{Engine, Module, Token};

use crate::api::{self, Library};
use crate::error::token;
use crate::guard;
use crate::hook::Lane;
use crate::limits::{Limits, MAX_EXPRESSION_DEPTH, MAX_FUNCTIONS, MAX_MODULES};

/// The packages of the interpreter that scripts get. Not among them: the language core (`sleep`, `exit`, its own
/// JSON parser and reflection), times and debugging.
fn packages() -> &'static [Arc<Module>] {
    static PACKAGES: OnceLock<Vec<Arc<Module>>> = OnceLock::new();
    PACKAGES.get_or_init(|| {
        vec![
            ArithmeticPackage::new().as_shared_module(),
            LogicPackage::new().as_shared_module(),
            BitFieldPackage::new().as_shared_module(),
            BasicMathPackage::new().as_shared_module(),
            BasicStringPackage::new().as_shared_module(),
            MoreStringPackage::new().as_shared_module(),
            BasicIteratorPackage::new().as_shared_module(),
            BasicFnPackage::new().as_shared_module(),
            BasicArrayPackage::new().as_shared_module(),
            BasicBlobPackage::new().as_shared_module(),
            BasicMapPackage::new().as_shared_module(),
        ]
    })
}

fn library(lane: Lane) -> &'static Library {
    static FAST: OnceLock<Library> = OnceLock::new();
    static WORK: OnceLock<Library> = OnceLock::new();
    match lane {
        Lane::Fast => FAST.get_or_init(|| api::library(lane)),
        Lane::Work => WORK.get_or_init(|| api::library(lane)),
    }
}

/// An interpreter for one plugin and lane. What it is made of is shared between all of them.
#[expect(
    deprecated,
    reason = "the interpreter is pinned; it marks so what may change with its version"
)]
pub(crate) fn engine(lane: Lane, limits: &Limits) -> Engine {
    let mut engine = Engine::new_raw();
    for package in packages() {
        engine.register_global_module(Arc::clone(package));
    }
    let library = library(lane);
    // Later ones win, so that ours stand for what they replace.
    engine.register_global_module(Arc::clone(&library.global));
    for (name, module) in &library.spaces {
        engine.register_static_module(name, Arc::clone(module));
    }
    engine
        .set_max_operations(limits.operations)
        .set_max_string_size(limits.text_bytes)
        .set_max_array_size(limits.array)
        .set_max_map_size(limits.map)
        // The hook itself is no call of the interpreter's.
        .set_max_call_levels(limits.depth.saturating_sub(1))
        .set_max_variables(limits.variables)
        .set_max_functions(MAX_FUNCTIONS)
        .set_max_modules(MAX_MODULES)
        .set_max_expr_depths(MAX_EXPRESSION_DEPTH.0, MAX_EXPRESSION_DEPTH.1)
        // A shared table of texts behind a lock would be one that calls wait for.
        .set_max_strings_interned(0)
        .set_fail_on_invalid_map_property(false)
        .disable_symbol("eval")
        .disable_symbol("curry")
        .disable_symbol("Fn")
        // A function of the interpreter's that is not there; so the name is free for log::debug.
        .on_parse_token(|token, _, _| match token {
            Token::Reserved(name) if *name == "debug" => Token::Identifier(name),
            other => other,
        })
        .on_progress(|_| guard::operation().map(token));
    engine
}

/// A function that scripts may call: its namespace (empty for none), name and number of parameters.
pub(crate) type Known = BTreeSet<(String, String, usize)>;

/// All functions of a lane.
pub(crate) fn known(lane: Lane) -> &'static Known {
    static FAST: OnceLock<Known> = OnceLock::new();
    static WORK: OnceLock<Known> = OnceLock::new();
    let cell = match lane {
        Lane::Fast => &FAST,
        Lane::Work => &WORK,
    };
    cell.get_or_init(|| {
        let engine = engine(lane, &Limits::of(lane));
        engine
            .collect_fn_metadata(
                None,
                |info| {
                    let name = info.metadata.name.to_string();
                    Some((info.namespace.to_string(), name, info.metadata.num_params))
                },
                true,
            )
            .into_iter()
            .collect()
    })
}

/// The namespaces of a lane.
pub(crate) fn spaces(lane: Lane) -> impl Iterator<Item = &'static str> {
    library(lane).spaces.iter().map(|(name, _)| *name)
}
