//! One upload: admission, the intent's row, the pump, the commit.

use std::pin::pin;

use boxgate_storage::ErrorKind;
use boxgate_storage::blob::UploadId;
use boxgate_storage::catalog::BoxRef;
use boxgate_storage::digest::Digest;
use boxgate_storage::metadata::accounts::OrganizationId;
use boxgate_storage::metadata::catalog::ArchitectureId;
use boxgate_storage::metadata::uploads::{IsoTarget, Labels, Published, Sender, Target};
use boxgate_storage::upload::{Keep, UploadIntent, UploadWriter};

use tracing::Instrument as _;

use crate::auth::Becomes;
use crate::gateway::Gateway;
use crate::hooks::{self, Beginning};
use crate::http::headers::{UPLOAD_OFFSET, content_length};
use crate::ingest;
use crate::inspect::{Inspector, Meant, Watched};
use crate::multipart::{DecodedBase64, Form};
use crate::refusal::Refusal;
use crate::request::RequestFacts;
use crate::server::InboundBody;
use http::header::{ACCEPT_ENCODING, CONTENT_ENCODING, LOCATION};
use http::request::Parts;
use http::{HeaderMap, HeaderValue, StatusCode};

/// A box on its way in.
#[derive(Debug)]
pub struct UploadOrder {
    /// The name to publish.
    pub file: BoxRef,
    /// Whose it becomes.
    pub organization: OrganizationId,
    /// Who sends it.
    pub sender: Sender,
    /// The name under which they act.
    pub actor: String,
    /// Start of the URLs in the event that tells of it.
    pub base_url: String,
    /// Digests that it must have; the first is shown with it.
    pub expected: Vec<Digest>,
    /// Length of the box in bytes, where the request tells it.
    pub length: Option<u64>,
    /// What becomes of it when it is cut.
    pub keep: Keep,
    /// The architecture that takes it, where nothing is to be made for it.
    pub into: Option<ArchitectureId>,
    /// What it is looked into for on its way; nobody looks into what comes in a form.
    pub meant: Option<Meant>,
    /// For an ISO image, what is asked of it; of `file` only organization and name count then.
    pub iso: Option<IsoTarget>,
}

/// How the body carries the box.
#[derive(Debug)]
#[expect(
    clippy::large_enum_variant,
    reason = "there is one per upload, and it is not kept"
)]
pub enum Carrier {
    /// The body is the box.
    Raw(InboundBody),
    /// The body is a form with the box in a part named `file`.
    Form(Box<Form>),
}

/// A published box.
#[derive(Debug)]
pub struct Uploaded {
    /// What was published.
    pub published: Published,
    /// What the uploader should know.
    pub warnings: Vec<String>,
}

/// Takes a box in. Until it returns, nothing is visible; on any error nothing is published, and what
/// was stored is given up or, if the order says so, kept for its sender.
///
/// # Errors
/// The refusal to send.
pub async fn upload(
    gateway: &Gateway,
    order: UploadOrder,
    carrier: Carrier,
    head: &Parts,
    facts: &RequestFacts,
) -> Result<Uploaded, Refusal> {
    let _permit = gateway.admission.upload().await?;
    let target = order.target(gateway);
    let (sender, organization) = (order.sender.clone(), order.organization);
    let mut warnings = Vec::new();
    let name = order.path();
    let writer = match carrier {
        Carrier::Raw(mut body) => {
            let (mut writer, _) = begin(gateway, &order, order.length, (head, facts)).await?;
            let pumping = tracing::debug_span!("pump", upload_id = %writer.id());
            let meant = order.meant.as_ref();
            let mut inspector = Inspector::of(meant);
            let mut watched = Watched {
                writer: &mut writer,
                inspector: &mut inspector,
            };
            // The writer counts against the length and the limit by itself.
            let pumped = pin!(ingest::pump(&mut body, &mut watched, u64::MAX))
                .instrument(pumping)
                .await;
            match pumped {
                Err(cut) if order.keep == Keep::UntilIdle && cut.is_incomplete() => {
                    return Err(kept(gateway, facts, writer, cut).await);
                }
                pumped => pumped?,
            };
            if let Some(meant) = meant {
                warnings.extend(objected(meant, inspector, &name)?);
            }
            writer
        }
        Carrier::Form(form) => {
            pin!(read_form(
                gateway,
                order,
                *form,
                (head, facts),
                &mut warnings
            ))
            .instrument(tracing::debug_span!("pump"))
            .await?
        }
    };
    if writer.received_bytes() == 0 {
        return Err(Refusal::invalid(
            "The file is empty. Nothing was published.",
        ));
    }
    // Dropping the writer here publishes nothing.
    let place = (organization, Becomes::of(Some(&target)));
    hooks::authorize_again(gateway, head, facts, &sender, place).await?;
    let id = writer.id();
    let finishing = tracing::debug_span!("finish", upload_id = %id);
    let finished = writer.finish().instrument(finishing).await;
    let published = match finished {
        Ok(published) => published,
        Err(error) => return Err(held_there(gateway, facts, id, error)),
    };
    tracing::info!(
        file = %name, blob = %published.blob.key, length = published.blob.length,
        replaced = published.replaced, "published"
    );
    Ok(Uploaded {
        published,
        warnings,
    })
}

