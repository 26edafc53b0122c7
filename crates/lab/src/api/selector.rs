//! Label and field selectors.

use serde_json::Value;

use super::kinds::Resource;
use super::status::Status;

#[derive(Clone, Debug, PartialEq, Eq)]
enum Requirement {
    In(String, Vec<String>),
    NotIn(String, Vec<String>),
    Exists(String),
    Absent(String),
    Greater(String, i64),
    Less(String, i64),
}

/// A label selector; the default matches everything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Labels(Vec<Requirement>);

impl Labels {
    /// Parses the text of `labelSelector`: `a=b,c!=d,e in (f,g),h notin (i),j,!k`.
    pub(super) fn parse(text: &str) -> Result<Self, Status> {
        let wrong = |why: String| Status::bad_request(format!("unable to parse requirement: {why}"));
        split(text)
            .into_iter()
            .map(|part| requirement(part.trim()))
            .collect::<Result<_, _>>()
            .map(Self)
            .map_err(wrong)
    }

    /// The `LabelSelector` object of a spec: `matchLabels` and `matchExpressions`.
    pub(super) fn from_object(selector: &Value) -> Self {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let texts = |value: &Value| value.as_array().into_iter().flatten().map(text).collect::<Vec<_>>();
        let labels = selector["matchLabels"].as_object().into_iter().flatten();
        let mut all: Vec<_> = labels
            .map(|(key, value)| Requirement::In(key.clone(), vec![text(value)]))
            .collect();
        for expression in selector["matchExpressions"].as_array().into_iter().flatten() {
            let key = text(&expression["key"]);
            let values = texts(&expression["values"]);
            all.push(match expression["operator"].as_str() {
                Some("NotIn") => Requirement::NotIn(key, values),
                Some("Exists") => Requirement::Exists(key),
                Some("DoesNotExist") => Requirement::Absent(key),
                _ => Requirement::In(key, values),
            });
        }
        Self(all)
    }

    /// The selector as text, as in `status.selector` of a Scale.
    pub(super) fn to_text(&self) -> String {
        let one = |requirement: &Requirement| match requirement {
            Requirement::In(key, values) if values.len() == 1 => format!("{key}={}", values[0]),
            Requirement::In(key, values) => format!("{key} in ({})", values.join(",")),
            Requirement::NotIn(key, values) => format!("{key} notin ({})", values.join(",")),
            Requirement::Exists(key) => key.clone(),
            Requirement::Absent(key) => format!("!{key}"),
            Requirement::Greater(key, number) => format!("{key}>{number}"),
            Requirement::Less(key, number) => format!("{key}<{number}"),
        };
        self.0.iter().map(one).collect::<Vec<_>>().join(",")
    }

    /// The selector matches everything.
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// `object` has the labels.
    pub(super) fn matches(&self, object: &Value) -> bool {
        let labels = &object["metadata"]["labels"];
        let get = |key: &str| labels.get(key).and_then(Value::as_str);
        let number = |key: &str| get(key).and_then(|v| v.parse::<i64>().ok());
        self.0.iter().all(|requirement| match requirement {
            Requirement::In(key, values) => get(key).is_some_and(|label| values.iter().any(|v| v == label)),
            Requirement::NotIn(key, values) => get(key).is_none_or(|label| values.iter().all(|v| v != label)),
            Requirement::Exists(key) => get(key).is_some(),
            Requirement::Absent(key) => get(key).is_none(),
            Requirement::Greater(key, bound) => number(key).is_some_and(|n| n > *bound),
            Requirement::Less(key, bound) => number(key).is_some_and(|n| n < *bound),
        })
    }
}

/// Splits at commas that are not in parentheses.
fn split(text: &str) -> Vec<&str> {
    if text.trim().is_empty() {
        return Vec::new();
    }
    let mut depth = 0_i32;
    let outside = |c: char| {
        depth += i32::from(c == '(') - i32::from(c == ')');
        c == ',' && depth <= 0
    };
    text.split(outside).collect()
}

