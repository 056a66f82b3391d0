//! From sources to a plugin that can be called: compile, walk, run the top level once, freeze.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::mpsc;

use rhai::{AST, Dynamic, Engine, EvalAltResult, Module, Position, Scope, Stmt};
use serde_json::Value;

use crate::api::json::to_json;
use crate::body::Body;
use crate::bundle::Bundle;
use crate::call::{Entered, Host};
use crate::catalog::Catalog;
use crate::engine::{self, known};
use crate::error::{Failure, Finding, stopped};
use crate::event::Outbox;
use crate::guard::{Guard, LiveBytes};
use crate::hook::{HOOKS, Hook, Lane, Row};
use crate::http::{HttpClient, Reach};
use crate::kv::Store;
use crate::limits::{COMPILE_TIME, Limits, STACK_BYTES};
use crate::links::Links;
use crate::literal::Named;
use crate::manifest::{Grant, Manifest};
use crate::metric::Metrics;
use crate::panics;
use crate::provider::{self, Meta};
use crate::runner;
use crate::walk::{Source, Walk};

/// What outlives a reload of a plugin.
#[derive(Debug, Clone, Default)]
pub struct Lasting {
    pub(crate) kv: Arc<Store>,
    pub(crate) metrics: Arc<Metrics>,
}

impl Lasting {
    /// With what was remembered in a file, and is to be.
    pub(crate) fn in_file(path: &std::path::Path) -> Self {
        Self {
            kv: Arc::new(Store::open(path)),
            ..Self::default()
        }
    }
}

/// What a plugin is given at load.
#[derive(Debug, Clone)]
pub struct Surroundings {
    /// What the operator grants it.
    pub grant: Grant,
    /// Grants all that it asks for.
    pub grant_all: bool,
    /// What the operator set.
    pub settings: BTreeMap<String, Value>,
    /// Values of its secrets.
    pub secrets: BTreeMap<String, String>,
    /// Secrets that cannot be read, and why.
    pub unreadable_secrets: BTreeMap<String, String>,
    /// Values of its environment variables.
    pub env: BTreeMap<String, String>,
    /// The client that leaves the machine.
    pub http: Option<Arc<dyn HttpClient>>,
    /// Where its events go.
    pub outbox: Option<Arc<dyn Outbox>>,
    /// The boxes that it may do something to.
    pub catalog: Option<Arc<dyn Catalog>>,
    /// Addresses of blobs for whoever has no credential.
    pub links: Option<Arc<dyn Links>>,
    /// Bytes that the thread holds.
    pub live: LiveBytes,
    /// The hooks that the server calls: one that it does not is refused, lest a plugin promises what nobody keeps.
    pub calls: Vec<Hook>,
    /// The stores that answers may name, where one that is none is a mistake of the plugin's; `None` is any.
    pub stores: Option<BTreeSet<String>>,
    /// The version of boxgate.
    pub boxgate: String,
}

impl Default for Surroundings {
    fn default() -> Self {
        Self {
            grant: Grant::default(),
            grant_all: false,
            settings: BTreeMap::new(),
            secrets: BTreeMap::new(),
            unreadable_secrets: BTreeMap::new(),
            env: BTreeMap::new(),
            http: None,
            outbox: None,
            catalog: None,
            links: None,
            live: || 0,
            calls: HOOKS
                .iter()
                .filter(|row| row.called)
                .map(|row| row.hook)
                .collect(),
            stores: None,
            boxgate: env!("CARGO_PKG_VERSION").into(),
        }
    }
}

/// A plugin that can be called. Immutable: a reload makes another.
pub struct Plugin {
    pub(crate) host: Arc<Host>,
    pub(crate) hash: String,
    pub(crate) bundle: Arc<Bundle>,
    pub(crate) bodies: BTreeMap<&'static str, Body>,
    pub(crate) fast: Engine,
    pub(crate) work: Engine,
    pub(crate) limits: [Limits; 2],
    pub(crate) hooks: Vec<Hook>,
    /// What it says of itself as a provider.
    pub(crate) provider: Option<Arc<Meta>>,
    pub(crate) warnings: Vec<Finding>,
    pub(crate) live: LiveBytes,
}

