//! Adapters to clouds: what the gateway does for each of them, whatever its plugin answers.

use std::sync::Arc;

use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use crate::harness::{Reply, Request, Running};
use crate::scripts::write_plugin;

/// A cloud within a plugin: what it is to do next is in the credential `mood`.
pub(crate) const CLOUD: &str = r#"
    fn meta() {
        #{ id: "cloud", name: "Cloud", server_nick_name: "Box", default_region: "r", default_size: "s",
           default_plan: "p", can_reboot: true, can_rename: true, internal_iface: "eth0", external_iface: (),
           ssh_user: "root", ssh_auth_method: "key", ssh_key_method: "reference", bootstrap_script: "https://a/",
           credential_fields: [#{ key: "api_key", label: "Key" }, #{ key: "Mood", label: "Mood" }],
           instructions: "None." }
    }
    fn has(ctx, mood) { ctx.auth["Mood"] == mood }
    fn trouble(ctx) {
        if has(ctx, "broken") { throw `no such thing as ${ctx.auth["api_key"]}`; }
        if has(ctx, "refused") { kv::incr("refused", 1, 60); return fail(401, "Invalid key"); }
        if has(ctx, "telltale") { throw fail(403, "hush-hush may not do this"); }
        if has(ctx, "busy") { return fail(429, "Too many requests"); }
        if has(ctx, "odd") { return #{ nothing: true }; }
        if has(ctx, "shy") { log::warn(`it says hush-hush and shy`, #{ told: "hush-hush" }); throw "no hush-hush for shy"; }
        if has(ctx, "bare") { throw ctx.auth["api_key"]; }
    }
    fn catalog(ctx) {
        if kv::incr("catalogs", 1, 60) > 1 { throw "the cloud is away"; }
        let sizes = [#{ id: 1, ram: 512, cpu: 1, disk: "20", transfer: "unlimited", dollars_per_hr: "0.01", dollars_per_mo: 5 },
            #{ id: "free", ram: 1, cpu: 1, disk: 1, dollars_per_hr: "Unknown", dollars_per_mo: "Unknown" }];
        [#{ id: "r", name: "R", plans: [#{ id: "p", name: "P", specs: sizes }] }]
    }
    fn verify(ctx) { trouble(ctx) }
    fn create_key(ctx, key) { trouble(ctx) ?? 512190 }
    fn get_key(ctx, id) {
        let tags = if id == "theirs" { ["Nanobox:false"] } else { [] };
        #{ id: id, name: "n", public_key: "k", tags: tags }
    }
    fn delete_key(ctx, id) { kv::set("deleted", id, 60); }
    fn create_server(ctx, order) {
        kv::incr("orders", 1, 60);
        trouble(ctx) ?? `${order.name}::${kv::get("orders")}`
    }
    fn get_server(ctx, id) {
        if id.starts_with("theirs") { return #{ id: id, status: "active", tags: #{ Nanobox: "false" } }; }
        if id.contains("/") { return #{ id: id, status: "off", name: "hush-hush or shy", internal_ip: "hush-hush" }; }
        if id == "there::1" { return #{ id: 3164444, status: "active", name: "n", internal_ip: "10.0.0.1", password: "p" }; }
        trouble(ctx)
    }
    fn cancel_server(ctx, id) { kv::set("cancelled", id, 60); }
    fn reboot_server(ctx, id) { kv::set("rebooted", id, 60); }
    fn rename_server(ctx, id, name) { kv::set("renamed", `${id} ${name}`, 60); }
    fn route(req) {
        if req.path == "/told" {
            respond(200, #{ refused: kv::get("refused"), orders: kv::get("orders"), catalogs: kv::get("catalogs"), cancelled: kv::get("cancelled"),
                rebooted: kv::get("rebooted"), renamed: kv::get("renamed"), deleted: kv::get("deleted"),
                seen: req.header("auth-api-key") })
        }
    }
"#;

pub(crate) async fn cloud(variables: &[(&str, &str)]) -> Running {
    let directory: TempDir = tempfile::tempdir().unwrap();
    write_plugin(directory.path(), "sky", "[provider]", CLOUD);
    let mut all = vec![("BOXGATE_SCRIPTS__CHECK_EVERY", "0s")];
    all.extend(variables);
    let running = Running::start_in(directory, &all).await;
    for status in running.gateway.scripts.status() {
        assert_eq!(status.error, None, "{}", status.plugin);
    }
    running
}

pub(crate) fn ask(method: &str, path: &str, mood: &str) -> Request {
    Request::new(method, &format!("/providers/cloud{path}"))
        .header("AUTH-Api-Key", "hush-hush")
        .header("auth_mood", mood)
}

pub(crate) fn errors(reply: &Reply) -> Value {
    let document = reply.json();
    let kind = reply.header("content-type").unwrap();
    assert!(kind.starts_with("application/json"), "{kind}");
    assert!(document["errors"][0].is_string(), "{document}");
    document["errors"].clone()
}

fn order(name: &str, mood: &str) -> Request {
    let order = json!({ "name": name, "region": "r", "size": "s", "ssh_key": "1" });
    // As the public caller does it: without a type.
    ask("POST", "/servers", mood).body(order.to_string().as_bytes())
}

/// What was told of servers: what of which, where, and how large.
async fn of_servers(running: &Running) -> Vec<[Value; 4]> {
    let events = running.gateway.metadata.events(0, 1000).await.unwrap();
    let of_servers = events.iter().filter_map(|event| {
        let what = event.name.strip_prefix("provider.server.")?;
        let data = of_server(&event.data);
        let told = |name: &str| data[name].clone();
        Some([json!(what), told("server_id"), told("region"), told("size")])
    });
    of_servers.collect()
}

/// What an event says of a server, beside what all events say.
fn of_server(data: &str) -> Value {
    let mut data: Value = serde_json::from_str(data).unwrap();
    let members = data.as_object_mut().unwrap();
    assert!(members.remove("occurred_at").is_some() && members.remove("actor").is_some());
    data
}

async fn told(running: &Running) -> Value {
    running.get("/told", "").await.json()
}

#[tokio::test]
async fn one_order_is_made_however_many_ask_for_the_same() {
    let running = Arc::new(cloud(&[]).await);
    let asking = (0..64).map(|_| {
        let running = Arc::clone(&running);
        tokio::spawn(async move { running.send(order("web.1", "good")).await })
    });
    for asked in asking.collect::<Vec<_>>() {
        let reply = asked.await.unwrap();
        assert_eq!(reply.status, 201);
        assert_eq!(reply.json(), json!({ "id": "web.1::1" }));
    }
    assert_eq!(told(&running).await["orders"], 1);
    // For another account, by another name, it is another.
    let other = order("web.1", "good")
        .without("AUTH-Api-Key")
        .header("Auth-Api-Key", "other");
    assert_eq!(running.send(other).await.json()["id"], "web.1::2");
    assert_eq!(
        running.send(order("web.2", "good")).await.json()["id"],
        "web.2::3"
    );
    // One that failed is made anew.
    for _ in 0..2 {
        let reply = running.send(order("web.3", "broken")).await;
        assert_eq!(reply.status, 502);
    }
    assert_eq!(told(&running).await["orders"], 5);
    // Whoever leaves meanwhile finds it made.
    let mut events = running.gateway.metadata.events(0, 1000).await.unwrap();
    events.retain(|event| event.name == "provider.server.ordered");
    assert_eq!(events.len(), 3);
    assert!(!events.iter().any(|event| event.data.contains("hush")));
    let data = of_server(&events[0].data);
    let wanted = json!({ "provider": "cloud", "server_id": "web.1::1", "name": "web.1", "region": "r", "size": "s" });
    assert_eq!(data, wanted);
    Arc::into_inner(running).unwrap().stop().await;
}

#[tokio::test]
async fn a_server_that_was_just_ordered_is_told_of_until_its_cloud_lists_it() {
    let running = cloud(&[]).await;
    let id = running.send(order("new", "good")).await.json()["id"].clone();
    assert_eq!(id, "new::1");
    let reply = running
        .send(ask("GET", "/servers/new%3A%3A1", "good"))
        .await;
    assert_eq!(reply.status, 201);
    let wanted = json!({ "id": "new::1", "status": "ordering", "name": "new::1", "external_ip": null, "internal_ip": null });
    assert_eq!(reply.json(), wanted);
    // Not to another account, and no other server.
    let other = ask("GET", "/servers/new%3A%3A1", "good")
        .without("AUTH-Api-Key")
        .header("Auth-Api-Key", "other");
    assert_eq!(running.send(other).await.status, 404);
    let absent = running.send(ask("GET", "/servers/old", "good")).await;
    assert_eq!(
        (absent.status, errors(&absent)),
        (404, json!(["There is no server 'old'."]))
    );
    let there = running.send(ask("GET", "/servers/there::1", "good")).await;
    let wanted = json!({ "id": "3164444", "status": "active", "name": "n", "external_ip": null, "internal_ip": "10.0.0.1" });
    assert_eq!((there.status, there.json()), (201, wanted));
    running.stop().await;
}

#[tokio::test]
async fn what_is_tagged_as_none_of_ours_is_not_there_for_any_verb() {
    let running = cloud(&[]).await;
    for (method, path, body) in [
        ("GET", "/servers/theirs", ""),
        ("DELETE", "/servers/theirs", ""),
        ("PATCH", "/servers/theirs/reboot", ""),
        ("PATCH", "/servers/theirs/rename", r#"{"name":"x"}"#),
        ("GET", "/keys/theirs", ""),
        ("DELETE", "/keys/theirs", ""),
    ] {
        let reply = running
            .send(ask(method, path, "good").body(body.as_bytes()))
            .await;
        assert_eq!(reply.status, 404, "{method} {path}");
        errors(&reply);
    }
    for (method, path, body) in [
        ("PATCH", "/servers/there::1/reboot", ""),
        ("PATCH", "/servers/there::1/rename", r#"{"name":"x"}"#),
        ("DELETE", "/servers/there::1", ""),
        ("DELETE", "/keys/7", ""),
    ] {
        let reply = running
            .send(ask(method, path, "good").body(body.as_bytes()))
            .await;
        assert_eq!(
            (reply.status, reply.body.len()),
            (200, 0),
            "{method} {path}"
        );
    }
    // Not even while it would be told of as ordered.
    let ordered = running.send(order("theirs", "good")).await;
    assert_eq!(ordered.json()["id"], "theirs::1");
    let hidden = running.send(ask("GET", "/servers/theirs::1", "good")).await;
    assert_eq!(hidden.status, 404);
    let events = running.gateway.metadata.events(0, 1000).await.unwrap();
    let mut cancelled = events
        .iter()
        .filter(|event| event.name == "provider.server.cancelled");
    let data = of_server(&cancelled.next().unwrap().data);
    let wanted = json!({ "provider": "cloud", "server_id": "there::1", "name": "n", "region": null, "size": null });
    assert_eq!(data, wanted);
    assert!(cancelled.next().is_none());
    let done = told(&running).await;
    assert_eq!(done["rebooted"], "there::1");
    assert_eq!(done["renamed"], "there::1 x");
    assert_eq!(done["cancelled"], "there::1");
    assert_eq!(done["deleted"], "7");
    running.stop().await;
}

#[tokio::test]
async fn a_catalogue_is_kept_and_an_old_one_served_while_its_cloud_is_away() {
    let running = cloud(&[("BOXGATE_PROVIDERS__CATALOG_TTL", "1s")]).await;
    let wanted = json!([{ "id": "r", "name": "R", "plans": [{ "id": "p", "name": "P", "specs": [{
        "id": "1", "ram": 512, "cpu": 1, "disk": 20.0, "transfer": null, "dollars_per_hr": 0.01, "dollars_per_mo": 5,
    }] }] }]);
    let first = running.send(ask("GET", "/catalog", "good")).await;
    assert_eq!((first.status, first.json()), (200, wanted.clone()));
    // Until it is too old, and then as well, for there is no newer one.
    while told(&running).await["catalogs"] == 1 {
        let again = running.send(ask("GET", "/catalog", "good")).await;
        assert_eq!((again.status, again.json()), (200, wanted.clone()));
    }
    // Who never had one gets none.
    let bare = Request::new("GET", "/providers/cloud/catalog");
    assert_eq!(running.send(bare).await.status, 502);
    running.stop().await;
}

#[tokio::test]
async fn failures_are_told_in_the_callers_shape_and_nothing_of_the_scripts() {
    let running = cloud(&[]).await;
    for (mood, status, text) in [
        ("good", 200, ""),
        ("refused", 401, "Invalid key"),
        ("busy", 503, "Too many requests"),
        ("telltale", 403, "*** may not do this"),
        ("broken", 502, "made no sense"),
    ] {
        let reply = running.send(ask("POST", "/verify", mood)).await;
        assert_eq!(reply.status, status, "{mood}");
        if status == 200 {
            assert!(reply.body.is_empty());
            continue;
        }
        let told = errors(&reply).to_string();
        assert!(told.contains(text) && !told.contains("hush"), "{told}");
        let later = reply.header("retry-after").is_some();
        assert_eq!(later, status == 503, "{mood}");
    }
    let key = |mood: &str, body: &str| ask("POST", "/keys", mood).body(body.as_bytes());
    let good = running.send(key("good", r#"{"name":"n","key":"k"}"#)).await;
    assert_eq!((good.status, good.json()), (201, json!({ "id": "512190" })));
    let odd = running.send(key("odd", r#"{"id":"n","key":"k"}"#)).await;
    assert_eq!(odd.status, 502, "it has no id");
    let empty = running.send(key("good", "{}")).await;
    assert_eq!(
        (empty.status, errors(&empty)),
        (400, json!(["Missing in the body: id, key."]))
    );
    assert_eq!(running.send(key("good", "{\"id\":")).await.status, 400);

    // Before anything is asked of a cloud.
    let nobody = Request::new("POST", "/providers/cloud/servers").header("Auth-Mood", "  ");
    let nobody = running.send(nobody).await;
    let missing = "Credentials are missing: Auth-Api-Key, Auth-Mood.";
    assert_eq!((nobody.status, errors(&nobody)), (401, json!([missing])));
    for (method, path, status) in [
        ("PATCH", "/providers/cloud/servers/1/keys", 501),
        ("GET", "/providers/cloud/servers", 501),
        ("GET", "/providers/nobody/meta", 501),
        ("GET", "/providers/cloud/nothing", 404),
        ("GET", "/providers/cloud/servers/%5c", 400),
        ("PUT", "/providers/cloud/meta", 405),
    ] {
        let request = Request::new(method, path).header("Auth-Mood", "good");
        let request = request
            .header("Auth-Api-Key", "k")
            .body(br#"{"id":"n","key":"k"}"#);
        let reply = running.send(request).await;
        assert_eq!(reply.status, status, "{method} {path}");
        errors(&reply);
    }
    assert_eq!(told(&running).await["orders"], Value::Null);
    // Scripts read no credential of a cloud in a request's head.
    let request = Request::new("GET", "/told").header("Auth-Api-Key", "hush-hush");
    assert_eq!(running.send(request).await.json()["seen"], "***");
    running.stop().await;
}

#[tokio::test]
async fn an_order_is_known_after_a_restart_and_told_of_until_its_end() {
    let running = cloud(&[]).await;
    let id = json!({ "id": "there::1" });
    let ordered = running.send(order("there", "good")).await;
    assert_eq!(ordered.json(), id);
    let directory = running.stop().await;
    let running = Running::start_in(directory, &[("BOXGATE_SCRIPTS__CHECK_EVERY", "0s")]).await;
    let again = running.send(order("there", "good")).await;
    assert_eq!(again.json(), id);
    let new = running.send(order("new", "good")).await.json()["id"].clone();
    let path = format!("/servers/{}", new.as_str().unwrap());
    let ordering = running.send(ask("GET", &path, "good")).await.json();
    assert_eq!(ordering["status"], "ordering");
    // It is there, and is said to be once.
    for _ in 0..2 {
        let there = running.send(ask("GET", "/servers/there::1", "good")).await;
        assert_eq!(there.json()["status"], "active");
    }
    let gone = running
        .send(ask("DELETE", "/servers/there::1", "good"))
        .await;
    assert_eq!(gone.status, 200);
    let told = |what: &str, id: &Value| [json!(what), id.clone(), json!("r"), json!("s")];
    let there = json!("there::1");
    let wanted = [
        told("ordered", &there),
        told("ordered", &new),
        told("ready", &there),
        told("cancelled", &there),
    ];
    assert_eq!(of_servers(&running).await, wanted);
    // Its name may be ordered again, and that of the other not.
    running.send(order("there", "good")).await;
    running.send(order("new", "good")).await;
    assert_eq!(of_servers(&running).await.len(), 5);
    running.stop().await;
}

#[tokio::test]
async fn credentials_that_were_refused_are_refused_without_asking_until_they_are_verified_again() {
    let running = cloud(&[]).await;
    for _ in 0..3 {
        let refused = running.send(ask("GET", "/servers/1", "refused")).await;
        assert_eq!(
            (refused.status, errors(&refused)),
            (401, json!(["Invalid key"]))
        );
    }
    assert_eq!(told(&running).await["refused"], 1);
    for asked in [2, 3] {
        let verify = running.send(ask("POST", "/verify", "refused")).await;
        assert_eq!(verify.status, 401);
        assert_eq!(told(&running).await["refused"], asked);
    }
    assert_eq!(running.send(order("web", "refused")).await.status, 401);
    assert_eq!(told(&running).await["orders"], Value::Null);
    // Others are asked for.
    assert_eq!(
        running.send(ask("POST", "/verify", "good")).await.status,
        200
    );
    running.stop().await;
}

/// A server outside that keeps whoever asks for `/held/..` waiting until it is let go.
struct Holding {
    port: u16,
    waiting: Arc<tokio::sync::Semaphore>,
    go: tokio::sync::watch::Sender<bool>,
}

impl Holding {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let waiting = Arc::new(tokio::sync::Semaphore::new(0));
        let (go, held) = tokio::sync::watch::channel(false);
        let arrived = Arc::clone(&waiting);
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let (mut held, arrived) = (held.clone(), Arc::clone(&arrived));
                tokio::spawn(async move {
                    let mut seen = Vec::new();
                    let mut byte = [0];
                    while !seen.ends_with(b"\r\n\r\n") && stream.read_exact(&mut byte).await.is_ok()
                    {
                        seen.push(byte[0]);
                    }
                    if seen.starts_with(b"GET /held/") {
                        arrived.add_permits(1);
                        let _stopped = held.wait_for(|go| *go).await;
                    }
                    let answer =
                        b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 2\r\n\r\n{}";
                    let _gone = stream.write_all(answer).await;
                });
            }
        });
        Self { port, waiting, go }
    }

    fn adapter(&self, id: &str) -> String {
        CLOUD
            .replace(r#"id: "cloud""#, &format!("id: {id:?}"))
            .replace(
                "    fn get_server(ctx, id) {",
                &format!(
                    "    fn get_server(ctx, id) {{
                    let answer = http::get(`http://127.0.0.1:{}/${{id}}/x`);
                    return #{{ id: id, status: \"active\", name: answer.text() }};",
                    self.port
                ),
            )
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cloud_that_takes_for_ever_holds_nobody_else_back() {
    let outside = Holding::start().await;
    let directory = tempfile::tempdir().unwrap();
    let manifest = format!(
        "[provider]\n[http]\nallow = [\"http://127.0.0.1:{}/\"]",
        outside.port
    );
    for id in ["slow", "quick"] {
        write_plugin(directory.path(), id, &manifest, &outside.adapter(id));
    }
    let variables = [
        ("BOXGATE_SCRIPTS__CHECK_EVERY", "0s"),
        ("BOXGATE_SCRIPTS__TRUST_LOCAL", "true"),
        ("BOXGATE_SCRIPTS__ALLOW_NETWORKS", "127.0.0.0/8"),
    ];
    let running = Arc::new(Running::start_in(directory, &variables).await);
    let asking = |adapter: &str, id: &str| {
        let request = Request::new("GET", &format!("/providers/{adapter}/servers/{id}"));
        let request = request
            .header("Auth-Api-Key", "k")
            .header("Auth-Mood", "good");
        let running = Arc::clone(&running);
        tokio::spawn(async move { running.send(request).await })
    };
    let held: Vec<_> = (0..64).map(|_| asking("slow", "held")).collect();
    let all = outside.waiting.acquire_many(64).await.unwrap();
    // All that one adapter may have wait for its cloud; one more is told to come again.
    let more = asking("slow", "free").await.unwrap();
    assert_eq!(more.status, 503);
    assert!(more.header("retry-after").is_some());
    let others: Vec<_> = (0..64).map(|_| asking("quick", "free")).collect();
    for other in others {
        assert_eq!(other.await.unwrap().status, 201);
    }
    assert!(held.iter().all(|held| !held.is_finished()));
    drop(all);
    outside.go.send_replace(true);
    for held in held {
        let reply = held.await.unwrap();
        assert_eq!((reply.status, &reply.json()["name"]), (201, &json!("{}")));
    }
    Arc::into_inner(running).unwrap().stop().await;
}

#[tokio::test]
async fn documents_tell_where_the_door_is() {
    let running = cloud(&[("BOXGATE_DOORS__PROVIDERS__PREFIX", "/clouds")]).await;
    let document = async |name: &str| {
        let path = format!("/clouds/providers/cloud/{name}");
        let reply = running.send(Request::new("GET", &path)).await;
        assert_eq!(reply.status, 200, "{}", reply.head);
        reply.json()
    };
    let swagger = document("swagger.json").await;
    assert_eq!(swagger["basePath"], "/clouds/providers/cloud");
    let url = document("openapi.json").await["servers"][0]["url"].clone();
    assert!(
        url.as_str().unwrap().ends_with("/clouds/providers/cloud"),
        "{url}"
    );
}