fn requirement(text: &str) -> Result<Requirement, String> {
    let values = |list: &str| -> Result<Vec<String>, String> {
        let inner = list.trim().strip_prefix('(').and_then(|l| l.strip_suffix(')'));
        let inner = inner.ok_or_else(|| format!("found '{list}', expected: '('"))?;
        Ok(inner.split(',').map(|v| v.trim().to_owned()).collect())
    };
    let checked = |key: &str| -> Result<String, String> {
        let key = key.trim();
        let fine = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '/');
        if key.is_empty() || !key.chars().all(fine) {
            return Err(format!(
                "<nil>: Invalid value: {key:?}: name part must consist of alphanumeric characters, '-', '_' or '.'"
            ));
        }
        Ok(key.to_owned())
    };
    let value = |value: &str| -> Result<String, String> {
        let value = value.trim();
        let fine = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        if !value.chars().all(fine) {
            return Err(format!(
                "values[0][key]: Invalid value: {value:?}: a valid label must consist of alphanumeric characters, '-', '_' or '.'"
            ));
        }
        Ok(value.to_owned())
    };
    let integer = |text: &str| {
        text.trim()
            .parse::<i64>()
            .map_err(|_| format!("found {text:?}, expected: an integer"))
    };
    if let Some((key, rest)) = text.split_once("!=") {
        return Ok(Requirement::NotIn(checked(key)?, vec![value(rest)?]));
    }
    if let Some((key, rest)) = text.split_once("==").or_else(|| text.split_once('=')) {
        return Ok(Requirement::In(checked(key)?, vec![value(rest)?]));
    }
    if let Some((key, rest)) = text.split_once('>') {
        return Ok(Requirement::Greater(checked(key)?, integer(rest)?));
    }
    if let Some((key, rest)) = text.split_once('<') {
        return Ok(Requirement::Less(checked(key)?, integer(rest)?));
    }
    if let Some(key) = text.strip_prefix('!') {
        return Ok(Requirement::Absent(checked(key)?));
    }
    match text.split_once(char::is_whitespace) {
        Some((key, rest)) if rest.trim_start().starts_with("notin") => {
            Ok(Requirement::NotIn(checked(key)?, values(&rest.trim_start()[5..])?))
        }
        Some((key, rest)) if rest.trim_start().starts_with("in") => {
            Ok(Requirement::In(checked(key)?, values(&rest.trim_start()[2..])?))
        }
        Some((_, rest)) => Err(format!(
            "found '{}', expected: in, notin, =, ==, !=, gt, lt",
            rest.trim()
        )),
        None => Ok(Requirement::Exists(checked(text)?)),
    }
}

/// A field selector; the default matches everything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Fields(Vec<(String, bool, String)>);

impl Fields {
    /// Parses the text of `fieldSelector`, of which only some fields are supported for each kind.
    pub(super) fn parse(text: &str, resource: &Resource) -> Result<Self, Status> {
        let mut fields = Vec::new();
        for part in text.split(',').filter(|part| !part.trim().is_empty()) {
            let (path, equal, value) = if let Some((path, value)) = part.split_once("!=") {
                (path, false, value)
            } else if let Some((path, value)) = part.split_once("==").or_else(|| part.split_once('=')) {
                (path, true, value)
            } else {
                return Err(Status::bad_request(format!(
                    "invalid selector: '{text}'; can't understand '{part}'"
                )));
            };
            let path = path.trim();
            if !supported(resource, path) {
                // The client says the rest: what it asked for, with which selectors.
                return Err(Status::bad_request(format!("field label not supported: {path}")));
            }
            fields.push((path.to_owned(), equal, value.trim().to_owned()));
        }
        Ok(Self(fields))
    }

    /// The selector matches everything.
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// `object`, in the form that the client sees, has the values.
    pub(super) fn matches(&self, object: &Value) -> bool {
        self.0
            .iter()
            .all(|(path, equal, wanted)| (field(object, path) == *wanted) == *equal)
    }
}

