//! No object, however odd, may make the API server panic: arbitrary JSON goes through decoding, defaults, validation and tables.

use std::sync::Arc;

use jiff::Timestamp;
use proptest::prelude::*;
use serde_json::{Map, Value, json};

use super::kinds::{Resource, built_in};
use super::openapi::schemas;
use super::{crd, defaults, tables, validation};

/// JSON of any shape, with keys and texts that mean something somewhere.
fn value() -> impl Strategy<Value = Value> {
    let text = prop_oneof![
        prop::sample::select(vec![
            "",
            "-",
            "a",
            "10.0.0.1",
            "fd00::/64",
            "25%",
            "1Gi",
            "é",
            "2026-01-01T00:00:00Z",
            "Always",
            "ClientIP",
            "/"
        ])
        .prop_map(str::to_owned),
        ".{0,8}",
    ];
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        text.prop_map(Value::from),
    ];
    leaf.prop_recursive(6, 96, 6, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::vec((key(), inner), 0..6)
                .prop_map(|fields| Value::Object(fields.into_iter().collect::<Map<_, _>>())),
        ]
    })
}

fn key() -> impl Strategy<Value = String> {
    let known = vec![
        "metadata",
        "name",
        "labels",
        "spec",
        "status",
        "containers",
        "initContainers",
        "containerStatuses",
        "state",
        "terminated",
        "ports",
        "port",
        "protocol",
        "template",
        "selector",
        "matchLabels",
        "matchExpressions",
        "volumes",
        "clusterIP",
        "clusterIPs",
        "type",
        "conditions",
        "resources",
        "limits",
        "cpu",
        "replicas",
        "strategy",
        "rollingUpdate",
        "maxSurge",
        "endpoints",
        "addresses",
        "ingress",
        "from",
        "ipBlock",
        "cidr",
        "except",
        "rules",
        "http",
        "paths",
        "data",
        "versions",
        "schema",
        "openAPIV3Schema",
        "properties",
        "items",
        "tolerations",
        "creationTimestamp",
        "podCIDRs",
    ];
    prop_oneof![prop::sample::select(known).prop_map(str::to_owned), ".{0,5}"]
}

/// A value that fits a schema here and there, so that deep rules are reached.
fn shaped(schema: &Value, seed: &Value, depth: usize) -> Value {
    if depth == 0 {
        return seed.clone();
    }
    let schema = match schemas::reference(schema).and_then(schemas::resolve) {
        Some((_, schema)) => schema,
        None => schema,
    };
    let list = seed.as_array().cloned().unwrap_or_else(|| vec![seed.clone()]);
    let pick = |index: usize| list.get(index % list.len().max(1)).cloned().unwrap_or(Value::Null);
    if let Some(properties) = schema.get("properties").and_then(Value::as_object) {
        let fields = properties
            .iter()
            .enumerate()
            .filter(|(index, _)| pick(*index) != Value::Null);
        return fields
            .map(|(index, (key, schema))| (key.clone(), shaped(schema, &pick(index), depth - 1)))
            .collect::<Map<_, _>>()
            .into();
    }
    match schema.get("items") {
        Some(items) => list
            .iter()
            .map(|seed| shaped(items, seed, depth - 1))
            .collect::<Vec<_>>()
            .into(),
        None => seed.clone(),
    }
}

fn everything(resource: &Resource, old: &Value, mut new: Value) {
    // Both before and after decoding: tables and validation also see what an older store holds.
    _ = tables::cells(resource, &new, Timestamp::UNIX_EPOCH);
    _ = validation::validate(resource, Some(old), &new);
    _ = validation::decode(resource, &mut new);
    defaults::apply(resource, &mut new);
    let once = new.clone();
    defaults::apply(resource, &mut new);
    assert_eq!(once, new, "defaults of {} are stable", resource.kind);
    _ = validation::validate(resource, Some(old), &new);
    _ = validation::validate(resource, None, &new);
    assert_eq!(
        tables::cells(resource, &new, Timestamp::UNIX_EPOCH).len(),
        tables::columns(resource).len()
    );
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn built_in_kinds_never_panic(old in value(), new in value()) {
        for resource in built_in() {
            everything(&resource, &old, new.clone());
            let schema = json!({"$ref": format!("{}{}", schemas::REFERENCE_PREFIX, schemas::name_of(&resource))});
            everything(&resource, &shaped(&schema, &old, 4), shaped(&schema, &new, 9));
        }
    }

    #[test]
    fn custom_resources_never_panic(schema in value(), object in value()) {
        let custom = json!({"schema": {"openAPIV3Schema": schema},
            "additionalPrinterColumns": [{"name": "a", "type": "date", "jsonPath": ".spec[*]"}]});
        let resource = Resource { kind: "K".into(), custom: Some(Arc::new(custom)), ..Resource::default() };
        let mut new = object.clone();
        _ = validation::decode(&resource, &mut new);
        defaults::apply(&resource, &mut new);
        _ = validation::validate(&resource, Some(&object), &new);
        _ = tables::cells(&resource, &new, Timestamp::UNIX_EPOCH);
        _ = crd::warnings(&schema);
    }

    #[test]
    fn paths_never_panic(path in ".{0,24}", object in value()) {
        _ = crd::jsonpath::find(&object, &path);
    }
}
