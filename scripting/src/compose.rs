//! Asks every plugin that defines a hook and makes one verdict of their answers.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use rhai::Dynamic;
use serde_json::Value;

use crate::api::answer::Read;
use crate::api::json::from_json;
use crate::breaker::REST;
use crate::call::Level;
use crate::error::{Failure, Fault};
use crate::facts::{
    Blob, Context, Endpoint, Event, Image, Principal, Push, Request, Response, Tick, Upload,
};
use crate::guard::Usage;
use crate::hook::{Hook, Lane, OnFailure, nearest};
use crate::plugin::Plugin;
use crate::runner::{self, Called};
use crate::set::{Entry, ScriptSet, Scripts, now};
use crate::verdict::{
    AuthorizeVerdict, Caching, CompleteVerdict, DeleteVerdict, DownloadVerdict, EventVerdict,
    HeaderChanges, ImageVerdict, ProviderVerdict, PushVerdict, RouteVerdict, TransformVerdict,
    UploadVerdict, WebhookVerdict,
};

/// One verdict, and who had a part in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decision<T> {
    /// The verdict.
    pub verdict: T,
    /// The plugins that changed it.
    pub by: Vec<String>,
}

/// What came of an event that plugins were told.
#[derive(Debug, Default)]
pub struct Told {
    /// What they say together.
    pub verdict: EventVerdict,
    /// Those that must not miss it, and failed.
    pub failed: Vec<Unavailable>,
    /// Those that were not told, as they are behind.
    pub left_out: Vec<String>,
}

/// A hook that must not be passed over failed.
#[derive(Debug, Clone)]
pub struct Unavailable {
    /// The plugin.
    pub plugin: String,
    /// The hook.
    pub hook: Hook,
    /// How it failed.
    pub failure: Failure,
}

impl std::fmt::Display for Unavailable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{} of plugin {} failed: {}",
            self.hook.name(),
            self.plugin,
            self.failure
        )
    }
}

impl std::error::Error for Unavailable {}

type Asked<T> = Result<Decision<T>, Unavailable>;

tokio::task_local! {
    /// The plugins that a piece of work began with.
    static HELD: Arc<ScriptSet>;
}

/// Who is asked, and how.
#[derive(Debug, Clone, Copy, Default)]
struct Asking<'a> {
    /// Whether it changes anything: what is closed to writes only.
    write: bool,
    /// One plugin alone.
    only: Option<&'a str>,
    /// Whether the call waits for a worker as long as it takes.
    patient: bool,
}

/// Whether the rest is asked as well.
enum Next {
    Go,
    Stop,
}

impl Scripts {
    /// Does some work whose hooks are all those of one set: a reload meanwhile changes nothing for it.
    pub async fn within<F: Future>(&self, work: F) -> F::Output {
        let set = Arc::clone(&self.set());
        HELD.scope(set, work).await
    }

    /// Where a request goes.
    ///
    /// # Errors
    /// When a plugin fails that must not be passed over.
    pub async fn route(&self, request: &Arc<Request>) -> Asked<RouteVerdict> {
        let write = !matches!(request.method.as_str(), "GET" | "HEAD" | "OPTIONS");
        let arguments = || vec![Dynamic::from(Arc::clone(request))];
        self.ask(Hook::Route, write, &request.id, arguments, first_word)
            .await
    }

    /// Whether a request may go on. `allow` is told of plugins alone whose word counts against the gateway's.
    ///
    /// # Errors
    /// As [`Scripts::route`].
    pub async fn authorize(
        &self,
        request: &Arc<Request>,
        principal: &Arc<Principal>,
    ) -> Asked<AuthorizeVerdict> {
        let arguments = || pair(request, principal);
        let all_agree = |plugin: &Plugin, all: &mut AuthorizeVerdict, one| match (&mut *all, one) {
            (AuthorizeVerdict::Proceed(terms), AuthorizeVerdict::Proceed(more)) => {
                terms.allow |= more.allow && plugin.manifest().overrides();
                terms.rate = terms.rate.take().or(more.rate);
                Next::Go
            }
            (_, one) => {
                *all = one;
                Next::Stop
            }
        };
        let id = &request.id;
        let asking = Asking {
            write: true,
            ..Asking::default()
        };
        self.ask_some(Hook::Authorize, asking, id, arguments, all_agree)
            .await
    }