/// The text of a field; of one that is absent, what its zero value would be.
fn field(object: &Value, path: &str) -> String {
    let pointer = match path {
        "source" => "/source/component".to_owned(),
        "status.podIPs" => "/status/podIP".to_owned(),
        "status.successful" => "/status/succeeded".to_owned(),
        _ => format!("/{}", path.replace('.', "/")),
    };
    match object.pointer(&pointer) {
        Some(Value::String(text)) => text.clone(),
        Some(Value::Null) | None => match path {
            "spec.unschedulable" | "spec.hostNetwork" => "false".to_owned(),
            "status.replicas" | "status.successful" => "0".to_owned(),
            _ => String::new(),
        },
        Some(value) => value.to_string(),
    }
}

fn supported(resource: &Resource, path: &str) -> bool {
    if path == "metadata.name" || path == "metadata.namespace" && resource.namespaced {
        return true;
    }
    if let Some(version) = &resource.custom {
        let mut selectable = version["selectableFields"].as_array().into_iter().flatten();
        return selectable.any(|field| {
            field["jsonPath"]
                .as_str()
                .is_some_and(|p| p.trim_start_matches('.') == path)
        });
    }
    let reference = |prefix: &str| {
        let rest = path.strip_prefix(prefix).and_then(|rest| rest.strip_prefix('.'));
        matches!(
            rest,
            Some("kind" | "namespace" | "name" | "uid" | "apiVersion" | "resourceVersion" | "fieldPath")
        )
    };
    match (resource.group.as_str(), resource.plural.as_str()) {
        ("", "pods") => matches!(
            path,
            "spec.nodeName"
                | "spec.restartPolicy"
                | "spec.schedulerName"
                | "spec.serviceAccountName"
                | "spec.hostNetwork"
                | "status.phase"
                | "status.podIP"
                | "status.podIPs"
                | "status.nominatedNodeName"
        ),
        ("", "events") => {
            reference("involvedObject") || matches!(path, "reason" | "reportingComponent" | "source" | "type")
        }
        ("events.k8s.io", "events") => {
            reference("regarding") || matches!(path, "reason" | "reportingController" | "type")
        }
        ("", "secrets") => path == "type",
        ("", "nodes") => path == "spec.unschedulable",
        ("", "namespaces") => path == "status.phase",
        ("", "services") => matches!(path, "spec.clusterIP" | "spec.type"),
        ("apps", "replicasets") => path == "status.replicas",
        ("batch", "jobs") => path == "status.successful",
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::registry::Registry;
    use super::*;

    #[test]
    fn labels() {
        let object = json!({"metadata": {"labels": {"app": "web", "tier": "front", "n": "3"}}});
        for (text, expected) in [
            ("", true),
            ("app=web", true),
            ("app==web,tier!=back", true),
            ("app = web , tier in (front, back)", true),
            ("app in (db)", false),
            ("app notin (db,cache),!gone,app", true),
            ("gone", false),
            ("gone!=x", true),
            ("gone notin (x)", true),
            ("n>2,n<4", true),
            ("n>3", false),
        ] {
            assert_eq!(Labels::parse(text).unwrap().matches(&object), expected, "{text}");
        }
        for text in ["a b", "a in b", "=x", "a=b=c d", "a,,b", "n>x"] {
            assert_eq!(Labels::parse(text).unwrap_err().code, 400, "{text}");
        }
    }

    #[test]
    fn selector_objects() {
        let selector = Labels::from_object(&json!({
            "matchLabels": {"app": "web"},
            "matchExpressions": [{"key": "tier", "operator": "In", "values": ["a", "b"]}, {"key": "x", "operator": "DoesNotExist"}],
        }));
        assert_eq!(selector.to_text(), "app=web,tier in (a,b),!x");
        assert!(selector.matches(&json!({"metadata": {"labels": {"app": "web", "tier": "b"}}})));
    }

    #[test]
    fn fields() {
        let registry = Registry::new([]);
        let pods = registry.find("", "v1", "pods").unwrap();
        let object = json!({"metadata": {"name": "a"}, "spec": {"nodeName": "n1"}});
        let matches = |text| Fields::parse(text, pods).unwrap().matches(&object);
        assert!(matches("metadata.name=a,spec.nodeName!=n2,status.phase="));
        assert!(!matches("spec.nodeName=n2"));
        let error = Fields::parse("spec.foo=1", pods).unwrap_err();
        assert!(
            error.message.ends_with("field label not supported: spec.foo"),
            "{error}"
        );
    }
}