impl std::fmt::Debug for Plugin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Plugin")
            .field("name", &self.host.manifest.name)
            .field("hash", &self.hash)
            .field("hooks", &self.hooks)
            .finish_non_exhaustive()
    }
}

impl Plugin {
    /// Its manifest.
    pub fn manifest(&self) -> &Manifest {
        &self.host.manifest
    }

    /// What identifies its sources.
    pub fn hash(&self) -> &str {
        &self.hash
    }

    /// The hooks that it defines.
    pub fn hooks(&self) -> &[Hook] {
        &self.hooks
    }

    /// What is odd about it, though it works.
    pub fn warnings(&self) -> &[Finding] {
        &self.warnings
    }

    pub(crate) fn engine(&self, lane: Lane) -> (&Engine, &Limits) {
        match lane {
            Lane::Fast => (&self.fast, &self.limits[0]),
            Lane::Work => (&self.work, &self.limits[1]),
        }
    }
}

/// Compiles and loads a plugin on a thread of its own, so that neither depth nor time of it matters here.
///
/// # Errors
/// Everything that is wrong with it.
pub fn load(
    bundle: Bundle,
    around: Surroundings,
    lasting: Lasting,
) -> Result<Plugin, Vec<Finding>> {
    let main = bundle.main.clone();
    // Compiling is bounded by COMPILE_TIME, running the top level by the work lane's limits.
    let most = COMPILE_TIME + Limits::of(Lane::Work).cpu * crate::limits::MAX_RAISE;
    on_own_thread(&main, most, move || {
        build(bundle, &around, &lasting, &[]).map(|built| built.plugin)
    })
}

/// Runs `work` on a thread with a large stack; one that takes too long is left to its end.
pub(crate) fn on_own_thread<T: Send + 'static>(
    file: &str,
    most: std::time::Duration,
    work: impl FnOnce() -> Result<T, Vec<Finding>> + Send + 'static,
) -> Result<T, Vec<Finding>> {
    let (sender, receiver) = mpsc::sync_channel(1);
    let failed = |text: String| vec![Finding::of_file(file, text)];
    std::thread::Builder::new()
        .name("script-load".into())
        .stack_size(STACK_BYTES)
        .spawn(move || {
            let done = panics::catch(work);
            // Nobody listens once the time was up.
            drop(sender.send(done));
        })
        .map_err(|e| failed(format!("no thread to compile on: {e}")))?;
    match receiver.recv_timeout(most) {
        Ok(Ok(done)) => done,
        Ok(Err(panicked)) => Err(failed(panicked.text("loading it"))),
        Err(_) => Err(failed(format!("loading it took longer than {most:?}"))),
    }
}

/// A file that unit tests add to a plugin.
pub(crate) struct Extra<'a> {
    pub(crate) file: &'a str,
    pub(crate) text: &'a str,
}

/// A plugin, and what its tests need of it.
pub(crate) struct Built {
    pub(crate) plugin: Plugin,
    /// The trees of the further files, with their imports.
    pub(crate) extras: Vec<(AST, BTreeMap<String, String>)>,
    pub(crate) modules: BTreeMap<String, Arc<Module>>,
}