/// What is to be said of a box that was looked into.
///
/// # Errors
/// 422 where one that is not meant for its name is refused.
fn objected(meant: &Meant, inspector: Inspector, name: &str) -> Result<Option<String>, Refusal> {
    let Some(text) = meant.objection(&inspector.finish()) else {
        return Ok(None);
    };
    if meant.refuse {
        let text = format!("{text} Nothing was published (vagrant_cloud.inspect).");
        return Err(Refusal::new(StatusCode::UNPROCESSABLE_ENTITY, text).code("BOX_MISMATCH"));
    }
    tracing::warn!(file = name, "{text}");
    Ok(Some(text))
}

/// Keeps what came of a body that was cut, and tells how much that is and where to go on.
async fn kept(
    gateway: &Gateway,
    facts: &RequestFacts,
    writer: UploadWriter,
    cut: Refusal,
) -> Refusal {
    let id = writer.id();
    let offset = match writer.pause().await {
        Ok(offset) if offset > 0 => offset,
        // Taken over, or the store is in trouble: what is committed is told to whoever asks next.
        Ok(_) | Err(_) => return cut,
    };
    let text = format!(
        "{} The first {offset} bytes are kept: go on behind them (Content-Range; curl -C {offset} -T FILE).",
        cut.message
    );
    let refusal = Refusal {
        message: text,
        ..cut
    }
    .header(UPLOAD_OFFSET, HeaderValue::from(offset));
    match HeaderValue::try_from(gateway.upload_url(facts, id)) {
        Ok(location) if gateway.settings.doors.files.enabled => refusal.header(LOCATION, location),
        _ => refusal,
    }
}

/// Tells where an upload can be asked for that is whole and held.
fn held_there(
    gateway: &Gateway,
    facts: &RequestFacts,
    id: UploadId,
    error: boxgate_storage::Error,
) -> Refusal {
    let withheld = error.kind() == ErrorKind::Withheld;
    let refusal = Refusal::from(error);
    let location = HeaderValue::try_from(gateway.upload_url(facts, id));
    match location {
        Ok(location) if withheld && gateway.settings.doors.files.enabled => {
            refusal.header(LOCATION, location)
        }
        _ => refusal,
    }
}

impl UploadOrder {
    /// Its name in full.
    fn path(&self) -> String {
        if self.iso.is_some() {
            return format!("{}/iso/{}", self.file.organization, self.file.name);
        }
        self.file.to_string()
    }

    /// What finishing publishes.
    fn target(&self, gateway: &Gateway) -> Target {
        Target {
            box_name: self.file.name.to_string(),
            version: self.file.version.to_string(),
            provider: self.file.provider.to_string(),
            architecture: self.file.architecture.to_string(),
            new_box_public: gateway.settings.catalog.new_box_public,
            declared: self.expected.first().map(shown),
            actor: self.actor.clone(),
            base_url: self.base_url.clone(),
            into: self.into.map(|id| id.0),
            labels: Labels::new(),
            iso: None,
        }
        .or_iso(self.iso)
    }
}

