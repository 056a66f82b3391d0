//! Signing in and out at a browser.
//!
//! Each sign-in makes a session of its own, and ends the one that the browser came with: whoever planted a cookie has
//! planted nothing. The form holds the token of a cookie that came with it, so that nobody is signed in by another site.

use askama::Template;
use http::header::SET_COOKIE;
use http::{HeaderValue, Response, StatusCode};
use serde_json::json;

use super::form::{Field, Form, Kind, TOKEN};
use super::{Answer, Visit, rendered, see_other, shown};
use crate::auth::cookie::{self, Jar, What};
use crate::auth::{credential, password};
use crate::call::Call;
use crate::door::boxvault::sign_in::session as new_session;
use crate::gateway::Gateway;
use crate::http::response;
use crate::refusal::Refusal;
use crate::server::OutboundBody;

#[derive(Template)]
#[template(path = "sign_in.html")]
struct SignInPage<'a> {
    title: &'a str,
    visit: &'a Visit,
    /// What is wrong with the form as a whole.
    fault: Option<&'a str>,
    username: Field,
    password: Field,
    stay: Field,
    next: &'a str,
    token: String,
    may: bool,
}

/// What was written before, and what is wrong with it.
#[derive(Default)]
struct Written<'a> {
    username: &'a str,
    stays: bool,
    next: &'a str,
    fault: Option<&'a str>,
    username_fault: Option<&'a str>,
    password_fault: Option<&'a str>,
}

/// `GET /-/sign-in?next=PATH`.
pub fn form(gateway: &Gateway, call: &Call) -> Answer {
    let asked = Form::of_query(call);
    let next = own_path(asked.text("next"));
    let written = Written {
        next,
        ..Written::default()
    };
    Ok(shown_form(gateway, call, StatusCode::OK, &written))
}

/// The form, with a fresh cookie for it, so that an old one in another tab does not count any more.
fn shown_form(
    gateway: &Gateway,
    call: &Call,
    status: StatusCode,
    written: &Written<'_>,
) -> Response<OutboundBody> {
    let jar = Jar::of(gateway, &call.facts);
    let known = jar.and_then(|jar| jar.find(&call.head.headers, What::Form));
    let cookie = known.clone().unwrap_or_else(credential::fresh);
    let text = |fault: Option<&str>| fault.map(str::to_owned);
    let mut answer = shown(
        status,
        rendered(&SignInPage {
            title: "Sign in",
            visit: &Visit::by(gateway, call),
            fault: written.fault,
            username: Field::new(Kind::Line, "username", "Name")
                .value(written.username)
                .required()
                .autocomplete("username")
                .fault(text(written.username_fault)),
            password: Field::new(Kind::Secret, "password", "Password")
                .required()
                .autocomplete("current-password")
                .fault(text(written.password_fault)),
            stay: Field::new(Kind::Tick, "stay", "Stay signed in on this machine")
                .ticked(written.stays),
            next: written.next,
            token: cookie::form_token(&cookie),
            may: jar.is_some(),
        }),
    );
    if let (Some(jar), None) = (jar, known) {
        set_cookie(&mut answer, &jar.set(What::Form, &cookie, None));
    }
    answer
}

