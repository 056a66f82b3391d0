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
use boxgate_scripting::verdict::ProviderVerdict;
use boxgate_storage::metadata::orders::{Teller, Wanted};
use http::{Response, StatusCode};
use serde_json::{Map, Value, json};

use crate::call::Call;
use crate::gateway::Gateway;
use crate::http::response;
use crate::provider::{Account, credentials, description, shape};
use crate::refusal::Refusal;
use crate::route::Route;
use crate::server::OutboundBody;

type Answer = Result<Response<OutboundBody>, Refusal>;

/// After which time it is worth asking again where a cloud was asked too often, or no worker was free.
const SOON: Duration = Duration::from_secs(10);

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
    let (auth, missing) = credentials(&provider, &call.head.headers);
    if !missing.is_empty() && call.row.route != Route::AdapterCatalog {
        let text = format!("Credentials are missing: {}.", missing.join(", "));
        return Err(Refusal::new(StatusCode::UNAUTHORIZED, text).closing());
    }
    let body = match call.row.route {
        Route::AdapterCreateKey
        | Route::AdapterInstallKey
        | Route::AdapterCreateServer
        | Route::AdapterRename => {
            call.json::<Map<String, Value>>(&gateway.settings.limits)
                .await?
        }
        _ => Map::new(),
    };
    let turn = Turn {
        gateway,
        account: gateway.providers.account(&provider, &auth),
        adapter: Adapter {
            scripts: Arc::clone(&gateway.scripts),
            provider,
            context: Arc::new(Context { auth }),
            request: call.facts.id().to_owned(),
        },
    };
    turn.serve(&call, body).await
}

/// One request, at the adapter that it is for.
struct Turn<'a> {
    gateway: &'a Gateway,
    account: Account,
    adapter: Adapter,
}

/// What asks the adapter's plugin on a caller's behalf. It may outlive the request.
#[derive(Clone)]
struct Adapter {
    scripts: Arc<Scripts>,
    provider: Provider,
    context: Arc<Context>,
    request: String,
}

impl Turn<'_> {
    /// Serves it, unless the cloud refused these credentials a moment ago.
    async fn serve(&self, call: &Call, body: Map<String, Value>) -> Answer {
        let desk = &self.gateway.providers;
        let verifies = call.row.route == Route::AdapterVerify;
        if !verifies && let Some(why) = desk.refused(&self.account) {
            return Err(Refusal::new(StatusCode::UNAUTHORIZED, &*why));
        }
        let answer = self.answer(call, body).await;
        match &answer {
            Err(refusal) if refusal.status == StatusCode::UNAUTHORIZED => {
                desk.judged(&self.account, Some(&refusal.message));
            }
            Ok(_) if verifies => desk.judged(&self.account, None),
            _ => {}
        }
        answer
    }

    async fn answer(&self, call: &Call, body: Map<String, Value>) -> Answer {
        let id = |name: &str| call.names.value(name).to_owned();
        let created = |document: &Value| Ok(response::json(StatusCode::CREATED, document));
        let done = || Ok(response::empty(StatusCode::OK));
        match call.row.route {
            Route::AdapterCatalog => self.catalog().await,
            Route::AdapterVerify => {
                self.adapter.ask(Hook::Verify, &[]).await?;
                done()
            }
            Route::AdapterListKeys => self.list(Hook::ListKeys, shape::key).await,
            Route::AdapterListServers => self.list(Hook::ListServers, shape::server).await,
            Route::AdapterCreateKey => {
                let made = self.adapter.ask(Hook::CreateKey, &[key_of(&body)?]).await?;
                created(&json!({ "id": self.adapter.id_of(Hook::CreateKey, &made)? }))
            }
            Route::AdapterShowKey => {
                let key = self.adapter.ours(Hook::GetKey, "key", &id("key")).await?;
                created(&self.adapter.meant(Hook::GetKey, shape::key(&key))?)
            }
            Route::AdapterDeleteKey => {
                // One without a way to look it up is its function's own matter.
                if self.adapter.provider.can(Hook::GetKey) {
                    self.adapter.ours(Hook::GetKey, "key", &id("key")).await?;
                }
                self.adapter
                    .ask(Hook::DeleteKey, &[json!(id("key"))])
                    .await?;
                done()
            }
            Route::AdapterCreateServer => self.order(body).await,
            Route::AdapterShowServer => self.show_server(&id("server")).await,
            Route::AdapterCancel => {
                let id = id("server");
                let server = self.to_server(Hook::CancelServer, &id, None).await?;
                let name = server.get("name").filter(|name| name.is_string());
                let name = name.cloned().unwrap_or_else(|| json!(id));
                let orders = &self.gateway.providers.orders;
                let teller = self.adapter.teller();
                orders.gave_up(&self.account, &id, name, teller).await;
                done()
            }
            Route::AdapterReboot => {
                self.to_server(Hook::RebootServer, &id("server"), None)
                    .await?;
                done()
            }
            Route::AdapterRename => {
                let name = needed(&body, &["name"])?.remove(0);
                self.to_server(Hook::RenameServer, &id("server"), Some(json!(name)))
                    .await?;
                done()
            }
            Route::AdapterInstallKey => {
                self.to_server(Hook::InstallKey, &id("server"), Some(key_of(&body)?))
                    .await?;
                done()
            }
            _ => Err(Refusal::missing("Route", call.row.path)),
        }
    }

    async fn catalog(&self) -> Answer {
        let at = (self.account.clone(), self.adapter.provider.hash.as_str());
        let fresh = async {
            let catalog = self.adapter.ask(Hook::Catalog, &[]).await?;
            let catalog = self
                .adapter
                .meant(Hook::Catalog, shape::catalog(&catalog))?;
            let small = shape::too_small(&catalog);
            if !small.is_empty() {
                let plugin = self.adapter.provider.plugin.as_str();
                let sizes = small.join(", ");
                tracing::warn!(
                    plugin,
                    sizes,
                    "sizes of a catalogue have less than 128 MB of memory"
                );
            }
            Ok(catalog)
        };
        let now = self.gateway.clock.now();
        let catalog = self.gateway.providers.catalog(at, now, fresh).await?;
        Ok(response::json(StatusCode::OK, &*catalog))
    }

    async fn order(&self, body: Map<String, Value>) -> Answer {
        let with_key = self.adapter.provider.meta.keys != KeyMethod::Password;
        let names: &[&str] = if with_key {
            &["name", "region", "size", "ssh_key"]
        } else {
            &["name", "region", "size"]
        };
        let given = needed(&body, names)?;
        let order: Map<String, Value> = names
            .iter()
            .zip(&given)
            .map(|(name, value)| ((*name).to_owned(), json!(value)))
            .collect();
        let text = |name: &str| order[name].as_str().unwrap_or_default().to_owned();
        let wanted = Wanted {
            account: self.account.name(),
            name: text("name"),
            region: text("region"),
            size: text("size"),
        };
        let at = self.adapter.clone();
        let make = move |left| async move { at.make(order, left).await };
        let orders = &self.gateway.providers.orders;
        let teller = self.adapter.teller();
        let id = orders.order(&self.account, wanted, teller, make).await?;
        Ok(response::json(StatusCode::CREATED, &json!({ "id": &*id })))
    }

    async fn show_server(&self, id: &str) -> Answer {
        let orders = &self.gateway.providers.orders;
        let created = |document: &Value| Ok(response::json(StatusCode::CREATED, document));
        let found = self.adapter.ask(Hook::GetServer, &[json!(id)]).await;
        let found = match found {
            Err(absent) if absent.status == StatusCode::NOT_FOUND => Value::Null,
            found => found?,
        };
        if found.is_null() {
            let now = self.gateway.clock.now();
            if orders.is_ordering(&self.account, id, now).await? {
                return created(&shape::ordering(id));
            }
        }
        let server = shown("server", id, found)?;
        let server = self
            .adapter
            .meant(Hook::GetServer, shape::server(&server))?;
        if server["status"] == "active" {
            let teller = self.adapter.teller();
            orders.is_ready(&self.account, id, teller).await;
        }
        created(&server)
    }

    /// Does something to a server of ours; tells how it stood before.
    async fn to_server(
        &self,
        function: Hook,
        id: &str,
        more: Option<Value>,
    ) -> Result<Value, Refusal> {
        self.adapter.assert_can(function)?;
        let server = self.adapter.ours(Hook::GetServer, "server", id).await?;
        let mut arguments = vec![json!(id)];
        arguments.extend(more);
        self.adapter.ask(function, &arguments).await?;
        Ok(server)
    }

    async fn list(&self, function: Hook, one: impl Fn(&Value) -> Result<Value, String>) -> Answer {
        let all = self.adapter.ask(function, &[]).await?;
        let listed = self.adapter.meant(function, shape::list(&all, one))?;
        Ok(response::json(StatusCode::OK, &listed))
    }
}

