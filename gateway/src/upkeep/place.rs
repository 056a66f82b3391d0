//! How far into which blob work in the background is, as its row keeps it.

use boxgate_storage::check::{Cursor, Halfway};
use serde::{Deserialize, Serialize};

/// A byte of a blob, and the state of the hash that goes on there, if one does.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Place {
    key: String,
    offset: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    state: Option<String>,
}

impl Place {
    /// What nobody can read is no place: the work begins anew.
    pub(super) fn read(text: &str) -> Option<Self> {
        serde_json::from_str(text).ok()
    }

    pub(super) fn text(&self) -> String {
        serde_json::to_string(self).expect("texts and a number are JSON")
    }

    pub(super) fn cursor(&self) -> Option<Cursor> {
        Some(Cursor {
            key: self.key.parse().ok()?,
            offset: self.offset,
        })
    }

    pub(super) fn halfway(&self) -> Option<Halfway> {
        Some(Halfway {
            key: self.key.parse().ok()?,
            offset: self.offset,
            state: hex::decode(self.state.as_ref()?).ok()?,
        })
    }
}

impl From<Cursor> for Place {
    fn from(here: Cursor) -> Self {
        Self {
            key: here.key.to_string(),
            offset: here.offset,
            state: None,
        }
    }
}

impl From<&Halfway> for Place {
    fn from(here: &Halfway) -> Self {
        Self {
            key: here.key.to_string(),
            offset: here.offset,
            state: Some(hex::encode(&here.state)),
        }
    }
}

#[cfg(test)]
mod tests {
    use boxgate_storage::blob::BlobKey;

    use super::*;

    #[test]
    fn a_place_is_read_as_it_was_written_and_else_there_is_none() {
        let (key, offset) = (BlobKey::random(), 5 << 20);
        let cursor = Cursor { key, offset };
        let text = Place::from(cursor).text();
        assert_eq!(text, format!(r#"{{"key":"{key}","offset":{offset}}}"#));
        let read = Place::read(&text).unwrap();
        assert_eq!((read.cursor(), read.halfway()), (Some(cursor), None));
        let state = vec![7; 100];
        let halfway = Halfway { key, offset, state };
        let read = Place::read(&Place::from(&halfway).text()).unwrap();
        assert_eq!(read.halfway(), Some(halfway));
        assert!(Place::read("{").is_none());
        let odd = Place::read(r#"{"key":"x","offset":1,"state":"zz"}"#).unwrap();
        assert_eq!((odd.cursor(), odd.halfway()), (None, None));
    }
}
