//! Answers of adapters in the published shapes: texts where ids stand, numbers where numbers stand, nothing that callers
//! would have to guess.

use boxgate_storage::clock::UnixMillis;
use http::StatusCode;
use serde_json::{Map, Value, json};

use crate::refusal::Refusal;

/// What an adapter answered cannot be meant; what is wrong with it is for the operator's log.
pub fn senseless() -> Refusal {
    Refusal::new(
        StatusCode::BAD_GATEWAY,
        "The cloud could not be reached, or its answer made no sense.",
    )
}

/// An id as a text, of a text, a number, or a map that has one.
pub fn id_of(value: &Value) -> Option<String> {
    match value {
        Value::String(id) if !id.is_empty() => Some(id.clone()),
        Value::Number(id) => Some(id.to_string()),
        Value::Object(map) => map.get("id").filter(|id| !id.is_object()).and_then(id_of),
        _ => None,
    }
}

/// Whether the object is tagged as none of ours: then it is as if it were not there.
pub fn is_hidden(value: &Value) -> bool {
    has_tag(value, "nanobox:false")
}

fn has_tag(value: &Value, wanted: &str) -> bool {
    let is_it = |tag: &str| {
        let tag: String = tag.chars().filter(|c| !c.is_whitespace()).collect();
        tag.eq_ignore_ascii_case(wanted)
    };
    match value.get("tags") {
        Some(Value::Array(tags)) => tags.iter().filter_map(Value::as_str).any(is_it),
        Some(Value::Object(labels)) => labels
            .iter()
            .any(|(name, value)| is_it(&format!("{name}:{}", shown(value)))),
        _ => false,
    }
}

/// Whether the object is tagged as ours.
fn is_ours(value: &Value) -> bool {
    has_tag(value, "nanobox:true")
}

/// Ids of the servers of that name, tagged as ours, that were made at that time or later, as far as a list tells. One that
/// does not tell when it was `created` may be older.
///
/// # Errors
/// What is wrong with the list.
pub fn made_since(list: &Value, name: &str, since: UnixMillis) -> Result<Vec<String>, String> {
    let servers = list.as_array().ok_or("a list is no array")?;
    let is_it = |server: &&Value| {
        server.get("name").and_then(Value::as_str) == Some(name)
            && is_ours(server)
            && !is_hidden(server)
            && created(server).is_some_and(|created| created >= since)
    };
    let ids = servers.iter().filter(is_it).map(id_of);
    ids.map(|id| id.ok_or_else(|| "a server has no id".to_owned()))
        .collect()
}

/// When a server was made: milliseconds since 1970, or a text as of RFC 3339, in UTC where it names no zone.
fn created(server: &Value) -> Option<UnixMillis> {
    match server.get("created")? {
        Value::Number(ms) => ms.as_i64().map(UnixMillis),
        Value::String(text) => {
            let zoned = text.parse::<jiff::Timestamp>().ok();
            let plain = || {
                let time = text.parse::<jiff::civil::DateTime>().ok()?;
                time.to_zoned(jiff::tz::TimeZone::UTC)
                    .ok()
                    .map(|time| time.timestamp())
            };
            let time = zoned.or_else(plain)?;
            Some(UnixMillis(time.as_millisecond()))
        }
        _ => None,
    }
}

