//! Rules of `metadata`, of label selectors, and of what never changes in them.

use super::field::{Errors, Field};
use super::names::{self, Problem};
use crate::api::kinds::Resource;

/// All annotations of an object together: 256 KiB.
const ANNOTATIONS_MAX: usize = 256 * 1024;

/// Finalizers that need no domain before them.
const STANDARD_FINALIZERS: &[&str] = &["kubernetes", "orphan", "foregroundDeletion"];

/// Checks the metadata of an object of any kind.
pub(super) fn validate(errors: &mut Errors, resource: &Resource, object: &Field<'_>) {
    let metadata = object.at("metadata");
    name(errors, resource, &metadata);
    let namespace = metadata.at("namespace");
    if resource.namespaced && namespace.must_exist(errors) {
        namespace.invalid_if(errors, names::dns_label(namespace.text()));
    }
    labels(errors, &metadata.at("labels"));
    annotations(errors, &metadata.at("annotations"));
    for finalizer in metadata.at("finalizers").items() {
        let text = finalizer.text();
        let finalizers = metadata.at("finalizers");
        if let Some(problem) = names::qualified_name(text) {
            finalizers.invalid_part(errors, text, &problem);
        } else if !text.contains('/') && !STANDARD_FINALIZERS.contains(&text) {
            finalizers.invalid_part(
                errors,
                text,
                "name is neither a standard finalizer name nor is it fully qualified",
            );
        }
    }
    owners(errors, &metadata.at("ownerReferences"));
}

/// What never changes in metadata.
pub(super) fn validate_update(errors: &mut Errors, new: &Field<'_>, old: &Field<'_>) {
    for field in [
        "metadata.name",
        "metadata.namespace",
        "metadata.uid",
        "metadata.creationTimestamp",
    ] {
        let (new, old) = (new.at(field), old.at(field));
        if !old.is_missing() {
            new.immutable(errors, old.value);
        }
    }
}

fn name(errors: &mut Errors, resource: &Resource, metadata: &Field<'_>) {
    let form = name_form(resource);
    let prefix = metadata.at("generateName");
    if !prefix.is_empty() {
        // What is generated follows the prefix, so a hyphen at its end is fine.
        let masked = prefix
            .text()
            .strip_suffix('-')
            .map_or_else(|| prefix.text().to_owned(), |p| format!("{p}a"));
        prefix.invalid_if(errors, form(&masked));
    }
    let name = metadata.at("name");
    if name.is_empty() {
        name.required(errors, "name or generateName is required");
    } else {
        name.invalid_if(errors, form(name.text()));
    }
}

fn name_form(resource: &Resource) -> fn(&str) -> Problem {
    match resource.kind.as_str() {
        _ if resource.custom.is_some() => names::dns_subdomain,
        "Namespace" => names::dns_label,
        "Service" => names::dns1035_label,
        _ => names::dns_subdomain,
    }
}

/// Checks labels: of an object, or of a selector.
pub(super) fn labels(errors: &mut Errors, labels: &Field<'_>) {
    for (key, value) in labels.entries() {
        if let Some(problem) = names::qualified_name(key) {
            labels.invalid_part(errors, key, &problem);
        }
        if let Some(problem) = names::label_value(value.text()) {
            labels.invalid_part(errors, value.text(), &problem);
        }
    }
}

/// Checks annotations.
pub(super) fn annotations(errors: &mut Errors, annotations: &Field<'_>) {
    let mut size = 0usize;
    for (key, value) in annotations.entries() {
        size += key.len() + value.text().len();
        if let Some(problem) = names::qualified_name(&key.to_lowercase()) {
            annotations.invalid_part(errors, key, &problem);
        }
    }
    if size > ANNOTATIONS_MAX {
        annotations.too_long(errors, ANNOTATIONS_MAX);
    }
}

fn owners(errors: &mut Errors, owners: &Field<'_>) {
    let mut controller: Option<String> = None;
    for owner in owners.items() {
        for (field, what) in [
            ("apiVersion", "version"),
            ("kind", "kind"),
            ("name", "name"),
            ("uid", "uid"),
        ] {
            let field = owner.at(field);
            if field.is_empty() {
                field.invalid_part(errors, "", &format!("{what} must not be empty"));
            }
        }
        if owner.at("controller").value == true {
            let name = owner.at("name").text().to_owned();
            match &controller {
                Some(first) => owners.invalid(
                    errors,
                    &format!("Only one reference can have Controller set to true. Found \"true\" in references for {first} and {name}"),
                ),
                None => controller = Some(name),
            }
        }
    }
}

/// Checks a label selector.
pub(super) fn selector(errors: &mut Errors, selector: &Field<'_>) {
    labels(errors, &selector.at("matchLabels"));
    for expression in selector.at("matchExpressions").items() {
        let (key, operator, values) = (expression.at("key"), expression.at("operator"), expression.at("values"));
        key.invalid_if(errors, names::qualified_name(key.text()));
        match operator.text() {
            "In" | "NotIn" if values.is_empty() => {
                values.required(errors, "must be specified when `operator` is 'In' or 'NotIn'");
            }
            "Exists" | "DoesNotExist" if !values.is_empty() => {
                values.forbidden(
                    errors,
                    "may not be specified when `operator` is 'Exists' or 'DoesNotExist'",
                );
            }
            "In" | "NotIn" | "Exists" | "DoesNotExist" => {}
            _ => operator.invalid(errors, "not a valid selector operator"),
        }
        for value in values.items() {
            value.invalid_if(errors, names::label_value(value.text()));
        }
    }
}

/// Whether a label selector selects an object with these labels.
pub(super) fn selects(selector: &Field<'_>, labels: &Field<'_>) -> bool {
    let value = |key: &str| labels.value.get(key).and_then(|v| v.as_str());
    let equal = selector
        .at("matchLabels")
        .entries()
        .into_iter()
        .all(|(key, want)| value(key) == Some(want.text()));
    equal
        && selector.at("matchExpressions").items().iter().all(|expression| {
            let found = value(expression.at("key").text());
            let among = |v: &str| expression.at("values").items().iter().any(|item| item.text() == v);
            match expression.at("operator").text() {
                "In" => found.is_some_and(among),
                "NotIn" => !found.is_some_and(among),
                "Exists" => found.is_some(),
                "DoesNotExist" => found.is_none(),
                _ => false,
            }
        })
}