/// Loads a plugin, and compiles further files as if they stood in it.
pub(crate) fn build(
    bundle: Bundle,
    around: &Surroundings,
    lasting: &Lasting,
    extras: &[Extra<'_>],
) -> Result<Built, Vec<Finding>> {
    let manifest = read_manifest(&bundle, around)?;
    let grant = granted(&manifest, around)?;
    let limits = [Lane::Fast, Lane::Work].map(|lane| manifest.limits(lane, &grant));
    let host = Arc::new(host(manifest, &bundle, around, lasting)?);

    let mut work = engine::engine(Lane::Work, &limits[1]);
    let mut done = Vec::new();
    let mut under_way = Vec::new();
    compile_file(&work, &bundle, &bundle.main, &mut done, &mut under_way)?;
    let mut extra_trees = Vec::new();
    for extra in extras {
        let ast = parse(&work, extra.file, extra.text)?;
        let imports = imports_of(&ast, extra.file, extra.text, &bundle)?;
        for file in imports.values() {
            compile_file(&work, &bundle, file, &mut done, &mut Vec::new())?;
        }
        extra_trees.push((ast, imports));
    }
    let compiled = main_first(done, &bundle.main);
    let mut sources = sources(&compiled, &bundle);
    for (extra, (ast, imports)) in extras.iter().zip(&extra_trees) {
        sources.push(Source {
            file: extra.file,
            text: extra.text,
            ast,
            imports: imports.clone(),
        });
    }
    let walk = Walk {
        fast: known(Lane::Fast),
        work: known(Lane::Work),
        sources: &sources,
        calls: &around.calls,
        provider: host.manifest.provider.is_some(),
        spaces: if extras.is_empty() { &[] } else { &["t"] },
    };
    let mut walked = walk.run();
    walked.lanes(&sources[0], |hook| host.manifest.lane(hook));
    let named = Named {
        manifest: &host.manifest,
        reach: &host.http_reach,
        stores: around.stores.as_ref(),
    };
    walked
        .findings
        .append(&mut named.findings(&sources, &walked.hooks));
    let (fatal, warnings): (Vec<_>, Vec<_>) = walked.findings.into_iter().partition(|f| f.fatal);
    if !fatal.is_empty() {
        return Err(fatal);
    }
    let (manifest, main) = (&host.manifest, bundle.main.as_str());
    let half = half_a_schedule(manifest, &walked.hooks, main)
        .or_else(|| half_a_webhook(manifest, &walked.hooks, main))
        .or_else(|| half_an_authority(manifest, &walked.hooks));
    if let Some(finding) = half {
        return Err(vec![finding]);
    }

    let mut fast = engine::engine(Lane::Fast, &limits[0]);
    let modules = link(
        &compiled,
        (&mut work, &mut fast),
        &host,
        (&limits[1], around.live),
        &bundle,
    )?;
    if walked.hooks.is_empty() {
        // Else a save that lost its text would take a gate away.
        let finding = Finding::of_file(&bundle.main, NO_HOOK);
        let hint = format!(
            "a plugin that is to do nothing is switched off: boxgate script disable {}",
            bundle.name
        );
        return Err(vec![finding.hint(hint)]);
    }
    let main = compiled
        .into_iter()
        .next()
        .map(|c| c.ast)
        .unwrap_or_default();
    let mut plugin = Plugin {
        hash: bundle.hash(),
        bundle: Arc::new(bundle),
        host,
        bodies: bodies(&walked.hooks, &main),
        fast,
        work,
        limits,
        hooks: walked.hooks,
        provider: None,
        warnings,
        live: around.live,
    };
    if plugin.manifest().provider.is_some() {
        plugin.provider = Some(Arc::new(meta_of(&plugin)?));
    }
    Ok(Built {
        plugin,
        extras: extra_trees,
        modules,
    })
}

/// What each hook does.
fn bodies(hooks: &[Hook], main: &AST) -> BTreeMap<&'static str, Body> {
    let rows = hooks.iter().map(|hook| hook.row());
    let body = |row: &'static Row| {
        let mut functions = main.iter_fn_def();
        let fits = |f: &&std::sync::Arc<rhai::ScriptFuncDef>| {
            f.name == row.name && f.params.len() == row.parameters.len()
        };
        let function = functions.find(fits)?;
        Some((row.name, Body::of(function, main)))
    };
    rows.filter_map(body).collect()
}

/// What is wrong with a plugin of which it is known that it has nothing to say.
pub(crate) const NO_HOOK: &str = "defines no hook";

