//! `blob.signed_url` and `blob.presigned_url`: addresses for whoever has no credential, by the gateway's links.

use std::sync::Arc;
use std::time::Duration;

use rhai::{Dynamic, EvalAltResult, Module};

use super::add;
use crate::call::{host, scene};
use crate::error::refusal;
use crate::facts::Blob;
use crate::links::{Links, MAX_LIFE};

type Answer<T> = Result<T, Box<EvalAltResult>>;

pub(super) fn register(module: &mut Module) {
    add(
        module,
        "signed_url",
        (
            "A URL of the gateway at which anyone may read it for so many seconds, also while it is held.",
            "",
        ),
        |blob: &mut Arc<Blob>, seconds: i64| -> Answer<String> {
            let life = life("signed_url", seconds)?;
            if let Some(scene) = scene() {
                return Ok(scene.signed_url(blob, life));
            }
            links("signed_url", |links| links.signed_url(blob, life))
        },
    );
    add(
        module,
        "presigned_url",
        (
            "A URL of the store itself that is good for so many seconds; () where the store has none.",
            "",
        ),
        |blob: &mut Arc<Blob>, seconds: i64| -> Answer<Dynamic> {
            let life = life("presigned_url", seconds)?;
            let url = match scene() {
                Some(scene) => scene.presigned_url(),
                None => links("presigned_url", |links| links.presigned_url(blob, life))?,
            };
            Ok(url.map_or(Dynamic::UNIT, Into::into))
        },
    );
}

fn life(what: &str, seconds: i64) -> Answer<Duration> {
    let life = u64::try_from(seconds).map(Duration::from_secs);
    let within = life
        .ok()
        .filter(|life| !life.is_zero() && *life <= MAX_LIFE);
    within.ok_or_else(|| {
        let most = MAX_LIFE.as_secs();
        refusal(format!("{what}: seconds are from 1 to {most}"))
    })
}

fn links<T>(what: &str, make: impl FnOnce(&dyn Links) -> Result<T, String>) -> Answer<T> {
    let host = host()?;
    let links = host.links.as_ref();
    let links = links.ok_or_else(|| refusal(format!("{what}: there are no links here")))?;
    make(links.as_ref()).map_err(|e| refusal(format!("{what}: {e}")))
}
