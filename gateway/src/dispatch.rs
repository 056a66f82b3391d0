//! From a request to its door: normal path, row, principal, policy, then one exhaustive match.

use std::borrow::Cow;
use std::future::ready;
use std::pin::pin;
use std::sync::Arc;

use boxgate_storage::ErrorKind;
use boxgate_storage::digest::Blake3;
use boxgate_storage::metadata::catalog::{HeldBlob, VersionStatus};
use bytes::Bytes;
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use http::header::{ALLOW, CACHE_CONTROL, RETRY_AFTER, WWW_AUTHENTICATE};
use http::{HeaderValue, Request, Response, StatusCode};
use http_body_util::BodyExt as _;
use tracing::Instrument as _;

use crate::admission::request::{self as counted, Counting};
use crate::auth::{self, Credential, Grant, Principal, credential::Place};
use crate::call::Call;
use crate::door::boxvault::{
    accounts, boxes, files, isos, levels, organizations, service_accounts, sign_in,
};
use crate::door::files::dress::Dress;
use crate::door::{self, boxvault, operations, page, vagrant, vagrant_cloud, webhooks};
use crate::egress::ShapedBody;
use crate::gateway::{Gateway, Phase};
use crate::hooks::{self, Instead, RoutedTo};
use crate::http::path::{NormalPath, PathError};
use crate::http::response;
use crate::refusal::Refusal;
use crate::request::RequestFacts;
use crate::route::{Class, Door, Found, PathNames, Policy, Route, Row};
use crate::server::{FileSender, InboundBody, OutboundBody, Respond};
use crate::shortcut;

type Answer = Result<Response<OutboundBody>, Refusal>;

impl Respond for Gateway {
    fn respond(
        self: Arc<Self>,
        request: Request<InboundBody>,
    ) -> BoxFuture<'static, Response<OutboundBody>> {
        let facts = RequestFacts::of(&request);
        // A large future, which is thus made in its place and never moved.
        async move {
            let mut answer = kept_private(Box::pin(answer(&self, request)).await);
            if let Some(facts) = facts {
                counted::tell(&facts, &mut answer);
            }
            answer
        }
        .boxed()
    }

    fn answer_at_once(
        &self,
        head: &http::request::Parts,
        sender: Option<&FileSender>,
        facts: &RequestFacts,
    ) -> Option<Response<OutboundBody>> {
        let shortcut = shortcut::find(self, head, facts)?;
        let answer = shortcut.answer(self, head, sender, facts)?;
        let answer = answer.unwrap_or_else(|refusal| shaped(shortcut.row.door, refusal, facts));
        let mut answer = kept_private(answer);
        counted::tell(facts, &mut answer);
        Some(answer)
    }
}

/// What no door said anything about is nobody's to keep: errors, and answers that depend on the caller.
fn kept_private(mut response: Response<OutboundBody>) -> Response<OutboundBody> {
    response
        .headers_mut()
        .entry(CACHE_CONTROL)
        .or_insert(HeaderValue::from_static("private, no-store, no-transform"));
    response
}

async fn answer(gateway: &Gateway, request: Request<InboundBody>) -> Response<OutboundBody> {
    let (mut head, body) = request.into_parts();
    let facts = head
        .extensions
        .get::<Arc<RequestFacts>>()
        .cloned()
        .expect("the server gives every request its facts");
    let path = match normal(gateway, &asked_for(gateway, &head)) {
        Ok(path) => path,
        Err(error) => {
            let refusal = Refusal::invalid(error.to_string());
            return shaped(of_nothing(gateway, &head, &facts), refusal, &facts);
        }
    };
    let found = find(gateway, &head, path.as_str(), &facts);
    if let Some(origin) = &gateway.settings.server.origin
        && !origin.admits(&mut head.headers)
        && !is_our_own(&found, &facts)
    {
        let text = "This server is reached by another address.";
        let refusal = Refusal::new(StatusCode::FORBIDDEN, text).code("NOT_THROUGH_CDN");
        return not_admitted(gateway, &found, &head, refusal.closing(), &facts);
    }
    if let Err(refusal) = counted::arrived(gateway, &found, &mut head, &facts) {
        return not_admitted(gateway, &found, &head, refusal, &facts);
    }
    if !hooks::concern(gateway, &found) {
        return of_found(gateway, found, head, body, &facts).await;
    }
    // What scripts need on the way is more than a request without them.
    let asking = scripted(gateway, found, path.as_str(), head, body, &facts);
    Box::pin(gateway.scripts.within(asking)).await
}

/// What a request leads to at its listener; some paths show a browser a page, and others what they are.
fn find(gateway: &Gateway, head: &http::request::Parts, path: &str, facts: &RequestFacts) -> Found {
    let router = gateway.router_at(facts);
    let found = router.find(&head.method, path);
    door::page::instead(gateway, router, head, path).unwrap_or(found)
}

