//! What is wrong with a call or an answer as it is written out: names that the manifest does not have, addresses that are not
//! granted, statuses, keys. Each would fail whenever it is reached, so that nobody need wait for that.

use std::collections::{BTreeMap, BTreeSet};

use rhai::{ASTNode, Dynamic, Expr, FnCallExpr, Map, Position, Stmt, StmtBlock};
use url::Url;

use crate::api::answer::{Answer, redirect, sample, status_of};
use crate::api::{network, pattern};
use crate::body::statements;
use crate::catalog::{self, Verb};
use crate::error::Finding;
use crate::hook::{Hook, nearest};
use crate::http::Reach;
use crate::kv::MAX_TTL;
use crate::manifest::Manifest;
use crate::metric::Kind;
use crate::unit::check_answer;
use crate::walk::Source;

/// What a plugin may name.
pub(crate) struct Named<'a> {
    pub(crate) manifest: &'a Manifest,
    pub(crate) reach: &'a Reach,
    /// The stores that there are; `None` is any.
    pub(crate) stores: Option<&'a BTreeSet<String>>,
}

/// A text, as far as it is written out.
enum Written {
    Whole(String),
    /// It begins so, and goes on with what is not known yet.
    Begins(String),
}

/// What is wrong with a call, and what to do about it.
struct Wrong(String, Option<String>);

impl From<String> for Wrong {
    fn from(text: String) -> Self {
        Self(text, None)
    }
}

type Checked = Result<(), Wrong>;

impl Named<'_> {
    /// What is wrong with a plugin's files, and with the answers of the hooks that the first of them defines.
    pub(crate) fn findings(&self, sources: &[Source<'_>], hooks: &[Hook]) -> Vec<Finding> {
        let own = sources.iter().filter(|s| !s.file.starts_with("tests/"));
        let mut findings = Vec::new();
        for source in own {
            let file = File {
                named: self,
                source,
                constants: constants(source),
            };
            file.calls(&mut findings);
        }
        let Some(source) = sources.first() else {
            return findings;
        };
        let main = File {
            named: self,
            source,
            constants: constants(source),
        };
        // What these answer with is anything, or a person's own document.
        let checked = |hook: &&Hook| !hook.row().of_provider && **hook != Hook::WebhookIn;
        for hook in hooks.iter().filter(checked) {
            main.answers(*hook, &mut findings);
        }
        findings
    }
}

/// The constants of a file that are written out, but for those whose name stands for something else in a function.
fn constants(source: &Source<'_>) -> BTreeMap<String, Dynamic> {
    let mut bound: BTreeMap<String, u32> = BTreeMap::new();
    source.ast.walk(&mut |path| {
        let name = match path.last() {
            Some(ASTNode::Stmt(Stmt::Var(var, ..))) => var.0.name.clone(),
            Some(ASTNode::Stmt(Stmt::For(parts, _))) => parts.0.name.clone(),
            _ => return true,
        };
        *bound.entry(name.to_string()).or_default() += 1;
        true
    });
    for function in source.ast.iter_fn_def() {
        for parameter in &function.params {
            *bound.entry(parameter.to_string()).or_default() += 1;
        }
    }
    let mut constants = BTreeMap::new();
    for statement in source.ast.statements() {
        if let Stmt::Var(var, flags, _) = statement
            && flags.contains(rhai::ASTFlags::CONSTANT)
            && bound.get(var.0.name.as_str()) == Some(&1)
            && let Some(value) = var.1.get_literal_value(None)
        {
            constants.insert(var.0.name.to_string(), value);
        }
    }
    constants
}

struct File<'a> {
    named: &'a Named<'a>,
    source: &'a Source<'a>,
    constants: BTreeMap<String, Dynamic>,
}