fn shown(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// A key: `id`, `name`, `public_key`.
///
/// # Errors
/// What is wrong with it.
pub fn key(value: &Value) -> Result<Value, String> {
    let id = id_of(value).ok_or("a key has no id")?;
    let text = |name: &str| value.get(name).filter(|text| text.is_string());
    let name = text("name").ok_or("a key has no name")?;
    let public_key = text("public_key").unwrap_or(&Value::Null);
    Ok(json!({ "id": id, "name": name, "public_key": public_key }))
}

/// A server: `id`, `status`, `name`, `external_ip`, `internal_ip`.
///
/// # Errors
/// What is wrong with it.
pub fn server(value: &Value) -> Result<Value, String> {
    let id = id_of(value).ok_or("a server has no id")?;
    let status = value.get("status").and_then(Value::as_str);
    let status = status.ok_or("a server has no status")?;
    let name = value.get("name").and_then(Value::as_str).unwrap_or(&id);
    let address = |name: &str| match value.get(name) {
        Some(Value::String(address)) if !address.is_empty() => Ok(json!(address)),
        None | Some(Value::Null | Value::String(_)) => Ok(Value::Null),
        Some(_) => Err(format!("{name} of a server is no text")),
    };
    Ok(json!({
        "id": id, "status": status, "name": name,
        "external_ip": address("external_ip")?, "internal_ip": address("internal_ip")?,
    }))
}

/// A server that its cloud does not list yet.
pub fn ordering(id: &str) -> Value {
    json!({ "id": id, "status": "ordering", "name": id, "external_ip": null, "internal_ip": null })
}

/// A list of keys or servers, without those that are none of ours.
///
/// # Errors
/// What is wrong with one of them.
pub fn list(value: &Value, one: impl Fn(&Value) -> Result<Value, String>) -> Result<Value, String> {
    let items = value.as_array().ok_or("a list is no array")?;
    let ours = items.iter().filter(|item| !is_hidden(item));
    ours.map(one)
        .collect::<Result<Vec<_>, _>>()
        .map(Value::Array)
}

/// Sizes that name their region and plan themselves, as regions with their plans and sizes, in the order in which they come.
fn grouped(sizes: &[Value]) -> Result<Value, String> {
    let mut regions: Vec<Value> = Vec::new();
    for size in sizes {
        let mut size = size.clone();
        let take = |size: &mut Value, name: &str| {
            let taken = size.as_object_mut().and_then(|size| size.remove(name));
            taken.ok_or_else(|| format!("a size has no {name}"))
        };
        let (region, plan) = (take(&mut size, "region")?, take(&mut size, "plan")?);
        let region = member(&mut regions, region, "plans");
        let plans = region.get_mut("plans").and_then(Value::as_array_mut);
        let plan = plans.map(|plans| member(plans, plan, "specs"));
        let specs = plan.and_then(|plan| plan.get_mut("specs"));
        let specs = specs.and_then(Value::as_array_mut);
        specs.ok_or("a region or plan is no map")?.push(size);
    }
    Ok(Value::Array(regions))
}

/// That of the same id, or a new one with an empty list of that name.
fn member<'v>(all: &'v mut Vec<Value>, mut one: Value, list: &str) -> &'v mut Value {
    let known = all.iter().position(|known| known["id"] == one["id"]);
    let at = known.unwrap_or_else(|| {
        if let Some(one) = one.as_object_mut() {
            one.insert(list.to_owned(), json!([]));
        }
        all.push(one);
        all.len() - 1
    });
    &mut all[at]
}

/// The least memory that a server needs to be set up, in MB.
const LEAST_RAM: f64 = 128.0;

/// Sizes of a catalogue that no server can be set up on.
pub fn too_small(catalog: &Value) -> Vec<String> {
    let items = |value: &Value, name: &str| value[name].as_array().cloned().unwrap_or_default();
    let plans = catalog.as_array().into_iter().flatten();
    let plans = plans.flat_map(|region| items(region, "plans"));
    let sizes = plans.flat_map(|plan| items(&plan, "specs"));
    let small = sizes.filter(|size| size["ram"].as_f64().is_some_and(|ram| ram < LEAST_RAM));
    let ids: std::collections::BTreeSet<String> = small.filter_map(|size| id_of(&size)).collect();
    ids.into_iter().collect()
}

/// Regions with their plans and sizes, or a list of sizes that each name their `region` and `plan`. Sizes without a price, and what is empty without them, are left out; cheap ones
/// come first.
///
/// # Errors
/// What is wrong, and where.
pub fn catalog(value: &Value) -> Result<Value, String> {
    let all = value.as_array().ok_or("the catalogue is no array")?;
    if all.iter().any(|one| one.get("region").is_some()) {
        return catalog(&grouped(all)?);
    }
    let regions = all.iter().map(|region| {
        let (id, name) = named(region, "a region")?;
        let plans = items(region, "plans", &id)?.iter().map(|plan| {
            let (plan_id, name) = named(plan, "a plan")?;
            let specs = items(plan, "specs", &plan_id)?;
            let mut sizes = Vec::new();
            for size in specs {
                sizes.extend(spec(size)?);
            }
            let price = |size: &Value| size["dollars_per_mo"].as_f64().unwrap_or(f64::MAX);
            sizes.sort_by(|a, b| price(a).total_cmp(&price(b)));
            let filled = !sizes.is_empty();
            Ok(filled.then(|| json!({ "id": plan_id, "name": name, "specs": sizes })))
        });
        let plans: Vec<Value> = filled(plans)?;
        let some = !plans.is_empty();
        Ok(some.then(|| json!({ "id": id, "name": name, "plans": plans })))
    });
    filled(regions).map(Value::Array)
}

fn filled(
    items: impl Iterator<Item = Result<Option<Value>, String>>,
) -> Result<Vec<Value>, String> {
    items.filter_map(Result::transpose).collect()
}

