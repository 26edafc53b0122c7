//! Strategic merge patch: like a merge patch, but lists whose items have a key are merged item by item.

use serde_json::{Map, Value};

/// Why a patch cannot be applied.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub(super) enum StrategicError {
    /// An item of a keyed list has no key.
    #[error("map: {item} does not contain declared merge key: {key}")]
    NoKey {
        /// The item.
        item: Value,
        /// The field that should identify it.
        key: &'static str,
    },
    /// `$patch` asks for something unknown.
    #[error("unknown patch type found: {0}")]
    UnknownDirective(String),
}

/// How a list is merged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Strategy {
    /// The patch's list replaces the old one.
    Replace,
    /// Items are merged by this field.
    Key(&'static str),
    /// A set of plain values, to which the patch adds.
    Set,
}

/// The strategy of the list `field` inside an object that was found under `parent`.
fn strategy(parent: &str, field: &str) -> Strategy {
    match (parent, field) {
        (_, "containers" | "initContainers" | "ephemeralContainers" | "env" | "volumes" | "imagePullSecrets") => {
            Strategy::Key("name")
        }
        ("containers" | "initContainers" | "ephemeralContainers", "ports") => Strategy::Key("containerPort"),
        ("containers" | "initContainers" | "ephemeralContainers", "volumeMounts") => Strategy::Key("mountPath"),
        ("containers" | "initContainers" | "ephemeralContainers", "volumeDevices") => Strategy::Key("devicePath"),
        // Of a Service; those of a NetworkPolicy rule, an EndpointSlice or Endpoints lie elsewhere.
        ("spec", "ports") => Strategy::Key("port"),
        ("spec", "topologySpreadConstraints") => Strategy::Key("topologyKey"),
        ("spec", "hostAliases") => Strategy::Key("ip"),
        ("spec", "resourceClaims" | "schedulingGates") => Strategy::Key("name"),
        ("spec", "podCIDRs") => Strategy::Set,
        ("status", "conditions" | "addresses") => Strategy::Key("type"),
        ("status", "podIPs" | "hostIPs") => Strategy::Key("ip"),
        ("metadata", "ownerReferences") => Strategy::Key("uid"),
        ("metadata", "finalizers") => Strategy::Set,
        ("", "secrets") => Strategy::Key("name"),
        _ => Strategy::Replace,
    }
}

/// `old` with `patch` applied.
pub(super) fn apply(old: &Value, patch: &Value) -> Result<Value, StrategicError> {
    let mut new = old.clone();
    merge_value(&mut new, patch, "")?;
    Ok(new)
}

fn merge_value(target: &mut Value, patch: &Value, name: &str) -> Result<(), StrategicError> {
    let Value::Object(patch) = patch else {
        *target = patch.clone();
        return Ok(());
    };
    match patch.get("$patch").and_then(Value::as_str) {
        Some("replace") => {
            *target = Value::Object(without_directives(patch));
            return Ok(());
        }
        Some("delete") => {
            *target = Value::Object(Map::new());
            return Ok(());
        }
        None | Some("merge") => {}
        Some(other) => return Err(StrategicError::UnknownDirective(other.to_owned())),
    }
    if !target.is_object() {
        *target = Value::Object(Map::new());
    }
    let Value::Object(fields) = target else { return Ok(()) };
    let retain = patch.get("$retainKeys").and_then(Value::as_array);
    if let Some(keys) = retain {
        fields.retain(|field, _| keys.iter().any(|key| key == field));
    }
    for (field, wanted) in patch {
        if let Some(list) = field.strip_prefix("$deleteFromPrimitiveList/") {
            let gone = wanted.as_array().map(Vec::as_slice).unwrap_or_default();
            if let Some(Value::Array(items)) = fields.get_mut(list) {
                items.retain(|item| !gone.contains(item));
            }
            continue;
        }
        if field.starts_with('$') {
            continue;
        }
        match wanted {
            Value::Null => {
                fields.remove(field);
            }
            Value::Array(items) => {
                let list = fields.entry(field.clone()).or_insert_with(|| Value::Array(Vec::new()));
                merge_list(list, items, field, strategy(name, field))?;
                order(
                    list,
                    patch.get(&format!("$setElementOrder/{field}")),
                    strategy(name, field),
                );
            }
            Value::Object(_) => {
                let value = fields.entry(field.clone()).or_insert(Value::Null);
                merge_value(value, wanted, field)?;
            }
            plain => {
                fields.insert(field.clone(), plain.clone());
            }
        }
    }
    // An order may be given for a list that is otherwise left alone.
    for (field, wanted) in patch {
        if let Some(list) = field.strip_prefix("$setElementOrder/")
            && !patch.contains_key(list)
            && let Some(value) = fields.get_mut(list)
        {
            order(value, Some(wanted), strategy(name, list));
        }
    }
    Ok(())
}

