//! Nanobox's adapter API at `/providers/{id}`: one door, of which plugins are the rooms.
//!
//! Here is what all adapters have in common (statuses and shapes as published, credentials in any spelling, bodies of any
//! type); what a cloud is asked is a function of the plugin. Error bodies: `{"errors": [text]}`.

use std::sync::Arc;
use std::time::Duration;

use boxgate_scripting::Scripts;
use boxgate_scripting::error::Fault;
use boxgate_scripting::facts::Context;
use boxgate_scripting::hook::Hook;
use boxgate_scripting::provider::{KeyMethod, Provider};
use boxgate_scripting::verdict::{Denial, ProviderVerdict};
use boxgate_storage::clock::UnixMillis;
use boxgate_storage::metadata::orders::{Teller, Wanted};
use http::{Response, StatusCode};
use serde_json::{Map, Value, json};
use tokio::time::Instant;

use crate::call::Call;
use crate::gateway::Gateway;
use crate::http::path::SLASH;
use crate::http::response;
use crate::provider::orders::{Candidates, NotMade, Orders};
use crate::provider::{Account, credentials, description, shape};
use crate::refusal::Refusal;
use crate::route::Route;
use crate::server::OutboundBody;

type Answer = Result<Response<OutboundBody>, Refusal>;

/// After which time it is worth asking again where a cloud was asked too often, or no worker was free.
const SOON: Duration = Duration::from_secs(10);
/// The longest that callers are told to wait, whatever a cloud says.
const LONGEST_REST: Duration = Duration::from_hours(1);
/// How far a cloud's clock may be behind ours.
const SKEW: Duration = Duration::from_mins(1);

/// A refusal as callers of adapters read it.
pub fn refuse(refusal: &Refusal) -> Response<OutboundBody> {
    response::json(refusal.status, &json!({ "errors": [refusal.message] }))
}

/// Answers all routes of the door.
pub async fn answer(gateway: &Gateway, mut call: Call) -> Answer {
    let id = call.names.value("provider").to_owned();
    let provider = gateway.scripts.provider(&id).ok_or_else(|| {
        let text = format!("There is no adapter '{id}' here.");
        Refusal::new(StatusCode::NOT_IMPLEMENTED, text).closing()
    })?;
    call.facts.add_plugins(vec![provider.plugin.clone()]);
    let prefix = &gateway.settings.doors.providers.prefix;
    let base = || format!("{}{prefix}", gateway.base_url(&call.facts));
    match call.row.route {
        Route::AdapterMeta => return Ok(response::json(StatusCode::OK, &provider.meta.document)),
        Route::AdapterOpenApi => {
            let document = description::open_api(&provider, &base());
            return Ok(response::json(StatusCode::OK, &document));
        }
        Route::AdapterSwagger => {
            let document = description::swagger(&provider, &base());
            return Ok(response::json(StatusCode::OK, &document));
        }
        _ => {}
    }
    let function =
        function_of(call.row.route).ok_or_else(|| Refusal::missing("Route", call.row.path))?;
    let told = (provider.meta.id.clone(), Instant::now());
    let answer = served(gateway, &mut call, provider, function).await;
    count(gateway, &told, function, &answer);
    answer
}

/// The function that a route is for.
fn function_of(route: Route) -> Option<Hook> {
    Some(match route {
        Route::AdapterCatalog => Hook::Catalog,
        Route::AdapterVerify => Hook::Verify,
        Route::AdapterListKeys => Hook::ListKeys,
        Route::AdapterCreateKey => Hook::CreateKey,
        Route::AdapterShowKey => Hook::GetKey,
        Route::AdapterDeleteKey => Hook::DeleteKey,
        Route::AdapterListServers => Hook::ListServers,
        Route::AdapterCreateServer => Hook::CreateServer,
        Route::AdapterShowServer => Hook::GetServer,
        Route::AdapterCancel => Hook::CancelServer,
        Route::AdapterInstallKey => Hook::InstallKey,
        Route::AdapterReboot => Hook::RebootServer,
        Route::AdapterRename => Hook::RenameServer,
        _ => return None,
    })
}

/// Counts what came of a request, and how long it took.
fn count(gateway: &Gateway, (adapter, begun): &(String, Instant), function: Hook, answer: &Answer) {
    let outcome = match answer {
        Ok(_) => "ok",
        Err(refusal) if refusal.status == StatusCode::SERVICE_UNAVAILABLE => "busy",
        Err(refusal) if refusal.status.is_server_error() => "failed",
        Err(_) => "refused",
    };
    let metrics = &gateway.telemetry.metrics.adapters;
    let labels = [adapter.as_str(), function.name(), outcome];
    metrics.requests.with_label_values(&labels).inc();
    let seconds = begun.elapsed().as_secs_f64();
    metrics
        .request_seconds
        .with_label_values(&labels[..2])
        .observe(seconds);
}