fn named(value: &Value, what: &str) -> Result<(String, String), String> {
    let id = id_of(value).ok_or_else(|| format!("{what} has no id"))?;
    let name = value.get("name").and_then(Value::as_str);
    let name = name.ok_or_else(|| format!("{what}, {id}, has no name"))?;
    Ok((id, name.to_owned()))
}

fn items<'v>(value: &'v Value, name: &str, of: &str) -> Result<&'v Vec<Value>, String> {
    let items = value.get(name).and_then(Value::as_array);
    items.ok_or_else(|| format!("{of} has no {name}"))
}

/// One size; nothing for one without a price, which nobody can order by what it costs.
fn spec(size: &Value) -> Result<Option<Value>, String> {
    let id = id_of(size).ok_or("a size has no id")?;
    let number = |name: &str| size.get(name).and_then(as_number);
    let needed =
        |name: &str| number(name).ok_or_else(|| format!("{name} of size {id} is no number"));
    let (Some(hour), Some(month)) = (number("dollars_per_hr"), number("dollars_per_mo")) else {
        return Ok(None);
    };
    let mut spec = Map::from_iter([
        ("id".to_owned(), json!(id)),
        ("ram".to_owned(), needed("ram")?),
        ("cpu".to_owned(), needed("cpu")?),
        ("disk".to_owned(), needed("disk")?),
        // Without a limit, or nobody knows.
        (
            "transfer".to_owned(),
            number("transfer").unwrap_or(Value::Null),
        ),
        ("dollars_per_hr".to_owned(), hour),
        ("dollars_per_mo".to_owned(), month),
    ]);
    if let Some(name) = size.get("name").filter(|name| name.is_string()) {
        spec.insert("name".to_owned(), name.clone());
    }
    Ok(Some(Value::Object(spec)))
}