fn read_manifest(bundle: &Bundle, around: &Surroundings) -> Result<Manifest, Vec<Finding>> {
    let manifest = Manifest::parse(&bundle.manifest, &bundle.name).map_err(|wrong| {
        let finding = |text: String| Finding::of_file("plugin.toml", text);
        wrong.into_iter().map(finding).collect::<Vec<_>>()
    })?;
    if let Some(wanted) = &manifest.requires_boxgate
        && let Ok(version) = semver::Version::parse(&around.boxgate)
        && !wanted.matches(&version)
    {
        return Err(vec![Finding::of_file(
            "plugin.toml",
            format!("requires_boxgate = \"{wanted}\", this is {version}"),
        )]);
    }
    Ok(manifest)
}

/// What a provider says of itself, once.
fn meta_of(plugin: &Plugin) -> Result<Meta, Vec<Finding>> {
    let main = plugin.host.main.as_str();
    let wrong = |wrong: Vec<String>| {
        let finding = |text| Finding::of_file(main, text);
        wrong.into_iter().map(finding).collect::<Vec<_>>()
    };
    let missing = provider::missing(&plugin.hooks);
    if !missing.is_empty() {
        return Err(wrong(missing));
    }
    let terms = (Lane::Fast, plugin.manifest().deadline(Hook::Meta));
    let called = runner::call(plugin, Hook::Meta.name(), Vec::new(), terms, None);
    let value = called.answer.map_err(|failure| vec![failure.finding])?;
    let value = to_json(&value).map_err(|why| wrong(vec![format!("meta() {why}")]))?;
    Meta::read(value, &plugin.hooks).map_err(wrong)
}

/// A schedule that calls nothing, or a function that nothing calls.
fn half_a_schedule(manifest: &Manifest, hooks: &[Hook], main: &str) -> Option<Finding> {
    match (&manifest.schedule, hooks.contains(&Hook::OnSchedule)) {
        (Some(_), false) => Some(Finding::of_file(
            "plugin.toml",
            "[schedule] calls on_schedule(tick), which the plugin does not define",
        )),
        (None, true) => {
            let finding = Finding::of_file(
                main,
                "on_schedule is called by a schedule, and there is none",
            );
            Some(finding.hint("add to plugin.toml: [schedule] cron = \"30 3 * * *\""))
        }
        _ => None,
    }
}

/// A word against the gateway's that nobody speaks.
fn half_an_authority(manifest: &Manifest, hooks: &[Hook]) -> Option<Finding> {
    let text =
        "[grants] authorize is for authorize(req, principal), which the plugin does not define";
    let is_half = manifest.overrides() && !hooks.contains(&Hook::Authorize);
    is_half.then(|| Finding::of_file("plugin.toml", text))
}

/// A hook for webhooks that calls nothing, or a function that none calls.
fn half_a_webhook(manifest: &Manifest, hooks: &[Hook], main: &str) -> Option<Finding> {
    let first = manifest.webhook_in.keys().next();
    match (first, hooks.contains(&Hook::WebhookIn)) {
        (Some(name), false) => Some(Finding::of_file(
            "plugin.toml",
            format!("[webhook_in.{name}] calls webhook_in(req), which the plugin does not define"),
        )),
        (None, true) => {
            let finding = Finding::of_file(
                main,
                "webhook_in is called for the hooks that plugin.toml names, and it names none",
            );
            let hint =
                "add to plugin.toml: [webhook_in.ci] verify = \"github\", secret = \"CI_SECRET\"";
            Some(finding.hint(hint))
        }
        _ => None,
    }
}

fn granted(manifest: &Manifest, around: &Surroundings) -> Result<Grant, Vec<Finding>> {
    if around.grant_all {
        let mut grant = around.grant.clone();
        grant.http.clone_from(&manifest.http.allow);
        return Ok(grant);
    }
    let missing = manifest.missing(&around.grant);
    if missing.is_empty() {
        return Ok(around.grant.clone());
    }
    let finding =
        Finding::of_file("plugin.toml", "asks for more than it is granted").hint(format!(
            "add to boxgate.toml:\n[scripts.grants.{}]\n{}",
            manifest.name,
            missing.join("\n")
        ));
    Err(vec![finding])
}

