//! The page as a browser meets it: whole without scripts, signed in by a cookie that no other door takes, its forms
//! believed with their tokens alone.

mod changing;
mod reading;
mod sessions;

use std::collections::BTreeMap;

use serde_json::json;

use crate::harness::{Reply, Request, Running};

const HTML: &str = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8";

/// A browser: what it asks for, and the cookies that it keeps.
struct Browser<'r> {
    running: &'r Running,
    cookies: BTreeMap<String, String>,
}

impl<'r> Browser<'r> {
    fn new(running: &'r Running) -> Self {
        Self {
            running,
            cookies: BTreeMap::new(),
        }
    }

    /// One where that person signed in; their password is the harness's.
    async fn of(running: &'r Running, name: &str) -> Self {
        let mut browser = Self::new(running);
        let answer = browser.sign_in(name, "secret").await;
        assert_eq!(answer.status, 303, "{}", text(&answer));
        browser
    }

    fn cookie(&self) -> String {
        let pairs = self
            .cookies
            .iter()
            .map(|(name, value)| format!("{name}={value}"));
        pairs.collect::<Vec<_>>().join("; ")
    }

    async fn send(&mut self, request: Request) -> Reply {
        let request = if self.cookies.is_empty() {
            request
        } else {
            request.header("Cookie", &self.cookie())
        };
        let reply = self.running.send(request.header("Accept", HTML)).await;
        for line in reply
            .head
            .lines()
            .filter(|line| line.to_ascii_lowercase().starts_with("set-cookie:"))
        {
            let pair = line["set-cookie:".len()..].split(';').next().unwrap();
            let (name, value) = pair.trim().split_once('=').unwrap();
            if value.is_empty() {
                self.cookies.remove(name);
            } else {
                self.cookies.insert(name.to_owned(), value.to_owned());
            }
        }
        reply
    }

    async fn get(&mut self, path: &str) -> Reply {
        self.send(Request::new("GET", path)).await
    }

    /// The text of a page that is there.
    async fn page(&mut self, path: &str) -> String {
        let reply = self.get(path).await;
        assert_eq!(reply.status, 200, "{path}: {}", text(&reply));
        text(&reply)
    }

    async fn post(&mut self, path: &str, fields: &[(&str, &str)]) -> Reply {
        let body = url::form_urlencoded::Serializer::new(String::new())
            .extend_pairs(fields)
            .finish();
        let request =
            Request::new("POST", path).header("Content-Type", "application/x-www-form-urlencoded");
        self.send(request.body(body.as_bytes())).await
    }

    /// Sends a form with the token that the page at `from` holds.
    async fn submit(&mut self, from: &str, path: &str, fields: &[(&str, &str)]) -> Reply {
        let token = token_in(&self.page(from).await);
        let fields: Vec<_> = fields
            .iter()
            .copied()
            .chain([("form_token", token.as_str())])
            .collect();
        self.post(path, &fields).await
    }

    async fn sign_in(&mut self, name: &str, password: &str) -> Reply {
        let fields = [("username", name), ("password", password), ("next", "/")];
        self.submit("/-/sign-in", "/-/sign-in", &fields).await
    }
}

fn text(reply: &Reply) -> String {
    String::from_utf8_lossy(&reply.body).into_owned()
}

/// The token that the forms of a page hold: the last one, as the first ends the session.
fn token_in(page: &str) -> String {
    let (_, rest) = page
        .rsplit_once("name=\"form_token\" value=\"")
        .unwrap_or_else(|| panic!("no form in {page}"));
    rest.split('"').next().unwrap().to_owned()
}

/// What a box has that anybody may find and read.
fn for_all() -> serde_json::Value {
    json!({ "isPublic": true, "published": true })
}

async fn publish(running: &Running, name: &str, fields: serde_json::Value) {
    assert_eq!(
        running
            .upload(name, "1.0.0", b"some bytes of a box")
            .await
            .status,
        200
    );
    let path = format!("/api/organization/acme/box/{name}");
    let change = Request::new("PUT", &path)
        .token(&running.owner)
        .json(&fields);
    assert_eq!(running.send(change).await.status, 200);
}