async fn served(gateway: &Gateway, call: &mut Call, provider: Provider, function: Hook) -> Answer {
    let shown = credentials(&provider, &call.head.headers);
    if !shown.unreadable.is_empty() {
        let names = shown.unreadable.join(", ");
        let text = format!("Credentials are no text in ASCII: {names}.");
        return Err(Refusal::new(StatusCode::UNAUTHORIZED, text).closing());
    }
    if !shown.missing.is_empty() && function != Hook::Catalog {
        let text = format!("Credentials are missing: {}.", shown.missing.join(", "));
        return Err(Refusal::new(StatusCode::UNAUTHORIZED, text).closing());
    }
    let account = gateway.providers.account(&provider, &shown.known);
    let adapter = Adapter {
        scripts: Arc::clone(&gateway.scripts),
        orders: Arc::clone(&gateway.providers.orders),
        provider,
        context: Arc::new(Context::of(shown.known).within(call.facts.id(), call.names.all())),
        request: call.facts.id().to_owned(),
        account,
    };
    adapter.assert_can(function)?;
    let body = match function {
        Hook::CreateKey | Hook::InstallKey | Hook::CreateServer | Hook::RenameServer => {
            call.json::<Map<String, Value>>(&gateway.settings.limits)
                .await?
        }
        _ => Map::new(),
    };
    let turn = Turn { gateway, adapter };
    turn.serve(call, function, body).await
}

/// One request, at the adapter that it is for.
struct Turn<'a> {
    gateway: &'a Gateway,
    adapter: Adapter,
}

/// What asks the adapter's plugin on a caller's behalf. It may outlive the request.
#[derive(Clone)]
struct Adapter {
    scripts: Arc<Scripts>,
    orders: Arc<Orders>,
    provider: Provider,
    context: Arc<Context>,
    request: String,
    account: Account,
}