/// `POST /-/sign-in`.
pub async fn sign_in(gateway: &Gateway, mut call: Call) -> Answer {
    let form = Form::unproved(gateway, &mut call).await?;
    let written = Written {
        username: form.text("username"),
        stays: form.is_ticked("stay"),
        next: own_path(form.text("next")),
        ..Written::default()
    };
    let again = |status, written: Written<'_>| Ok(shown_form(gateway, &call, status, &written));
    let jar = Jar::of(gateway, &call.facts);
    let kept = jar.and_then(|jar| jar.find(&call.head.headers, What::Form));
    let (Some(jar), Some(kept)) = (jar, kept) else {
        let fault = Some("This form came without its cookie. Please send it again.");
        return again(StatusCode::BAD_REQUEST, Written { fault, ..written });
    };
    if !cookie::is_form_token(&kept, form.text(TOKEN)) {
        let fault = Some("This form was no longer good. Please send it again.");
        return again(StatusCode::BAD_REQUEST, Written { fault, ..written });
    }
    let secret = form.exact("password").to_owned();
    if written.username.is_empty() || secret.is_empty() {
        let username_fault = written
            .username
            .is_empty()
            .then_some("Your name is missing.");
        let password_fault = secret.is_empty().then_some("Your password is missing.");
        let written = Written {
            username_fault,
            password_fault,
            ..written
        };
        return again(StatusCode::UNPROCESSABLE_ENTITY, written);
    }
    let address = call.facts.client_ip();
    let mut attempt = match gateway.admission.sign_in(address).await {
        Ok(attempt) => attempt,
        Err(refusal) => {
            let text = refusal.message.clone();
            let fault = Some(text.as_str());
            let mut answer = shown_form(
                gateway,
                &call,
                refusal.status,
                &Written { fault, ..written },
            );
            answer.headers_mut().extend(refusal.headers);
            return Ok(answer);
        }
    };
    let account = password::account(&gateway.metadata, written.username, secret).await;
    let Some(account) = attempt.judge(account)? else {
        let password_fault = Some("Name and password do not belong together.");
        let written = Written {
            password_fault,
            ..written
        };
        return again(StatusCode::UNPROCESSABLE_ENTITY, written);
    };
    drop(attempt);
    if account.suspended {
        let fault = Some("This account is suspended.");
        return again(StatusCode::FORBIDDEN, Written { fault, ..written });
    }
    end(gateway, &call).await?;
    let auth = &gateway.settings.auth;
    let lifetime = if written.stays {
        auth.stay_logged_in_ttl
    } else {
        auth.session_ttl
    };
    let session = new_session(gateway, &account, None, lifetime).await?;
    call.facts.set_principal(account.username.clone());
    let seconds = written.stays.then_some(lifetime.as_secs());
    let mut answer = see_other(written.next);
    set_cookie(&mut answer, &jar.set(What::Session, &session, seconds));
    set_cookie(&mut answer, &jar.set(What::Form, "", Some(0)));
    Ok(answer)
}

/// `POST /-/sign-out`.
pub async fn sign_out(gateway: &Gateway, mut call: Call) -> Answer {
    Form::read(gateway, &mut call).await?;
    end(gateway, &call).await?;
    let mut answer = see_other(&Visit::by(gateway, &call).home());
    if let Some(jar) = Jar::of(gateway, &call.facts) {
        set_cookie(&mut answer, &jar.set(What::Session, "", Some(0)));
    }
    Ok(answer)
}

/// Ends the session that a browser came with.
async fn end(gateway: &Gateway, call: &Call) -> Result<(), Refusal> {
    let jar = Jar::of(gateway, &call.facts);
    let Some(session) = jar.and_then(|jar| jar.find(&call.head.headers, What::Session)) else {
        return Ok(());
    };
    if let Some(person) = cookie::person(&gateway.metadata, &session).await? {
        gateway
            .metadata
            .delete_token(person.token.id, person.account.id)
            .await?;
    }
    Ok(())
}

/// `GET /-/session`: for scripts of ours that outlive a session.
pub fn session(gateway: &Gateway, call: &Call) -> Answer {
    let visit = Visit::by(gateway, call);
    let body = json!({ "user": visit.user, "token": visit.csrf });
    Ok(response::json(StatusCode::OK, &body))
}

fn set_cookie(answer: &mut Response<OutboundBody>, line: &str) {
    let line = HeaderValue::from_str(line).expect("made of visible ASCII");
    answer.headers_mut().append(SET_COOKIE, line);
}

/// A path of this host; `/` in the place of anything else.
fn own_path(text: &str) -> &str {
    let is_own = text.starts_with('/')
        && !text.starts_with("//")
        && text.bytes().all(|b| b.is_ascii_graphic() && b != b'\\');
    if is_own { text } else { "/" }
}

#[cfg(test)]
mod tests {
    use super::own_path;

    #[test]
    fn one_comes_back_to_a_path_of_this_host_alone() {
        for own in ["/", "/-/boxes?q=a%20b", "/acme/demo"] {
            assert_eq!(own_path(own), own);
        }
        for other in [
            "",
            "//evil.example",
            "/\\evil.example",
            "https://evil.example",
            "javascript:x",
            "/a\r\nb",
            "/a b",
        ] {
            assert_eq!(own_path(other), "/", "{other}");
        }
    }
}