impl Adapter {
    /// A key or server that is there and is not tagged as none of ours.
    async fn ours(&self, function: Hook, what: &str, id: &str) -> Result<Value, Refusal> {
        let found = self.ask(function, &[json!(id)]).await?;
        shown(what, id, found)
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
                ProviderVerdict::Value(value) => Ok(value),
                ProviderVerdict::Fail(failed) => {
                    let reason = self.context.without_credentials(failed.reason);
                    if failed.status == 429 {
                        return Err(Refusal::busy(reason, SOON));
                    }
                    let status = StatusCode::from_u16(failed.status);
                    let status = status.unwrap_or(StatusCode::BAD_GATEWAY);
                    Err(Refusal::new(status, reason))
                }
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

    /// Orders a server. Where somebody may have done so and did not come to say it, it is looked for first.
    async fn make(&self, order: Map<String, Value>, left: bool) -> Result<String, Refusal> {
        if left && self.provider.can(Hook::ListServers) {
            let all = self.ask(Hook::ListServers, &[]).await?;
            let all = self.meant(Hook::ListServers, shape::list(&all, shape::server))?;
            let mut all = all.as_array().into_iter().flatten();
            if let Some(made) = all.find(|server| server["name"] == order["name"]) {
                return self.id_of(Hook::ListServers, made);
            }
        }
        let made = self
            .ask(Hook::CreateServer, &[Value::Object(order)])
            .await?;
        self.id_of(Hook::CreateServer, &made)
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

/// Texts that a body must have, in that order; all that are missing are named at once.
fn needed(body: &Map<String, Value>, names: &[&str]) -> Result<Vec<String>, Refusal> {
    let (mut given, mut missing) = (Vec::new(), Vec::new());
    for name in names {
        match body.get(*name) {
            Some(Value::String(text)) if !text.trim().is_empty() => given.push(text.clone()),
            Some(Value::Number(number)) => given.push(number.to_string()),
            _ => missing.push(*name),
        }
    }
    if missing.is_empty() {
        return Ok(given);
    }
    let text = format!("Missing in the body: {}.", missing.join(", "));
    Err(Refusal::new(StatusCode::BAD_REQUEST, text))
}

/// A key as adapters are told of it; `name` stands for `id` with some callers.
fn key_of(body: &Map<String, Value>) -> Result<Value, Refusal> {
    let is_renamed = body.contains_key("name") && !body.contains_key("id");
    let named = if is_renamed { "name" } else { "id" };
    let given = needed(body, &[named, "key"])?;
    Ok(json!({ "name": given[0], "key": given[1] }))
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
    }
}
