//! Unit tests of plugins: `tests/*.rhai`, functions `test_*()`, each with a fresh memory, a frozen clock, seeded
//! randomness and no network.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rhai::{
    Array, CallFnOptions, Dynamic, Engine, EvalAltResult, FnPtr, Map, Module, NativeCallContext,
    Scope,
};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::api::add;
use crate::api::answer::{Answer, Read};
use crate::api::json::{from_json, to_json};
use crate::bundle::{Bundle, SNAPSHOTS};
use crate::call::{Entered, Host, LogLine, scene};
use crate::catalog::{Deed, Verb};
use crate::engine;
use crate::error::{Failure, Finding, refusal, stopped};
use crate::event::Emitted;
use crate::facts::{
    Blob, Context, Endpoint, Event, Image, Principal, Push, Request, Response, Tick, Upload,
};
use crate::guard::Guard;
use crate::hook::{Hook, Lane};
use crate::http::HttpReply;
use crate::kv::Store;
use crate::limits::Limits;
use crate::manifest::Manifest;
use crate::metric::Metrics;
use crate::plugin::{Extra, Lasting, Plugin, Surroundings, build, on_own_thread};
use crate::runner;
use crate::verdict::{
    AuthorizeVerdict, CompleteVerdict, DeleteVerdict, DownloadVerdict, EventVerdict, HeaderChanges,
    ImageVerdict, ProviderVerdict, PushVerdict, RouteVerdict, TransformVerdict, UploadVerdict,
    WebhookVerdict,
};

/// How long one test may take.
const TEST_TIME: Duration = Duration::from_secs(5);
/// How long all tests of a plugin may take.
const ALL_TESTS_TIME: Duration = Duration::from_mins(1);
/// The time of every test until it sets another: 2020-01-01.
const CLOCK_MS: i64 = 1_577_836_800_000;
/// Requests to outside that one test may answer.
const MAX_MOCKS: usize = 100;

/// What stands around one test in place of the world.
#[derive(Debug)]
pub(crate) struct Scene {
    plugin: Arc<Plugin>,
    pub(crate) host: Arc<Host>,
    clock: AtomicI64,
    seed: AtomicU64,
    mocks: Mutex<Vec<Mock>>,
    calls: Mutex<Vec<Value>>,
    logs: Mutex<Vec<LogLine>>,
    emitted: Mutex<Vec<Value>>,
    boxes: Mutex<Vec<(Verb, String, Value)>>,
    deeds: Mutex<Vec<Value>>,
    presigned: Mutex<Option<String>>,
    settings: Mutex<BTreeMap<String, Value>>,
    operations: AtomicU64,
    snapshots: Snapshots,
}

#[derive(Debug)]
struct Mock {
    method: String,
    url: String,
    reply: HttpReply,
}