impl Turn<'_> {
    /// Serves it, unless the cloud refused these credentials a moment ago.
    async fn serve(&self, call: &Call, function: Hook, body: Map<String, Value>) -> Answer {
        let desk = &self.gateway.providers;
        let account = &self.adapter.account;
        let verifies = function == Hook::Verify;
        if !verifies && let Some(why) = desk.refused(account) {
            return Err(Refusal::new(StatusCode::UNAUTHORIZED, &*why));
        }
        let answer = self.answer(call, function, body).await;
        match &answer {
            Err(refusal) if refusal.status == StatusCode::UNAUTHORIZED => {
                desk.judged(account, Some(&refusal.message));
            }
            Ok(_) if verifies => desk.judged(account, None),
            _ => {}
        }
        answer
    }

    async fn answer(&self, call: &Call, function: Hook, body: Map<String, Value>) -> Answer {
        // A slash within a name.
        let id = |name: &str| call.names.value(name).replace(SLASH, "/");
        let created = |document: &Value| Ok(response::json(StatusCode::CREATED, document));
        let done = || Ok(response::empty(StatusCode::OK));
        let adapter = &self.adapter;
        match function {
            Hook::Catalog => self.catalog().await,
            Hook::ListKeys => self.list(Hook::ListKeys, shape::key).await,
            Hook::ListServers => self.list(Hook::ListServers, shape::server).await,
            Hook::CreateKey => created(&json!({ "id": &*self.keep_key(key_of(&body)?).await? })),
            Hook::GetKey => {
                let key = adapter.ours(Hook::GetKey, "key", &id("key")).await?;
                created(&adapter.meant(Hook::GetKey, shape::key(&key))?)
            }
            Hook::DeleteKey => {
                // One without a way to look it up is its function's own matter.
                if adapter.provider.can(Hook::GetKey) {
                    adapter.ours(Hook::GetKey, "key", &id("key")).await?;
                }
                adapter.ask(Hook::DeleteKey, &[json!(id("key"))]).await?;
                done()
            }
            Hook::CreateServer => self.order(body).await,
            Hook::GetServer => self.show_server(&id("server")).await,
            Hook::CancelServer => {
                let id = id("server");
                let own = adapter.clone();
                let key = (adapter.account.clone(), id.clone());
                let now = self.gateway.clock.now();
                let work = || async move { own.give_up(&id, now).await };
                self.gateway.providers.ends.join(key, work).await?;
                done()
            }
            Hook::RebootServer => {
                adapter.to_server(function, &id("server"), None).await?;
                done()
            }
            Hook::RenameServer => {
                let id = id("server");
                let name = needed(&body, &["name"])?.remove(0);
                adapter.to_server(function, &id, Some(json!(name))).await?;
                adapter
                    .orders
                    .is_renamed(&adapter.account, &id, &name)
                    .await;
                done()
            }
            Hook::InstallKey => {
                let key = key_of(&body)?;
                adapter
                    .to_server(function, &id("server"), Some(key))
                    .await?;
                done()
            }
            function => {
                adapter.ask(function, &[]).await?;
                done()
            }
        }
    }

    async fn catalog(&self) -> Answer {
        let adapter = &self.adapter;
        let at = (&adapter.account, adapter.provider.hash.as_str());
        let fresh = async {
            let catalog = adapter.ask(Hook::Catalog, &[]).await?;
            let catalog = adapter.meant(Hook::Catalog, shape::catalog(&catalog))?;
            let small = shape::too_small(&catalog);
            if !small.is_empty() {
                let plugin = adapter.provider.plugin.as_str();
                let sizes = small.join(", ");
                tracing::warn!(
                    plugin,
                    sizes,
                    "sizes of a catalogue have less than 128 MB of memory"
                );
            }
            Ok(catalog.to_string().into())
        };
        let now = self.gateway.clock.now();
        let catalog = self.gateway.providers.catalog(at, now, fresh).await?;
        Ok(response::bytes(StatusCode::OK, response::JSON, catalog))
    }

    /// Has a key kept. Some clouds keep the same one as often as they are asked at once: so they are asked once.
    async fn keep_key(&self, key: Value) -> Result<Arc<str>, Refusal> {
        let own = self.adapter.clone();
        let text = key["key"].as_str().unwrap_or_default();
        let material: Vec<&str> = text.split_whitespace().take(2).collect();
        let at = (own.account.clone(), material.join(" "));
        let work = || async move {
            let made = own.ask(Hook::CreateKey, &[key]).await?;
            own.id_of(Hook::CreateKey, &made).map(Arc::from)
        };
        self.gateway.providers.keys.join(at, work).await
    }

    async fn order(&self, body: Map<String, Value>) -> Answer {
        let with_key = self.adapter.provider.meta.keys != KeyMethod::Password;
        let names: &[&str] = if with_key {
            &["name", "region", "size", "ssh_key"]
        } else {
            &["name", "region", "size"]
        };
        let given = needed(&body, names)?;
        if with_key {
            one_line("ssh_key", &given[3])?;
        }
        let order: Map<String, Value> = names
            .iter()
            .zip(&given)
            .map(|(name, value)| ((*name).to_owned(), json!(value)))
            .collect();
        let text = |name: &str| order[name].as_str().unwrap_or_default().to_owned();
        let wanted = Wanted {
            account: self.adapter.account.name(),
            name: text("name"),
            region: text("region"),
            size: text("size"),
        };
        let (looks, makes, name) = (self.adapter.clone(), self.adapter.clone(), text("name"));
        let look = move |since| async move { looks.look(&name, since).await };
        let make = move || async move { makes.make(order).await };
        let Adapter {
            orders, account, ..
        } = &self.adapter;
        let teller = self.adapter.teller();
        let id = orders.order(account, wanted, teller, look, make).await?;
        Ok(response::json(StatusCode::CREATED, &json!({ "id": &*id })))
    }

    async fn show_server(&self, id: &str) -> Answer {
        let Adapter {
            orders, account, ..
        } = &self.adapter;
        let created = |document: &Value| Ok(response::json(StatusCode::CREATED, document));
        let found = self.adapter.found(Hook::GetServer, id).await?;
        if found.is_null() {
            let now = self.gateway.clock.now();
            if orders.is_ordering(account, id, now).await? {
                return created(&shape::ordering(id));
            }
        }
        let server = shown("server", id, found)?;
        let server = self
            .adapter
            .meant(Hook::GetServer, shape::server(&server))?;
        let is_ready = server["status"] == "active";
        let teller = self.adapter.teller();
        orders.is_seen(account, id, is_ready, teller).await;
        created(&server)
    }

    async fn list(&self, function: Hook, one: impl Fn(&Value) -> Result<Value, String>) -> Answer {
        let all = self.adapter.ask(function, &[]).await?;
        let listed = self.adapter.meant(function, shape::list(&all, one))?;
        Ok(response::json(StatusCode::OK, &listed))
    }
}