fn host(
    manifest: Manifest,
    bundle: &Bundle,
    around: &Surroundings,
    lasting: &Lasting,
) -> Result<Host, Vec<Finding>> {
    let wrong = |text: String| vec![Finding::of_file("plugin.toml", text)];
    let mut settings = manifest.settings.clone();
    for (name, value) in &around.settings {
        let Some(default) = settings.get(name) else {
            return Err(wrong(format!(
                "scripts.settings.{}.{name} is set, and [settings] has no {name}",
                manifest.name
            )));
        };
        if std::mem::discriminant(default) != std::mem::discriminant(value) {
            return Err(wrong(format!(
                "scripts.settings.{}.{name} is of another type than its default {default}",
                manifest.name
            )));
        }
        settings.insert(name.clone(), value.clone());
    }
    for name in manifest.all_secrets() {
        if let Some(why) = around.unreadable_secrets.get(&name) {
            return Err(wrong(format!("scripts.secrets.{name}: {why}")));
        }
    }
    let named = |names: &[String], values: &BTreeMap<String, String>| {
        let mut found = BTreeMap::new();
        for name in names {
            if let Some(value) = values.get(name) {
                found.insert(name.clone(), value.clone());
            }
        }
        found
    };
    let shared = |(name, value): (String, String)| (name, value.into());
    let secrets = named(&manifest.secrets.names, &around.secrets);
    let compared = crate::inbound::secrets(&manifest.webhook_in).cloned();
    let compared = named(&compared.collect::<Vec<_>>(), &around.secrets);
    Ok(Host {
        main: bundle.main.clone(),
        secrets: secrets.into_iter().map(shared).collect(),
        inbound_secrets: compared.into_iter().map(shared).collect(),
        env: named(&manifest.env.names, &around.env),
        http_reach: reach(&manifest, around).map_err(wrong)?,
        settings,
        kv: Arc::clone(&lasting.kv),
        metrics: Arc::clone(&lasting.metrics),
        http: around.http.clone(),
        outbox: around.outbox.clone(),
        catalog: around.catalog.clone(),
        links: around.links.clone(),
        manifest,
    })
}

/// Where requests may go: what is asked for and granted, and the origin that an operator set as `api_base`.
fn reach(manifest: &Manifest, around: &Surroundings) -> Result<Reach, String> {
    let mut all = manifest.http.allow.clone();
    if let Some(Value::String(base)) = around.settings.get("api_base") {
        let origin = url::Url::parse(base).map(|url| url.origin().ascii_serialization());
        let origin = origin.map_err(|e| format!("api_base: {base:?} is no URL: {e}"))?;
        all.push(format!("{origin}/"));
    }
    Reach::parse(&all)
}

/// One compiled file.
struct Compiled {
    file: String,
    ast: AST,
    imports: BTreeMap<String, String>,
}

fn sources<'a>(compiled: &'a [Compiled], bundle: &'a Bundle) -> Vec<Source<'a>> {
    compiled
        .iter()
        .map(|c| Source {
            file: &c.file,
            text: bundle.text(&c.file),
            ast: &c.ast,
            imports: c.imports.clone(),
        })
        .collect()
}

fn parse(engine: &Engine, file: &str, text: &str) -> Result<AST, Vec<Finding>> {
    let mut ast = engine.compile(text).map_err(|error| {
        let told = error.0.to_string();
        let mut finding = Finding::at(file, text, error.1, told);
        if finding.message.contains("Fn") && text.contains("Fn(") {
            finding = finding.hint("a function is passed by its name: list.map(f)");
        }
        vec![finding]
    })?;
    ast.set_source(file);
    Ok(ast)
}

/// The main file first, then the modules, each after those that it needs.
fn main_first(mut done: Vec<Compiled>, main: &str) -> Vec<Compiled> {
    if let Some(index) = done.iter().position(|c| c.file == main) {
        let main = done.remove(index);
        done.insert(0, main);
    }
    done
}

