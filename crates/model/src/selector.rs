//! Label selectors, as `metav1.LabelSelector` defines them.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Labels of an object.
pub type Labels = BTreeMap<String, String>;

/// Which objects are meant. Every requirement has to hold; a selector without any matches everything.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Selector {
    /// Labels that have to be there with these values.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub match_labels: Labels,
    /// Further requirements.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub match_expressions: Vec<Requirement>,
}

/// One requirement about one label.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Requirement {
    /// The label.
    pub key: String,
    /// `In`, `NotIn`, `Exists` or `DoesNotExist`.
    pub operator: String,
    /// What the label is compared with; for `In` and `NotIn` only.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub values: Vec<String>,
}

/// What is wrong with a selector.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {value:?} {cause}")]
pub struct SelectorError {
    /// Path of the field inside the selector.
    pub field: String,
    /// What it holds.
    pub value: String,
    /// Why that cannot be.
    pub cause: &'static str,
}

const NAME: &str =
    "is not a label name: at most 63 letters, digits, '-', '_' and '.', after an optional DNS prefix and '/'";
const VALUE: &str =
    "is not a label value: at most 63 letters, digits, '-', '_' and '.', beginning and ending with a letter or digit";

impl Selector {
    /// True where it asks for nothing, and so matches everything.
    pub fn is_empty(&self) -> bool {
        self.match_labels.is_empty() && self.match_expressions.is_empty()
    }

    /// Whether an object with these labels is meant. Of a selector that is not valid, nothing is.
    pub fn matches(&self, labels: &Labels) -> bool {
        let exact = |(key, value): (&String, &String)| labels.get(key) == Some(value);
        self.match_labels.iter().all(exact) && self.match_expressions.iter().all(|one| one.matches(labels))
    }

    /// Checks what the API server checks of selectors in its own kinds.
    pub fn validate(&self) -> Result<(), SelectorError> {
        for (key, value) in &self.match_labels {
            check(is_name(key), "matchLabels".into(), key, NAME)?;
            check(is_value(value), format!("matchLabels[{key}]"), value, VALUE)?;
        }
        for (index, one) in self.match_expressions.iter().enumerate() {
            one.validate(&format!("matchExpressions[{index}]"))?;
        }
        Ok(())
    }
}

impl Requirement {
    fn matches(&self, labels: &Labels) -> bool {
        let label = labels.get(&self.key);
        let listed = label.is_some_and(|value| self.values.contains(value));
        match self.operator.as_str() {
            "In" => listed,
            "NotIn" => !listed,
            "Exists" => label.is_some(),
            "DoesNotExist" => label.is_none(),
            _ => false,
        }
    }

    fn validate(&self, at: &str) -> Result<(), SelectorError> {
        check(is_name(&self.key), format!("{at}.key"), &self.key, NAME)?;
        let field = || format!("{at}.values");
        let values = self.values.join(",");
        match self.operator.as_str() {
            "In" | "NotIn" => check(
                !self.values.is_empty(),
                field(),
                &values,
                "must name at least one value",
            )?,
            "Exists" | "DoesNotExist" => check(self.values.is_empty(), field(), &values, "must be empty here")?,
            other => {
                let cause = "is no operator: In, NotIn, Exists or DoesNotExist";
                check(false, format!("{at}.operator"), other, cause)?;
            }
        }
        self.values
            .iter()
            .try_for_each(|value| check(is_value(value), field(), value, VALUE))
    }
}

fn check(holds: bool, field: String, value: &str, cause: &'static str) -> Result<(), SelectorError> {
    let value = value.to_owned();
    if holds {
        Ok(())
    } else {
        Err(SelectorError { field, value, cause })
    }
}

/// A value may be empty.
fn is_value(value: &str) -> bool {
    value.is_empty() || is_word(value)
}

/// `[prefix/]name`: the prefix a DNS name.
fn is_name(key: &str) -> bool {
    let is_label = |label: &str| is_word(label) && !label.contains(['_', '.']) && label == label.to_lowercase();
    match key.split_once('/') {
        Some((prefix, name)) => prefix.len() <= 253 && prefix.split('.').all(is_label) && is_word(name),
        None => is_word(key),
    }
}

fn is_word(word: &str) -> bool {
    let edge = |byte: Option<&u8>| byte.is_some_and(u8::is_ascii_alphanumeric);
    let inner = |byte: &u8| byte.is_ascii_alphanumeric() || b"-_.".contains(byte);
    let bytes = word.as_bytes();
    bytes.len() <= 63 && edge(bytes.first()) && edge(bytes.last()) && bytes.iter().all(inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(pairs: &[(&str, &str)]) -> Labels {
        pairs
            .iter()
            .map(|(key, value)| ((*key).into(), (*value).into()))
            .collect()
    }

    fn one(key: &str, operator: &str, values: &[&str]) -> Selector {
        let values = values.iter().map(|value| (*value).into()).collect();
        let requirement = Requirement {
            key: key.into(),
            operator: operator.into(),
            values,
        };
        Selector {
            match_expressions: vec![requirement],
            ..Selector::default()
        }
    }

    #[test]
    fn every_operator_on_a_label_that_is_there_and_one_that_is_not() {
        let there = labels(&[("zone", "a")]);
        for (selector, with, without) in [
            (one("zone", "In", &["a", "b"]), true, false),
            (one("zone", "In", &["b"]), false, false),
            (one("zone", "NotIn", &["b"]), true, true),
            (one("zone", "NotIn", &["a"]), false, true),
            (one("zone", "Exists", &[]), true, false),
            (one("zone", "DoesNotExist", &[]), false, true),
            (one("zone", "Near", &[]), false, false),
            (
                Selector {
                    match_labels: there.clone(),
                    ..Selector::default()
                },
                true,
                false,
            ),
            (Selector::default(), true, true),
        ] {
            assert_eq!(
                (selector.matches(&there), selector.matches(&labels(&[]))),
                (with, without),
                "{selector:?}"
            );
        }
    }

    #[test]
    fn what_is_wrong_is_named_with_its_field() {
        for (selector, message) in [
            (
                one("zone", "in", &["a"]),
                r#"matchExpressions[0].operator: "in" is no operator: In, NotIn, Exists or DoesNotExist"#,
            ),
            (
                one("zone", "In", &[]),
                r#"matchExpressions[0].values: "" must name at least one value"#,
            ),
            (
                one("zone", "Exists", &["a"]),
                r#"matchExpressions[0].values: "a" must be empty here"#,
            ),
        ] {
            assert_eq!(selector.validate().unwrap_err().to_string(), message);
        }
        for key in ["", "-a", "a b", "/a", "UPPER/a", "a/b/c", &"x".repeat(64)] {
            assert!(one(key, "Exists", &[]).validate().is_err(), "{key}");
        }
        assert_eq!(
            one("topology.kubernetes.io/zone", "In", &["eu_1.a", ""]).validate(),
            Ok(())
        );
        let bad = Selector {
            match_labels: labels(&[("a", "b c")]),
            ..Selector::default()
        };
        assert!(
            bad.validate()
                .unwrap_err()
                .to_string()
                .starts_with(r#"matchLabels[a]: "b c" is not a label value"#)
        );
    }
}
