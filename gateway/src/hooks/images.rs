//! `on_image_deploy`, `on_image_push`, `on_image_deployed`: what plugins say of images of runtimes.
//!
//! A refusal, and a plugin that fails, is 500 with a text at the runtimes' door: its clients know 503 as something else.

use std::sync::Arc;

use boxgate_scripting::facts;
use boxgate_scripting::hook::Hook;
use boxgate_scripting::verdict::{Denial, ImageVerdict, PushVerdict};
use http::StatusCode;
use http::request::Parts;

use super::{noted, told_already};
use crate::gateway::Gateway;
use crate::refusal::Refusal;
use crate::request::RequestFacts;

/// Whoever asks a runtime, as plugins are told: all that is known is its key.
pub fn holder_of_key(runtime: &str) -> Arc<facts::Principal> {
    Arc::new(facts::Principal {
        kind: "key".into(),
        name: format!("runtime:{runtime}").into(),
        ..facts::Principal::default()
    })
}

/// Whether an image that came whole may be put in place.
///
/// # Errors
/// The refusal to send.
pub async fn on_image_deploy(
    gateway: &Gateway,
    head: &Parts,
    known: &RequestFacts,
    image: facts::Image,
) -> Result<(), Refusal> {
    let Some(told) = told_already(head) else {
        return Ok(());
    };
    if !gateway.scripts.defines(Hook::OnImageDeploy) {
        return Ok(());
    }
    let image = Arc::new(image);
    let asked = Box::pin(gateway.scripts.on_image_deploy(&told, &image)).await;
    match noted(known, asked).map_err(failed)? {
        ImageVerdict::Proceed => Ok(()),
        ImageVerdict::Reject(denial) => Err(refused(denial)),
    }
}

/// Whether an image may be pushed; another target, where a plugin names one.
///
/// # Errors
/// The refusal to send.
pub async fn on_image_push(
    gateway: &Gateway,
    head: &Parts,
    known: &RequestFacts,
    push: facts::Push,
) -> Result<Option<String>, Refusal> {
    let Some(told) = told_already(head) else {
        return Ok(None);
    };
    if !gateway.scripts.defines(Hook::OnImagePush) {
        return Ok(None);
    }
    let push = Arc::new(push);
    let asked = Box::pin(gateway.scripts.on_image_push(&told, &push)).await;
    match noted(known, asked).map_err(failed)? {
        PushVerdict::Send(target) => Ok(target),
        PushVerdict::Deny(denial) => Err(refused(denial)),
    }
}

/// Has plugins make a runtime take its image.
///
/// # Errors
/// What went wrong, also where no plugin does that.
pub async fn on_image_deployed(gateway: &Gateway, event: facts::Event) -> Result<(), String> {
    if !gateway.scripts.defines(Hook::OnImageDeployed) {
        return Err("no plugin defines on_image_deployed".to_owned());
    }
    let event = Arc::new(event);
    match Box::pin(gateway.scripts.on_image_deployed(&event)).await {
        Ok(_) => Ok(()),
        Err(unavailable) => Err(unavailable.to_string()),
    }
}

fn failed(refusal: Refusal) -> Refusal {
    Refusal {
        status: StatusCode::INTERNAL_SERVER_ERROR,
        ..refusal
    }
}

fn refused(denial: Denial) -> Refusal {
    failed(super::denied(denial))
}
