//! Rules of volumes.

use std::collections::HashSet;

use super::container::field_reference;
use super::field::{Errors, Field};
use super::names;
use super::quantity;

const MODE: &str = "must be a number between 0 and 0777 (octal), both inclusive";

/// Checks the volumes of a pod spec; the names of those there are.
pub(super) fn validate(errors: &mut Errors, volumes: &Field<'_>) -> HashSet<String> {
    let mut seen = HashSet::new();
    for volume in volumes.items() {
        let name = volume.at("name");
        if name.must_exist(errors) {
            if let Some(problem) = names::dns_label(name.text()) {
                name.invalid(errors, &problem);
            } else if !seen.insert(name.text().to_owned()) {
                name.duplicate(errors);
            }
        }
        source(errors, &volume);
    }
    seen
}

fn source(errors: &mut Errors, volume: &Field<'_>) {
    let kinds: Vec<&String> = volume
        .map()
        .into_iter()
        .flatten()
        .filter(|(key, value)| *key != "name" && !value.is_null())
        .map(|(key, _)| key)
        .collect();
    match kinds.as_slice() {
        [] => volume.required(errors, "must specify a volume type"),
        [_] => {}
        [_, more @ ..] => {
            for kind in more {
                volume
                    .at(kind)
                    .forbidden(errors, "may not specify more than 1 volume type");
            }
        }
    }
    let present = |kind: &str| Some(volume.at(kind)).filter(|source| !source.is_missing());
    if let Some(secret) = present("secret") {
        secret.at("secretName").must_exist(errors);
        files(errors, &secret);
    }
    if let Some(map) = present("configMap") {
        map.at("name").must_exist(errors);
        files(errors, &map);
    }
    if let Some(api) = present("downwardAPI") {
        mode(errors, &api.at("defaultMode"));
        downward(errors, &api);
    }
    if let Some(host) = present("hostPath")
        && host.at("path").must_exist(errors)
        && host.at("path").text().split('/').any(|part| part == "..")
    {
        host.at("path").invalid(errors, "must not contain '..'");
    }
    if let Some(limit) = present("emptyDir")
        .map(|dir| dir.at("sizeLimit"))
        .filter(|limit| !limit.is_missing())
        && quantity::millis(limit.text()).is_none_or(|n| n < 0)
    {
        limit.forbidden(errors, "SizeLimit field must be a valid resource quantity");
    }
    if let Some(claim) = present("persistentVolumeClaim") {
        claim.at("claimName").must_exist(errors);
    }
    if let Some(projected) = present("projected") {
        mode(errors, &projected.at("defaultMode"));
        for source in projected.at("sources").items() {
            for kind in ["secret", "configMap"] {
                let source = source.at(kind);
                if !source.is_missing() {
                    source.at("name").must_exist(errors);
                    files(errors, &source);
                }
            }
            downward(errors, &source.at("downwardAPI"));
            let token = source.at("serviceAccountToken");
            if !token.is_missing() {
                token.at("path").must_exist(errors);
                let expiry = token.at("expirationSeconds");
                if expiry.int().is_some_and(|n| n < 600) {
                    expiry.invalid(errors, "may not specify a duration less than 10 minutes");
                }
            }
        }
    }
}

fn mode(errors: &mut Errors, mode: &Field<'_>) {
    if mode.int().is_some_and(|n| !(0..=0o777).contains(&n)) {
        mode.invalid(errors, MODE);
    }
}

fn files(errors: &mut Errors, source: &Field<'_>) {
    mode(errors, &source.at("defaultMode"));
    for item in source.at("items").items() {
        item.at("key").must_exist(errors);
        path(errors, &item.at("path"));
        mode(errors, &item.at("mode"));
    }
}

fn downward(errors: &mut Errors, source: &Field<'_>) {
    for item in source.at("items").items() {
        path(errors, &item.at("path"));
        mode(errors, &item.at("mode"));
        field_reference(errors, &item.at("fieldRef"));
    }
}

fn path(errors: &mut Errors, path: &Field<'_>) {
    if path.must_exist(errors) {
        if path.text().starts_with('/') {
            path.invalid(errors, "must be a relative path");
        } else if path.text().split('/').any(|part| part == "..") {
            path.invalid(errors, "must not contain '..'");
        }
    }
}