fn merge_list(list: &mut Value, patch: &[Value], name: &str, strategy: Strategy) -> Result<(), StrategicError> {
    let replace = patch.iter().any(|item| item["$patch"] == "replace");
    if replace || strategy == Strategy::Replace || !list.is_array() {
        *list = patch
            .iter()
            .filter(|item| item.get("$patch").is_none())
            .map(stripped)
            .collect();
        if replace || strategy == Strategy::Replace {
            return Ok(());
        }
    }
    let Value::Array(items) = list else { return Ok(()) };
    let key = match strategy {
        Strategy::Key(key) => key,
        Strategy::Replace | Strategy::Set => {
            for item in patch {
                if !items.contains(item) {
                    items.push(item.clone());
                }
            }
            return Ok(());
        }
    };
    for item in patch {
        let id = item.get(key).ok_or_else(|| StrategicError::NoKey {
            item: item.clone(),
            key,
        })?;
        let twin = |other: &Value| other.get(key) == Some(id) && same_protocol(name, other, item);
        if item["$patch"] == "delete" {
            items.retain(|other| !twin(other));
            continue;
        }
        match items.iter_mut().find(|other| twin(other)) {
            Some(other) => merge_value(other, item, name)?,
            None => items.push(stripped(item)),
        }
    }
    Ok(())
}

/// Ports are told apart by their protocol too, where the patch names it.
fn same_protocol(list: &str, old: &Value, patch: &Value) -> bool {
    let protocol = |value: &Value| value["protocol"].as_str().unwrap_or("TCP").to_owned();
    list != "ports" || patch.get("protocol").is_none() || protocol(old) == protocol(patch)
}

/// Sorts a merged list by the patch's order; items that it does not name keep their place at the end.
fn order(list: &mut Value, wanted: Option<&Value>, strategy: Strategy) {
    let (Value::Array(items), Some(Value::Array(wanted))) = (list, wanted) else {
        return;
    };
    let id = |item: &Value| match strategy {
        Strategy::Key(key) => item.get(key).cloned(),
        Strategy::Set | Strategy::Replace => Some(item.clone()),
    };
    let place = |item: &Value| {
        let mine = id(item);
        wanted
            .iter()
            .position(|other| mine.is_some() && id(other) == mine)
            .unwrap_or(usize::MAX)
    };
    items.sort_by_key(place);
}

fn without_directives(patch: &Map<String, Value>) -> Map<String, Value> {
    let plain = patch
        .iter()
        .filter(|(field, value)| !field.starts_with('$') && !value.is_null());
    plain.map(|(field, value)| (field.clone(), stripped(value))).collect()
}