    /// Whether an upload may begin, and under which terms.
    ///
    /// # Errors
    /// As [`Scripts::route`].
    pub async fn on_upload_start(&self, upload: &Arc<Upload>) -> Asked<UploadVerdict> {
        let arguments = || vec![Dynamic::from(Arc::clone(upload))];
        let id = &upload.request.id;
        self.ask(
            Hook::OnUploadStart,
            true,
            id,
            arguments,
            |all, one| match (&mut *all, one) {
                (_, rejected @ UploadVerdict::Reject(_)) => {
                    *all = rejected;
                    Next::Stop
                }
                (UploadVerdict::Accept(terms), UploadVerdict::Accept(more)) => {
                    terms.store = terms.store.take().or(more.store);
                    terms.max_size = tighter(terms.max_size, more.max_size);
                    terms.require_checksum =
                        terms.require_checksum.take().or(more.require_checksum);
                    terms.part_size = terms.part_size.take().or(more.part_size);
                    add(&mut terms.labels, more.labels);
                    Next::Go
                }
                (UploadVerdict::Reject(_), _) => Next::Stop,
            },
        )
        .await
    }

    /// Whether a whole upload becomes visible.
    ///
    /// # Errors
    /// As [`Scripts::route`]; the upload is then held and this asked again.
    pub async fn on_upload_complete(&self, blob: &Arc<Blob>) -> Asked<CompleteVerdict> {
        let arguments = || vec![Dynamic::from(Arc::clone(blob))];
        self.ask(
            Hook::OnUploadComplete,
            true,
            &blob.id,
            arguments,
            |all, one| match (&mut *all, one) {
                (CompleteVerdict::Publish(labels), CompleteVerdict::Publish(more)) => {
                    add(labels, more);
                    Next::Go
                }
                (_, one) => {
                    *all = one;
                    Next::Stop
                }
            },
        )
        .await
    }

    /// Whether a download may begin, and under which terms.
    ///
    /// # Errors
    /// As [`Scripts::route`], where the manifest says `closed`.
    pub async fn on_download(
        &self,
        request: &Arc<Request>,
        blob: &Arc<Blob>,
    ) -> Asked<DownloadVerdict> {
        let arguments = || pair(request, blob);
        let id = &request.id;
        self.ask(Hook::OnDownload, false, id, arguments, |all, one| {
            match (&mut *all, one) {
                (DownloadVerdict::Serve(terms), DownloadVerdict::Serve(more)) => {
                    merge(&mut terms.headers, more.headers);
                    terms.cache = match (terms.cache, more.cache) {
                        (Some(Caching::Bypass), _) | (_, Some(Caching::Bypass)) => {
                            Some(Caching::Bypass)
                        }
                        (a, b) => a.or(b),
                    };
                    terms.rate_bps = tighter(terms.rate_bps, more.rate_bps);
                    Next::Go
                }
                (_, one) => {
                    *all = one;
                    Next::Stop
                }
            }
        })
        .await
    }

    /// Whether a file may be deleted.
    ///
    /// # Errors
    /// As [`Scripts::route`].
    pub async fn on_delete(
        &self,
        request: &Arc<Request>,
        blob: &Arc<Blob>,
    ) -> Asked<DeleteVerdict> {
        let arguments = || pair(request, blob);
        self.ask(Hook::OnDelete, true, &request.id, arguments, first_word)
            .await
    }

    /// Whether an image may be put in place.
    ///
    /// # Errors
    /// As [`Scripts::route`].
    pub async fn on_image_deploy(
        &self,
        request: &Arc<Request>,
        image: &Arc<Image>,
    ) -> Asked<ImageVerdict> {
        let arguments = || pair(request, image);
        let id = &request.id;
        self.ask(Hook::OnImageDeploy, true, id, arguments, first_word)
            .await
    }