/// A refusal before anything is done for a request, in the shape of its door.
fn not_admitted(
    gateway: &Gateway,
    found: &Found,
    head: &http::request::Parts,
    refusal: Refusal,
    facts: &RequestFacts,
) -> Response<OutboundBody> {
    let door = match found {
        Found::Row(row, _) => {
            facts.set_route(row.route.name());
            row.door
        }
        Found::OtherMethods(door, _) => *door,
        Found::Nothing => of_nothing(gateway, head, facts),
    };
    put_on(dress(gateway, door, head), shaped(door, refusal, facts))
}

/// Whether a request is of those that no CDN passes on: probes and scrapes, and administrators on this machine.
fn is_our_own(found: &Found, facts: &RequestFacts) -> bool {
    match found {
        Found::Row(row, _) => match row.door {
            Door::Operations => true,
            // Not what a proxy on this machine passes on.
            Door::Admin => facts.peer_ip().is_loopback() && facts.client_ip() == facts.peer_ip(),
            _ => false,
        },
        _ => false,
    }
}

/// The same, with scripts asked where it goes and what its answer is to look like.
async fn scripted(
    gateway: &Gateway,
    mut found: Found,
    path: &str,
    mut head: http::request::Parts,
    body: InboundBody,
    facts: &Arc<RequestFacts>,
) -> Response<OutboundBody> {
    let door = match &found {
        Found::Row(row, _) => row.door,
        Found::OtherMethods(door, _) => *door,
        Found::Nothing => Door::BoxVault,
    };
    let told = hooks::told(gateway, &head, path, &found, facts);
    let routing = match hooks::route(gateway, &told, facts).await {
        Ok(routing) => routing,
        Err(Instead::Answer(answer)) => return answer,
        Err(Instead::Refusal(refusal)) => return shaped(door, refusal, facts),
    };
    if let Some(rewritten) = &routing.rewrite {
        let path = match normal(gateway, rewritten) {
            Ok(path) => path,
            Err(error) => return shaped(door, Refusal::invalid(error.to_string()), facts),
        };
        found = find(gateway, &head, path.as_str(), facts);
    }
    head.extensions.insert(Arc::clone(&told));
    if let Some(store) = &routing.backend {
        head.extensions.insert(RoutedTo(store.clone()));
    }
    let answer = of_found(gateway, found, head, body, facts).await;
    match hooks::on_response(gateway, &told, facts, &routing, answer).await {
        Ok(answer) => answer,
        Err(refusal) => shaped(door, refusal, facts),
    }
}

async fn of_found(
    gateway: &Gateway,
    found: Found,
    head: http::request::Parts,
    body: InboundBody,
    facts: &Arc<RequestFacts>,
) -> Response<OutboundBody> {
    let (row, names) = match found {
        Found::Row(row, names) => (row, names),
        Found::OtherMethods(Door::Runtime, _) if !is_runtime(gateway, &head) => {
            return shaped(Door::Runtime, door::runtime::absent(), facts);
        }
        Found::OtherMethods(Door::Boxitory, _) => return door::boxitory::wrong_method(&head),
        Found::OtherMethods(door, methods) => {
            let dress = dress(gateway, door, &head);
            let refused = wrong_method(door, &methods, facts);
            return put_on(dress, refused);
        }
        Found::Nothing => {
            let refusal = Refusal::new(StatusCode::NOT_FOUND, "There is nothing at this path.")
                .code("NOT_FOUND");
            return match of_nothing(gateway, &head, facts) {
                Door::Boxitory => door::boxitory::nothing(&head, gateway.clock.now()),
                Door::Runtime => shaped(Door::Runtime, door::runtime::absent(), facts),
                door => door::page::nothing(gateway, &head, facts, &refusal)
                    .unwrap_or_else(|| shaped(door, refusal, facts)),
            };
        }
    };
    facts.set_route(row.route.name());
    let dress = dress(gateway, row.door, &head);
    let answer = routed(gateway, row, names, head, body, facts).await;
    put_on(dress, answer)
}

/// In whose words it is said that nothing is there: callers of adapters read no others.
fn of_nothing(gateway: &Gateway, head: &http::request::Parts, facts: &RequestFacts) -> Door {
    let runtime = door::runtime::finds(gateway, head.uri.path());
    if is_of_adapters(gateway, head.uri.path()) {
        Door::Providers
    } else if runtime != door::runtime::Found::Elsewhere {
        Door::Runtime
    } else if door::boxitory::is_of(gateway, head.uri.path(), facts) {
        Door::Boxitory
    } else if vagrant_cloud::is_below(
        &gateway.settings.doors.vagrant_cloud.prefix,
        head.uri.path(),
    ) {
        Door::VagrantCloud
    } else {
        Door::BoxVault
    }
}

fn is_runtime(gateway: &Gateway, head: &http::request::Parts) -> bool {
    door::runtime::finds(gateway, head.uri.path()) == door::runtime::Found::There
}

fn is_of_adapters(gateway: &Gateway, path: &str) -> bool {
    let below = path.strip_prefix(gateway.settings.doors.providers.prefix.as_str());
    below.is_some_and(|path| path.starts_with("/providers/"))
}

/// The one spelling of a path. Ids of clouds may hold a slash, other names never.
fn normal(gateway: &Gateway, raw: &str) -> Result<NormalPath, PathError> {
    if is_of_adapters(gateway, raw) {
        NormalPath::parse_with_slashes(raw)
    } else {
        NormalPath::parse(raw)
    }
}

