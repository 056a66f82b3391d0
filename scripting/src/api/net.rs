//! Addresses, and tables that decide at once where a list of `if`s would be walked.

use std::net::IpAddr;
use std::str::FromStr as _;
use std::sync::Arc;

use rhai::{Array, Dynamic, EvalAltResult, ImmutableString, Module};

use super::add;
use crate::error::refusal;
use crate::facts::Request;

type Answer<T> = Result<T, Box<EvalAltResult>>;

/// Rows of a host pattern, a path pattern and a value; the first that fits counts.
#[derive(Debug, Clone)]
pub(crate) struct Table(Arc<Vec<(String, String, Dynamic)>>);

/// Most rows of a table.
const MAX_ROWS: usize = 1_000;

impl Table {
    fn new(rows: Array) -> Answer<Self> {
        if rows.len() > MAX_ROWS {
            return Err(refusal(format!("table: at most {MAX_ROWS} rows")));
        }
        let mut table = Vec::with_capacity(rows.len());
        for (index, row) in rows.into_iter().enumerate() {
            let bad = || refusal(format!("table: row {index} must be [host, path, value]"));
            let mut cells = row.try_cast::<Array>().ok_or_else(bad)?;
            if cells.len() != 3 {
                return Err(bad());
            }
            let value = cells.pop().unwrap_or(Dynamic::UNIT);
            let path = cells.pop().and_then(Dynamic::try_cast::<ImmutableString>);
            let host = cells.pop().and_then(Dynamic::try_cast::<ImmutableString>);
            let (Some(path), Some(host)) = (path, host) else {
                return Err(bad());
            };
            table.push((host.to_lowercase(), path.to_string(), value));
        }
        Ok(Self(Arc::new(table)))
    }

    fn find(&self, host: &str, path: &str) -> Dynamic {
        let fits = |wanted: &str, given: &str| {
            wanted == "*"
                || wanted == "**"
                || wanted == given
                || fast_glob::glob_match(wanted, given)
        };
        self.0
            .iter()
            .find(|(h, p, _)| fits(h, host) && fits(p, path))
            .map_or(Dynamic::UNIT, |(_, _, value)| value.clone())
    }
}

pub(super) fn register_global(module: &mut Module) {
    module.set_custom_type_with_comments::<Table>(
        "Table",
        &["/// Rows of host pattern, path pattern and value."],
    );
    add(
        module,
        "table",
        (
            "A table of rows [host, path, value]; made once, as a top-level const.",
            "table([[\"*\", \"/a/**\", 1]]).find(\"h\", \"/a/b\") == 1",
        ),
        Table::new,
    );
    add(
        module,
        "find",
        (
            "The value of the first row that fits the request's host and path, or ().",
            "",
        ),
        |table: &mut Table, request: Arc<Request>| table.find(&request.host, &request.path),
    );
    add(
        module,
        "find",
        (
            "The value of the first row that fits a host and a path, or ().",
            "",
        ),
        |table: &mut Table, host: &str, path: &str| table.find(host, path),
    );
}

/// A network, or one address.
pub(crate) fn network(text: &str) -> Answer<ipnet::IpNet> {
    ipnet::IpNet::from_str(text)
        .or_else(|_| IpAddr::from_str(text).map(Into::into))
        .map_err(|_bad| refusal(format!("net::contains: {text:?} is no network")))
}

pub(super) fn module() -> Module {
    let mut module = Module::new();
    add(
        &mut module,
        "contains",
        (
            "Whether an address lies within a network.",
            "net::contains(\"10.20.0.0/16\", \"10.20.1.2\")",
        ),
        |network: &str, address: &str| -> Answer<bool> {
            let network = self::network(network)?;
            // An address that is not known lies within no network.
            Ok(IpAddr::from_str(address).is_ok_and(|a| network.contains(&a.to_canonical())))
        },
    );
    module
}