impl Adapter {
    /// What a function finds under an id; null where there is nothing.
    async fn found(&self, function: Hook, id: &str) -> Result<Value, Refusal> {
        match self.ask(function, &[json!(id)]).await {
            Err(absent) if absent.status == StatusCode::NOT_FOUND => Ok(Value::Null),
            found => found,
        }
    }

    /// A key or server that is there and is not tagged as none of ours.
    async fn ours(&self, function: Hook, what: &str, id: &str) -> Result<Value, Refusal> {
        let found = self.found(function, id).await?;
        shown(what, id, found)
    }

    /// Does something to a server of ours.
    async fn to_server(
        &self,
        function: Hook,
        id: &str,
        more: Option<Value>,
    ) -> Result<(), Refusal> {
        self.ours(Hook::GetServer, "server", id).await?;
        let mut arguments = vec![json!(id)];
        arguments.extend(more);
        self.ask(function, &arguments).await.map(drop)
    }

    /// Gives a server up; also one that was just ordered and is not listed yet.
    async fn give_up(&self, id: &str, now: UnixMillis) -> Result<(), Refusal> {
        let Self {
            orders, account, ..
        } = self;
        let found = self.found(Hook::GetServer, id).await?;
        let name = if found.is_null() && orders.is_ordering(account, id, now).await? {
            None
        } else {
            if found.is_null() {
                orders.is_gone(account, id).await;
            }
            let server = shown("server", id, found)?;
            let name = server.get("name").filter(|name| name.is_string());
            Some(name.cloned().unwrap_or_else(|| json!(id)))
        };
        let done = self.ask(Hook::CancelServer, &[json!(id)]).await;
        match &done {
            Ok(_) => orders.gave_up(account, id, name, self.teller()).await,
            Err(refusal) if refusal.status == StatusCode::NOT_FOUND => {
                orders.is_gone(account, id).await;
            }
            Err(_) => {}
        }
        done.map(drop)
    }

    fn assert_can(&self, function: Hook) -> Result<(), Refusal> {
        if self.provider.can(function) {
            return Ok(());
        }
        let text = format!("The adapter '{}' cannot do this.", self.provider.meta.id);
        Err(Refusal::new(StatusCode::NOT_IMPLEMENTED, text).closing())
    }

    /// Calls a function of the plugin.
    async fn ask(&self, function: Hook, arguments: &[Value]) -> Result<Value, Refusal> {
        self.assert_can(function)?;
        let with = (&self.context, arguments);
        let plugin = &self.provider.plugin;
        match self
            .scripts
            .provide(plugin, function, &self.request, with)
            .await
        {
            Ok(decision) => match decision.verdict {
                ProviderVerdict::Value(mut value) => {
                    self.context.mask(&mut value);
                    Ok(value)
                }
                ProviderVerdict::Fail(failed) => Err(self.failed(&failed)),
            },
            // It did not run at all.
            Err(error) if matches!(error.failure.fault, Fault::Queue | Fault::Tripped) => {
                let text = "The adapter is busy. Ask again.";
                Err(Refusal::busy(text, SOON))
            }
            // Why is in the log.
            Err(_) => Err(shape::senseless()),
        }
    }

    /// What the plugin answered, in its shape.
    fn meant<T>(&self, function: Hook, shaped: Result<T, String>) -> Result<T, Refusal> {
        shaped.map_err(|why| {
            tracing::warn!(
                plugin = self.provider.plugin,
                hook = function.name(),
                request_id = self.request,
                why,
                "an adapter answered what makes no sense"
            );
            shape::senseless()
        })
    }

    fn id_of(&self, function: Hook, made: &Value) -> Result<String, Refusal> {
        let id = shape::id_of(made).ok_or_else(|| "there is no id".to_owned());
        self.meant(function, id)
    }

    /// What a plugin said of why it could not.
    fn failed(&self, failed: &Denial) -> Refusal {
        let reason = self.context.masked(&failed.reason).into_owned();
        let status = match failed.status {
            429 => StatusCode::SERVICE_UNAVAILABLE,
            status => StatusCode::from_u16(status).unwrap_or(StatusCode::BAD_GATEWAY),
        };
        if status == StatusCode::SERVICE_UNAVAILABLE {
            let rest = self.context.rest().unwrap_or(SOON);
            return Refusal::busy(reason, rest.min(LONGEST_REST));
        }
        Refusal::new(status, reason)
    }

    /// Looks for what an order may have come to that somebody made and did not come to say it.
    async fn look(&self, name: &str, since: UnixMillis) -> Result<Candidates, Refusal> {
        if !self.provider.can(Hook::ListServers) {
            return Ok(None);
        }
        let all = self.ask(Hook::ListServers, &[]).await?;
        let found = shape::made_since(&all, name, since.minus(SKEW));
        self.meant(Hook::ListServers, found).map(Some)
    }