/// The path, as it was written. RFC 9110 §9.3.7: `OPTIONS *` asks about the server in general, and what it has
/// to tell is what uploads may be.
fn asked_for<'h>(gateway: &Gateway, head: &'h http::request::Parts) -> Cow<'h, str> {
    let path = head.uri.path();
    if path == "*" && head.method == http::Method::OPTIONS {
        return format!("{}/files", gateway.settings.doors.files.prefix).into();
    }
    path.into()
}

/// What every answer of the door of uploads has.
fn dress(gateway: &Gateway, door: Door, head: &http::request::Parts) -> Option<Dress> {
    let origins = &gateway.settings.files.cors_origins;
    (door == Door::Files).then(|| Dress::of(&head.method, &head.headers, origins))
}

fn put_on(dress: Option<Dress>, mut response: Response<OutboundBody>) -> Response<OutboundBody> {
    if let Some(dress) = dress {
        dress.put_on(&mut response);
    }
    response
}

async fn routed(
    gateway: &Gateway,
    row: &'static Row,
    names: PathNames,
    head: http::request::Parts,
    body: InboundBody,
    facts: &Arc<RequestFacts>,
) -> Response<OutboundBody> {
    if gateway.phase() == Phase::Starting && row.door != Door::Operations {
        let refusal = Refusal::busy(
            "The gateway is starting.",
            std::time::Duration::from_secs(2),
        );
        return shaped(row.door, refusal, facts);
    }
    let span = tracing::debug_span!("request", route = row.route.name(), request_id = facts.id());
    let visit = (row.door == Door::Page).then(|| door::page::Visit::of(gateway, &head, facts));
    let path = visit.is_some().then(|| head.uri.path().to_owned());
    let mut written = None;
    // Pinned where it is made: within its span it would be moved twice, and it is the largest future of a request.
    let answer = pin!(admitted(
        gateway,
        row,
        names,
        (head, body),
        facts,
        &mut written
    ))
    .instrument(span)
    .await;
    match answer {
        Ok(response) => response,
        Err(refusal) => {
            let kept =
                |visit| page::form::kept(visit, path.as_deref()?, &refusal, written.as_deref()?);
            let text = visit
                .as_ref()
                .map(|visit| kept(visit).unwrap_or_else(|| visit.refused(&refusal)));
            let mut response = shaped(row.door, refusal, facts);
            if let Some(text) = text {
                *response.body_mut() = response::full(text);
            }
            response
        }
    }
}

/// What a request that may be made comes to. What somebody wrote is left in `written`, read only once it is its sender's turn.
async fn admitted(
    gateway: &Gateway,
    row: &'static Row,
    names: PathNames,
    (mut head, mut body): (http::request::Parts, InboundBody),
    facts: &Arc<RequestFacts>,
    written: &mut Option<Bytes>,
) -> Answer {
    let authenticating = tracing::debug_span!("authenticate");
    let principal = caller(gateway, row, &names, &mut head, facts)
        .instrument(authenticating)
        .await?;
    // Its clients know 401; BoxVault's know 403.
    let is_unknown = principal.is_none() && knows_401(row);
    let is_written = page::form::is_written(row, &head);
    if is_unknown && !is_written {
        return Err(auth::no_credential());
    }
    if let Some(principal) = &principal {
        facts.set_principal(principal.name().to_owned());
    }
    let counting = Counting::of(&head);
    let counting = counting.as_ref();
    let asker = counted::asker(principal.as_ref(), facts);
    // Where a plugin may say by which rate, it is asked before.
    let is_chosen = hooks::choose_rates(gateway, &head);
    if !is_chosen {
        counted::identified(gateway, counting, &asker, (facts, None))?;
    }
    // Held until there is an answer to begin with.
    let _turn = counted::turn(gateway, counting, asker.clone()).await?;
    let decided = if is_unknown {
        Err(auth::no_credential())
    } else {
        decided(gateway, row, principal, &names, &mut head, facts).await
    };
    let rate = decided.as_ref().ok().and_then(|(_, rate)| rate.clone());
    let by = (facts.as_ref(), rate.as_deref());
    if is_chosen {
        counted::identified(gateway, counting, &asker, by)?;
    }
    if let Ok((grant, _)) = &decided {
        counted::granted(gateway, counting, grant, by)?;
    }
    let is_kept = match &decided {
        Ok(_) => true,
        Err(refusal) => refusal.status == StatusCode::UNAUTHORIZED,
    };
    if is_written && is_kept {
        *written = Some(Box::pin(page::form::taken(gateway, &head, &mut body)).await?);
    }
    let (grant, _) = decided?;
    let (inbound, outbound) = counted::meters(gateway, counting, &grant, by);
    if outbound.is_some() {
        // The kernel is not told how fast it may be.
        head.extensions.remove::<FileSender>();
    }
    let call = Call {
        head,
        body: match inbound {
            Some(meter) => body.measured(meter),
            None => body,
        },
        row,
        names,
        grant,
        facts: Arc::clone(facts),
    };
    let answer = dispatch(gateway, call).await;
    counted::answered(gateway, counting, &answer);
    Ok(match outbound {
        Some(meter) => answer?.map(|body| ShapedBody::new(body, meter).boxed_unsync()),
        None => answer?,
    })
}