    /// Whether an image may be pushed, and where.
    ///
    /// # Errors
    /// As [`Scripts::route`].
    pub async fn on_image_push(
        &self,
        request: &Arc<Request>,
        push: &Arc<Push>,
    ) -> Asked<PushVerdict> {
        let arguments = || pair(request, push);
        let id = &request.id;
        self.ask(Hook::OnImagePush, true, id, arguments, |all, one| {
            match (&mut *all, one) {
                (PushVerdict::Send(target), PushVerdict::Send(other)) => {
                    *target = target.take().or(other);
                    Next::Go
                }
                (_, one) => {
                    *all = one;
                    Next::Stop
                }
            }
        })
        .await
    }

    /// Has a runtime take the image that was put in place.
    ///
    /// # Errors
    /// When one of the plugins fails.
    pub async fn on_image_deployed(&self, event: &Arc<Event>) -> Asked<()> {
        let arguments = || vec![Dynamic::from(Arc::clone(event))];
        let all_run = |_: &Plugin, (): &mut (), (): ()| Next::Go;
        let asking = Asking {
            write: true,
            patient: true,
            ..Asking::default()
        };
        self.ask_some(Hook::OnImageDeployed, asking, &event.id, arguments, all_run)
            .await
    }

    /// What is changed of an answer's head.
    ///
    /// # Errors
    /// As [`Scripts::on_download`].
    pub async fn on_response(
        &self,
        request: &Arc<Request>,
        response: &Arc<Response>,
    ) -> Asked<HeaderChanges> {
        let arguments = || pair(request, response);
        self.ask(
            Hook::OnResponse,
            false,
            &request.id,
            arguments,
            |all, one| {
                merge(all, one);
                Next::Go
            },
        )
        .await
    }

    /// Tells all plugins but those that are `behind` that something happened. What one says of the data counts for
    /// those behind it, too, and one that drops it drops it for all. One that must not miss it and fails changes
    /// nothing for the others.
    pub async fn on_event(&self, event: &Arc<Event>, behind: &BTreeSet<String>) -> Told {
        self.within(async {
            let mut told = Told::default();
            let set = HELD.with(Arc::clone);
            let (all, left_out): (Vec<_>, Vec<_>) = set
                .of(Hook::OnEvent)
                .iter()
                .partition(|entry| !behind.contains(&entry.name));
            told.left_out = left_out.iter().map(|entry| entry.name.clone()).collect();
            for entry in all {
                match self.on_event_of(&entry.name, event).await {
                    Ok(decision) => {
                        let (all, one) = (&mut told.verdict, decision.verdict);
                        all.drop |= one.drop;
                        all.data = one.data.or(all.data.take());
                        all.deliver.extend(one.deliver);
                    }
                    Err(unavailable) => told.failed.push(unavailable),
                }
            }
            told
        })
        .await
    }

    /// Tells one plugin that something happened.
    ///
    /// # Errors
    /// As [`Scripts::on_download`]: the event is then told again later.
    pub async fn on_event_of(&self, plugin: &str, event: &Arc<Event>) -> Asked<EventVerdict> {
        let arguments = || vec![Dynamic::from(Arc::clone(event))];
        let only_one = |_: &Plugin, all: &mut EventVerdict, one| first_word(all, one);
        let asking = Asking {
            only: Some(plugin),
            ..Asking::default()
        };
        self.ask_some(Hook::OnEvent, asking, &event.id, arguments, only_one)
            .await
    }

    /// Whether a plugin of that name is told of events.
    pub fn hears(&self, plugin: &str) -> bool {
        let set = self.set();
        let entries = set.of(Hook::OnEvent).iter();
        entries.into_iter().any(|entry| entry.name == plugin)
    }

    /// Whether a plugin of that name says what an endpoint is sent.
    pub fn transforms(&self, plugin: &str) -> bool {
        let set = self.set();
        let entries = set.of(Hook::Transform).iter();
        entries.into_iter().any(|entry| entry.name == plugin)
    }

