//! Boxes by words.

use boxgate_storage::metadata::catalog::{BoxTree, Search, SortBy};
use http::StatusCode;
use percent_encoding::percent_decode_str;
use serde_json::{Value, json};

use super::Answer;
use super::shape::{self, Roots, Versions};
use crate::call::Call;
use crate::gateway::Gateway;
use crate::http::response;
use crate::refusal::Refusal;

/// Boxes on a page where nobody says how many.
const LIMIT: u32 = 25;
/// Longest word that is searched for, in bytes.
const MOST_TEXT: usize = 256;

/// `GET search?q=&provider=&architecture=&sort=&order=&limit=&page=`.
pub async fn search(gateway: &Gateway, call: Call) -> Answer {
    let limit = number(&call, "limit")?.unwrap_or(LIMIT).max(1);
    let limit = limit.min(gateway.settings.vagrant_cloud.search_limit);
    let page = number(&call, "page")?.unwrap_or(1).max(1);
    let sort = match text(&call, "sort")?.as_str() {
        "" | "downloads" => SortBy::Downloads,
        "created" => SortBy::Created,
        "updated" => SortBy::Updated,
        _ => {
            return Err(Refusal::invalid(
                "'sort' must be 'downloads', 'created' or 'updated'.",
            ));
        }
    };
    let ascending = match text(&call, "order")?.as_str() {
        "" | "desc" => false,
        "asc" => true,
        _ => return Err(Refusal::invalid("'order' must be 'asc' or 'desc'.")),
    };
    let principal = call.grant.principal.as_ref();
    let search = Search {
        reader: principal.map(|p| (p.account.id, p.token.organization)),
        text: text(&call, "q")?,
        provider: text(&call, "provider")?,
        architecture: text(&call, "architecture")?,
        sort,
        ascending,
        limit,
        offset: u64::from(page - 1) * u64::from(limit),
    };
    let found = gateway.metadata.search_boxes(&search).await?;
    let roots = Roots::of(gateway, &call);
    let boxes: Vec<Value> = found
        .iter()
        .map(|tree: &BoxTree| shape::a_box(&roots, tree, Versions::Unsaid))
        // Clients take the current version of each for granted.
        .filter(|document| !document["current_version"].is_null())
        .collect();
    // And refuse an answer with any other field.
    Ok(response::json(StatusCode::OK, &json!({ "boxes": boxes })))
}

/// A field of the query as forms write it: `+` is a space.
fn text(call: &Call, name: &str) -> Result<String, Refusal> {
    let query = call.head.uri.query().unwrap_or_default();
    let field = query.split('&').find_map(|pair| {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        (key == name).then(|| value.replace('+', " "))
    });
    let field = field.unwrap_or_default();
    let text = percent_decode_str(&field)
        .decode_utf8_lossy()
        .trim()
        .to_owned();
    if text.len() > MOST_TEXT || text.contains('\0') {
        return Err(Refusal::invalid(format!(
            "'{name}' is longer than {MOST_TEXT} bytes, or no text."
        )));
    }
    Ok(text)
}

fn number(call: &Call, name: &str) -> Result<Option<u32>, Refusal> {
    let text = text(call, name)?;
    if text.is_empty() {
        return Ok(None);
    }
    let wrong = |_| Refusal::invalid(format!("'{name}' must be a number."));
    text.parse().map(Some).map_err(wrong)
}