/// What the caller may, by the row's policy and all plugins; and the rate that these have it counted by.
async fn decided(
    gateway: &Gateway,
    row: &Row,
    principal: Option<Principal>,
    names: &PathNames,
    head: &mut http::request::Parts,
    facts: &RequestFacts,
) -> Result<(Grant, Option<String>), Refusal> {
    let grant = if let Some(blob) = linked_blob(gateway, row, names, head).await? {
        Grant::of_blob(blob)
    } else {
        granted(gateway, row, principal, names, head, facts).await?
    };
    let rate = if hooks::are_asked(head) {
        Box::pin(hooks::authorize(
            gateway,
            head,
            grant.principal.as_ref(),
            facts,
        ))
        .await?
    } else {
        None
    };
    Ok((grant, rate))
}

/// Whether a row that needs a credential answers 401 without one: what is not BoxVault's does.
fn knows_401(row: &Row) -> bool {
    match row.door {
        Door::Files => row.policy != Policy::Public,
        Door::VagrantCloud => matches!(row.policy, Policy::Credential | Policy::EditBox),
        Door::Page => !matches!(
            row.policy,
            Policy::Public | Policy::Optional | Policy::ReadBox
        ),
        _ => false,
    }
}

/// Who is asking. A bad credential is refused, but where a row needs none, BoxVault's own header with
/// an expired session reads as nobody.
async fn caller(
    gateway: &Gateway,
    row: &Row,
    names: &PathNames,
    head: &mut http::request::Parts,
    facts: &RequestFacts,
) -> Result<Option<Principal>, Refusal> {
    if row.route == Route::CloudReceive {
        return vagrant_cloud::upload::sender(gateway, names)
            .await
            .map(Some);
    }
    if row.policy == Policy::Public {
        return Ok(None);
    }
    let found = Credential::find(&head.headers, head.uri.query());
    let Some(credential) = found else {
        let session = auth::cookie::taken(gateway, row.door, &head.method, &head.headers, facts);
        if let Some(session) = session {
            let person = auth::cookie::person(&gateway.metadata, &session).await?;
            if let Some(person) = &person {
                // Whoever asks for the sender again finds no credential in the head.
                head.extensions.insert(auth::ByTokenOf(person.token.id));
            }
            return Ok(person);
        }
        // A download link stands for a credential, on its one route.
        let is_linked = matches!(row.route, Route::DownloadFile | Route::DownloadIso);
        let link = credential_query(head, "token").filter(|_| is_linked);
        let Some(token) = link else { return Ok(None) };
        if row.route == Route::DownloadIso {
            return isos::link_reader(gateway, &token, names).await;
        }
        let file = link_target(names)?;
        return files::link_reader(gateway, &token, &file, gateway.clock.now()).await;
    };
    let principal = auth::authenticate(&gateway.metadata, &credential).await?;
    let ignorable = matches!(row.policy, Policy::Optional | Policy::ReadBox)
        && *credential.place() == Place::AccessTokenHeader
        && row.class != Class::Download
        && !matches!(row.route, Route::ListVersions | Route::ShowVersion);
    if principal.is_none() && !ignorable {
        return Err(auth::bad_token());
    }
    Ok(principal)
}

/// What the row's policy lets through, or a plugin in its place.
async fn granted(
    gateway: &Gateway,
    row: &Row,
    principal: Option<Principal>,
    names: &PathNames,
    head: &mut http::request::Parts,
    facts: &RequestFacts,
) -> Result<Grant, Refusal> {
    let spare = hooks::may_override(gateway, head, row.policy).then(|| principal.clone());
    let operator = gateway.is_operator_network(facts.client_ip());
    let decided = auth::authorize(&gateway.metadata, row.policy, principal, names, operator)
        .instrument(tracing::debug_span!("authorize"))
        .await;
    match (decided, spare) {
        (Err(refusal), Some(principal)) => {
            let asked = (row.policy, names);
            let asking = hooks::overridden(gateway, head, asked, principal, facts, refusal);
            Box::pin(asking).await
        }
        (decided, _) => decided,
    }
}

/// The blob that a plugin's link leads to, on the routes that name it by its BLAKE3 digest.
async fn linked_blob(
    gateway: &Gateway,
    row: &Row,
    names: &PathNames,
    head: &http::request::Parts,
) -> Result<Option<HeldBlob>, Refusal> {
    if row.policy != Policy::ReadBlob {
        return Ok(None);
    }
    let digest = Blake3::from_hex(names.value("b3"));
    let (Some(token), Some(digest)) = (credential_query(head, "token"), digest) else {
        return Ok(None);
    };
    door::blobs::linked(gateway, &token, &digest)
        .await
        .map(Some)
}

fn credential_query(head: &http::request::Parts, name: &str) -> Option<String> {
    auth::credential::query_value(head.uri.query()?, name)
}