/// The note of an upload that its sender goes on with by name, having no id of it. One that was made by
/// another protocol has an id, and whoever sends to the name alone neither goes on with it nor ends it.
pub const BY_NAME: &str = "raw: by name";

async fn begin(
    gateway: &Gateway,
    order: &UploadOrder,
    length: Option<u64>,
    (head, facts): (&Parts, &RequestFacts),
) -> Result<(UploadWriter, Option<u64>), Refusal> {
    let target = order.target(gateway);
    let beginning = Beginning {
        organization: order.file.organization.to_string(),
        target: Some(target.names()),
        // A form is a little longer than the file in it.
        length: length.or_else(|| content_length(&head.headers)),
        checksums: &order.expected,
        resumable: order.keep == Keep::UntilIdle,
        in_a_form: length.is_none(),
    };
    let terms = Box::pin(hooks::on_upload_start(gateway, head, facts, beginning)).await?;
    let most = terms.most;
    let intent = terms.bind(UploadIntent {
        store: None,
        sender: order.sender.clone(),
        organization: order.organization,
        target: Some(target),
        length,
        expected: order.expected.clone(),
        keep: order.keep,
        part_bytes: None,
        cut: None,
        note: Some(BY_NAME.to_owned()),
    });
    let mut writer = gateway
        .engine
        .begin(intent)
        .instrument(tracing::debug_span!("begin"))
        .await?;
    facts.set_upload(writer.id().to_string());
    writer.supersede()?;
    Ok((writer, most))
}

/// Reads a form: the part `file` goes into the writer, `checksum` and `checksumType` are taken before
/// or behind it, other parts are ignored.
async fn read_form(
    gateway: &Gateway,
    mut order: UploadOrder,
    mut form: Form,
    (head, facts): (&Parts, &RequestFacts),
    warnings: &mut Vec<String>,
) -> Result<UploadWriter, Refusal> {
    form.file().await?;
    if order.expected.is_empty() {
        order.expected = Vec::from_iter(form_checksum(&form)?);
    }
    let (mut writer, most) = begin(gateway, &order, None, (head, facts)).await?;
    if order.expected.is_empty() {
        // One may stand behind the file.
        writer.want(boxgate_storage::digest::Algorithm::Sha256)?;
    }
    let mut received = 0;
    while let Some(chunk) = ingest::patiently(form.chunk(), &mut writer).await? {
        received += chunk.len() as u64;
        if let Some(most) = most.filter(|most| received > *most) {
            return Err(hooks::longer_than(most));
        }
        writer.write(chunk).await?;
    }
    form.finish().await?;
    if form.decoded_base64() == Some(DecodedBase64::Detected) {
        warnings.push(
            "The file part was base64 text of an archive without saying so; the decoded bytes were \
             stored (uploads.decode_base64)."
                .into(),
        );
    }
    if order.expected.is_empty()
        && let Some(late) = form_checksum(&form)?
    {
        let (kind, _) = shown(&late);
        writer.expect(late).map_err(|_too_late| {
            Refusal::invalid(format!(
                "A checksum of type {kind} must come before the file part, or in the x-checksum header."
            ))
        })?;
    }
    Ok(writer)
}

fn form_checksum(form: &Form) -> Result<Option<Digest>, Refusal> {
    let (value, kind) = (form.field("checksum"), form.field("checksumType"));
    declared(value, kind, ("checksum", "checksumType"))
}

