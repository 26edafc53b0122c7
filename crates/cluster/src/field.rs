//! Reads one field at a time out of an object as the API sent it, and remembers where it is, so that what is wrong
//! can be named.

use serde_json::Value;

/// What is wrong with which field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct BadField {
    pub(crate) path: String,
    pub(crate) problem: String,
}

/// A place in an object; it may be empty.
#[derive(Clone, Debug)]
pub(crate) struct Field<'a> {
    value: Option<&'a Value>,
    path: String,
}

impl<'a> Field<'a> {
    pub(crate) fn root(value: &'a Value) -> Self {
        Self {
            value: Some(value),
            path: String::new(),
        }
    }

    /// The field of this name; empty where there is none or this is no object.
    pub(crate) fn get(&self, name: &str) -> Field<'a> {
        let path = if self.path.is_empty() {
            name.to_owned()
        } else {
            format!("{}.{name}", self.path)
        };
        Field {
            value: self
                .value
                .and_then(|value| value.get(name))
                .filter(|value| !value.is_null()),
            path,
        }
    }

    fn bad(&self, expected: &str) -> BadField {
        let found = match self.value {
            None => "nothing".to_owned(),
            Some(value) => {
                let mut text = value.to_string();
                if text.len() > 60 {
                    text = format!("{}…", text.chars().take(60).collect::<String>());
                }
                text
            }
        };
        BadField {
            path: self.path.clone(),
            problem: format!("expected {expected}, found {found}"),
        }
    }

    /// The elements of a list; none where the field is empty.
    pub(crate) fn list(&self) -> Result<Vec<Field<'a>>, BadField> {
        let Some(value) = self.value else { return Ok(vec![]) };
        let items = value.as_array().ok_or_else(|| self.bad("a list"))?;
        let at = |(index, value)| Field {
            value: Some(value),
            path: format!("{}[{index}]", self.path),
        };
        Ok(items.iter().enumerate().map(at).collect())
    }

    pub(crate) fn text(&self) -> Result<Option<&'a str>, BadField> {
        let Some(value) = self.value else { return Ok(None) };
        value.as_str().map(Some).ok_or_else(|| self.bad("text"))
    }

    pub(crate) fn owned(&self) -> Result<Option<String>, BadField> {
        Ok(self.text()?.filter(|text| !text.is_empty()).map(str::to_owned))
    }

    pub(crate) fn flag(&self) -> Result<Option<bool>, BadField> {
        let Some(value) = self.value else { return Ok(None) };
        value.as_bool().map(Some).ok_or_else(|| self.bad("true or false"))
    }

    /// A port from 1 to 65535.
    pub(crate) fn port(&self) -> Result<Option<u16>, BadField> {
        let Some(value) = self.value else { return Ok(None) };
        match value.as_u64().map(u16::try_from) {
            Some(Ok(port)) if port > 0 => Ok(Some(port)),
            _ => Err(self.bad("a port from 1 to 65535")),
        }
    }

    pub(crate) fn required_port(&self) -> Result<u16, BadField> {
        self.port()?.ok_or_else(|| self.bad("a port from 1 to 65535"))
    }

    pub(crate) fn seconds(&self) -> Result<Option<u64>, BadField> {
        let Some(value) = self.value else { return Ok(None) };
        value.as_u64().map(Some).ok_or_else(|| self.bad("a number of seconds"))
    }

    /// Parses text that must be there, such as an address.
    pub(crate) fn parse<T: std::str::FromStr>(&self, expected: &str) -> Result<T, BadField> {
        let text = self.text()?.ok_or_else(|| self.bad(expected))?;
        text.parse().map_err(|_| self.bad(expected))
    }

    /// The same, whatever space is around it.
    pub(crate) fn parse_trimmed<T: std::str::FromStr>(&self, expected: &str) -> Result<T, BadField> {
        let text = self.text()?.ok_or_else(|| self.bad(expected))?;
        text.trim().parse().map_err(|_| self.bad(expected))
    }

    /// A whole structure; its default where the field is empty.
    pub(crate) fn read<T: Default + serde::de::DeserializeOwned>(&self, expected: &str) -> Result<T, BadField> {
        let Some(value) = self.value else {
            return Ok(T::default());
        };
        T::deserialize(value).map_err(|error| BadField {
            path: self.path.clone(),
            problem: format!("expected {expected}: {error}"),
        })
    }

    /// One of a few words, or the default where the field is empty.
    pub(crate) fn word<T: Copy>(&self, default: T, words: &[(&str, T)]) -> Result<T, BadField> {
        let Some(text) = self.text()? else { return Ok(default) };
        let names = || words.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", ");
        let found = words.iter().find(|(name, _)| *name == text).map(|(_, value)| *value);
        found.ok_or_else(|| self.bad(&format!("one of {}", names())))
    }
}