fn link_target(names: &PathNames) -> Result<boxgate_storage::catalog::BoxRef, Refusal> {
    Ok(boxgate_storage::catalog::BoxRef {
        organization: names.value("org").parse().map_err(Refusal::name)?,
        name: names.value("box").parse().map_err(Refusal::name)?,
        version: names.value("version").parse().map_err(Refusal::name)?,
        provider: names.value("provider").parse().map_err(Refusal::name)?,
        architecture: names.value("arch").parse().map_err(Refusal::name)?,
    })
}

async fn dispatch(gateway: &Gateway, call: Call) -> Answer {
    let may_delete = call.head.method == http::Method::DELETE || call.row.door == Door::Page;
    if may_delete && hooks::are_asked(&call.head) {
        Box::pin(hooks::on_delete(gateway, &call)).await?;
    }
    handler(gateway, call).await
}

/// What answers a route. Each is boxed by itself: in one future all would take the room of the largest, and that is
/// moved several times for every request.
#[expect(clippy::too_many_lines, reason = "one arm for each route")]
fn handler(gateway: &Gateway, call: Call) -> BoxFuture<'_, Answer> {
    match call.row.route {
        Route::SignIn => sign_in::sign_in(gateway, call).boxed(),
        Route::ServiceAccountSignIn => sign_in::service_account(gateway, call).boxed(),
        Route::SignUp => ready(Err(sign_in::sign_up())).boxed(),
        Route::RefreshToken => sign_in::refresh(gateway, call).boxed(),
        Route::AuthMethods => {
            ready(Ok(response::json(StatusCode::OK, &sign_in::methods()))).boxed()
        }
        Route::SetupStatus => sign_in::setup_status(gateway).boxed(),
        Route::CurrentUser => ready(sign_in::current_user(&call)).boxed(),
        Route::UserOrganizations => sign_in::organizations(gateway, call).boxed(),
        Route::CreateUser => accounts::create(gateway, call).boxed(),
        Route::ListUsers => accounts::list(gateway, call).boxed(),
        Route::ShowUser => accounts::show(gateway, call).boxed(),
        Route::UpdateUser => accounts::update(gateway, call).boxed(),
        Route::DeleteUser => accounts::delete(gateway, call).boxed(),
        Route::ListUploads => door::admin::list_uploads(gateway, call).boxed(),
        Route::ShowUpload => ready(door::admin::show_upload(gateway, &call)).boxed(),
        Route::AbortUpload => {
            async move { door::admin::abort_upload(gateway, &call).await }.boxed()
        }
        Route::ReleaseUpload => {
            async move { door::admin::release_upload(gateway, &call).await }.boxed()
        }
        Route::AdoptStock => ready(door::upkeep::adopt(gateway, &call)).boxed(),
        Route::CheckStock => ready(door::upkeep::check(gateway, &call)).boxed(),
        Route::CollectGarbage => ready(door::upkeep::collect(gateway, &call)).boxed(),
        Route::ScrubStock => ready(door::upkeep::scrub(gateway, &call)).boxed(),
        Route::ImportBoxitory => ready(door::upkeep::import_boxitory(gateway, &call)).boxed(),
        Route::CopyStock => ready(door::upkeep::copy(gateway, &call)).boxed(),
        Route::ListLinkKeys => door::admin::list_link_keys(gateway).boxed(),
        Route::RotateLinkKey => {
            async move { door::admin::rotate_link_key(gateway, &call).await }.boxed()
        }
        Route::RevokeLinkKey => {
            async move { door::admin::revoke_link_key(gateway, &call).await }.boxed()
        }
        Route::ListScripts => door::scripts::list(gateway).boxed(),
        Route::ReloadScripts => async move { door::scripts::reload(gateway, &call).await }.boxed(),
        Route::RollbackScript => {
            async move { door::scripts::rollback(gateway, &call).await }.boxed()
        }
        Route::ListPlugins => door::plugins::list(gateway).boxed(),
        Route::PushPlugin => door::plugins::push(gateway, call).boxed(),
        Route::RemovePlugin => async move { door::plugins::remove(gateway, &call).await }.boxed(),
        Route::ListWebhooks => webhooks::list(gateway, call).boxed(),
        Route::CreateWebhook => webhooks::create(gateway, call).boxed(),
        Route::WebhookEvents => ready(Ok(webhooks::events(gateway))).boxed(),
        Route::ShowWebhook => async move { webhooks::show(gateway, &call).await }.boxed(),
        Route::UpdateWebhook => webhooks::update(gateway, call).boxed(),
        Route::DeleteWebhook => async move { webhooks::remove(gateway, &call).await }.boxed(),
        Route::TestWebhook => webhooks::test(gateway, call).boxed(),
        Route::RotateWebhookSecret => webhooks::rotate(gateway, call).boxed(),
        Route::FinishWebhookRotation => {
            async move { webhooks::finish_rotation(gateway, &call).await }.boxed()
        }
        Route::EnableWebhook => async move { webhooks::switch(gateway, &call, true).await }.boxed(),
        Route::DisableWebhook => {
            async move { webhooks::switch(gateway, &call, false).await }.boxed()
        }
        Route::ListDeliveries => webhooks::list_deliveries(gateway, call).boxed(),
        Route::RecoverDeliveries => webhooks::recover(gateway, call).boxed(),
        Route::ShowDelivery => async move { webhooks::delivery(gateway, &call).await }.boxed(),
        Route::Redeliver => webhooks::redeliver(gateway, call).boxed(),
        Route::CreateServiceAccount => service_accounts::create(gateway, call).boxed(),
        Route::ListServiceAccounts => service_accounts::list(gateway, call).boxed(),
        Route::ServiceAccountOrganizations => {
            service_accounts::organizations(gateway, call).boxed()
        }
        Route::DeleteServiceAccount => service_accounts::delete(gateway, call).boxed(),
        Route::RotateServiceAccount => service_accounts::rotate(gateway, call).boxed(),
        Route::CreateOrganization => organizations::create(gateway, call).boxed(),
        Route::ListOrganizations => organizations::list(gateway, call).boxed(),
        Route::ShowOrganization => organizations::show(gateway, call).boxed(),
        Route::UpdateOrganization => organizations::update(gateway, call).boxed(),
        Route::DeleteOrganization => organizations::delete(gateway, call).boxed(),
        Route::SetAccessMode => organizations::access_mode(gateway, call).boxed(),
        Route::DiscoverOrganizations => organizations::discover(gateway, call).boxed(),
        Route::ListMembers => organizations::members(gateway, call).boxed(),
        Route::SetMember => organizations::set_member(gateway, call).boxed(),
        Route::RemoveMember => organizations::remove_member(gateway, call).boxed(),
        Route::ListBoxes => boxes::list(gateway, call).boxed(),
        Route::CreateBox => boxes::create(gateway, call).boxed(),
        Route::DeleteBoxes => boxes::delete_all(gateway, call).boxed(),
        Route::ShowBox if vagrant::is_vagrant(&call.head.headers) => {
            vagrant::box_metadata(gateway, call).boxed()
        }
        Route::ShowBox => boxes::show(gateway, call).boxed(),
        Route::UpdateBox => boxes::update(gateway, call).boxed(),
        Route::DeleteBox => boxes::delete(gateway, call).boxed(),
        Route::DiscoverBoxes => boxes::discover(gateway, call).boxed(),
        Route::ListVersions => levels::list_versions(gateway, call).boxed(),
        Route::CreateVersion => levels::create_version(gateway, call).boxed(),
        Route::DeleteVersions => levels::delete_versions(gateway, call).boxed(),
        Route::ShowVersion => levels::show_version(gateway, call).boxed(),
        Route::UpdateVersion => levels::update_version(gateway, call).boxed(),
        Route::DeleteVersion => levels::delete_version(gateway, call).boxed(),
        Route::ListProviders => levels::list_providers(gateway, call).boxed(),
        Route::CreateProvider => levels::create_provider(gateway, call).boxed(),
        Route::DeleteProviders => levels::delete_providers(gateway, call).boxed(),
        Route::ShowProvider => levels::show_provider(gateway, call).boxed(),
        Route::UpdateProvider => levels::update_provider(gateway, call).boxed(),
        Route::DeleteProvider => levels::delete_provider(gateway, call).boxed(),
        Route::ListArchitectures => levels::list_architectures(gateway, call).boxed(),
        Route::CreateArchitecture => levels::create_architecture(gateway, call).boxed(),
        Route::DeleteArchitectures => levels::delete_architectures(gateway, call).boxed(),
        Route::ShowArchitecture => levels::show_architecture(gateway, call).boxed(),
        Route::UpdateArchitecture => levels::update_architecture(gateway, call).boxed(),
        Route::DeleteArchitecture => levels::delete_architecture(gateway, call).boxed(),
        Route::UploadFile | Route::UploadIso => boxvault::upload::upload(gateway, call).boxed(),
        Route::UploadsToFile | Route::UploadsToIso => {
            boxvault::chunks::status(gateway, call).boxed()
        }
        Route::FileInfo => files::info(gateway, call).boxed(),
        Route::FileLink => async move { files::get_link(gateway, &call).await }.boxed(),
        Route::DownloadFile => files::download(gateway, call).boxed(),
        Route::DeleteFile => files::delete(gateway, call).boxed(),
        Route::ListIsos => isos::list(gateway, call).boxed(),
        Route::ShowIso => isos::show(gateway, call).boxed(),
        Route::UpdateIso => isos::update(gateway, call).boxed(),
        Route::DeleteIso => isos::delete(gateway, call).boxed(),
        Route::DownloadIso => isos::download(gateway, call).boxed(),
        Route::IsoLink => isos::link(gateway, call).boxed(),
        Route::PublicIsos => isos::public(gateway, call).boxed(),
        Route::DiscoverIsos => isos::discover(gateway, call).boxed(),
        Route::CreateUpload => door::files::create(gateway, call).boxed(),
        Route::UploadOptions => ready(Ok(door::files::options(gateway))).boxed(),
        Route::UploadStatus => door::files::status(gateway, call).boxed(),
        Route::PutPart => door::files::part(gateway, call).boxed(),
        Route::FindUploads => door::files::found::list(gateway, call).boxed(),
        Route::UploadParts => door::files::found::parts(gateway, call).boxed(),
        Route::DeclareDigest => door::files::found::declare(gateway, call).boxed(),
        Route::UploadOffset | Route::AppendUpload | Route::CancelUpload => {
            door::files::one(gateway, call).boxed()
        }
        Route::VagrantMetadata => vagrant::box_metadata(gateway, call).boxed(),
        Route::VagrantFile => vagrant::file(gateway, call).boxed(),
        Route::VagrantDefaultFile => vagrant::default_file(gateway, call).boxed(),
        Route::CloudAccount => ready(vagrant_cloud::account::show(&call)).boxed(),
        Route::CloudSignIn => vagrant_cloud::account::sign_in(gateway, call).boxed(),
        Route::CloudSignOut => {
            async move { vagrant_cloud::account::sign_out(gateway, &call).await }.boxed()
        }
        Route::CloudSecondFactor => ready(Err(vagrant_cloud::account::second_factor())).boxed(),
        Route::CloudOrganization => vagrant_cloud::account::organization(gateway, call).boxed(),
        Route::CloudSearch => vagrant_cloud::search::search(gateway, call).boxed(),
        Route::CloudCreateBox => vagrant_cloud::boxes::create(gateway, call).boxed(),
        Route::CloudShowBox => vagrant_cloud::boxes::show(gateway, call).boxed(),
        Route::CloudUpdateBox => vagrant_cloud::boxes::update(gateway, call).boxed(),
        Route::CloudDeleteBox => vagrant_cloud::boxes::delete(gateway, call).boxed(),
        Route::CloudCreateVersion => vagrant_cloud::versions::create(gateway, call).boxed(),
        Route::CloudShowVersion => vagrant_cloud::versions::show(gateway, call).boxed(),
        Route::CloudUpdateVersion => vagrant_cloud::versions::update(gateway, call).boxed(),
        Route::CloudDeleteVersion => vagrant_cloud::versions::delete(gateway, call).boxed(),
        Route::CloudRelease => {
            vagrant_cloud::versions::set_status(gateway, call, VersionStatus::Active).boxed()
        }
        Route::CloudRevoke => {
            vagrant_cloud::versions::set_status(gateway, call, VersionStatus::Revoked).boxed()
        }
        Route::CloudCreateProvider => vagrant_cloud::providers::create(gateway, call).boxed(),
        Route::CloudShowProvider => vagrant_cloud::providers::show(gateway, call).boxed(),
        Route::CloudUpdateProvider => vagrant_cloud::providers::update(gateway, call).boxed(),
        Route::CloudDeleteProvider => vagrant_cloud::providers::delete(gateway, call).boxed(),
        Route::CloudUpload => vagrant_cloud::upload::url(gateway, call).boxed(),
        Route::CloudDirectUpload => vagrant_cloud::upload::direct(gateway, call).boxed(),
        Route::CloudUploaded => vagrant_cloud::upload::complete(gateway, call).boxed(),
        Route::CloudReceive => vagrant_cloud::upload::receive(gateway, call).boxed(),
        Route::Blob => door::blobs::blob(gateway, call).boxed(),
        Route::BlobOutboard => door::blobs::outboard(gateway, call).boxed(),
        Route::InboundWebhook => door::hooks::receive(gateway, call).boxed(),
        Route::AdapterMeta
        | Route::AdapterCatalog
        | Route::AdapterVerify
        | Route::AdapterOpenApi
        | Route::AdapterSwagger
        | Route::AdapterListKeys
        | Route::AdapterCreateKey
        | Route::AdapterShowKey
        | Route::AdapterDeleteKey
        | Route::AdapterListServers
        | Route::AdapterCreateServer
        | Route::AdapterShowServer
        | Route::AdapterCancel
        | Route::AdapterInstallKey
        | Route::AdapterReboot
        | Route::AdapterRename => door::providers::answer(gateway, call).boxed(),
        Route::RuntimeImage | Route::RuntimeDeploy | Route::RuntimePush | Route::RuntimeUpload => {
            door::runtime::image(gateway, call).boxed()
        }
        Route::ListRuntimes => ready(Ok(door::runtime::list(gateway))).boxed(),
        Route::BoxitoryList | Route::BoxitoryBox | Route::BoxitoryLatest | Route::BoxitoryFile => {
            door::boxitory::answer(gateway, call).boxed()
        }
        Route::Health => operations::health(gateway).map(Ok).boxed(),
        Route::Live => ready(Ok(operations::live())).boxed(),
        Route::Ready => operations::ready(gateway).map(Ok).boxed(),
        Route::Status => async move { operations::status(gateway, &call).await }.boxed(),
        Route::Metrics => operations::metrics(gateway).map(Ok).boxed(),
        Route::OpenApi => ready(door::openapi::document(gateway, &call)).boxed(),
        Route::OpenApiPage => ready(door::openapi::page(gateway, &call)).boxed(),
        Route::PageHome => page::home::show(gateway, call).boxed(),
        Route::PageOrganization => page::organization::show(gateway, call).boxed(),
        Route::PageBox => page::a_box::show(gateway, call).boxed(),
        Route::PageDownload => page::a_box::download(gateway, call).boxed(),
        Route::PageOthers => ready(page::others::show(gateway, &call)).boxed(),
        Route::PageAsset => ready(page::asset::show(&call)).boxed(),
        Route::PageSignInForm => ready(page::sign_in::form(gateway, &call)).boxed(),
        Route::PageSignIn => page::sign_in::sign_in(gateway, call).boxed(),
        Route::PageSignOut => page::sign_in::sign_out(gateway, call).boxed(),
        Route::PageSession => ready(page::sign_in::session(gateway, &call)).boxed(),
        Route::PageNewBox => ready(page::boxes::new(gateway, &call)).boxed(),
        Route::PageCreateBox => page::boxes::create(gateway, call).boxed(),
        Route::PageEditBox => ready(page::boxes::edit(gateway, &call)).boxed(),
        Route::PageUpdateBox => page::boxes::update(gateway, call).boxed(),
        Route::PageDeleteBox => page::boxes::delete(gateway, call).boxed(),
        Route::PageNewVersion => ready(page::versions::new(gateway, &call)).boxed(),
        Route::PageCreateVersion => page::versions::create(gateway, call).boxed(),
        Route::PageEditVersion => page::versions::edit(gateway, call).boxed(),
        Route::PageUpdateVersion => page::versions::update(gateway, call).boxed(),
        Route::PageDeleteVersion => page::versions::delete(gateway, call).boxed(),
        Route::PageReleaseVersion => {
            page::versions::set_status(gateway, call, VersionStatus::Active).boxed()
        }
        Route::PageRevokeVersion => {
            page::versions::set_status(gateway, call, VersionStatus::Revoked).boxed()
        }
        Route::PageKeys => page::keys::show(gateway, call).boxed(),
        Route::PageCreateKey => page::keys::create(gateway, call).boxed(),
        Route::PageRotateKey => page::keys::rotate(gateway, call).boxed(),
        Route::PageDeleteKey => page::keys::delete(gateway, call).boxed(),
        Route::PageUpload => ready(page::upload::show(gateway, &call)).boxed(),
        Route::PageOperate => page::operate::show(gateway, call).boxed(),
        Route::PageOperateNow => page::operate::now(gateway, call).boxed(),
        Route::PageWebhook => page::deliveries::show(gateway, call).boxed(),
        Route::PageRedeliver => page::deliveries::redeliver(gateway, call).boxed(),
    }
}

