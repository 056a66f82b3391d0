//! `boxgate script`: what a person does with plugins. Exit codes: 0 good, 1 findings, 2 called wrongly.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use boxgate_scripting::archive::Archive;
use boxgate_scripting::bundle::{Bundle, SNAPSHOTS, is_plugin, meant, plugins_in, valid_name};
use boxgate_scripting::error::Finding;
use boxgate_scripting::hook::{Hook, Lane};
use boxgate_scripting::http::{HttpClient, HttpFault, HttpReply, HttpRequest};
use boxgate_scripting::manifest::{Grant, Manifest};
use boxgate_scripting::plugin::{Plugin, Surroundings};
use boxgate_scripting::set::{DISABLED_FILE, disabled};
use boxgate_scripting::tool::{self, Skeleton};
use boxgate_scripting::unit::{self, Tested};
use boxgate_scripting::{Options, docs};
use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::connect::ConnectArgs;
use super::{ConfigArgs, Failure, load, runtime, say};
use crate::hooks::{self, Outside};
use crate::outbound::Outbound;
use crate::provider::shape;
use crate::shipped::{SHIPPED, unpack};

#[derive(Debug, Subcommand)]
pub(super) enum ScriptCommand {
    /// Load plugins without serving them, and say everything that is wrong.
    #[command(after_help = "Examples:
  boxgate script check                     those of the configuration
  boxgate script check plugins/acme --json

Exit codes: 0 all is well, 1 findings, 2 called wrongly.")]
    Check(CheckArgs),
    /// Run the unit tests of plugins.
    #[command(after_help = "Examples:
  boxgate script test plugins/acme
  boxgate script test -k bad_token --format junit > report.xml
  boxgate script test plugins/acme --update")]
    Test(TestArgs),
    /// Call one hook of a plugin by hand, within its limits.
    #[command(after_help = "Examples:
  boxgate script run plugins/acme route --args request.json
  boxgate script run plugins/acme route --args request.json --repeat 10000

The file is an object with a member for each parameter: {\"req\": {\"method\": \"GET\", \"path\": \"/acme\"}}.")]
    Run(RunArgs),
    /// Write the reference of what scripts may use, made from the engine itself.
    Docs(DocsArgs),
    /// Begin a plugin: a manifest, a hook and a test that passes.
    New(NewArgs),
    /// List plugins, with what they ask for.
    List(ListArgs),
    /// Switch a plugin on; one that comes with boxgate is written to the first of scripts.dirs.
    Enable(NamedArgs),
    /// Switch a plugin off; its files stay.
    Disable(NamedArgs),
    /// Go back to a version of a plugin that worked, in a running gateway.
    #[command(after_help = "Examples:
  boxgate script rollback acme --url http://127.0.0.1:3000 --token TOKEN
  boxgate script rollback acme --to 1f0c...

It stays in force, over restarts too, until another version stands in the plugin's directory.")]
    Rollback(RollbackArgs),
}