    /// What an endpoint is sent of an event, by the plugin that it names.
    ///
    /// # Errors
    /// Whenever it fails.
    pub async fn transform(
        &self,
        plugin: &str,
        event: &Arc<Event>,
        endpoint: &Arc<Endpoint>,
    ) -> Asked<TransformVerdict> {
        let arguments = || pair(event, endpoint);
        let only_one = |_: &Plugin, all: &mut TransformVerdict, one| first_word(all, one);
        let asking = Asking {
            write: true,
            only: Some(plugin),
            patient: true,
        };
        self.ask_some(Hook::Transform, asking, &event.id, arguments, only_one)
            .await
    }

    /// Calls `on_schedule` of one plugin, whose schedule it is.
    ///
    /// # Errors
    /// As [`Scripts::on_download`].
    pub async fn on_schedule(&self, plugin: &str, tick: &Arc<Tick>) -> Asked<()> {
        let arguments = || vec![Dynamic::from(Arc::clone(tick))];
        let all_run = |_: &Plugin, (): &mut (), (): ()| Next::Go;
        let asking = Asking {
            only: Some(plugin),
            ..Asking::default()
        };
        self.ask_some(Hook::OnSchedule, asking, plugin, arguments, all_run)
            .await
    }

    /// Calls `webhook_in` of one plugin, whose webhook it is; `patient` where nobody waits for the answer.
    ///
    /// # Errors
    /// Whenever it fails.
    pub async fn webhook_in(
        &self,
        plugin: &str,
        request: &Arc<Request>,
        patient: bool,
    ) -> Asked<WebhookVerdict> {
        let arguments = || vec![Dynamic::from(Arc::clone(request))];
        let only_one = |_: &Plugin, all: &mut WebhookVerdict, one| first_word(all, one);
        let asking = Asking {
            write: true,
            only: Some(plugin),
            patient,
        };
        self.ask_some(Hook::WebhookIn, asking, &request.id, arguments, only_one)
            .await
    }

    /// Calls a function of a provider for whoever has those credentials.
    ///
    /// # Errors
    /// Whenever it fails otherwise than by `fail(..)`.
    pub async fn provide(
        &self,
        plugin: &str,
        function: Hook,
        request_id: &str,
        (context, arguments): (&Arc<Context>, &[Value]),
    ) -> Asked<ProviderVerdict> {
        let arguments = || {
            let context = Dynamic::from(Arc::clone(context));
            let further = arguments.iter().map(from_json);
            std::iter::once(context).chain(further).collect()
        };
        let only_one = |_: &Plugin, all: &mut ProviderVerdict, one| first_word(all, one);
        let asking = Asking {
            write: true,
            only: Some(plugin),
            patient: false,
        };
        self.ask_some(function, asking, request_id, arguments, only_one)
            .await
    }

    async fn ask<T: Read + PartialEq + Send>(
        &self,
        hook: Hook,
        write: bool,
        request_id: &str,
        arguments: impl Fn() -> Vec<Dynamic> + Send + Sync,
        mut merge: impl FnMut(&mut T, T) -> Next + Send,
    ) -> Asked<T> {
        let merge = |_: &Plugin, all: &mut T, one| merge(all, one);
        let asking = Asking {
            write,
            ..Asking::default()
        };
        self.ask_some(hook, asking, request_id, arguments, merge)
            .await
    }