fn locked<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Scene {
    fn new(plugin: &Arc<Plugin>, snapshots: Snapshots) -> Self {
        let own = &plugin.host;
        let host = Host {
            manifest: own.manifest.clone(),
            main: own.main.clone(),
            secrets: own.secrets.clone(),
            inbound_secrets: BTreeMap::new(),
            env: own.env.clone(),
            settings: own.settings.clone(),
            kv: Arc::new(Store::new()),
            metrics: Arc::new(Metrics::default()),
            http: None,
            http_reach: own.http_reach.clone(),
            outbox: None,
            catalog: None,
            links: None,
        };
        Self {
            plugin: Arc::clone(plugin),
            host: Arc::new(host),
            clock: AtomicI64::new(CLOCK_MS),
            seed: AtomicU64::new(1),
            mocks: Mutex::default(),
            calls: Mutex::default(),
            logs: Mutex::default(),
            emitted: Mutex::default(),
            boxes: Mutex::default(),
            deeds: Mutex::default(),
            presigned: Mutex::default(),
            settings: Mutex::default(),
            operations: AtomicU64::new(0),
            snapshots,
        }
    }

    pub(crate) fn now_ms(&self) -> i64 {
        self.clock.load(Ordering::Relaxed)
    }

    /// The next number of a sequence that is the same in every run (`SplitMix64`).
    pub(crate) fn random(&self) -> u64 {
        let mut z = self
            .seed
            .fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::Relaxed);
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// What the test set.
    pub(crate) fn setting(&self, name: &str) -> Option<Value> {
        locked(&self.settings).get(name).cloned()
    }

    /// A URL that tells of which blob it is, and for how long.
    #[expect(
        clippy::unused_self,
        reason = "what stands for the world is asked of the scene"
    )]
    pub(crate) fn signed_url(&self, blob: &Blob, life: Duration) -> String {
        let (blake3, life) = (&blob.blake3, life.as_secs());
        format!("https://boxgate.test/blobs/b3/{blake3}?token=test.{life}")
    }

    /// What the test said of the store's own URLs.
    pub(crate) fn presigned_url(&self) -> Option<String> {
        locked(&self.presigned).clone()
    }

    /// Keeps an event for the test to look at.
    pub(crate) fn emit(&self, event: &Emitted) {
        locked(&self.emitted).push(json!({
            "name": event.name,
            "data": event.data,
            "depth": event.depth,
        }));
    }

    /// What the test said of a box; what changes one is kept for the test to look at, and comes to `true` unless it
    /// said otherwise.
    pub(crate) fn perform(&self, deed: &Deed) -> Result<Value, String> {
        let place = format!("{}/{}", deed.organization, deed.name);
        let place = place.trim_end_matches('/');
        if !deed.verb.reads() {
            locked(&self.deeds).push(json!({
                "verb": deed.verb.name(), "box": place, "below": deed.below.join("/"), "value": deed.value,
                "depth": deed.depth,
            }));
        }
        let boxes = locked(&self.boxes);
        let mut said = boxes.iter().rev();
        let said = said.find(|(verb, known, _)| *verb == deed.verb && known == place);
        match said {
            Some((_, _, value)) => Ok(value.clone()),
            None if !deed.verb.reads() => Ok(json!(true)),
            None => {
                let verb = deed.verb.name();
                Err(format!(
                    "the test knows no {verb} of {place}; add: t::boxes({verb:?}, {place:?}, [..])"
                ))
            }
        }
    }

    /// Answers a request by what the test said; one that it did not speak of fails.
    pub(crate) fn answer(
        &self,
        method: &str,
        url: &str,
        headers: &BTreeMap<String, String>,
        body: &[u8],
    ) -> Result<HttpReply, String> {
        locked(&self.calls).push(json!({
            "method": method,
            "url": url,
            "headers": headers,
            "body": String::from_utf8_lossy(body),
        }));
        let mocks = locked(&self.mocks);
        let found = mocks
            .iter()
            .rev()
            .find(|mock| mock.method.eq_ignore_ascii_case(method) && text_glob(&mock.url, url));
        found
            .map(|mock| mock.reply.clone())
            .ok_or_else(|| format!("the test answers no {method} {url}; add: t::http({method:?}, {url:?}, #{{ status: 200 }})"))
    }
}

/// `*` stands for anything, slashes included: for URLs, where a path's segments matter less.
fn text_glob(pattern: &str, text: &str) -> bool {
    fast_glob::glob_match(pattern.replace('/', "\u{1}"), text.replace('/', "\u{1}"))
}

/// One test that ran.
#[derive(Debug, Clone, Serialize)]
pub struct Tested {
    /// The file.
    pub file: String,
    /// The function.
    pub name: String,
    /// What failed.
    pub failure: Option<Finding>,
    /// How long it took.
    pub elapsed: Duration,
    /// Operations of the hook that it called last.
    pub operations: u64,
}

/// Runs the tests of a plugin, those whose name holds `filter`.
///
/// # Errors
/// When the plugin or a test file does not load.
pub fn run(
    bundle: &Bundle,
    around: &Surroundings,
    filter: Option<&str>,
) -> Result<Vec<Tested>, Vec<Finding>> {
    ran(bundle, around, filter, false).map(|(tests, _)| tests)
}

/// The same, and takes what `t::snapshot` sees as right: the text of [`SNAPSHOTS`] as it is to be, `None` where there are none.
///
/// # Errors
/// As [`run`].
pub fn update(
    bundle: &Bundle,
    around: &Surroundings,
    filter: Option<&str>,
) -> Result<(Vec<Tested>, Option<String>), Vec<Finding>> {
    let (tests, kept) = ran(bundle, around, filter, true)?;
    let text = serde_json::to_string_pretty(&kept);
    let text = text.map_err(|e| vec![Finding::of_file(SNAPSHOTS, e.to_string())])?;
    Ok((tests, (!kept.is_empty()).then(|| text + "\n")))
}