#[derive(Debug, Args)]
pub(super) struct CheckArgs {
    #[command(flatten)]
    config: ConfigArgs,
    /// A plugin, or a directory of plugins; without it those of scripts.dirs.
    dir: Option<PathBuf>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
pub(super) struct TestArgs {
    #[command(flatten)]
    config: ConfigArgs,
    /// A plugin, or a directory of plugins; without it those of scripts.dirs.
    dir: Option<PathBuf>,
    /// Only tests whose name holds this.
    #[arg(short = 'k', value_name = "NAME")]
    name: Option<String>,
    /// How to print.
    #[arg(long, value_enum, default_value = "human")]
    format: Format,
    /// Take what the snapshots of tests see as right, and keep it in tests/snapshots.json.
    #[arg(long)]
    update: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Format {
    /// A line a test.
    Human,
    /// `JUnit` XML.
    Junit,
    /// JSON.
    Json,
}

#[derive(Debug, Args)]
pub(super) struct RunArgs {
    #[command(flatten)]
    config: ConfigArgs,
    /// The plugin's directory or file.
    plugin: PathBuf,
    /// The hook.
    hook: String,
    /// A JSON file with the facts.
    #[arg(long, value_name = "FILE")]
    args: Option<PathBuf>,
    /// Send its requests to outside, within its grants, instead of refusing them.
    #[arg(long)]
    live: bool,
    /// Call it so many times and print percentiles.
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    repeat: u32,
}

#[derive(Debug, Args)]
pub(super) struct DocsArgs {
    /// A directory for reference.md, reference.json and definitions for editors; without it the reference is printed.
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

#[derive(Debug, Args)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "one of them at most is given"
)]
pub(super) struct NewArgs {
    /// The directory to make; its last part is the plugin's name.
    path: PathBuf,
    /// Begin with an upload policy instead of routing.
    #[arg(long, conflicts_with = "route")]
    upload: bool,
    /// Begin with a webhook that comes in instead of routing.
    #[arg(long, conflicts_with_all = ["route", "upload"])]
    webhook: bool,
    /// Begin with an adapter to a cloud, for Nanobox, instead of routing.
    #[arg(long, conflicts_with_all = ["route", "upload", "webhook"])]
    provider: bool,
    /// Begin with routing, as without a flag.
    #[arg(long)]
    route: bool,
}

#[derive(Debug, Args)]
pub(super) struct ListArgs {
    #[command(flatten)]
    config: ConfigArgs,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
pub(super) struct NamedArgs {
    #[command(flatten)]
    config: ConfigArgs,
    /// The plugin.
    name: String,
}

#[derive(Debug, Args)]
pub(super) struct RollbackArgs {
    #[command(flatten)]
    connect: ConnectArgs,
    /// The plugin.
    name: String,
    /// The version's hash, or how it begins; without it the version before.
    #[arg(long, value_name = "HASH")]
    to: Option<String>,
}

pub(super) fn script(command: &ScriptCommand) -> Result<(), Failure> {
    match command {
        ScriptCommand::Check(args) => check(args),
        ScriptCommand::Test(args) => test(args),
        ScriptCommand::Run(args) => run(args),
        ScriptCommand::Docs(args) => write_docs(args),
        ScriptCommand::New(args) => new(args),
        ScriptCommand::List(args) => list(args),
        ScriptCommand::Enable(args) => switch(args, true),
        ScriptCommand::Disable(args) => switch(args, false),
        ScriptCommand::Rollback(args) => rollback(args),
    }
}

fn options(config: &ConfigArgs) -> Result<Options, Failure> {
    Ok(hooks::options(&load(config)?))
}

/// The plugins that are meant: one, those of a directory, or those of the configuration.
fn chosen(dir: Option<&Path>, options: &Options) -> Result<Vec<PathBuf>, Failure> {
    let dirs = match dir.map(meant) {
        Some(path) if path.is_file() || is_plugin(&path) => {
            return Ok(vec![path]);
        }
        Some(path) if path.is_dir() => vec![path],
        Some(path) => return Err(Failure::Usage(format!("{} is no plugin", path.display()))),
        None => options.dirs.clone(),
    };
    let mut found = Vec::new();
    for dir in dirs {
        let failed = |e: std::io::Error| Failure::CannotLook(format!("{}: {e}", dir.display()));
        found.extend(plugins_in(&dir).map_err(failed)?);
    }
    Ok(found)
}

fn name_of(path: &Path) -> String {
    let name = path.file_stem().and_then(|s| s.to_str());
    name.unwrap_or_default().to_owned()
}

/// What a plugin is given here: all that it asks for, as what it may is the operator's to say and not a mistake of
/// its own.
fn surroundings(options: &Options, name: &str) -> Surroundings {
    Surroundings {
        grant_all: true,
        ..options.surroundings(name)
    }
}

fn missing(options: &Options, plugin: &Plugin) -> Option<String> {
    let manifest = plugin.manifest();
    let granted = options.grants.get(&manifest.name).cloned();
    let missing = manifest.missing(&granted.unwrap_or_default());
    let wanted = !missing.is_empty() && !options.trust_local;
    let lines = missing.join("\n");
    wanted.then(|| format!("[scripts.grants.{}]\n{lines}", manifest.name))
}

/// Says which lines are to be added, as they are written there.
fn say_grant(grant: Option<&String>) {
    if let Some(grant) = grant {
        let lines = grant.replace('\n', "\n  ");
        say(&format!("  to be granted in boxgate.toml:\n  {lines}"));
    }
}

/// Sizes of an adapter's catalogue that are too small; none where the catalogue cannot be had without its cloud.
fn small_sizes(plugin: &Arc<Plugin>) -> Vec<String> {
    if plugin.manifest().provider.is_none() {
        return Vec::new();
    }
    let ran = tool::run(plugin, Hook::Catalog.name(), &json!({}));
    let answer = ran.ok().and_then(|ran| ran.answer.ok());
    let catalog = answer.and_then(|answer| shape::catalog(&answer).ok());
    catalog
        .map(|catalog| shape::too_small(&catalog))
        .unwrap_or_default()
}

fn check(args: &CheckArgs) -> Result<(), Failure> {
    let options = options(&args.config)?;
    let mut failed = false;
    for path in chosen(args.dir.as_deref(), &options)? {
        let name = name_of(&path);
        let around = |name: &str| Surroundings {
            stores: options.stores.clone(),
            ..surroundings(&options, name)
        };
        let checked = tool::check(&path, around).map(Arc::new);
        let (findings, grant, hooks) = match &checked {
            Ok(plugin) => {
                let hooks: Vec<&str> = plugin.hooks().iter().map(|h| h.name()).collect();
                (plugin.warnings(), missing(&options, plugin), hooks)
            }
            Err(findings) => (findings.as_slice(), None, Vec::new()),
        };
        let small = checked.as_ref().map(small_sizes).unwrap_or_default();
        // What stands where the gateway looks is not loaded without its grants.
        failed |= checked.is_err() || (args.dir.is_none() && grant.is_some());
        if args.json {
            say(&json!({ "plugin": name, "ok": checked.is_ok(), "findings": findings, "hooks": hooks, "grant": grant, "small_sizes": small }).to_string());
            continue;
        }
        for finding in findings {
            say(&format!("{name}/{finding}"));
        }
        if let Ok(plugin) = &checked {
            say(&format!(
                "{name} {} is good: {}",
                plugin.hash(),
                hooks.join(", ")
            ));
        }
        if !small.is_empty() {
            let small = small.join(", ");
            say(&format!(
                "  warning: no server can be set up in less than 128 MB of memory: {small}"
            ));
        }
        say_grant(grant.as_ref());
    }
    if failed { Err(Failure::Found) } else { Ok(()) }
}

fn test(args: &TestArgs) -> Result<(), Failure> {
    let options = options(&args.config)?;
    let mut all: Vec<Suite> = Vec::new();
    for path in chosen(args.dir.as_deref(), &options)? {
        let name = name_of(&path);
        let around = surroundings(&options, &name);
        let filter = args.name.as_deref();
        let read = Bundle::read(&path).map_err(|finding| vec![finding]);
        let done = if args.update {
            match read.and_then(|bundle| unit::update(&bundle, &around, filter)) {
                Ok((tests, snapshots)) => {
                    keep(&path, snapshots.as_deref())?;
                    Ok(tests)
                }
                Err(findings) => Err(findings),
            }
        } else {
            read.and_then(|bundle| unit::run(&bundle, &around, filter))
        };
        all.push((name, done));
    }
    let failures = all.iter().any(|(_, done)| match done {
        Ok(tests) => tests.iter().any(|t| t.failure.is_some()),
        Err(_) => true,
    });
    match args.format {
        Format::Human => human(&all),
        Format::Json => say(&as_json(&all).to_string()),
        Format::Junit => say(&junit(&all)),
    }
    if failures {
        return Err(Failure::Found);
    }
    let any = all
        .iter()
        .any(|(_, done)| done.as_ref().is_ok_and(|tests| !tests.is_empty()));
    match &args.name {
        Some(name) if !any => Err(Failure::Failed(format!("no test's name holds {name:?}"))),
        _ => Ok(()),
    }
}

/// Writes a plugin's snapshots, or takes the file away where there are none.
fn keep(plugin: &Path, snapshots: Option<&str>) -> Result<(), Failure> {
    let file = plugin.join(SNAPSHOTS);
    let done = match snapshots {
        Some(text) => std::fs::write(&file, text),
        None if file.exists() => std::fs::remove_file(&file),
        None => Ok(()),
    };
    done.map_err(|e| Failure::Failed(format!("{}: {e}", file.display())))
}

/// A plugin and what became of its tests.
type Suite = (String, Result<Vec<Tested>, Vec<Finding>>);
type Suites = [Suite];

fn human(all: &Suites) {
    let (mut passed, mut failed) = (0, 0);
    for (plugin, done) in all {
        match done {
            Ok(tests) => {
                for test in tests {
                    let label = format!("{plugin}/{} {}", test.file, test.name);
                    match &test.failure {
                        None => {
                            passed += 1;
                            say(&format!(
                                "ok   {label}, {} operations, {:?}",
                                test.operations, test.elapsed
                            ));
                        }
                        Some(finding) => {
                            failed += 1;
                            say(&format!("FAIL {label}\n{plugin}/{finding}"));
                        }
                    }
                }
            }
            Err(findings) => {
                failed += 1;
                for finding in findings {
                    say(&format!("FAIL {plugin}/{finding}"));
                }
            }
        }
    }
    say(&format!("{passed} passed, {failed} failed"));
}

fn as_json(all: &Suites) -> Value {
    let suites = all.iter().map(|(plugin, done)| match done {
        Ok(tests) => json!({ "plugin": plugin, "tests": tests }),
        Err(findings) => json!({ "plugin": plugin, "findings": findings }),
    });
    Value::Array(suites.collect())
}

fn junit(all: &Suites) -> String {
    let escaped = |text: &str| {
        let text = text
            .replace('&', "&amp;")
            .replace('<', "&lt;")
            .replace('"', "&quot;");
        text.chars()
            .filter(|c| !c.is_control() || *c == '\n')
            .collect::<String>()
    };
    let mut xml = String::from("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<testsuites>\n");
    for (plugin, done) in all {
        let mut cases = Vec::new();
        match done {
            Ok(tests) => {
                for test in tests {
                    let body = test.failure.as_ref().map_or(String::new(), |finding| {
                        format!("<failure message=\"{}\"/>", escaped(&finding.to_string()))
                    });
                    cases.push(format!(
                        "<testcase classname=\"{}\" name=\"{}\" time=\"{:.6}\">{body}</testcase>",
                        escaped(&test.file),
                        escaped(&test.name),
                        test.elapsed.as_secs_f64()
                    ));
                }
            }
            Err(findings) => {
                for finding in findings {
                    let text = escaped(&finding.to_string());
                    cases.push(format!(
                        "<testcase classname=\"{}\" name=\"load\"><error message=\"{text}\"/></testcase>",
                        escaped(&finding.file)
                    ));
                }
            }
        }
        let name = escaped(plugin);
        let suite = format!(
            "<testsuite name=\"{name}\" tests=\"{}\">\n{}\n</testsuite>\n",
            cases.len(),
            cases.join("\n")
        );
        xml.push_str(&suite);
    }
    xml.push_str("</testsuites>");
    xml
}

/// Refuses requests to outside.
#[derive(Debug, Default)]
struct Offline {
    was_asked: AtomicBool,
}

impl HttpClient for Offline {
    fn send(&self, _request: HttpRequest) -> Result<HttpReply, HttpFault> {
        self.was_asked.store(true, Ordering::Relaxed);
        Err(HttpFault {
            code: "http.unavailable",
            message: "nothing is sent without --live".to_owned(),
        })
    }