/// A value of a patch as a new value: without directives and nulls.
fn stripped(value: &Value) -> Value {
    match value {
        Value::Object(fields) => Value::Object(without_directives(fields)),
        Value::Array(items) => items
            .iter()
            .filter(|item| item["$patch"] != "delete")
            .map(stripped)
            .collect(),
        plain => plain.clone(),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn pod(containers: Value) -> Value {
        json!({ "spec": { "containers": containers } })
    }

    #[test]
    fn items_are_found_by_their_key() {
        let old = pod(json!([
            {"name": "a", "image": "1", "env": [{"name": "X", "value": "1"}, {"name": "Y", "value": "1"}]},
            {"name": "b", "image": "1", "volumeMounts": [{"name": "v", "mountPath": "/v"}]},
        ]));
        let patch = pod(json!([
            {"name": "a", "env": [{"name": "Y", "value": "2"}, {"name": "X", "$patch": "delete"}]},
            {"name": "c", "image": "1"},
            {"name": "b", "$patch": "delete"},
        ]));
        let new = pod(json!([
            {"name": "a", "image": "1", "env": [{"name": "Y", "value": "2"}]},
            {"name": "c", "image": "1"},
        ]));
        assert_eq!(apply(&old, &patch), Ok(new));
    }

    #[test]
    fn ports_differ_by_protocol() {
        let old = json!({"spec": {"ports": [{"port": 53, "protocol": "UDP"}, {"port": 53, "protocol": "TCP"}]}});
        let patch = json!({"spec": {"ports": [{"port": 53, "protocol": "TCP", "name": "tcp"}]}});
        let new = json!({"spec": {"ports": [
            {"port": 53, "protocol": "UDP"}, {"port": 53, "protocol": "TCP", "name": "tcp"},
        ]}});
        assert_eq!(apply(&old, &patch), Ok(new));
    }

    #[test]
    fn taints_are_replaced_whole() {
        // kubectl taint sends them all: two of one key, which differ in their effect, must not become four.
        let old =
            json!({"spec": {"taints": [{"key": "a", "effect": "NoSchedule"}, {"key": "a", "effect": "NoExecute"}]}});
        let patch =
            json!({"spec": {"taints": [{"key": "a", "effect": "NoExecute"}, {"key": "b", "effect": "NoSchedule"}]}});
        assert_eq!(apply(&old, &patch), Ok(patch));
    }

    #[test]
    fn directives() {
        let old = json!({"metadata": {"finalizers": ["a", "b"], "labels": {"x": "1", "y": "2"}}, "spec": {"tolerations": [{"key": "k"}]}});
        let patch = json!({
            "metadata": {"$deleteFromPrimitiveList/finalizers": ["a"], "finalizers": ["c"], "labels": {"$patch": "replace", "z": "3"}},
            "spec": {"tolerations": [{"key": "l"}], "nodeName": null},
        });
        let new = json!({"metadata": {"finalizers": ["b", "c"], "labels": {"z": "3"}}, "spec": {"tolerations": [{"key": "l"}]}});
        assert_eq!(apply(&old, &patch), Ok(new));
        let replaced = apply(
            &pod(json!([{"name": "a"}])),
            &pod(json!([{"$patch": "replace"}, {"name": "z"}])),
        );
        assert_eq!(replaced, Ok(pod(json!([{"name": "z"}]))));
        let order = json!({"spec": {"$setElementOrder/containers": [{"name": "b"}, {"name": "a"}]}});
        let sorted = apply(&pod(json!([{"name": "a"}, {"name": "b"}])), &order);
        assert_eq!(sorted, Ok(pod(json!([{"name": "b"}, {"name": "a"}]))));
        let recreate = json!({"spec": {"strategy": {"$retainKeys": ["type"], "type": "Recreate"}}});
        let old = json!({"spec": {"strategy": {"type": "RollingUpdate", "rollingUpdate": {}}}});
        assert_eq!(
            apply(&old, &recreate),
            Ok(json!({"spec": {"strategy": {"type": "Recreate"}}}))
        );
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        let keyless = apply(&pod(json!([])), &pod(json!([{"image": "1"}]))).unwrap_err();
        assert!(
            keyless
                .to_string()
                .contains("does not contain declared merge key: name")
        );
        let unknown = apply(&json!({}), &json!({"$patch": "explode"})).unwrap_err();
        assert_eq!(unknown, StrategicError::UnknownDirective("explode".into()));
    }

    fn object() -> impl Strategy_<Value = Value> {
        let item = ("[ab]", "[xy]").prop_map(|(name, image)| json!({"name": name, "image": image}));
        let labels = proptest::collection::btree_map("[ab]", "[xy]", 0..3);
        (proptest::collection::vec(item, 0..3), labels).prop_map(|(mut items, labels)| {
            items.sort_by_key(|item| item["name"].to_string());
            items.dedup_by_key(|item| item["name"].clone());
            json!({"metadata": {"labels": labels}, "spec": {"containers": items}})
        })
    }

    use proptest::strategy::Strategy as Strategy_;

    proptest! {
        #[test]
        fn a_second_time_changes_nothing(old in object(), patch in object()) {
            let once = apply(&old, &patch).unwrap();
            prop_assert_eq!(apply(&once, &patch).unwrap(), once.clone());
            for item in patch["spec"]["containers"].as_array().unwrap() {
                prop_assert!(once["spec"]["containers"].as_array().unwrap().contains(item));
            }
        }
    }
}