    /// Asks all plugins, or one alone.
    async fn ask_some<T: Read + PartialEq + Send>(
        &self,
        hook: Hook,
        asking: Asking<'_>,
        request_id: &str,
        arguments: impl Fn() -> Vec<Dynamic> + Send + Sync,
        mut merge: impl FnMut(&Plugin, &mut T, T) -> Next + Send,
    ) -> Asked<T> {
        let mut decision = Decision {
            verdict: T::absent(),
            by: Vec::new(),
        };
        // Held through the whole question: all plugins are those of one set.
        let set = if let Ok(held) = HELD.try_with(Arc::clone) {
            held
        } else {
            let set = self.set();
            if !set.defines(hook) {
                return Ok(decision);
            }
            Arc::clone(&set)
        };
        let asked = set.of(hook).iter();
        let is_meant = |entry: &&Arc<Entry>| asking.only.is_none_or(|only| entry.name == only);
        for entry in asked.filter(is_meant) {
            let called = self.call_one(entry, (hook, asking.patient), request_id, &arguments);
            match called.await {
                Ok((plugin, value)) => {
                    let wrong = |text: String| {
                        let failure = Failure::new(Fault::Error, &plugin.host.main, text);
                        failed(entry, hook, request_id, &failure, Usage::default());
                        failure
                    };
                    let mut verdict = match T::read(&value) {
                        Ok(verdict) => verdict,
                        Err(text) => {
                            passed_over(entry, hook, asking.write, wrong(text))?;
                            continue;
                        }
                    };
                    if let Some(text) = self.unknown_store(&mut verdict) {
                        let failure = wrong(text);
                        // A store is for uploads: what only reads goes on without.
                        if asking.write {
                            passed_over(entry, hook, asking.write, failure)?;
                            continue;
                        }
                    }
                    if verdict == T::absent() {
                        continue;
                    }
                    decision.by.push(entry.name.clone());
                    if matches!(merge(&plugin, &mut decision.verdict, verdict), Next::Stop) {
                        break;
                    }
                }
                Err(failure) => passed_over(entry, hook, asking.write, failure)?,
            }
        }
        Ok(decision)
    }

    /// Takes a store's name out of a verdict that is none, and says so.
    fn unknown_store(&self, verdict: &mut impl Read) -> Option<String> {
        let known = self.stores()?;
        let store = verdict.store()?;
        let name = store.take_if(|name| !known.contains(name))?;
        let near = nearest(&name, known.iter().map(String::as_str));
        let near = near.map_or(String::new(), |near| format!("; did you mean {near}?"));
        Some(format!(
            "there is no store {name:?} ([stores.{name}]){near}"
        ))
    }

    /// Calls one plugin, counts and logs.
    async fn call_one(
        &self,
        entry: &Entry,
        (hook, patient): (Hook, bool),
        request_id: &str,
        arguments: impl Fn() -> Vec<Dynamic> + Send + Sync,
    ) -> Result<(Arc<Plugin>, Dynamic), Failure> {
        let Some(plugin) = &entry.plugin else {
            return Err(Failure::new(
                Fault::Tripped,
                &entry.name,
                "the plugin is not loaded",
            ));
        };
        let counters = entry.counters.get(&hook);
        if counters.is_some_and(|c| c.breaker.tripped(now())) {
            let failure = Failure::new(
                Fault::Tripped,
                &entry.name,
                "the hook rests after too many failures",
            );
            if let Some(counters) = counters {
                counters.count(Fault::Tripped.name(), Usage::default());
            }
            return Err(failure);
        }
        if let Some(counters) = counters {
            counters.in_flight.fetch_add(1, Ordering::Relaxed);
        }
        let _under_way = UnderWay(counters);
        let lane = plugin.manifest().lane(hook);
        let called = match lane {
            Lane::Fast => {
                let deadline = plugin.manifest().deadline(hook);
                runner::call(plugin, hook.name(), arguments(), (lane, deadline), None)
            }
            Lane::Work => {
                let patient = patient || hook.waits_its_turn();
                self.workers
                    .call(plugin, &entry.share, (hook, patient), arguments())
                    .await
            }
        };
        if let (Some(counters), Some(queued)) = (counters, called.queued) {
            counters.waited(queued);
        }
        write_log(entry, hook, request_id, &called);
        match called.answer {
            Ok(value) => {
                if let Some(counters) = counters {
                    let outcome = if value.is_unit() { "ok" } else { "answer" };
                    counters.count(outcome, called.usage);
                    if rests(hook) {
                        counters.breaker.count(false, now());
                    }
                }
                Ok((Arc::clone(plugin), value))
            }
            Err(failure) => {
                failed(entry, hook, request_id, &failure, called.usage);
                Err(failure)
            }
        }
    }
}