fn ran(
    bundle: &Bundle,
    around: &Surroundings,
    filter: Option<&str>,
    update: bool,
) -> Result<(Vec<Tested>, Kept), Vec<Finding>> {
    // A plugin's tests hold for its defaults, whatever an operator set, and see nothing that is secret.
    let around = Surroundings {
        settings: BTreeMap::new(),
        secrets: made_up(bundle),
        unreadable_secrets: BTreeMap::new(),
        env: BTreeMap::new(),
        ..around.clone()
    };
    let bundle = bundle.clone();
    let filter = filter.map(str::to_owned);
    let main = bundle.main.clone();
    on_own_thread(&main, ALL_TESTS_TIME, move || {
        all(&bundle, &around, filter.as_deref(), update)
    })
}

/// A value for each secret that a plugin names.
fn made_up(bundle: &Bundle) -> BTreeMap<String, String> {
    let manifest = Manifest::parse(&bundle.manifest, &bundle.name).unwrap_or_default();
    let value = |name: String| {
        let value = format!("test-{name}");
        (name, value)
    };
    manifest.all_secrets().into_iter().map(value).collect()
}

fn all(
    bundle: &Bundle,
    around: &Surroundings,
    filter: Option<&str>,
    update: bool,
) -> Result<(Vec<Tested>, Kept), Vec<Finding>> {
    let known = known(bundle)?;
    let extras: Vec<Extra<'_>> = bundle
        .tests()
        .map(|(file, text)| Extra { file, text })
        .collect();
    if extras.is_empty() {
        return Ok((Vec::new(), known));
    }
    let built = build(bundle.clone(), around, &Lasting::default(), &extras)?;
    let plugin = Arc::new(built.plugin);
    let mut kept = known.clone();
    let known = Arc::new(known);
    let mut done = Vec::new();
    for (extra, (ast, imports)) in extras.iter().zip(&built.extras) {
        let mut engine = engine::engine(Lane::Work, &Limits::of(Lane::Work));
        engine.register_static_module("t", module());
        for (alias, file) in imports {
            if let Some(module) = built.modules.get(file) {
                engine.register_static_module(alias, Arc::clone(module));
            }
        }
        let mut names: Vec<String> = ast
            .iter_functions()
            .filter(|f| f.name.starts_with("test_") && f.params.is_empty())
            .map(|f| f.name.to_owned())
            .collect();
        names.sort();
        for name in names {
            if filter.is_none_or(|filter| name.contains(filter)) {
                let own = format!("{} {name} ", extra.file);
                let snapshots = Snapshots::new(own.clone(), Arc::clone(&known), update);
                let scene = Arc::new(Scene::new(&plugin, snapshots));
                let tested = one(&engine, ast, extra, &name, &scene);
                if tested.failure.is_none() {
                    kept.retain(|key, _| !key.starts_with(&own));
                    kept.append(&mut locked(&scene.snapshots.taken));
                }
                done.push(tested);
            }
        }
    }
    Ok((done, kept))
}

fn one(
    engine: &Engine,
    ast: &rhai::AST,
    extra: &Extra<'_>,
    name: &str,
    scene: &Arc<Scene>,
) -> Tested {
    let plugin = &scene.plugin;
    let host = Arc::clone(&scene.host);
    let entered = Entered::new(&host, Some(Arc::clone(scene)), true);
    let guard = Guard::begin(&Limits::of(Lane::Work), TEST_TIME, plugin.live);
    let mut scope = Scope::new();
    // Constants of the file are made anew for each test.
    let options = CallFnOptions::new().eval_ast(false);
    let constants = engine.run_ast_with_scope(&mut scope, &ast.clone_statements_only());
    let result = constants
        .and_then(|()| engine.call_fn_with_options::<Dynamic>(options, &mut scope, ast, name, ()));
    let usage = guard.usage();
    let result = match guard.stopped() {
        Some(stop) => result.and_then(|_| Err(stopped(stop))),
        None => result,
    };
    drop(guard);
    drop(entered);
    let failure = result.err().map(|error| {
        let text = |file: &str| {
            let own = (file == extra.file).then(|| extra.text.to_owned());
            own.or_else(|| plugin.bundle.files.get(file).cloned())
        };
        let mut finding = Failure::of(&error, extra.file, text).finding;
        finding.message = format!("{name}: {}", finding.message);
        finding
    });
    Tested {
        file: extra.file.to_owned(),
        name: name.to_owned(),
        failure,
        elapsed: usage.elapsed,
        operations: scene.operations.load(Ordering::Relaxed),
    }
}