/// A refusal in its door's shape, its cause logged once, here.
fn shaped(door: Door, refusal: Refusal, facts: &RequestFacts) -> Response<OutboundBody> {
    if let Some(cause) = &refusal.cause
        && refusal.status.is_server_error()
    {
        let error = boxgate_storage::error::chain(cause);
        // One upload may be too large for what is free, and nothing is wrong here.
        if cause.kind() == ErrorKind::Full {
            tracing::warn!(request_id = %facts.id(), %error, "no room for a request");
        } else {
            tracing::error!(request_id = %facts.id(), %error, "request failed");
        }
    }
    let mut response = match door {
        Door::BoxVault => boxvault::refuse(&refusal),
        Door::Vagrant => vagrant::refuse(&refusal),
        Door::VagrantCloud => vagrant_cloud::refuse(&refusal),
        Door::Files => door::files::refuse(&refusal),
        Door::Providers => door::providers::refuse(&refusal),
        Door::Runtime => door::runtime::refuse(&refusal),
        Door::Boxitory => door::boxitory::refuse(&refusal),
        Door::Operations | Door::Admin | Door::Blobs | Door::Hooks => operations::refuse(&refusal),
        Door::Page => page::refuse(&refusal),
    };
    // RFC 9110 §15.5.2: a 401 names how to do better.
    if refusal.status == StatusCode::UNAUTHORIZED {
        let challenge = HeaderValue::from_static("Bearer realm=\"boxgate\"");
        response.headers_mut().insert(WWW_AUTHENTICATE, challenge);
    }
    if refusal.status == StatusCode::SERVICE_UNAVAILABLE
        && !refusal.headers.contains_key(RETRY_AFTER)
    {
        response
            .headers_mut()
            .insert(RETRY_AFTER, HeaderValue::from_static("5"));
    }
    response.headers_mut().extend(refusal.headers);
    response
}

fn wrong_method(
    door: Door,
    methods: &[http::Method],
    facts: &RequestFacts,
) -> Response<OutboundBody> {
    let mut allowed: Vec<&str> = methods.iter().map(http::Method::as_str).collect();
    if allowed.contains(&"GET") && !allowed.contains(&"HEAD") {
        allowed.push("HEAD");
    }
    let allowed = allowed.join(", ");
    let refusal = Refusal::new(
        StatusCode::METHOD_NOT_ALLOWED,
        format!("This path answers {allowed} only."),
    )
    .code("METHOD_NOT_ALLOWED")
    .header(
        ALLOW,
        HeaderValue::from_str(&allowed).expect("method names are ASCII"),
    );
    let shape = match door {
        Door::Files
        | Door::Providers
        | Door::Runtime
        | Door::VagrantCloud
        | Door::Hooks
        | Door::Admin => door,
        _ => Door::BoxVault,
    };
    shaped(shape, refusal, facts)
}
