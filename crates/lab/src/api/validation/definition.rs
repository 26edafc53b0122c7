//! Rules of CustomResourceDefinitions.

use std::collections::HashSet;

use regex::Regex;
use serde_json::Value;

use super::field::{Errors, Field};
use super::names;
use crate::api::crd::jsonpath;

/// Checks a CustomResourceDefinition.
pub(super) fn validate(errors: &mut Errors, definition: &Field<'_>, old: Option<&Field<'_>>) {
    let spec = definition.at("spec");
    let group = spec.at("group");
    if group.must_exist(errors) {
        group.invalid_if(errors, names::dns_subdomain(group.text()));
        if !group.text().contains('.') {
            group.invalid(errors, "should be a domain with at least one dot");
        }
    }
    let scope = spec.at("scope");
    if scope.is_empty() {
        scope.required(errors, "");
    } else {
        scope.one_of(errors, &["Cluster", "Namespaced"]);
    }
    self::names(errors, &spec.at("names"));
    let name = definition.at("metadata.name");
    let expected = format!("{}.{}", spec.at("names.plural").text(), group.text());
    if name.text() != expected && !name.is_empty() {
        name.invalid(errors, "must be spec.names.plural+\".\"+spec.group");
    }
    versions(errors, &spec);
    let strategy = spec.at("conversion.strategy");
    if strategy.text() == "Webhook" {
        strategy.forbidden(
            errors,
            "this API server does not call conversion webhooks; use strategy None",
        );
    } else {
        strategy.one_of(errors, &["None", "Webhook"]);
    }
    if let Some(old) = old {
        for field in ["group", "scope", "names.plural", "names.kind"] {
            spec.at(field).immutable(errors, old.at("spec").at(field).value);
        }
    }
}

fn names(errors: &mut Errors, all: &Field<'_>) {
    for field in ["plural", "singular", "kind", "listKind"] {
        let name = all.at(field);
        if name.must_exist(errors) {
            name.invalid_if(errors, names::dns1035_label(&name.text().to_lowercase()));
        }
    }
    if !all.at("kind").is_empty() && all.at("kind").text() == all.at("listKind").text() {
        all.at("listKind")
            .invalid(errors, "kind and listKind may not be the same");
    }
    for list in ["shortNames", "categories"] {
        for name in all.at(list).items() {
            name.invalid_if(errors, names::dns1035_label(name.text()));
        }
    }
}

fn versions(errors: &mut Errors, spec: &Field<'_>) {
    let versions = spec.at("versions");
    let all = versions.items();
    let stored = all.iter().filter(|version| version.at("storage").value == true).count();
    if all.is_empty() {
        versions.required(errors, "");
    } else if stored != 1 {
        versions.invalid(errors, "must have exactly one version marked as storage version");
    }
    let mut seen = HashSet::new();
    for version in &all {
        let name = version.at("name");
        if name.must_exist(errors) {
            name.invalid_if(errors, names::dns1035_label(name.text()));
            if !seen.insert(name.text()) {
                name.duplicate(errors);
            }
        }
        for column in version.at("additionalPrinterColumns").items() {
            printer_column(errors, &column);
        }
        scale(errors, &version.at("subresources.scale"));
        let schema = version.at("schema.openAPIV3Schema");
        if schema.is_missing() {
            schema.required(errors, "schemas are required");
            continue;
        }
        let kind = schema.at("type");
        if kind.is_empty() {
            kind.required(errors, "must not be empty at the root");
        } else if kind.text() != "object" {
            kind.invalid(errors, "must be object at the root");
        } else {
            self::schema(errors, &schema);
        }
    }
}

fn printer_column(errors: &mut Errors, column: &Field<'_>) {
    column.at("name").must_exist(errors);
    let (kind, path) = (column.at("type"), column.at("jsonPath"));
    if kind.must_exist(errors) {
        kind.one_of(errors, &["boolean", "date", "integer", "number", "string"]);
    }
    if path.must_exist(errors) && !(path.text().starts_with(['.', '[', '{']) && jsonpath::is_valid(path.text())) {
        path.invalid(
            errors,
            "is not a JSON path that this API server reads: use fields, indexes, [*] and [?(@.a==\"b\")]",
        );
    }
}

fn scale(errors: &mut Errors, scale: &Field<'_>) {
    if scale.is_missing() {
        return;
    }
    for (field, prefix) in [("specReplicasPath", ".spec."), ("statusReplicasPath", ".status.")] {
        let path = scale.at(field);
        if path.must_exist(errors) && !path.text().starts_with(prefix) {
            path.invalid(
                errors,
                &format!("should be a json path under {}", prefix.trim_end_matches('.')),
            );
        }
    }
}

/// The schema is structural: every value it names has a type.
fn schema(errors: &mut Errors, schema: &Field<'_>) {
    let flag = |key: &str| schema.value.get(key) == Some(&Value::Bool(true));
    let kind = schema.at("type");
    match kind.text() {
        "" if !flag("x-kubernetes-int-or-string") && !flag("x-kubernetes-preserve-unknown-fields") => {
            let at = if schema.path.ends_with(".items") {
                "must not be empty for specified array items"
            } else {
                "must not be empty for specified object fields"
            };
            kind.required(errors, at);
        }
        "" => {}
        _ => kind.one_of(errors, &["array", "boolean", "integer", "number", "object", "string"]),
    }
    if kind.text() == "array" && schema.at("items").is_missing() {
        schema.at("items").required(errors, "must be specified");
    }
    let pattern = schema.at("pattern");
    if let Err(why) = Regex::new(pattern.text()) {
        pattern.invalid(errors, &format!("must be a valid regular expression, but isn't: {why}"));
    }
    for key in ["items", "additionalProperties"] {
        let child = schema.at(key);
        if child.value.is_object() {
            self::schema(errors, &child);
        }
    }
    for (_, property) in schema.at("properties").entries() {
        // The server's own schemas of metadata stand in for what an author writes there.
        if !(property.path.ends_with("openAPIV3Schema.properties[metadata]")) {
            self::schema(errors, &property);
        }
    }
}
