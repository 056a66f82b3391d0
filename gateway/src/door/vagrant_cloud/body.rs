//! What clients send: the fields of a thing, by themselves or within an object of its name.

use serde_json::{Map, Value};

use crate::call::Call;
use crate::config::settings::Limits;
use crate::refusal::Refusal;

/// The fields of a body.
#[derive(Debug)]
pub struct Fields(Map<String, Value>);

impl Fields {
    /// Reads a body; `name` is that of the object that the fields may stand in.
    ///
    /// # Errors
    /// As [`Call::json`].
    pub async fn read(call: &mut Call, limits: &Limits, name: &str) -> Result<Self, Refusal> {
        let mut all: Map<String, Value> = call.json(limits).await?;
        match all.get_mut(name).map(Value::take) {
            Some(Value::Object(within)) => Ok(Self(within)),
            // A version has a field of its own name.
            Some(other) => {
                all.insert(name.to_owned(), other);
                Ok(Self(all))
            }
            None => Ok(Self(all)),
        }
    }

    /// An object within them; none is an empty one.
    #[must_use]
    pub fn within(&self, name: &str) -> Self {
        Self(
            self.0
                .get(name)
                .and_then(Value::as_object)
                .cloned()
                .unwrap_or_default(),
        )
    }

    /// A text. What is absent stays as it is, what is `null` is unset.
    ///
    /// # Errors
    /// 422 for anything but text.
    pub fn text(&self, name: &str) -> Result<Option<Option<String>>, Refusal> {
        match self.0.get(name) {
            None => Ok(None),
            Some(Value::Null) => Ok(Some(None)),
            Some(Value::String(text)) => Ok(Some(Some(text.clone()))),
            Some(_) => Err(Refusal::invalid(format!("'{name}' must be text."))),
        }
    }

    /// A text that says something, if there is one.
    ///
    /// # Errors
    /// As [`Self::text`].
    pub fn given(&self, name: &str) -> Result<Option<String>, Refusal> {
        Ok(self.text(name)?.flatten().filter(|text| !text.is_empty()))
    }

    /// A text that must be there.
    ///
    /// # Errors
    /// 422 without it.
    pub fn required(&self, name: &str) -> Result<String, Refusal> {
        let missing = || Refusal::invalid(format!("'{name}' is required."));
        self.given(name)?.ok_or_else(missing)
    }

    /// Yes or no, if it is said.
    ///
    /// # Errors
    /// 422 for anything else.
    pub fn flag(&self, name: &str) -> Result<Option<bool>, Refusal> {
        match self.0.get(name) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::Bool(flag)) => Ok(Some(*flag)),
            Some(Value::String(text)) if text == "true" => Ok(Some(true)),
            Some(Value::String(text)) if text == "false" => Ok(Some(false)),
            Some(_) => Err(Refusal::invalid(format!("'{name}' must be true or false."))),
        }
    }
}