    /// Orders a server.
    async fn make(&self, order: Map<String, Value>) -> Result<String, NotMade> {
        let made = async {
            let order = [Value::Object(order)];
            let made = self.ask(Hook::CreateServer, &order).await?;
            self.id_of(Hook::CreateServer, &made)
        };
        made.await.map_err(|refusal| NotMade {
            // What its plugin says was refused was refused.
            is_doubtful: refusal.status.is_server_error() && self.context.may_have_changed(),
            refusal,
        })
    }

    fn teller(&self) -> Teller {
        Teller {
            provider: self.provider.meta.id.clone(),
            plugin: self.provider.plugin.clone(),
        }
    }
}

/// What was found, unless it is nothing, or tagged as none of ours.
fn shown(what: &str, id: &str, found: Value) -> Result<Value, Refusal> {
    if found.is_null() || shape::is_hidden(&found) {
        let text = format!("There is no {what} '{id}'.");
        return Err(Refusal::new(StatusCode::NOT_FOUND, text));
    }
    Ok(found)
}

/// Texts that a body must have, in that order; all that are missing, and all that are something else, are named at once.
fn needed(body: &Map<String, Value>, names: &[&str]) -> Result<Vec<String>, Refusal> {
    let (mut given, mut missing, mut odd) = (Vec::new(), Vec::new(), Vec::new());
    for name in names {
        match body.get(*name) {
            Some(Value::String(text)) if !text.trim().is_empty() => given.push(text.clone()),
            Some(Value::Number(number)) => given.push(number.to_string()),
            None | Some(Value::Null | Value::String(_)) => missing.push(*name),
            Some(_) => odd.push(*name),
        }
    }
    let told = [
        ("Missing in the body", missing),
        ("No text in the body", odd),
    ];
    let told = told.iter().filter(|(_, names)| !names.is_empty());
    let told: Vec<String> = told
        .map(|(what, names)| format!("{what}: {}.", names.join(", ")))
        .collect();
    if told.is_empty() {
        return Ok(given);
    }
    Err(Refusal::new(StatusCode::BAD_REQUEST, told.join(" ")))
}

/// A key as adapters are told of it; `name` stands for `id` with some callers.
fn key_of(body: &Map<String, Value>) -> Result<Value, Refusal> {
    let is_renamed = body.contains_key("name") && !body.contains_key("id");
    let named = if is_renamed { "name" } else { "id" };
    let given = needed(body, &[named, "key"])?;
    one_line("key", &given[1])?;
    Ok(json!({ "name": given[0], "key": given[1] }))
}

/// A public key is one line: what follows would be another key, or an option of the first.
fn one_line(name: &str, key: &str) -> Result<(), Refusal> {
    if key.trim().contains(['\n', '\r']) {
        let text = format!("{name} has more than one line, and a public key has one.");
        return Err(Refusal::new(StatusCode::BAD_REQUEST, text));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_that_is_missing_is_named_at_once() {
        let body = |text: &str| serde_json::from_str::<Map<String, Value>>(text).unwrap();
        let refused = needed(
            &body(r#"{"name": "a", "size": " "}"#),
            &["name", "region", "size"],
        );
        let refused = refused.unwrap_err();
        assert_eq!(refused.status, 400);
        assert_eq!(refused.message, "Missing in the body: region, size.");
        let order = needed(
            &body(r#"{"name": "a", "ssh_key": 512190}"#),
            &["name", "ssh_key"],
        );
        assert_eq!(order.unwrap(), ["a", "512190"]);
        let key = |text: &str| key_of(&body(text)).map_err(|refused| refused.message);
        let wanted = json!({ "name": "n", "key": "k" });
        assert_eq!(key(r#"{"id": "n", "key": "k"}"#).unwrap(), wanted);
        assert_eq!(key(r#"{"name": "n", "key": "k"}"#).unwrap(), wanted);
        assert_eq!(key("{}").unwrap_err(), "Missing in the body: id, key.");
        assert_eq!(
            key(r#"{"id": ["n"], "key": null}"#).unwrap_err(),
            "Missing in the body: key. No text in the body: id."
        );
        assert!(key(r#"{"id": "n", "key": " k\n "}"#).is_ok());
        let two = key(r#"{"id": "n", "key": "k\nk"}"#).unwrap_err();
        assert!(two.starts_with("key has more than one line"), "{two}");
    }
}