impl File<'_> {
    fn finding(&self, at: Position, wrong: Wrong) -> Finding {
        let finding = Finding::at(self.source.file, self.source.text, at, wrong.0);
        match wrong.1 {
            Some(hint) => finding.hint(hint),
            None => finding,
        }
    }

    fn calls(&self, findings: &mut Vec<Finding>) {
        self.source.ast.walk(&mut |path| {
            let (call, at) = match path.last() {
                Some(
                    ASTNode::Stmt(Stmt::FnCall(call, at)) | ASTNode::Expr(Expr::FnCall(call, at)),
                ) => (call, *at),
                _ => return true,
            };
            // Who tries is ready for an error.
            let tries = |node: &ASTNode<'_>| matches!(node, ASTNode::Stmt(Stmt::TryCatch(..)));
            if path.iter().any(tries) {
                return true;
            }
            if let Err(wrong) = self.call(call) {
                findings.push(self.finding(at, wrong));
            }
            true
        });
    }

    fn call(&self, call: &FnCallExpr) -> Checked {
        let name = call.name.as_str();
        let arguments = call.args.as_slice();
        if call.namespace.is_empty() {
            return self.plain(name, arguments);
        }
        let space = call.namespace.root();
        if self.source.imports.contains_key(space) {
            return Ok(());
        }
        self.spaced(space, name, arguments)
    }

    /// Whether it is one of ours, and not the file's own of that name.
    fn is_ours(&self, name: &str) -> bool {
        !self.source.ast.iter_fn_def().any(|f| f.name == name)
    }

    fn plain(&self, name: &str, arguments: &[Expr]) -> Checked {
        if !self.is_ours(name) {
            return Ok(());
        }
        let code = match (name, arguments) {
            ("respond", [code, ..]) | ("deny" | "reject" | "fail", [code, _]) => self.int(code),
            ("redirect", [url, more @ ..]) => return self.redirects(url, more.first()),
            _ => None,
        };
        let checked = code.map_or(Ok(()), |code| status_of(name, code).map(drop));
        checked.map_err(Wrong::from)
    }

    fn redirects(&self, url: &Expr, code: Option<&Expr>) -> Checked {
        let code = code.map_or(Some(302), |code| self.int(code)).unwrap_or(302);
        match self.text(url) {
            Some(Written::Whole(url)) => redirect(&url, code)
                .map(drop)
                .map_err(|e| Wrong::from(crate::error::text_of(&e))),
            _ => status_of("redirect", code).map(drop).map_err(Wrong::from),
        }
    }

    fn spaced(&self, space: &str, name: &str, arguments: &[Expr]) -> Checked {
        let manifest = self.named.manifest;
        let first = arguments.first().and_then(|argument| self.text(argument));
        let whole = match &first {
            Some(Written::Whole(text)) => Some(text.as_str()),
            _ => None,
        };
        match (space, name, whole) {
            ("secret", "get", Some(key)) => self.listed(key, "secrets", &manifest.secrets.names),
            ("env", "get", Some(key)) => self.listed(key, "env", &manifest.env.names),
            ("event", "emit", Some(key)) => self.listed(key, "events", &manifest.events.names),
            ("config", "get", Some(key)) => self.setting(key),
            ("metric", "count", Some(key)) => self.metric(key, Kind::Counter, arguments),
            ("metric", "observe", Some(key)) => self.metric(key, Kind::Summary, arguments),
            ("re", _, Some(wanted)) => {
                let compiled = pattern(wanted).map(drop);
                compiled.map_err(|e| Wrong::from(crate::error::text_of(&e)))
            }
            ("net", "contains", Some(wanted)) => {
                let read = network(wanted).map(drop);
                read.map_err(|e| Wrong::from(crate::error::text_of(&e)))
            }
            ("http", ..) => first.map_or(Ok(()), |url| self.url(&url)),
            ("box", verb, _) => self.deed(verb, arguments),
            ("kv", "set" | "durable_set" | "incr" | "cas", _) => self.kept(arguments.last()),
            _ => Ok(()),
        }
    }

    /// A name that the manifest lists, and the operator grants.
    fn listed(&self, name: &str, kind: &str, known: &[String]) -> Checked {
        if known.iter().any(|known| known == name) {
            return Ok(());
        }
        let plugin = &self.named.manifest.name;
        let near = nearest(name, known.iter().map(String::as_str));
        let hint = near.map_or_else(
            || {
                format!(
                    "add to plugin.toml: [{kind}] names = [{name:?}], and to boxgate.toml: [scripts.grants.{plugin}] {kind} = [{name:?}]"
                )
            },
            |near| format!("did you mean {near:?}?"),
        );
        let text = format!("plugin.toml does not name {name:?} in [{kind}]");
        Err(Wrong(text, Some(hint)))
    }

    fn setting(&self, name: &str) -> Checked {
        let known = &self.named.manifest.settings;
        if known.contains_key(name) {
            return Ok(());
        }
        let near = nearest(name, known.keys().map(String::as_str));
        let hint = near.map_or_else(
            || format!("add to plugin.toml: [settings] {name} = .."),
            |near| format!("did you mean {near:?}?"),
        );
        Err(Wrong(
            format!("plugin.toml has no [settings] {name}"),
            Some(hint),
        ))
    }

    fn metric(&self, name: &str, kind: Kind, arguments: &[Expr]) -> Checked {
        let declared = &self.named.manifest.metrics;
        let word = if kind == Kind::Counter {
            "counter"
        } else {
            "summary"
        };
        let Some(known) = declared.get(name) else {
            let near = nearest(name, declared.keys().map(String::as_str));
            let hint = near.map_or_else(
                || format!("add to plugin.toml: [metrics] {name} = {{ type = \"{word}\" }}"),
                |near| format!("did you mean {near:?}?"),
            );
            let text = format!("plugin.toml declares no metric {name:?}");
            return Err(Wrong(text, Some(hint)));
        };
        if known.kind != kind {
            return Err(format!("the metric {name:?} is declared, and not as a {word}").into());
        }
        let given: Vec<String> = match arguments.get(2) {
            None => Vec::new(),
            Some(Expr::Map(map, _)) => map.0.iter().map(|(key, _)| key.name.to_string()).collect(),
            Some(labels) => match labels.get_literal_value(None) {
                Some(value) => match value.read_lock::<Map>() {
                    Some(map) => map.keys().map(ToString::to_string).collect(),
                    None => return Ok(()),
                },
                None => return Ok(()),
            },
        };
        if let Some(missing) = known.labels.iter().find(|label| !given.contains(label)) {
            return Err(format!("the metric {name:?} needs the label {missing:?}").into());
        }
        match given.iter().find(|label| !known.labels.contains(label)) {
            Some(unknown) => Err(format!("the metric {name:?} has no label {unknown:?}").into()),
            None => Ok(()),
        }
    }

    fn url(&self, written: &Written) -> Checked {
        let (text, whole) = match written {
            Written::Whole(text) => (text.as_str(), true),
            Written::Begins(text) => (text.as_str(), false),
        };
        // Until its host has ended, nobody knows whose it is.
        let host_ends = text
            .split_once("://")
            .is_some_and(|(_, rest)| rest.contains('/'));
        if !whole && !host_ends {
            return Ok(());
        }
        let url = Url::parse(text).map_err(|e| Wrong::from(format!("{text:?} is no URL: {e}")))?;
        let fits = if whole {
            self.named.reach.allows(&url)
        } else {
            self.named.reach.may_begin(&url)
        };
        if fits {
            return Ok(());
        }
        let origin = format!("{}/", url.origin().ascii_serialization());
        let plugin = &self.named.manifest.name;
        let hint = format!(
            "add to plugin.toml: [http] allow = [{origin:?}], and to boxgate.toml: [scripts.grants.{plugin}] http = [{origin:?}]"
        );
        Err(Wrong(
            format!("{text:?} is not within [http] allow of plugin.toml"),
            Some(hint),
        ))
    }

    fn deed(&self, name: &str, arguments: &[Expr]) -> Checked {
        let Some(verb) = Verb::by_name(name) else {
            return Ok(());
        };
        let patterns = &self.named.manifest.catalog.allow;
        let word = |at: usize| match self.text(arguments.get(at)?)? {
            Written::Whole(text) => Some(text),
            Written::Begins(_) => None,
        };
        let of_verb = |pattern: &&String| pattern.starts_with(&format!("{}:", verb.name()));
        let (allowed, place) = match (word(0), word(1)) {
            (Some(organization), Some(one)) if !matches!(verb, Verb::List | Verb::Label) => (
                catalog::allows(patterns, verb, &organization, &one),
                format!("{organization}/{one}"),
            ),
            (organization, _) => {
                let organization = organization.unwrap_or_else(|| "*".to_owned());
                let place = format!("{organization}/*");
                (patterns.iter().any(|pattern| of_verb(&pattern)), place)
            }
        };
        if allowed {
            return Ok(());
        }
        let plugin = &self.named.manifest.name;
        let wanted = format!("{}:{place}", verb.name());
        let hint = format!(
            "add to plugin.toml: [catalog] allow = [{wanted:?}], and to boxgate.toml: [scripts.grants.{plugin}] catalog = [{wanted:?}]"
        );
        let text = format!("plugin.toml does not name box::{name} for {place} in [catalog] allow");
        Err(Wrong(text, Some(hint)))
    }

    fn kept(&self, seconds: Option<&Expr>) -> Checked {
        let Some(seconds) = seconds.and_then(|seconds| self.int(seconds)) else {
            return Ok(());
        };
        let most = MAX_TTL.as_secs();
        match u64::try_from(seconds) {
            Ok(seconds) if (1..=most).contains(&seconds) => Ok(()),
            _ => {
                Err(format!("what is kept is kept from 1 to {most} seconds, not {seconds}").into())
            }
        }
    }

    fn int(&self, expression: &Expr) -> Option<i64> {
        match expression {
            Expr::IntegerConstant(number, _) => Some(*number),
            Expr::Variable(variable, ..) if variable.2.is_empty() => {
                self.constants.get(variable.1.as_str())?.as_int().ok()
            }
            _ => None,
        }
    }

    fn text(&self, expression: &Expr) -> Option<Written> {
        match expression {
            Expr::StringConstant(text, _) => Some(Written::Whole(text.to_string())),
            Expr::Variable(variable, ..) if variable.2.is_empty() => {
                let value = self.constants.get(variable.1.as_str())?;
                let text = value.read_lock::<rhai::ImmutableString>()?;
                Some(Written::Whole(text.to_string()))
            }
            Expr::InterpolatedString(parts, _) => self.joined(parts),
            Expr::FnCall(call, _) if call.name == "+" && call.is_operator_call() => {
                self.joined(&call.args)
            }
            _ => None,
        }
    }

    fn joined(&self, parts: &[Expr]) -> Option<Written> {
        let mut all = String::new();
        for (index, part) in parts.iter().enumerate() {
            match self.text(part) {
                Some(Written::Whole(text)) => all.push_str(&text),
                Some(Written::Begins(text)) => {
                    all.push_str(&text);
                    return Some(Written::Begins(all));
                }
                None if index == 0 => return None,
                None => return Some(Written::Begins(all)),
            }
        }
        Some(Written::Whole(all))
    }

    /// What a hook answers with, where it is written out.
    fn answers(&self, hook: Hook, findings: &mut Vec<Finding>) {
        let row = hook.row();
        let mut functions = self.source.ast.iter_fn_def();
        let Some(function) =
            functions.find(|f| f.name == row.name && f.params.len() == row.parameters.len())
        else {
            return;
        };
        let body = statements(function);
        let mut found: Vec<(Position, Wrong)> = Vec::new();
        for statement in &body {
            statement.walk(&mut Vec::new(), &mut |path| {
                if let Some(ASTNode::Stmt(Stmt::Return(Some(value), flags, _))) = path.last()
                    && flags.is_empty()
                {
                    self.value(hook, value, &mut found);
                }
                true
            });
        }
        if let Some(last) = body.last() {
            self.last(hook, last, &mut found);
        }
        let wrong = |(at, wrong)| self.finding(at, wrong);
        findings.extend(found.into_iter().map(wrong));
    }

    /// The value of a statement that stands last.
    fn last(&self, hook: Hook, statement: &Stmt, found: &mut Vec<(Position, Wrong)>) {
        match statement {
            Stmt::Expr(value) => self.value(hook, value, found),
            Stmt::FnCall(call, at) => self.answer(hook, call, *at, found),
            Stmt::If(flow, _) | Stmt::TryCatch(flow, _) => {
                self.block(hook, &flow.body, found);
                self.block(hook, &flow.branch, found);
            }
            Stmt::Switch(parts, _) => {
                for case in &parts.1.expressions {
                    self.value(hook, &case.rhs, found);
                }
            }
            Stmt::Block(block) => self.block(hook, block, found),
            _ => {}
        }
    }

    fn block(&self, hook: Hook, block: &StmtBlock, found: &mut Vec<(Position, Wrong)>) {
        if let Some(last) = block.iter().last() {
            self.last(hook, last, found);
        }
    }

    fn value(&self, hook: Hook, value: &Expr, found: &mut Vec<(Position, Wrong)>) {
        let given = match value {
            Expr::Stmt(block) => return self.block(hook, block, found),
            Expr::FnCall(call, at) => return self.answer(hook, call, *at, found),
            Expr::Map(map, _) => {
                let member = |(key, value): &(rhai::Ident, Expr)| {
                    let value = self.known(value).unwrap_or(Dynamic::UNIT);
                    (key.name.as_str().into(), value)
                };
                Dynamic::from_map(map.0.iter().map(member).collect())
            }
            other => match other.get_literal_value(None) {
                Some(value) => value,
                None => return,
            },
        };
        let at = value.position();
        if let Err(wrong) = check_answer(hook, &given) {
            found.push((at, wrong.into()));
        } else if let Some(wrong) = self.store(hook, &given) {
            found.push((at, wrong.into()));
        }
    }

    /// A value as far as it is written out; what stands for the rest within it is a text.
    fn known(&self, value: &Expr) -> Option<Dynamic> {
        let any = |value: &Expr| self.known(value).unwrap_or_else(|| "x".into());
        match value {
            Expr::Map(map, _) => {
                let member =
                    |(key, value): &(rhai::Ident, Expr)| (key.name.as_str().into(), any(value));
                Some(Dynamic::from_map(map.0.iter().map(member).collect()))
            }
            Expr::Array(values, _) => Some(Dynamic::from_array(values.iter().map(any).collect())),
            Expr::Variable(variable, ..) if variable.2.is_empty() => {
                self.constants.get(variable.1.as_str()).cloned()
            }
            other => other.get_literal_value(None),
        }
    }

    /// A store that is not there.
    fn store(&self, hook: Hook, value: &Dynamic) -> Option<String> {
        let known = self.named.stores?;
        let text = |value: &Dynamic| {
            let text = value.read_lock::<rhai::ImmutableString>();
            text.map(|text| text.to_string())
        };
        let key = match hook {
            Hook::Route => "backend",
            Hook::OnUploadStart => "store",
            _ => return None,
        };
        let map = value.read_lock::<Map>();
        let name = match map {
            Some(map) => map.get(key).and_then(text)?,
            None => text(value)?,
        };
        let near = nearest(&name, known.iter().map(String::as_str));
        let near = near.map_or(String::new(), |near| format!("; did you mean {near}?"));
        (!known.contains(&name))
            .then(|| format!("there is no store {name:?} ([stores.{name}]){near}"))
    }

    fn answer(
        &self,
        hook: Hook,
        call: &FnCallExpr,
        at: Position,
        found: &mut Vec<(Position, Wrong)>,
    ) {
        let name = call.name.as_str();
        if !call.namespace.is_empty() || !self.is_ours(name) {
            return;
        }
        let Some(answer): Option<Answer> = sample(name) else {
            return;
        };
        if let Err(wrong) = check_answer(hook, &Dynamic::from(answer)) {
            found.push((at, wrong.into()));
        }
    }
}