type Refused = Box<EvalAltResult>;

fn here() -> Result<Arc<Scene>, Refused> {
    scene().ok_or_else(|| refusal("t:: is for unit tests"))
}

/// Facts of a map with the names that scripts know.
fn fact<T: DeserializeOwned>(what: &str, map: Map) -> Result<Arc<T>, Refused> {
    let json = to_json(&Dynamic::from_map(map)).map_err(|e| refusal(format!("t::{what}: {e}")))?;
    serde_json::from_value(json)
        .map(Arc::new)
        .map_err(|e| refusal(format!("t::{what}: {e}")))
}

/// An answer as a map that tests compare: `kind`, `status`, `reason`, `url`, `body`, `headers`.
pub(crate) fn shown(value: Dynamic) -> Dynamic {
    let Some(answer) = value.read_lock::<Answer>().map(|a| a.clone()) else {
        return value;
    };
    let denial = |kind: &str, denial: &crate::verdict::Denial| json!({"kind": kind, "status": denial.status, "reason": denial.reason});
    from_json(&match &answer {
        Answer::Allow => json!({"kind": "allow"}),
        Answer::Deny(given) => denial("deny", given),
        Answer::Reject(given) => denial("reject", given),
        Answer::Fail(given) => denial("fail", given),
        Answer::Quarantine(why) => json!({"kind": "quarantine", "reason": why}),
        Answer::Redirect(given) => {
            json!({"kind": "redirect", "status": given.status, "url": given.url})
        }
        Answer::Respond(reply) => json!({
            "kind": "respond",
            "status": reply.status,
            "body": String::from_utf8_lossy(&reply.body),
            "headers": reply.headers,
        }),
        Answer::Drop => json!({"kind": "drop"}),
        Answer::Deliver(directed) => {
            json!({"kind": "deliver", "endpoint": directed.endpoint, "data": directed.data})
        }
    })
}

/// A provider's failure as its caller would have it: with a status, and a document.
fn failed(value: &Dynamic) -> Option<Dynamic> {
    let answer = value.read_lock::<Answer>()?;
    let Answer::Fail(given) = &*answer else {
        return None;
    };
    let body = json!({ "errors": [given.reason] }).to_string();
    let headers = vec![("content-type".into(), "application/json".into())];
    let reply = HttpReply::new(given.status, headers, body.into_bytes());
    Some(Dynamic::from(Arc::new(reply)))
}

/// Checks a hook's answer as the gateway does.
///
/// # Errors
/// What is wrong with it.
pub(crate) fn check_answer(hook: Hook, value: &Dynamic) -> Result<(), String> {
    match hook {
        Hook::Route => RouteVerdict::read(value).map(drop),
        Hook::Authorize => AuthorizeVerdict::read(value).map(drop),
        Hook::OnUploadStart => UploadVerdict::read(value).map(drop),
        Hook::OnUploadComplete => CompleteVerdict::read(value).map(drop),
        Hook::OnDownload => DownloadVerdict::read(value).map(drop),
        Hook::OnDelete => DeleteVerdict::read(value).map(drop),
        Hook::OnResponse => HeaderChanges::read(value).map(drop),
        Hook::OnEvent => EventVerdict::read(value).map(drop),
        Hook::Transform => TransformVerdict::read(value).map(drop),
        Hook::OnSchedule | Hook::OnImageDeployed => <()>::read(value),
        Hook::OnImageDeploy => ImageVerdict::read(value).map(drop),
        Hook::OnImagePush => PushVerdict::read(value).map(drop),
        Hook::WebhookIn => WebhookVerdict::read(value).map(drop),
        hook if hook.row().of_provider => ProviderVerdict::read(value).map(drop),
        _ => Ok(()),
    }
}

