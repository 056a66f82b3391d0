//! Orders at a cloud that fails halfway, lists late, or has servers that are none of ours: one order is one server.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use crate::harness::{Reply, Request, Running};
use crate::scripts::write_plugin;

const ADAPTER: &str = r#"
    fn meta() {
        #{ id: "mock", name: "Mock", server_nick_name: "Box", default_region: "r", default_size: "s",
           default_plan: "p", can_reboot: false, can_rename: true, internal_iface: "eth0", external_iface: (),
           ssh_user: "root", ssh_auth_method: "key", ssh_key_method: "reference", bootstrap_script: "https://a/",
           credential_fields: [#{ key: "token", label: "Token" }], instructions: "None." }
    }
    fn base() { "BASE" }
    fn done(answer) {
        if answer.ok { return answer; }
        throw fail(if answer.status < 500 { answer.status } else { 500 }, `The cloud answers ${answer.status}.`);
    }
    fn catalog(ctx) { [] }
    fn verify(ctx) {}
    fn create_key(ctx, key) {
        for known in http::get(base() + "/keys").json() { if known.key.sub_string(0, 12) == key.key.sub_string(0, 12) { return known.id; } }
        done(http::post(base() + "/keys", #{ key: key.key })).pick("/id")
    }
    fn get_key(ctx, id) {}
    fn delete_key(ctx, id) {}
    fn create_server(ctx, order) { done(http::post(base() + "/servers", #{ name: order.name })).pick("/id") }
    fn get_server(ctx, id) {
        let answer = http::get(base() + "/servers/" + url::encode(id));
        if answer.status != 404 { done(answer).json() }
    }
    fn cancel_server(ctx, id) { done(http::delete(base() + "/servers/" + url::encode(id))); }
    fn rename_server(ctx, id, name) { done(http::patch(base() + "/servers/" + url::encode(id), #{ name: name })); }
"#;
const LIST: &str = r#"fn list_servers(ctx) { done(http::get(base() + "/servers")).json() }"#;

/// What a cloud has and does.
#[derive(Default)]
struct State {
    /// What is done with an order: `cut`, `odd`, `ill`, `lost`, or a status; made first, but for `lost` and statuses.
    mood: &'static str,
    /// Whether servers are listed and found, though they may be there.
    hides: bool,
    next: u64,
    servers: BTreeMap<String, Value>,
    keys: Vec<Value>,
    orders: u32,
    ended: u32,
}

impl State {
    fn add(&mut self, id: &str, name: &str, tags: &[&str], created: &str) {
        let server = json!({ "id": id, "name": name, "status": "creating", "tags": tags, "created": created });
        self.servers.insert(id.to_owned(), server);
    }

    /// Status and body; `None` cuts the connection.
    fn answer(&mut self, method: &str, path: &str, body: &Value) -> Option<(u16, Value)> {
        let id = path
            .strip_prefix("/servers/")
            .map(|id| id.replace("%2F", "/"));
        Some(match (method, path, id) {
            ("POST", "/servers", _) => {
                self.orders += 1;
                if let Ok(status) = self.mood.parse() {
                    return Some((status, json!({})));
                }
                if self.mood == "lost" {
                    return None;
                }
                self.next += 1;
                let id = format!("eu/{}", self.next);
                let name = body["name"].as_str().unwrap();
                self.add(
                    &id,
                    name,
                    &["Nanobox:true"],
                    &jiff::Timestamp::now().to_string(),
                );
                match self.mood {
                    "cut" => return None,
                    "odd" => (200, json!({ "unexpected": id })),
                    "ill" => (502, json!({})),
                    _ => (201, json!({ "id": id })),
                }
            }
            ("GET", "/servers", _) if self.hides => (200, json!([])),
            ("GET", "/servers", _) => (200, self.servers.values().cloned().collect()),
            ("GET", "/keys", _) => (200, json!(self.keys)),
            ("POST", "/keys", _) => {
                let key = json!({ "id": self.keys.len() + 1, "key": body["key"] });
                self.keys.push(key.clone());
                (201, key)
            }
            ("GET", _, Some(_)) if self.hides => (404, json!({})),
            ("GET", _, Some(id)) => match self.servers.get(&id) {
                Some(server) => (200, server.clone()),
                None => (404, json!({})),
            },
            ("PATCH", _, Some(id)) => {
                self.servers.get_mut(&id)?["name"] = body["name"].clone();
                (200, json!({}))
            }
            ("DELETE", _, Some(id)) => {
                self.ended += 1;
                // As clouds do it: it is still told of for a while.
                self.servers.get_mut(&id)?["status"] = json!("destroying");
                (200, json!({}))
            }
            _ => (404, json!({})),
        })
    }
}

#[derive(Clone)]
struct Cloud {
    port: u16,
    state: Arc<Mutex<State>>,
}

impl Cloud {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let state = Arc::new(Mutex::new(State::default()));
        let shared = Arc::clone(&state);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, Arc::clone(&shared)));
            }
        });
        Self { port, state }
    }

    fn with<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        change(&mut self.state.lock().unwrap())
    }

    fn orders(&self) -> u32 {
        self.with(|state| state.orders)
    }

    /// A gateway with an adapter to it, that may reach it by `providers.allow_networks` alone.
    async fn gateway(&self, more: &str, variables: &[(&str, &str)]) -> Running {
        let base = format!("http://127.0.0.1:{}", self.port);
        let directory = tempfile::tempdir().unwrap();
        let manifest = format!("[provider]\n[http]\nallow = [\"{base}/\"]");
        let source = ADAPTER.replace("BASE", &base) + more;
        write_plugin(directory.path(), "mock", &manifest, &source);
        let mut all = VARIABLES.to_vec();
        all.extend(variables);
        let running = Running::start_in(directory, &all).await;
        for status in running.gateway.scripts.status() {
            assert_eq!(status.error, None, "{}", status.plugin);
        }
        running
    }
}

const VARIABLES: [(&str, &str); 3] = [
    ("BOXGATE_SCRIPTS__CHECK_EVERY", "0s"),
    ("BOXGATE_SCRIPTS__TRUST_LOCAL", "true"),
    ("BOXGATE_PROVIDERS__ALLOW_NETWORKS", "127.0.0.0/8"),
];

/// One request a connection.
async fn serve(mut stream: TcpStream, state: Arc<Mutex<State>>) -> std::io::Result<()> {
    let mut seen = Vec::new();
    let (head, length) = loop {
        if stream.read_buf(&mut seen).await? == 0 {
            return Ok(());
        }
        let Some(end) = seen.windows(4).position(|w| w == b"\r\n\r\n") else {
            continue;
        };
        let head = String::from_utf8_lossy(&seen[..end]).into_owned();
        let length = head.to_lowercase();
        let length = length
            .lines()
            .find_map(|line| line.strip_prefix("content-length: "));
        let length: usize = length.map_or(0, |length| length.parse().unwrap());
        if seen.len() >= end + 4 + length {
            break (head, length);
        }
    };
    let body = serde_json::from_slice(&seen[seen.len() - length..]).unwrap_or(Value::Null);
    let mut words = head.split(' ');
    let (method, path) = (words.next().unwrap(), words.next().unwrap());
    let answer = state.lock().unwrap().answer(method, path, &body);
    let Some((status, document)) = answer else {
        return Ok(());
    };
    let text = document.to_string();
    let rest = if status == 429 {
        "retry-after: 17\r\n"
    } else {
        ""
    };
    let answer = format!(
        "HTTP/1.1 {status} X\r\n{rest}connection: close\r\ncontent-length: {}\r\n\r\n{text}",
        text.len()
    );
    stream.write_all(answer.as_bytes()).await
}

fn ask(method: &str, path: &str) -> Request {
    Request::new(method, &format!("/providers/mock{path}")).header("Auth-Token", "hush-hush")
}

async fn order(running: &Running, name: &str) -> Reply {
    let order = json!({ "name": name, "region": "r", "size": "s", "ssh_key": "1" });
    let request = ask("POST", "/servers").body(order.to_string().as_bytes());
    running.send(request).await
}

fn why(reply: &Reply) -> String {
    reply.json()["errors"][0].as_str().unwrap().to_owned()
}

async fn events(running: &Running, what: &str) -> usize {
    let events = running.gateway.metadata.events(0, 1000).await.unwrap();
    let name = format!("provider.server.{what}");
    events.iter().filter(|event| event.name == name).count()
}

#[tokio::test]
async fn an_order_whose_answer_is_lost_is_found_and_not_made_twice() {
    let cloud = Cloud::start().await;
    let running = cloud.gateway(LIST, &[]).await;
    for (n, (mood, status)) in [("cut", 502), ("odd", 502), ("ill", 500)]
        .into_iter()
        .enumerate()
    {
        let name = format!("web.{n}");
        cloud.with(|state| state.mood = mood);
        assert_eq!(order(&running, &name).await.status, status, "{mood}");
        for _ in 0..2 {
            let again = order(&running, &name).await;
            let wanted = json!({ "id": format!("eu/{}", n + 1) });
            assert_eq!((again.status, again.json()), (201, wanted), "{mood}");
        }
    }
    assert_eq!(cloud.orders(), 3);
    assert_eq!(events(&running, "ordered").await, 3);
    // What was refused was not made.
    cloud.with(|state| state.mood = "422");
    for _ in 0..2 {
        assert_eq!(order(&running, "web.9").await.status, 422);
    }
    assert_eq!(cloud.orders(), 5);
    // The cloud's own words on when to come again.
    cloud.with(|state| state.mood = "429");
    let busy = order(&running, "web.9").await;
    assert_eq!((busy.status, busy.header("retry-after")), (503, Some("17")));
    running.stop().await;
}

#[tokio::test]
async fn an_order_that_its_cloud_lists_late_is_held_back_also_over_a_restart() {
    let cloud = Cloud::start().await;
    let running = cloud.gateway(LIST, &[]).await;
    cloud.with(|state| (state.mood, state.hides) = ("cut", true));
    assert_eq!(order(&running, "web").await.status, 502);
    let held = order(&running, "web").await;
    assert_eq!(held.status, 503);
    assert!(held.header("retry-after").is_some());
    let told = why(&held);
    assert!(
        told.contains("order of 'web'") && told.contains("providers.ordering_for"),
        "{told}"
    );
    let directory = running.stop().await;
    let running = Running::start_in(directory, &VARIABLES).await;
    assert_eq!(order(&running, "web").await.status, 503);
    cloud.with(|state| state.hides = false);
    let found = order(&running, "web").await;
    assert_eq!((found.status, found.json()), (201, json!({ "id": "eu/1" })));
    assert_eq!(cloud.orders(), 1);
    // One that did not turn up for long enough is made anew.
    let directory = running.stop().await;
    let variables = [&VARIABLES[..], &[("BOXGATE_PROVIDERS__ORDERING_FOR", "1s")]].concat();
    let running = Running::start_in(directory, &variables).await;
    cloud.with(|state| state.mood = "lost");
    assert_eq!(order(&running, "other").await.status, 502);
    cloud.with(|state| state.mood = "");
    let mut made = order(&running, "other").await;
    while made.status == 503 {
        made = order(&running, "other").await;
    }
    assert_eq!((made.status, made.json()), (201, json!({ "id": "eu/2" })));
    assert_eq!(cloud.orders(), 3);
    running.stop().await;
}

#[tokio::test]
async fn an_order_that_nobody_can_look_for_is_held_back() {
    let cloud = Cloud::start().await;
    let running = cloud.gateway("", &[]).await;
    cloud.with(|state| state.mood = "cut");
    assert_eq!(order(&running, "web").await.status, 502);
    let held = order(&running, "web").await;
    let told = why(&held);
    assert_eq!(held.status, 503);
    assert!(told.contains("providers.unknown_for"), "{told}");
    assert_eq!(cloud.orders(), 1);
    running.stop().await;
}

#[tokio::test]
async fn only_a_server_of_ours_that_is_newer_than_the_order_is_taken_for_it() {
    let cloud = Cloud::start().await;
    let running = cloud.gateway(LIST, &[]).await;
    let now = jiff::Timestamp::now().to_string();
    cloud.with(|state| {
        state.mood = "lost";
        state.add("untagged", "web", &[], &now);
        state.add("theirs", "web", &["Nanobox:true", "Nanobox:false"], &now);
        state.add("old", "web", &["Nanobox:true"], "2020-01-01T00:00:00Z");
        state.add("ageless", "web", &["Nanobox:true"], "");
        state.add("another", "web.1", &["Nanobox:true"], &now);
    });
    assert_eq!(order(&running, "web").await.status, 502);
    assert_eq!(order(&running, "web").await.status, 503);
    cloud.with(|state| state.add("it", "web", &["Nanobox:true"], &now));
    assert_eq!(order(&running, "web").await.json(), json!({ "id": "it" }));
    // Nor one that is known to be of another order.
    cloud.with(|state| state.mood = "");
    let renamed = ask("PATCH", "/servers/it/rename").body(br#"{"name":"web.2"}"#);
    assert_eq!(running.send(renamed).await.status, 200);
    cloud.with(|state| state.mood = "lost");
    assert_eq!(order(&running, "web").await.status, 502);
    cloud.with(|state| state.add("it", "web", &["Nanobox:true"], &now));
    assert_eq!(order(&running, "web").await.status, 503);
    running.stop().await;
}

#[tokio::test]
async fn a_server_is_ordering_until_it_is_seen_and_may_be_given_up_before() {
    let cloud = Cloud::start().await;
    let running = cloud.gateway(LIST, &[]).await;
    let status = async |path: &str| {
        let reply = running.send(ask("GET", path)).await;
        (reply.status, reply.json()["status"].clone())
    };
    cloud.with(|state| state.hides = true);
    for name in ["one", "two"] {
        assert_eq!(order(&running, name).await.status, 201);
    }
    assert_eq!(status("/servers/eu%2F1").await, (201, json!("ordering")));
    let gone = running.send(ask("DELETE", "/servers/eu%2F1")).await;
    assert_eq!(gone.status, 200);
    assert_eq!(cloud.with(|state| state.ended), 1);
    assert_eq!(events(&running, "cancelled").await, 1);
    assert_eq!(status("/servers/eu%2F1").await.0, 404);
    // Once it was seen, what is not there is gone.
    cloud.with(|state| state.hides = false);
    assert_eq!(status("/servers/eu%2F2").await, (201, json!("creating")));
    cloud.with(|state| state.hides = true);
    assert_eq!(status("/servers/eu%2F2").await.0, 404);
    // Its name is free once somebody wanted to give it up.
    assert_eq!(order(&running, "two").await.json(), json!({ "id": "eu/2" }));
    let gone = running.send(ask("DELETE", "/servers/eu%2F2")).await;
    assert_eq!(gone.status, 404);
    assert_eq!(order(&running, "two").await.json(), json!({ "id": "eu/3" }));
    assert_eq!(events(&running, "cancelled").await, 1);
    running.stop().await;
}

#[tokio::test]
async fn what_is_renamed_is_another_order_and_an_end_is_told_once() {
    let cloud = Cloud::start().await;
    let running = Arc::new(cloud.gateway(LIST, &[]).await);
    assert_eq!(order(&running, "web").await.json(), json!({ "id": "eu/1" }));
    let renamed = ask("PATCH", "/servers/eu%2F1/rename").body(br#"{"name":"old"}"#);
    assert_eq!(running.send(renamed).await.status, 200);
    assert_eq!(order(&running, "web").await.json(), json!({ "id": "eu/2" }));
    let now = jiff::Timestamp::now().to_string();
    cloud.with(|state| state.add("foreign", "x", &[], &now));
    for server in ["eu%2F1", "foreign"] {
        let ending = (0..8).map(|_| {
            let running = Arc::clone(&running);
            tokio::spawn(async move {
                let path = format!("/servers/{server}");
                running.send(ask("DELETE", &path)).await.status
            })
        });
        for ended in ending.collect::<Vec<_>>() {
            assert_eq!(ended.await.unwrap(), 200);
        }
        let path = format!("/servers/{server}");
        assert_eq!(running.send(ask("DELETE", &path)).await.status, 200);
    }
    assert_eq!(events(&running, "cancelled").await, 2);
    Arc::into_inner(running).unwrap().stop().await;
}

#[tokio::test]
async fn a_key_that_many_send_at_once_is_kept_once() {
    let cloud = Cloud::start().await;
    let running = Arc::new(cloud.gateway(LIST, &[]).await);
    let asking = (0..64).map(|n| {
        let running = Arc::clone(&running);
        let key = json!({ "id": format!("n{n}"), "key": format!("ssh-rsa AAAA bob@{n}") });
        tokio::spawn(async move {
            let request = ask("POST", "/keys").body(key.to_string().as_bytes());
            running.send(request).await.status
        })
    });
    for asked in asking.collect::<Vec<_>>() {
        assert_eq!(asked.await.unwrap(), 201);
    }
    assert_eq!(cloud.with(|state| state.keys.len()), 1);
    Arc::into_inner(running).unwrap().stop().await;
}