/// Whether a hook rests that mostly fails. A provider's does not: one caller's cloud may answer nonsense, and others have theirs.
/// Hosts that do not answer rest by themselves.
fn rests(hook: Hook) -> bool {
    !hook.row().of_provider
}

struct UnderWay<'a>(Option<&'a crate::signals::Counters>);

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        if let Some(counters) = self.0 {
            counters.in_flight.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

fn pair<A, B>(one: &Arc<A>, other: &Arc<B>) -> Vec<Dynamic>
where
    A: Send + Sync + 'static,
    B: Send + Sync + 'static,
{
    vec![
        Dynamic::from(Arc::clone(one)),
        Dynamic::from(Arc::clone(other)),
    ]
}

/// Who says anything first decides; what leaves all as it is says nothing.
fn first_word<T>(all: &mut T, one: T) -> Next {
    *all = one;
    Next::Stop
}

/// Adds what is not there: who says it first counts.
fn add(all: &mut BTreeMap<String, String>, more: BTreeMap<String, String>) {
    for (name, value) in more {
        all.entry(name).or_insert(value);
    }
}

/// Of two bounds the tighter holds for both.
fn tighter(a: Option<u64>, b: Option<u64>) -> Option<u64> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    }
}

fn merge(changes: &mut HeaderChanges, more: HeaderChanges) {
    for (name, value) in more.set {
        changes.set.entry(name).or_insert(value);
    }
    for name in more.remove {
        if !changes.remove.contains(&name) {
            changes.remove.push(name);
        }
    }
}

/// Whether a failure counts as if the plugin were absent.
fn passed_over(
    entry: &Entry,
    hook: Hook,
    write: bool,
    failure: Failure,
) -> Result<(), Unavailable> {
    let open = match entry.manifest().on_failure(hook) {
        OnFailure::Open => true,
        OnFailure::ReadsOpen => !write,
        OnFailure::Closed | OnFailure::Held => false,
    };
    if open {
        return Ok(());
    }
    Err(Unavailable {
        plugin: entry.name.clone(),
        hook,
        failure,
    })
}

fn failed(entry: &Entry, hook: Hook, request_id: &str, failure: &Failure, usage: Usage) {
    let now = now();
    let Some(counters) = entry.counters.get(&hook) else {
        return;
    };
    counters.count(failure.fault.name(), usage);
    // Where no worker was free, the plugin was not even asked.
    if failure.fault != Fault::Queue && rests(hook) && counters.breaker.count(true, now) {
        tracing::error!(
            plugin = entry.name,
            hook = hook.name(),
            hash = entry.plugin.as_ref().map_or("", |p| p.hash()),
            rests_seconds = REST.as_secs(),
            error = %failure,
            "a hook mostly failed and rests"
        );
    }
    let Some(unlogged) = counters.may_log(now) else {
        return;
    };
    tracing::error!(
        plugin = entry.name,
        hook = hook.name(),
        hash = entry.plugin.as_ref().map_or("", |p| p.hash()),
        request_id,
        fault = failure.fault.name(),
        error = %failure,
        unlogged,
        "a script failed"
    );
}

fn write_log(entry: &Entry, hook: Hook, request_id: &str, called: &Called) {
    for line in &called.log {
        let fields = line.fields.as_ref().map(ToString::to_string);
        let fields = fields.unwrap_or_default();
        let (plugin, hook, message) = (entry.name.as_str(), hook.name(), line.message.as_str());
        match line.level {
            Level::Debug => tracing::debug!(plugin, hook, request_id, fields, "script: {message}"),
            Level::Info => tracing::info!(plugin, hook, request_id, fields, "script: {message}"),
            Level::Warn => tracing::warn!(plugin, hook, request_id, fields, "script: {message}"),
            Level::Error => tracing::error!(plugin, hook, request_id, fields, "script: {message}"),
        }
    }
    if called.log_dropped > 0 {
        tracing::warn!(
            plugin = entry.name,
            hook = hook.name(),
            dropped = called.log_dropped,
            "a script wrote more than it may"
        );
    }
}