fn call_hook(name: &str, arguments: Vec<Dynamic>) -> Result<Dynamic, Refused> {
    let scene = here()?;
    let plugin = Arc::clone(&scene.plugin);
    let hook = Hook::by_name(name).filter(|hook| plugin.hooks().contains(hook));
    let hook = hook.ok_or_else(|| refusal(format!("the plugin defines no hook {name}")))?;
    let wanted = hook.row().parameters.len();
    if arguments.len() != wanted {
        return Err(refusal(format!(
            "{} takes {wanted} facts, {} are given",
            hook.row().signature(),
            arguments.len()
        )));
    }
    let manifest = plugin.manifest();
    if hook == Hook::WebhookIn {
        named_hook(manifest, &arguments)?;
    }
    let terms = (manifest.lane(hook), manifest.deadline(hook));
    let called = runner::call(&plugin, name, arguments, terms, Some(&scene));
    scene
        .operations
        .store(called.usage.operations, Ordering::Relaxed);
    locked(&scene.logs).extend(called.log);
    let value = called
        .answer
        .map_err(|failure| refusal(failure.to_string()))?;
    check_answer(hook, &value).map_err(refusal)?;
    Ok(failed(&value).unwrap_or_else(|| shown(value)))
}

/// A webhook comes in by a hook that the manifest names, in tests too.
fn named_hook(manifest: &Manifest, arguments: &[Dynamic]) -> Result<(), Refused> {
    let request = arguments.first();
    let request = request.and_then(Dynamic::read_lock::<Arc<Request>>);
    let request = request.ok_or_else(|| refusal("webhook_in takes t::req(#{ hook: .. })"))?;
    if manifest.webhook_in.contains_key(request.hook.as_str()) {
        return Ok(());
    }
    let known: Vec<&str> = manifest.webhook_in.keys().map(String::as_str).collect();
    Err(refusal(format!(
        "plugin.toml has no [webhook_in.{}]; t::req(#{{ hook: .. }}) is one of {}",
        request.hook,
        known.join(", ")
    )))
}

fn mock(method: &str, url: &str, answer: &Map) -> Result<(), Refused> {
    let scene = here()?;
    let mut reply = HttpReply::new(200, Vec::new(), Vec::new());
    for (name, value) in answer {
        match name.as_str() {
            "status" => {
                let status = value.as_int().ok().and_then(|s| u16::try_from(s).ok());
                reply.status =
                    status.ok_or_else(|| refusal("t::http: `status` must be a number"))?;
            }
            "headers" => {
                let headers = value.read_lock::<Map>();
                let headers = headers.ok_or_else(|| refusal("t::http: `headers` must be a map"))?;
                reply.headers = headers
                    .iter()
                    .map(|(name, value)| (name.to_lowercase(), value.to_string()))
                    .collect();
            }
            "body" => reply.body = value.to_string().into_bytes(),
            "json" => {
                let json = to_json(value).map_err(|e| refusal(format!("t::http: {e}")))?;
                reply.body = json.to_string().into_bytes();
            }
            other => {
                return Err(refusal(format!(
                    "t::http: unknown `{other}`; it takes status, headers, body, json"
                )));
            }
        }
    }
    let mut mocks = locked(&scene.mocks);
    if mocks.len() >= MAX_MOCKS {
        return Err(refusal(format!("t::http: at most {MAX_MOCKS} answers")));
    }
    mocks.push(Mock {
        method: method.to_owned(),
        url: url.to_owned(),
        reply,
    });
    Ok(())
}

fn set(name: &str, value: &Dynamic) -> Result<(), Refused> {
    let scene = here()?;
    let value = to_json(value).map_err(|e| refusal(format!("t::setting: {e}")))?;
    let default = scene.host.settings.get(name);
    let default = default
        .ok_or_else(|| refusal(format!("t::setting: plugin.toml has no [settings] {name}")))?;
    if std::mem::discriminant(default) != std::mem::discriminant(&value) {
        return Err(refusal(format!(
            "t::setting: {name} is of another type than its default {default}"
        )));
    }
    locked(&scene.settings).insert(name.to_owned(), value);
    Ok(())
}

fn text(value: &Dynamic) -> String {
    match to_json(value) {
        Ok(json) => json.to_string(),
        Err(_) => format!("{value:?}"),
    }
}

