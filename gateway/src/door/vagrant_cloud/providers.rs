//! Providers: here each is one for one architecture, told of before its box comes.

use boxgate_storage::catalog::{ArchitectureName, ProviderName};
use boxgate_storage::metadata::catalog::{
    Announced, Announcement, ArchitectureTree, BoxTree, FileRow, ProviderTree, SlotChange,
    VersionTree,
};
use http::{Response, StatusCode, Uri};
use serde_json::{Value, json};

use super::Answer;
use super::body::Fields;
use super::boxes::taken;
use super::shape::{self, Roots};
use super::upload::refuse_to_replace;
use super::versions::{tag, version_of};
use crate::call::Call;
use crate::door::boxvault::shape::with;
use crate::gateway::Gateway;
use crate::handler::upload::declared;
use crate::http::response;
use crate::refusal::Refusal;
use crate::server::OutboundBody;

/// The architecture of clients that name none, as Vagrant Cloud calls it: Vagrant 2.4 takes such a box on any machine
/// if it is the default.
const UNKNOWN: &str = "unknown";
/// Longest URL of a box that is served from elsewhere.
const MAX_URL: usize = 2048;

/// A place for a box, and all that is above it.
#[derive(Debug)]
pub struct Place {
    /// The box, without that version.
    pub tree: BoxTree,
    /// The version, without that provider.
    pub version: VersionTree,
    /// The provider.
    pub provider: ProviderTree,
    /// The place itself.
    pub architecture: ArchitectureTree,
}

/// The place that the path names.
///
/// # Errors
/// 404 naming the level that is missing.
pub async fn place_of(gateway: &Gateway, call: &Call) -> Result<Place, Refusal> {
    let name: ProviderName = call.name("provider")?;
    let (tree, mut version) = version_of(gateway, call).await?;
    let at = version
        .providers
        .iter()
        .position(|p| p.row.name.folded() == name.folded());
    let missing = || Refusal::missing("Provider", name.as_str());
    let provider = version.providers.swap_remove(at.ok_or_else(missing)?);
    let architecture = match call.names.value("arch") {
        "" => default_of(&provider).ok_or_else(missing)?,
        text => {
            let name: ArchitectureName = text.parse().map_err(Refusal::name)?;
            let mut all = provider.architectures.iter();
            all.find(|a| a.row.name.folded() == name.folded())
                .ok_or_else(|| Refusal::missing("Architecture", name.as_str()))?
        }
    };
    Ok(Place {
        architecture: architecture.clone(),
        tree,
        version,
        provider,
    })
}

/// What is meant where no architecture is named.
fn default_of(provider: &ProviderTree) -> Option<&ArchitectureTree> {
    let all = &provider.architectures;
    let default = all.iter().find(|a| a.row.default_box);
    let stored = || all.iter().find(|a| a.file.is_some());
    default.or_else(stored).or(all.first())
}

fn answered(gateway: &Gateway, call: &Call, place: &Place) -> Response<OutboundBody> {
    response::json(StatusCode::OK, &document(gateway, call, place))
}

fn document(gateway: &Gateway, call: &Call, place: &Place) -> Value {
    let roots = Roots::of(gateway, call);
    let file = place.architecture.file.as_ref();
    let rows = (&place.provider.row, &place.architecture.row, file);
    let above = (tag(&place.tree), &place.version.row);
    shape::a_provider(&roots, (&above.0, above.1), rows)
}

/// What is told of a box, on top of what was told before.
fn announced(sent: &Fields, before: Announced) -> Result<Announced, Refusal> {
    let url = match sent.text("url")? {
        None => before.url,
        Some(url) => url.filter(|url| !url.is_empty()),
    };
    if url.as_ref().is_some_and(|url| !is_web(url)) {
        return Err(Refusal::invalid(
            "'url' must be the whole http or https address of a box, without a name or password in it (everybody who \
             may see the box is told of it), at most 2048 characters.",
        ));
    }
    let (value, kind) = (sent.text("checksum")?, sent.text("checksum_type")?);
    let checksum = if value.is_none() && kind.is_none() {
        before.checksum
    } else {
        // One without the other is the rest of what was told before.
        let (old_kind, old_value) = before.checksum.unzip();
        let value = value.unwrap_or(old_value);
        let kind = kind.unwrap_or(old_kind);
        let names = ("checksum", "checksum_type");
        declared(value.as_deref(), kind.as_deref(), names)?
            .map(|digest| (digest.algorithm().name().to_owned(), digest.to_hex()))
    };
    Ok(Announced { url, checksum })
}

fn is_web(url: &str) -> bool {
    let parsed: Option<Uri> = url.parse().ok();
    url.len() <= MAX_URL
        && parsed.is_some_and(|uri| {
            matches!(uri.scheme_str(), Some("http" | "https"))
                && uri.authority().is_some_and(|a| !a.as_str().contains('@'))
        })
}

fn architecture(sent: &Fields) -> Result<Option<ArchitectureName>, Refusal> {
    let Some(text) = sent.given("architecture")? else {
        return Ok(None);
    };
    // It would stand where the routes of uploads do.
    if text.eq_ignore_ascii_case("upload") {
        return Err(Refusal::invalid(
            "'upload' is no name of an architecture here.",
        ));
    }
    text.parse().map(Some).map_err(Refusal::name)
}