fn compile_file(
    engine: &Engine,
    bundle: &Bundle,
    file: &str,
    done: &mut Vec<Compiled>,
    under_way: &mut Vec<String>,
) -> Result<(), Vec<Finding>> {
    if done.iter().any(|c| c.file == file) {
        return Ok(());
    }
    if under_way.iter().any(|f| f == file) {
        under_way.push(file.to_owned());
        return Err(vec![Finding::of_file(
            file,
            format!("its imports go in a circle: {}", under_way.join(" -> ")),
        )]);
    }
    under_way.push(file.to_owned());
    let text = bundle.text(file);
    let ast = parse(engine, file, text)?;
    let imports = imports_of(&ast, file, text, bundle)?;
    for other in imports.values() {
        compile_file(engine, bundle, other, done, under_way)?;
    }
    under_way.pop();
    done.push(Compiled {
        file: file.to_owned(),
        ast,
        imports,
    });
    Ok(())
}

/// The aliases of a file's imports and the files that they lead to.
fn imports_of(
    ast: &AST,
    file: &str,
    text: &str,
    bundle: &Bundle,
) -> Result<BTreeMap<String, String>, Vec<Finding>> {
    let mut imports = BTreeMap::new();
    for statement in ast.statements() {
        let Stmt::Import(parts, at) = statement else {
            continue;
        };
        let refuse = |message: String| vec![Finding::at(file, text, *at, message)];
        let rhai::Expr::StringConstant(path, _) = &parts.0 else {
            return Err(refuse("the path of an import is a literal text".into()));
        };
        let alias = parts.1.name.to_string();
        if alias.is_empty() {
            return Err(refuse(format!(
                "write: import {:?} as name;",
                path.as_str()
            )));
        }
        let plain = path
            .split('/')
            .all(|part| !part.is_empty() && part != "." && part != "..");
        if !plain || path.contains(['\\', '\0']) {
            return Err(refuse(format!(
                "{:?} leads out of the plugin; a path is below its directory: lib/name",
                path.as_str()
            )));
        }
        let target = format!("{path}.rhai");
        if !bundle.files.contains_key(&target) || target.starts_with("tests/") {
            let known = bundle.files.keys().filter(|f| f.starts_with("lib/"));
            let near = crate::hook::nearest(&target, known.map(String::as_str));
            let near = near.map(|n| format!("; did you mean {}?", n.trim_end_matches(".rhai")));
            return Err(refuse(format!(
                "there is no {target}{}",
                near.unwrap_or_default()
            )));
        }
        if engine::spaces(Lane::Work).any(|space| space == alias) {
            return Err(refuse(format!(
                "{alias} is the name of one of boxgate's own modules"
            )));
        }
        imports.insert(alias, target);
    }
    Ok(imports)
}