/// What unit tests have beside what plugins have.
pub(crate) fn module() -> Arc<Module> {
    let mut module = Module::new();
    let m = &mut module;
    add(m, "req", ("A request of a map.", ""), |map: Map| {
        fact::<Request>("req", map)
    });
    add(m, "principal", ("A principal of a map.", ""), |map: Map| {
        fact::<Principal>("principal", map)
    });
    add(m, "upload", ("An upload of a map.", ""), |map: Map| {
        fact::<Upload>("upload", map)
    });
    add(m, "blob", ("A blob of a map.", ""), |map: Map| {
        fact::<Blob>("blob", map)
    });
    add(
        m,
        "response",
        ("An answer's head of a map.", ""),
        |map: Map| fact::<Response>("response", map),
    );
    add(m, "event", ("An event of a map.", ""), |map: Map| {
        fact::<Event>("event", map)
    });
    add(m, "endpoint", ("An endpoint of a map.", ""), |map: Map| {
        fact::<Endpoint>("endpoint", map)
    });
    add(m, "tick", ("A tick of a map.", ""), |map: Map| {
        fact::<Tick>("tick", map)
    });
    add(
        m,
        "image",
        ("A runtime's image of a map.", ""),
        |map: Map| fact::<Image>("image", map),
    );
    add(
        m,
        "push",
        ("A push of an image, of a map.", ""),
        |map: Map| fact::<Push>("push", map),
    );
    add(
        m,
        "ctx",
        ("Whom a provider acts for: credentials by their keys.", ""),
        |map: Map| fact::<Context>("ctx", map),
    );
    calls(m);
    doubles(m);
    assertions(m);
    module.set_id("t");
    module.build_index();
    module.into()
}

/// Calls of hooks, with as many facts as the hook takes.
fn calls(m: &mut Module) {
    let hook = "Calls a hook within its limits and checks its answer.";
    add(m, "hook", (hook, ""), |name: &str, a: Dynamic| {
        call_hook(name, vec![a])
    });
    add(
        m,
        "hook",
        (hook, ""),
        |name: &str, a: Dynamic, b: Dynamic| call_hook(name, vec![a, b]),
    );
    add(m, "hook", (hook, ""), |name: &str| {
        call_hook(name, Vec::new())
    });
    add(
        m,
        "hook",
        (hook, ""),
        |name: &str, a: Dynamic, b: Dynamic, c: Dynamic| call_hook(name, vec![a, b, c]),
    );
}

/// What stands for the world.
fn doubles(m: &mut Module) {
    add(
        m,
        "http",
        ("Answers requests to URLs that fit a glob.", ""),
        |method: &str, url: &str, answer: Map| mock(method, url, &answer),
    );
    add(
        m,
        "calls",
        ("The requests that were sent.", ""),
        || -> Result<Array, Refused> { Ok(locked(&here()?.calls).iter().map(from_json).collect()) },
    );
    add(
        m,
        "logs",
        ("The texts that were logged.", ""),
        || -> Result<Array, Refused> {
            let scene = here()?;
            let logs = locked(&scene.logs);
            Ok(logs
                .iter()
                .map(|line| line.message.as_str().into())
                .collect())
        },
    );
    add(
        m,
        "setting",
        ("Sets a setting, of the type of its default.", ""),
        |name: &str, value: Dynamic| set(name, &value),
    );
    add(
        m,
        "emitted",
        ("The events that were emitted: name, data, depth.", ""),
        || -> Result<Array, Refused> {
            Ok(locked(&here()?.emitted).iter().map(from_json).collect())
        },
    );
    add(
        m,
        "boxes",
        (
            "What a verb of box:: comes to for a box, or `list` for an organization.",
            "",
        ),
        |verb: &str, place: &str, value: Dynamic| -> Result<(), Refused> {
            let known = Verb::by_name(verb);
            let known = known.ok_or_else(|| refusal(format!("t::boxes: {verb:?} is no verb")))?;
            let value = to_json(&value).map_err(|e| refusal(format!("t::boxes: {e}")))?;
            locked(&here()?.boxes).push((known, place.to_owned(), value));
            Ok(())
        },
    );
    add(
        m,
        "deeds",
        (
            "What was done to boxes: verb, box, below, value, depth.",
            "",
        ),
        || -> Result<Array, Refused> { Ok(locked(&here()?.deeds).iter().map(from_json).collect()) },
    );
    add(
        m,
        "presigned",
        (
            "The store's own URL of every blob, as `blob.presigned_url` gives it; without, there is none.",
            "",
        ),
        |url: &str| -> Result<(), Refused> {
            *locked(&here()?.presigned) = Some(url.to_owned());
            Ok(())
        },
    );
    add(
        m,
        "clock",
        ("Sets the time in milliseconds.", ""),
        |ms: i64| -> Result<(), Refused> {
            here()?.clock.store(ms, Ordering::Relaxed);
            Ok(())
        },
    );
}