/// A number, or the text of one: clouds write prices so.
fn as_number(value: &Value) -> Option<Value> {
    match value {
        Value::Number(_) => Some(value.clone()),
        Value::String(text) => {
            let number: f64 = text.trim().parse().ok()?;
            serde_json::Number::from_f64(number).map(Value::Number)
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_texts_whatever_they_were() {
        assert_eq!(id_of(&json!("par1::3")), Some("par1::3".into()));
        assert_eq!(id_of(&json!(3_164_444)), Some("3164444".into()));
        assert_eq!(id_of(&json!({ "id": 7 })), Some("7".into()));
        for none in [
            json!(""),
            json!(null),
            json!({}),
            json!({ "id": { "id": 7 } }),
        ] {
            assert_eq!(id_of(&none), None, "{none}");
        }
    }

    #[test]
    fn only_a_server_of_ours_that_is_new_may_be_what_an_order_came_to() {
        let since = UnixMillis(1_700_000_000_000);
        let server = |id: u32, name: &str, tags: Value, created: Value| json!({ "id": id, "name": name, "tags": tags, "created": created });
        let ours = || json!(["Nanobox:true"]);
        let list = json!([
            server(1, "web", ours(), json!("2023-11-14T22:13:20Z")),
            server(
                2,
                "web",
                json!({ "Nanobox": true }),
                json!("2023-11-15T00:13:20+02:00")
            ),
            server(3, "web", ours(), json!("2023-11-14T22:13:20")),
            server(4, "web", ours(), json!(1_700_000_000_000_i64)),
            server(5, "web", ours(), json!("2023-11-14T22:13:19Z")),
            server(6, "web", ours(), json!(null)),
            server(7, "web", json!([]), json!("2030-01-01T00:00:00Z")),
            server(
                8,
                "web",
                json!(["Nanobox:true", "Nanobox:false"]),
                json!("2030-01-01T00:00:00Z")
            ),
            server(9, "other", ours(), json!("2030-01-01T00:00:00Z")),
        ]);
        let found = made_since(&list, "web", since).unwrap();
        assert_eq!(found, ["1", "2", "3", "4"]);
    }

    #[test]
    fn what_is_tagged_as_none_of_ours_is_hidden() {
        for tags in [
            json!(["a", "Nanobox:false"]),
            json!({ "Nanobox": "false" }),
            json!(["nanobox: False"]),
        ] {
            assert!(is_hidden(&json!({ "tags": tags })), "{tags}");
        }
        for tags in [
            json!(["Nanobox:true"]),
            json!({ "Nanobox": true }),
            json!([]),
        ] {
            assert!(!is_hidden(&json!({ "tags": tags })), "{tags}");
        }
        assert!(!is_hidden(&json!({})));
        let servers = json!([
            { "id": 1, "status": "active", "tags": ["Nanobox:false"] },
            { "id": 2, "status": "off", "tags": ["Nanobox:true"] },
        ]);
        let listed = list(&servers, server).unwrap();
        assert_eq!(listed.as_array().unwrap().len(), 1);
        assert_eq!(
            listed[0],
            json!({ "id": "2", "status": "off", "name": "2", "external_ip": null, "internal_ip": null })
        );
    }

    #[test]
    fn a_catalogue_has_numbers_and_no_size_without_a_price() {
        let size = |id: &str, month: Value| {
            json!({ "id": id, "ram": 512, "cpu": 0.25, "disk": "20", "transfer": "unlimited",
                    "dollars_per_hr": "0.007", "dollars_per_mo": month })
        };
        let plan = |specs: Value| json!({ "id": "p", "name": "Plan", "specs": specs });
        let region = |plans: Value| json!({ "id": "r", "name": "Region", "plans": plans });
        let made = catalog(&json!([
            region(json!([plan(json!([
                size("b", json!(10)),
                size("a", json!("5.00")),
                size("c", json!("Unknown"))
            ]))])),
            region(json!([plan(json!([size("c", json!(null))]))])),
            region(json!([])),
        ]));
        let spec = |id: &str, month: Value| {
            json!({ "id": id, "ram": 512, "cpu": 0.25, "disk": 20.0, "transfer": null,
                    "dollars_per_hr": 0.007, "dollars_per_mo": month })
        };
        let wanted = [spec("a", json!(5.0)), spec("b", json!(10))];
        assert_eq!(made.unwrap(), json!([region(json!([plan(json!(wanted))]))]));
        for (wrong, told) in [
            (json!({}), "no array"),
            (json!([{ "id": "r" }]), "a region, r, has no name"),
            (json!([{ "id": "r", "name": "R" }]), "r has no plans"),
            (
                json!([region(json!([plan(
                    json!([{ "id": "a", "dollars_per_hr": 1, "dollars_per_mo": 1 }])
                )]))]),
                "ram of size a is no number",
            ),
        ] {
            let why = catalog(&wrong).unwrap_err();
            assert!(why.contains(told), "{told}: {why}");
        }
    }

    #[test]
    fn sizes_that_name_their_region_and_plan_are_put_in_order() {
        let size = |region: &str, plan: &str, id: &str, ram: u32| {
            json!({ "id": id, "ram": ram, "cpu": 1, "disk": 1, "dollars_per_hr": 1, "dollars_per_mo": 1,
                    "region": { "id": region, "name": "R" }, "plan": { "id": plan, "name": "P" } })
        };
        let flat = json!([
            size("a", "p", "1", 64),
            size("b", "p", "1", 128),
            size("a", "q", "2", 512),
            size("a", "p", "3", 512)
        ]);
        let made = catalog(&flat).unwrap();
        let ids = |value: &Value| -> Vec<String> {
            value
                .as_array()
                .unwrap()
                .iter()
                .map(|one| one["id"].as_str().unwrap().to_owned())
                .collect()
        };
        assert_eq!(ids(&made), ["a", "b"]);
        assert_eq!(ids(&made[0]["plans"]), ["p", "q"]);
        assert_eq!(ids(&made[0]["plans"][0]["specs"]), ["1", "3"]);
        assert_eq!(made[0]["plans"][0]["specs"][0].get("region"), None);
        assert_eq!(too_small(&made), ["1"]);
        let odd = json!([{ "id": 1, "region": { "id": "a" } }]);
        assert_eq!(catalog(&odd).unwrap_err(), "a size has no plan");
        let odd = json!([{ "id": 1, "region": "a", "plan": "b" }]);
        assert_eq!(catalog(&odd).unwrap_err(), "a region or plan is no map");
    }

    #[test]
    fn servers_and_keys_without_what_callers_need_are_refused() {
        assert_eq!(
            server(&json!({ "id": 1 })).unwrap_err(),
            "a server has no status"
        );
        assert_eq!(
            server(&json!({ "status": "active" })).unwrap_err(),
            "a server has no id"
        );
        let odd = json!({ "id": 1, "status": "active", "internal_ip": 7 });
        assert!(server(&odd).unwrap_err().contains("internal_ip"));
        assert_eq!(key(&json!({ "id": 1 })).unwrap_err(), "a key has no name");
        let short = key(&json!({ "id": 1, "name": "n" })).unwrap();
        assert_eq!(short, json!({ "id": "1", "name": "n", "public_key": null }));
    }
}
