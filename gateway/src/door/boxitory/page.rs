//! The page of all boxes.

use std::fmt::Write as _;
use std::sync::Arc;

use crate::boxitory::document::{box_path, file_path};
use crate::boxitory::index::Shelf;
use crate::http::html::escaped;

/// All boxes, each with its providers.
pub(super) fn list(shelves: &[Arc<Shelf>], prefix: &str) -> String {
    let mut page = String::from(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head><meta charset=\"UTF-8\"><title>Boxes</title></head>\n<body>\n\
         <h1>Boxes</h1>\n<ul>\n",
    );
    for shelf in shelves {
        let (name, path) = (shelf.name(), box_path(shelf.name()));
        let mut providers: Vec<&str> = Vec::new();
        for provider in shelf.versions().iter().flat_map(|v| &v.providers) {
            if !providers.contains(&&**provider) {
                providers.push(provider);
            }
        }
        providers.sort_unstable();
        let _infallible = write!(
            page,
            "<li><a href=\"{prefix}{}\">{}</a>",
            escaped(&path),
            escaped(name)
        );
        for provider in providers {
            let path = file_path(name, provider, "latest");
            let _infallible = write!(
                page,
                " <a href=\"{prefix}{}\">{provider}</a>",
                escaped(&path)
            );
        }
        page.push_str("</li>\n");
    }
    page.push_str("</ul>\n</body>\n</html>\n");
    page
}

/// What a browser is shown where nothing is.
pub(super) fn nothing() -> String {
    "<!DOCTYPE html>\n<html lang=\"en\">\n<head><meta charset=\"UTF-8\"><title>Not Found</title></head>\n<body>\n\
     <h1>404 Not Found</h1>\n</body>\n</html>\n"
        .to_owned()
}