/// `POST V/providers`.
pub async fn create(gateway: &Gateway, mut call: Call) -> Answer {
    let sent = Fields::read(&mut call, &gateway.settings.limits, "provider").await?;
    let name: ProviderName = sent.required("name")?.parse().map_err(Refusal::name)?;
    let named = architecture(&sent)?;
    let default_box = sent.flag("default_architecture")?.unwrap_or(false);
    let announced = announced(&sent, Announced::default())?;
    let (tree, version) = version_of(gateway, &call).await?;
    let there = version
        .providers
        .iter()
        .find(|p| p.row.name.folded() == name.folded());
    let default = there.and_then(default_of).map(|a| a.row.name.clone());
    let unknown = || UNKNOWN.parse().map_err(Refusal::name);
    let architecture = named.or(default).map_or_else(unknown, Ok)?;
    let new = Announcement {
        version: version.row.id,
        provider: name.clone(),
        architecture,
        default_box,
        announced,
    };
    let actor = call.principal()?.name();
    let made = gateway.metadata.announce(new, actor).await;
    let (provider, row) = made.map_err(|e| taken(e, &format!("Provider '{name}'")))?;
    let place = Place {
        tree,
        version,
        provider: ProviderTree {
            row: provider,
            architectures: Vec::new(),
        },
        architecture: ArchitectureTree {
            row,
            file: None,
            before: None,
        },
    };
    Ok(answered(gateway, &call, &place))
}

/// `GET P`.
pub async fn show(gateway: &Gateway, call: Call) -> Answer {
    let place = place_of(gateway, &call).await?;
    Ok(answered(gateway, &call, &place))
}

/// `PUT P`.
pub async fn update(gateway: &Gateway, mut call: Call) -> Answer {
    let sent = Fields::read(&mut call, &gateway.settings.limits, "provider").await?;
    let mut place = place_of(gateway, &call).await?;
    let before = &place.architecture.row;
    let provider: Option<ProviderName> = sent
        .given("name")?
        .map(|text| text.parse())
        .transpose()
        .map_err(Refusal::name)?;
    let provider = provider.filter(|name| *name != place.provider.row.name);
    if provider.is_some() && place.provider.architectures.len() > 1 {
        return Err(Refusal::invalid(format!(
            "Provider '{}' has several architectures, which would all be renamed.",
            place.provider.row.name
        )));
    }
    let architecture = architecture(&sent)?.filter(|name| *name != before.name);
    let mut announced = announced(&sent, before.announced.clone())?;
    let file = place.architecture.file.as_ref();
    if before.announced.checksum.is_none() && repeats(&announced, file, before) {
        announced.checksum = None;
    }
    let is_stored = file.is_some();
    if is_stored && announced.url.is_some() && announced.url != before.announced.url {
        return Err(Refusal::invalid(
            "A box is stored here, and is served. Delete this provider first, then tell where another server has one.",
        ));
    }
    let is_told_of_next = is_stored && announced.checksum != before.announced.checksum;
    if is_told_of_next && announced.checksum.is_some() {
        refuse_to_replace(gateway, place.version.row.status, true)?;
    }
    let change = SlotChange {
        provider,
        architecture,
        default_box: sent.flag("default_architecture")?,
        announced,
    };
    let actor = call.principal()?.name();
    let changed = gateway.metadata.change_slot(before.id, change, actor).await;
    (place.provider.row, place.architecture.row) = changed.map_err(|e| taken(e, "That name"))?;
    let mut document = document(gateway, &call, &place);
    if is_told_of_next {
        let text = "The box that is stored keeps its own checksum, which is shown; the one that was told is compared \
                    with the next upload.";
        document = with(document, json!({ "warnings": [text] }));
    }
    Ok(response::json(StatusCode::OK, &document))
}

/// Whether a checksum is that of the stored box, as clients send back what they were shown: nothing is said of the next
/// one then.
fn repeats(
    announced: &Announced,
    file: Option<&FileRow>,
    row: &boxgate_storage::metadata::catalog::ArchitectureRow,
) -> bool {
    file.is_some() && announced.checksum == shape::shown_checksum(row, file)
}

/// `DELETE P`: answered with what it was. The provider goes with its last architecture. Of several one must be named:
/// clients that clean up after a failure name the provider alone, and mean another than the default that is served.
pub async fn delete(gateway: &Gateway, call: Call) -> Answer {
    let place = place_of(gateway, &call).await?;
    let all = &place.provider.architectures;
    if call.names.value("arch").is_empty() && all.len() > 1 {
        let names: Vec<&str> = all.iter().map(|a| a.row.name.as_str()).collect();
        return Err(Refusal::invalid(format!(
            "Provider '{}' has several architectures ({}): name the one to delete (/api/v2/.../provider/{}/ARCHITECTURE).",
            place.provider.row.name,
            names.join(", "),
            place.provider.row.name
        )));
    }
    let answer = answered(gateway, &call, &place);
    let actor = call.principal()?.name();
    let metadata = &gateway.metadata;
    if place.provider.architectures.len() > 1 {
        let id = place.architecture.row.id;
        metadata.delete_architecture(id, actor).await?;
    } else {
        metadata
            .delete_provider(place.provider.row.id, actor)
            .await?;
    }
    Ok(answer)
}
