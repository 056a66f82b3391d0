//! What scripts may call. Every function has a line of text and an example; the reference is made of them, and a
//! test runs each example.

use std::sync::Arc;

use rhai::{
    Dynamic, FnNamespace, FuncRegistration, Module, NativeCallContext, Position, RhaiFunc,
    RhaiNativeFunc, Shared, Variant,
};

use crate::error::stopped;
use crate::guard;
use crate::hook::Lane;
use crate::panics::Calling;

pub(crate) mod answer;
mod cache;
mod catalog;
mod codec;
pub(crate) use codec::pattern;
mod event;
mod inbound;
pub(crate) mod json;
mod links;
pub(crate) mod list;
mod net;
pub(crate) use net::network;
mod outside;
mod replaced;
pub(crate) use replaced::REMOVED;
mod state;
pub(crate) mod types;

/// The functions of a lane: those without a namespace, and the namespaces.
pub(crate) struct Library {
    pub(crate) global: Arc<Module>,
    pub(crate) spaces: Vec<(&'static str, Arc<Module>)>,
}

/// Functions of a lane.
pub(crate) fn library(lane: Lane) -> Library {
    let mut global = Module::new();
    replaced::register(&mut global);
    types::register(&mut global);
    inbound::register(&mut global);
    answer::register(&mut global);
    codec::register_global(&mut global);
    net::register_global(&mut global);
    outside::register_global(&mut global);
    list::register(&mut global);
    links::register(&mut global);
    let mut spaces = vec![
        ("json", json::module()),
        ("b64", codec::base64(false)),
        ("b64url", codec::base64(true)),
        ("hex", codec::hex()),
        ("url", codec::url()),
        ("hash", codec::hash()),
        ("hmac", codec::hmac()),
        ("re", codec::re()),
        ("glob", codec::glob()),
        ("net", net::module()),
        ("time", codec::time()),
        ("log", state::log()),
        ("env", state::env()),
        ("secret", state::secret()),
        ("config", state::config()),
        ("kv", state::kv(lane)),
        ("metric", state::metric()),
    ];
    if lane == Lane::Work {
        spaces.push(("http", outside::http()));
        spaces.push(("event", event::module()));
        spaces.push(("box", catalog::module()));
        spaces.push(("cache", cache::module()));
    }
    global.build_index();
    Library {
        global: global.into(),
        spaces: spaces
            .into_iter()
            .map(|(name, mut module)| {
                module.set_id(name);
                module.build_index();
                (name, Arc::new(module))
            })
            .collect(),
    }
}

/// Adds a function with its line and its example, which must be true.
pub(crate) fn add<A, const N: usize, const X: bool, R, const F: bool, FUNC>(
    module: &mut Module,
    name: &str,
    (doc, example): (&str, &str),
    function: FUNC,
) where
    A: 'static,
    R: Variant + Clone,
    FUNC: RhaiNativeFunc<A, N, X, R, F> + Send + Sync + 'static,
{
    let mut comments = vec![format!("/// {doc}")];
    if !example.is_empty() {
        comments.extend(["///".to_owned(), "/// ```".to_owned()]);
        comments.extend(example.lines().map(|line| format!("/// {line}")));
        comments.push("/// ```".to_owned());
    }
    FuncRegistration::new(name)
        .with_namespace(FnNamespace::Internal)
        .with_params_info(signature::<A, N, X, R, F, FUNC>())
        .with_comments(comments)
        .set_into_module_raw(
            module,
            FUNC::param_types(),
            placed(function.into_rhai_function(true, false)),
        );
}

/// Adds a property of a type.
pub(crate) fn field<A, const N: usize, const X: bool, R, const F: bool, FUNC>(
    module: &mut Module,
    name: &str,
    doc: &str,
    function: FUNC,
) where
    A: 'static,
    R: Variant + Clone,
    FUNC: RhaiNativeFunc<A, N, X, R, F> + Send + Sync + 'static,
{
    FuncRegistration::new_getter(name)
        .with_namespace(FnNamespace::Global)
        .with_params_info(signature::<A, N, X, R, F, FUNC>())
        .with_comments([format!("/// {doc}")])
        .set_into_module_raw(
            module,
            FUNC::param_types(),
            placed(function.into_rhai_function(true, false)),
        );
}

/// The types of the parameters, and last that of the answer, as scripts know them.
fn signature<A, const N: usize, const X: bool, R, const F: bool, FUNC>() -> Vec<String>
where
    A: 'static,
    R: Variant + Clone,
    FUNC: RhaiNativeFunc<A, N, X, R, F>,
{
    let mut types: Vec<String> = FUNC::param_names()
        .iter()
        .map(|name| format!("_: {}", script_type(name)))
        .collect();
    types.push(script_type(FUNC::return_type_name()).to_owned());
    types
}

/// What scripts call a type of Rust.
fn script_type(name: &str) -> &str {
    const KNOWN: &[(&str, &str)] = &[
        ("Vec<u8>", "blob"),
        ("Vec<", "array"),
        ("BTreeMap<", "map"),
        ("ImmutableString", "text"),
        ("String", "text"),
        ("&str", "text"),
        ("i64", "int"),
        ("f64", "float"),
        ("bool", "bool"),
        ("char", "char"),
        ("Dynamic", "any"),
        ("::Table", "Table"),
        ("::Answer", "Answer"),
        ("::Secret", "Secret"),
        ("::Request", "Request"),
        ("::Principal", "Principal"),
        ("::Upload", "Upload"),
        ("::Blob", "Blob"),
        ("::Response", "Response"),
        ("::Event", "Event"),
        ("::Endpoint", "Endpoint"),
        ("::Tick", "Tick"),
        ("::Image", "Image"),
        ("::Push", "Push"),
        ("::Context", "Context"),
        ("::HttpReply", "HttpReply"),
        ("::List", "List"),
        ("::Bytes", "Bytes"),
        ("FnPtr", "function"),
        ("()", "()"),
    ];
    // The error of a Result says nothing to a script.
    let name = name.split(", alloc::boxed::Box<").next().unwrap_or(name);
    KNOWN
        .iter()
        .find(|(rust, _)| name.contains(rust))
        .map_or(name, |(_, script)| script)
}

/// The same function, whose errors say where it was called: the interpreter leaves that out of functions with a
/// namespace.
fn placed(function: RhaiFunc) -> RhaiFunc {
    type Inner =
        Shared<dyn Fn(Option<NativeCallContext>, &mut [&mut Dynamic]) -> Answer + Send + Sync>;
    type Answer = Result<Dynamic, Box<rhai::EvalAltResult>>;
    let wrap = |inner: Inner| -> Inner {
        Shared::new(
            move |context: Option<NativeCallContext>, arguments: &mut [&mut Dynamic]| {
                let at = context
                    .as_ref()
                    .map_or(Position::NONE, NativeCallContext::call_position);
                // The call of a host function counts as a level.
                let in_hook = context.as_ref().is_some_and(|c| c.call_level() <= 1);
                let calling = Calling {
                    at: in_hook.then_some(at),
                };
                let done = inner(context, arguments);
                drop(calling);
                // It may have taken long, of whatever it makes no operations.
                let done = match guard::look_at_the_clock() {
                    Some(stop) => Err(stopped(stop)),
                    None => done,
                };
                done.map_err(|mut error| {
                    if error.position().is_none() {
                        error.set_position(at);
                    }
                    error
                })
            },
        )
    };
    match function {
        RhaiFunc::Pure {
            func,
            is_pure,
            is_volatile,
            ..
        } => RhaiFunc::Pure {
            func: wrap(func),
            has_context: true,
            is_pure,
            is_volatile,
        },
        RhaiFunc::Method {
            func,
            is_pure,
            is_volatile,
            ..
        } => RhaiFunc::Method {
            func: wrap(func),
            has_context: true,
            is_pure,
            is_volatile,
        },
        other => other,
    }
}