/// Values of `t::snapshot` by file, test and turn.
type Kept = BTreeMap<String, Value>;

/// What `t::snapshot` of one test is compared with.
#[derive(Debug)]
struct Snapshots {
    own: String,
    known: Arc<Kept>,
    update: bool,
    taken: Mutex<Kept>,
}

impl Snapshots {
    fn new(own: String, known: Arc<Kept>, update: bool) -> Self {
        Self {
            own,
            known,
            update,
            taken: Mutex::default(),
        }
    }

    fn take(&self, value: Value) -> Result<(), String> {
        let mut taken = locked(&self.taken);
        let key = format!("{}{}", self.own, taken.len() + 1);
        let known = self.known.get(&key);
        let wrong = match known {
            _ if self.update => None,
            Some(known) if *known == value => None,
            Some(known) => Some(format!("this is {value}, and its snapshot {known}")),
            None => Some(format!("this is {value}, and has no snapshot yet")),
        };
        taken.insert(key, value);
        match wrong {
            Some(wrong) => Err(format!(
                "{wrong}; if it is right: boxgate script test --update"
            )),
            None => Ok(()),
        }
    }
}

/// What was kept.
fn known(bundle: &Bundle) -> Result<Kept, Vec<Finding>> {
    let Some(text) = bundle.files.get(SNAPSHOTS) else {
        return Ok(Kept::new());
    };
    serde_json::from_str(text).map_err(|e| vec![Finding::of_file(SNAPSHOTS, e.to_string())])
}

/// What a test claims.
fn assertions(m: &mut Module) {
    add(
        m,
        "eq",
        ("Fails unless both are equal.", ""),
        |a: Dynamic, b: Dynamic| -> Result<(), Refused> {
            let (a, b) = (text(&a), text(&b));
            if a == b {
                Ok(())
            } else {
                Err(refusal(format!("this is {a}, and should be {b}")))
            }
        },
    );
    add(
        m,
        "ok",
        ("Fails unless it is true.", ""),
        |value: bool| -> Result<(), Refused> {
            if value {
                Ok(())
            } else {
                Err(refusal("this should be true"))
            }
        },
    );
    add(
        m,
        "ok",
        ("Fails with a text unless it is true.", ""),
        |value: bool, why: &str| -> Result<(), Refused> {
            if value { Ok(()) } else { Err(refusal(why)) }
        },
    );
    add(
        m,
        "throws",
        (
            "Fails unless a closure fails with a text that holds this one.",
            "",
        ),
        |context: NativeCallContext, f: FnPtr, wanted: &str| -> Result<(), Refused> {
            match f.call_within_context::<Dynamic>(&context, ()) {
                Ok(_) => Err(refusal(format!(
                    "nothing was thrown, and {wanted:?} should be"
                ))),
                Err(error) => {
                    let told = Failure::of(&error, "", |_| None).to_string();
                    if told.contains(wanted) {
                        Ok(())
                    } else {
                        Err(refusal(format!(
                            "{told:?} was thrown, and {wanted:?} should be"
                        )))
                    }
                }
            }
        },
    );
    add(
        m,
        "snapshot",
        (
            "Fails unless it is what it was when `boxgate script test --update` took it.",
            "",
        ),
        |value: Dynamic| -> Result<(), Refused> {
            let value = to_json(&value).map_err(|e| refusal(format!("t::snapshot: {e}")))?;
            here()?.snapshots.take(value).map_err(refusal)
        },
    );
    add(
        m,
        "ops_below",
        ("Fails unless the last hook took fewer operations.", ""),
        |n: i64| -> Result<(), Refused> {
            let took = here()?.operations.load(Ordering::Relaxed);
            if i64::try_from(took).is_ok_and(|took| took < n) {
                Ok(())
            } else {
                Err(refusal(format!(
                    "the last hook took {took} operations, and should take fewer than {n}"
                )))
            }
        },
    );
}