    fn baggage(&self) -> Option<Arc<str>> {
        None
    }
}

fn run(args: &RunArgs) -> Result<(), Failure> {
    let settings = load(&args.config)?;
    let mut options = hooks::options(&settings);
    // Its threads do the sending, for as long as this function runs.
    let runtime = runtime()?;
    let offline = Arc::new(Offline::default());
    options.http = Some(if args.live {
        let outbound = Outbound::new(&settings.outbound);
        Arc::new(Outside::new(&outbound, &settings, runtime.handle().clone()))
    } else {
        Arc::clone(&offline) as _
    });
    let facts = match &args.args {
        None => json!({}),
        Some(path) => {
            let failed =
                |e: &dyn std::fmt::Display| Failure::Usage(format!("{}: {e}", path.display()));
            let text = std::fs::read_to_string(path).map_err(|e| failed(&e))?;
            serde_json::from_str(&text).map_err(|e| failed(&e))?
        }
    };
    let loaded = tool::check(&meant(&args.plugin), |name| surroundings(&options, name));
    let plugin = loaded.map(Arc::new).map_err(|findings| {
        let texts: Vec<String> = findings.iter().map(ToString::to_string).collect();
        Failure::Failed(texts.join("\n"))
    })?;
    let mut times = Vec::new();
    for turn in 0..args.repeat {
        let ran = tool::run(&plugin, &args.hook, &facts).map_err(Failure::Usage)?;
        times.push(ran.elapsed);
        if turn + 1 < args.repeat {
            continue;
        }
        for line in &ran.log {
            say(&format!("{:?}: {}", line.level, line.message));
        }
        say(&format!(
            "{} operations, {:?}, {} bytes of memory at most",
            ran.operations, ran.elapsed, ran.peak_bytes
        ));
        if offline.was_asked.load(Ordering::Relaxed) {
            say(
                "It wanted to send a request, which was refused; with --live it is sent, within its grants.",
            );
        }
        match ran.answer {
            Ok(answer) => say(&answer.to_string()),
            Err(finding) => return Err(Failure::Failed(finding.to_string())),
        }
    }
    if args.repeat > 1 {
        times.sort();
        let at = |percent: usize| times[(times.len() - 1) * percent / 100];
        let [half, most, nearly_all]: [Duration; 3] = [at(50), at(90), at(99)];
        say(&format!(
            "50% {half:?}, 90% {most:?}, 99% {nearly_all:?}, all {:?}",
            at(100)
        ));
    }
    Ok(())
}

fn write_docs(args: &DocsArgs) -> Result<(), Failure> {
    let Some(out) = &args.out else {
        say(docs::markdown().trim_end());
        return Ok(());
    };
    let write = |path: PathBuf, text: &str| -> Result<(), Failure> {
        let made = path.parent().map_or(Ok(()), std::fs::create_dir_all);
        made.and_then(|()| std::fs::write(&path, text))
            .map_err(|e| Failure::Failed(format!("{}: {e}", path.display())))
    };
    write(out.join("reference.md"), &docs::markdown())?;
    write(
        out.join("reference.json"),
        &format!("{:#}\n", docs::metadata()),
    )?;
    for lane in [Lane::Fast, Lane::Work] {
        for (name, text) in docs::definitions(lane) {
            write(out.join(lane.name()).join(name), &text)?;
        }
    }
    say(&format!("The reference is in {}.", out.display()));
    Ok(())
}

fn new(args: &NewArgs) -> Result<(), Failure> {
    let name = name_of(&args.path);
    if !valid_name(&name) || args.path.extension().is_some() {
        return Err(Failure::Usage(format!(
            "{name:?}: a plugin's name has 1 to 64 of a-z, 0-9, - and _, and begins with a letter"
        )));
    }
    if args.path.exists() {
        return Err(Failure::Failed(format!(
            "{} exists already",
            args.path.display()
        )));
    }
    let kind = if args.upload {
        Skeleton::Upload
    } else if args.webhook {
        Skeleton::Webhook
    } else if args.provider {
        Skeleton::Provider
    } else {
        Skeleton::Route
    };
    for (file, text) in tool::skeleton(&name, kind) {
        let path = args.path.join(file);
        let made = path.parent().map_or(Ok(()), std::fs::create_dir_all);
        made.and_then(|()| std::fs::write(&path, text))
            .map_err(|e| Failure::Failed(format!("{}: {e}", path.display())))?;
    }
    say(&format!(
        "{name} is begun; boxgate script test {} runs its tests.",
        args.path.display()
    ));
    Ok(())
}

fn list(args: &ListArgs) -> Result<(), Failure> {
    let options = options(&args.config)?;
    let archive = Archive::new(&options.last_good);
    let mut there = Vec::new();
    let all = chosen(None, &options)?;
    for (name, dir) in gone(&options, &all) {
        let runs = archive.history(&name).in_force().cloned();
        let runs = runs.unwrap_or_default();
        if args.json {
            say(&json!({ "plugin": name, "path": dir.join(&name), "state": "gone", "runs": runs, "hooks": [], "grant": null }).to_string());
        } else {
            say(&format!(
                "{name}  gone from {}\n  in force is {runs}, the last that worked; boxgate script disable {name} takes it away",
                dir.display()
            ));
        }
        there.push(name);
    }
    for path in all {
        let name = name_of(&path);
        let on = !path
            .parent()
            .is_some_and(|dir| disabled(dir).contains(&name));
        let mut loaded = tool::check(&path, |name| surroundings(&options, name));
        let state = match (&loaded, on) {
            (_, false) => "off",
            (Ok(_), true) => "on",
            (Err(_), true) => "broken",
        };
        // What a gateway runs is not always what stands there.
        let other = tool::in_force(&archive, &path, loaded.is_ok()).filter(|_| on);
        let runs = other.as_ref().map(Bundle::hash);
        if let Some(bundle) = other {
            loaded = tool::check_kept(bundle, surroundings(&options, &name));
        }
        let hooks: Vec<&str> = loaded
            .iter()
            .flat_map(Plugin::hooks)
            .map(|h| h.name())
            .collect();
        let grant = loaded
            .as_ref()
            .ok()
            .and_then(|plugin| missing(&options, plugin));
        if args.json {
            say(&json!({ "plugin": name, "path": path, "state": state, "runs": runs, "hooks": hooks, "grant": grant }).to_string());
        } else {
            say(&format!("{name}  {state}  {}", hooks.join(", ")));
            if let Some(hash) = runs {
                let why = match state {
                    "broken" => "the last that worked, as what stands there does not",
                    _ => "which was gone back to, and not what stands there",
                };
                say(&format!("  in force is {hash}, {why}"));
            }
            say_grant(grant.as_ref());
        }
        there.push(name);
    }
    for (name, files) in SHIPPED {
        if there.iter().any(|known| known == name) {
            continue;
        }
        let grant = asked(name, files);
        if args.json {
            say(&json!({ "plugin": name, "path": null, "state": "shipped", "hooks": [], "grant": grant }).to_string());
        } else {
            say(&format!("{name}  off, comes with boxgate"));
            if let Some(grant) = grant {
                say(&format!("  asks for: {grant}"));
            }
        }
    }
    Ok(())
}

/// Plugins that are not there any more and stay in force, as nobody took them away by themselves, and where they stood.
fn gone(options: &Options, there: &[PathBuf]) -> BTreeMap<String, PathBuf> {
    let mut gone = BTreeMap::new();
    for (dir, names) in Archive::new(&options.last_good).places() {
        if !options.dirs.contains(&dir) {
            continue;
        }
        let off = disabled(&dir);
        for name in names.difference(&off) {
            if !there.iter().any(|path| name_of(path) == *name) {
                gone.insert(name.clone(), dir.clone());
            }
        }
    }
    gone
}

/// What a plugin that comes with boxgate asks for.
fn asked(name: &str, files: &[(&str, &str)]) -> Option<String> {
    let (_, text) = files.iter().find(|(path, _)| *path == "plugin.toml")?;
    let asked = Manifest::parse(text, name).ok()?.missing(&Grant::default());
    (!asked.is_empty()).then(|| asked.join(", "))
}

/// Writes a plugin that comes with boxgate to where plugins are read from; false when none of that name does.
fn unpacked(name: &str, options: &Options) -> Result<bool, Failure> {
    let Some(dir) = options.dirs.first() else {
        return Ok(false);
    };
    let made = std::fs::create_dir_all(dir).and_then(|()| unpack(name, dir));
    let made = made.map_err(|e| Failure::Failed(format!("{}: {e}", dir.display())))?;
    let Some(path) = made else {
        return Ok(false);
    };
    say(&format!("{name} is written to {} and on.", path.display()));
    if let Ok(plugin) = tool::check(&path, |name| surroundings(options, name)) {
        say_grant(missing(options, &plugin).as_ref());
    }
    Ok(true)
}

fn rollback(args: &RollbackArgs) -> Result<(), Failure> {
    runtime()?.block_on(async {
        let client = args.connect.client()?;
        let done = client
            .roll_back_script(&args.name, args.to.as_deref())
            .await?;
        say(&format!("{} is back at {}.", done.plugin, done.hash));
        Ok(())
    })
}

/// A running gateway sees the change as it sees any other in that directory.
fn switch(args: &NamedArgs, on: bool) -> Result<(), Failure> {
    let options = options(&args.config)?;
    let all = chosen(None, &options)?;
    let path = all.iter().find(|path| name_of(path) == args.name);
    if on && path.is_none() && unpacked(&args.name, &options)? {
        return Ok(());
    }
    let gone = gone(&options, &all);
    let kept = Archive::new(&options.last_good).history(&args.name);
    let dir = match path {
        Some(path) => path.parent(),
        // One that was pushed stands in no directory; what is off in one is off.
        None if !gone.contains_key(&args.name) && kept.in_force().is_some() => {
            options.dirs.first().map(PathBuf::as_path)
        }
        None => gone.get(&args.name).map(PathBuf::as_path),
    };
    let dir = dir.ok_or_else(|| {
        let names = all.iter().map(|path| name_of(path));
        let names: Vec<String> = names.chain(gone.keys().cloned()).collect();
        Failure::Failed(format!(
            "there is no plugin {}; there is: {}",
            args.name,
            names.join(", ")
        ))
    })?;
    let mut off = disabled(dir);
    if on {
        off.remove(&args.name);
    } else {
        off.insert(args.name.clone());
    }
    let names: Vec<&str> = off.iter().map(String::as_str).collect();
    let text = names.join(
        "
",
    );
    let file = dir.join(DISABLED_FILE);
    let made = std::fs::create_dir_all(dir);
    let written = made.and_then(|()| std::fs::write(&file, text));
    written.map_err(|e| Failure::Failed(format!("{}: {e}", file.display())))?;
    say(&format!(
        "{} is {}.",
        args.name,
        if on { "on" } else { "off" }
    ));
    Ok(())
}