/// Runs the top level of each file once, under the work lane's limits, and puts modules and constants where both
/// engines find them.
fn link(
    compiled: &[Compiled],
    (work, fast): (&mut Engine, &mut Engine),
    host: &Arc<Host>,
    (limits, live): (&Limits, LiveBytes),
    bundle: &Bundle,
) -> Result<BTreeMap<String, Arc<Module>>, Vec<Finding>> {
    let mut modules: BTreeMap<String, Arc<Module>> = BTreeMap::new();
    let mut constants: BTreeMap<String, String> = BTreeMap::new();
    let mut aliases: BTreeMap<String, String> = BTreeMap::new();
    // Modules first, as they come in the order of need.
    for file in compiled[1..].iter().chain(&compiled[..1]) {
        let imports = &file.imports;
        for (alias, target) in imports {
            // Aliases are found by name at run time, whichever file a function stands in.
            if let Some(other) = aliases.insert(alias.clone(), target.clone())
                && other != *target
            {
                return Err(vec![Finding::of_file(
                    &file.file,
                    format!(
                        "{alias} stands for {target} here and for {other} elsewhere in the plugin"
                    ),
                )]);
            }
            if let Some(module) = modules.get(target) {
                work.register_static_module(alias, Arc::clone(module));
                fast.register_static_module(alias, Arc::clone(module));
            }
        }
        work.set_module_resolver(Loaded(
            imports
                .values()
                .filter_map(|target| Some((target.clone(), Arc::clone(modules.get(target)?))))
                .collect(),
        ));
        let scope = top_level(work, file, host, (limits, live), bundle)?;
        let mut own = Module::new();
        let mut seen = BTreeSet::new();
        for (name, constant, value) in scope.iter() {
            if !constant || !seen.insert(name.to_owned()) {
                continue;
            }
            if let Some(other) = constants.insert(name.to_owned(), file.file.clone())
                && other != file.file
            {
                return Err(vec![Finding::of_file(
                    &file.file,
                    format!(
                        "const {name} stands in {other} as well; constants have one name within a plugin"
                    ),
                )]);
            }
            own.set_var(name, value.clone());
        }
        own.build_index();
        let own = Arc::new(own);
        work.register_global_module(Arc::clone(&own));
        fast.register_global_module(Arc::clone(&own));
        if file.file != bundle.main {
            let module = as_module(work, file, &own, host, (limits, live), bundle)?;
            modules.insert(file.file.clone(), module);
        }
    }
    // From here on nothing is imported.
    work.set_module_resolver(Loaded(BTreeMap::new()));
    fast.set_module_resolver(Loaded(BTreeMap::new()));
    Ok(modules)
}

/// Answers the imports of a top level with what is loaded already; nothing is ever read here.
struct Loaded(BTreeMap<String, Arc<Module>>);

impl rhai::ModuleResolver for Loaded {
    fn resolve(
        &self,
        _engine: &Engine,
        _source: Option<&str>,
        path: &str,
        at: Position,
    ) -> Result<Arc<Module>, Box<EvalAltResult>> {
        let module = self.0.get(&format!("{path}.rhai")).cloned();
        module.ok_or_else(|| EvalAltResult::ErrorModuleNotFound(path.to_owned(), at).into())
    }
}

/// Runs `work` as a call of the plugin that is being loaded.
fn loading<T>(
    host: &Arc<Host>,
    (limits, live): (&Limits, LiveBytes),
    bundle: &Bundle,
    file: &str,
    work: impl FnOnce() -> Result<T, Box<EvalAltResult>>,
) -> Result<T, Vec<Finding>> {
    let entered = Entered::new(host, None, false);
    let guard = Guard::begin(limits, limits.cpu, live);
    let done = work();
    let stop = guard.stopped();
    drop(guard);
    drop(entered);
    let done = match stop {
        Some(stop) => done.and_then(|_| Err(stopped(stop))),
        None => done,
    };
    done.map_err(|error| {
        let text = |file: &str| bundle.files.get(file).cloned();
        vec![Failure::of(&error, file, text).finding]
    })
}

fn top_level(
    engine: &Engine,
    file: &Compiled,
    host: &Arc<Host>,
    limits: (&Limits, LiveBytes),
    bundle: &Bundle,
) -> Result<Scope<'static>, Vec<Finding>> {
    let mut scope = Scope::new();
    loading(host, limits, bundle, &file.file, || {
        engine
            .eval_ast_with_scope::<Dynamic>(&mut scope, &file.ast)
            .map(drop)
    })?;
    Ok(scope)
}

/// A file's functions and constants as a module.
fn as_module(
    engine: &Engine,
    file: &Compiled,
    constants: &Module,
    host: &Arc<Host>,
    limits: (&Limits, LiveBytes),
    bundle: &Bundle,
) -> Result<Arc<Module>, Vec<Finding>> {
    let mut functions = file.ast.clone_functions_only();
    functions.set_source(file.file.as_str());
    let mut module = loading(host, limits, bundle, &file.file, || {
        Module::eval_ast_as_new(Scope::new(), &functions, engine)
    })?;
    for (name, value) in constants.iter_var() {
        module.set_var(name, value.clone());
    }
    module.set_id(file.file.as_str());
    module.build_index();
    Ok(Arc::new(module))
}