/// Refuses a body in a coding: what is stored is the file, byte for byte, and is served without one.
///
/// # Errors
/// 415 with the codings that are taken (RFC 9110 §12.5.3).
pub fn assert_uncoded(headers: &HeaderMap) -> Result<(), Refusal> {
    let coding = headers.get(CONTENT_ENCODING);
    if coding.is_none_or(|coding| coding.as_bytes().eq_ignore_ascii_case(b"identity")) {
        return Ok(());
    }
    let text = "The body has a Content-Encoding; send the file as it is, without one.";
    Err(Refusal::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, text)
        .code("UNSUPPORTED_MEDIA_TYPE")
        .header(ACCEPT_ENCODING, HeaderValue::from_static("identity"))
        .closing())
}

/// A declared checksum from its value and type, and the names under which they came. An empty value with type `NULL` (or none) is no
/// checksum; a value without a type is told by its length.
///
/// # Errors
/// 400 for an unknown type or a value that does not fit it.
pub fn declared(
    value: Option<&str>,
    kind: Option<&str>,
    (value_name, kind_name): (&str, &str),
) -> Result<Option<Digest>, Refusal> {
    use boxgate_storage::digest::Algorithm;
    let value = value.unwrap_or_default().trim();
    let kind = kind.unwrap_or_default().trim();
    let no_kind = kind.is_empty() || kind.eq_ignore_ascii_case("null");
    if value.is_empty() {
        if no_kind {
            return Ok(None);
        }
        // An empty variable in a script must not switch verification off unseen.
        return Err(match Algorithm::from_name(kind) {
            Some(_) => {
                Refusal::invalid("The checksum is empty; send its value, or type NULL for none.")
            }
            None => unknown_kind(kind, kind_name),
        });
    }
    let algorithm = if no_kind {
        match value.len() {
            32 => Algorithm::Md5,
            40 => Algorithm::Sha1,
            64 => Algorithm::Sha256,
            96 => Algorithm::Sha384,
            128 => Algorithm::Sha512,
            _ => {
                return Err(Refusal::invalid(format!(
                    "{value_name} is not a hexadecimal digest of a known length; name its type in {kind_name}."
                )));
            }
        }
    } else {
        Algorithm::from_name(kind).ok_or_else(|| unknown_kind(kind, kind_name))?
    };
    let digest = Digest::from_hex(algorithm, value).ok_or_else(|| {
        Refusal::invalid(format!(
            "{value_name} must be {} hexadecimal digits for type {}.",
            algorithm.digest_bytes() * 2,
            algorithm.name()
        ))
    })?;
    Ok(Some(digest))
}

/// Type and value as a box's metadata shows them, in BoxVault's spelling: `SHA256`.
pub fn shown(digest: &Digest) -> (String, String) {
    let name = digest.algorithm().name();
    (name.to_ascii_uppercase(), digest.to_hex())
}

fn unknown_kind(kind: &str, kind_name: &str) -> Refusal {
    let known: Vec<&str> = boxgate_storage::digest::Algorithm::ALL
        .iter()
        .map(|a| a.name())
        .collect();
    Refusal::invalid(format!(
        "{kind_name} {kind:?} is unknown; known are {}.",
        known.join(", ")
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checksums_are_read_by_type_or_by_length() {
        let sha = "ab".repeat(32);
        let label = |value: &str, kind: Option<&str>| {
            declared(Some(value), kind, ("x-checksum", "x-checksum-type"))
                .map(|d| d.map(|d| shown(&d).0))
                .map_err(|r| r.status.as_u16())
        };
        assert_eq!(label(&sha, Some("SHA-256")), Ok(Some("SHA256".into())));
        assert_eq!(label(&sha, Some("blake3")), Ok(Some("BLAKE3".into())));
        assert_eq!(label(&sha, None), Ok(Some("SHA256".into())));
        assert_eq!(label("", Some("NULL")), Ok(None));
        assert_eq!(label("", None), Ok(None));
        assert_eq!(label("", Some("sha256")), Err(400));
        assert_eq!(label("", Some("crc32")), Err(400));
        assert_eq!(label(&sha, Some("crc32")), Err(400));
        assert_eq!(label("abcd", Some("sha256")), Err(400));
        assert_eq!(label(&"zz".repeat(32), Some("sha256")), Err(400));
        assert_eq!(label("abcd", None), Err(400));
    }
}
