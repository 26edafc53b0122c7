//! Rules of ConfigMaps and Secrets.

use super::field::{Errors, Field};
use super::names;

/// The data of one object: 1 MiB.
const MAX: usize = 1024 * 1024;

/// Checks a ConfigMap.
pub(super) fn validate_config_map(errors: &mut Errors, map: &Field<'_>, old: Option<&Field<'_>>) {
    let (data, binary) = (map.at("data"), map.at("binaryData"));
    let mut size = 0;
    for (key, value) in data.entries() {
        size += value.text().len();
        if let Some(problem) = names::config_key(key) {
            value.invalid_part(errors, key, &problem);
        }
        if binary.value.get(key).is_some() {
            value.invalid_part(errors, key, &format!("duplicate of key present in {}", binary.path));
        }
    }
    for (key, value) in binary.entries() {
        size += decoded(value.text());
        if let Some(problem) = names::config_key(key) {
            value.invalid_part(errors, key, &problem);
        }
    }
    if size > MAX {
        Field {
            path: String::new(),
            ..map.clone()
        }
        .too_long(errors, MAX);
    }
    frozen(errors, map, old, &["data", "binaryData"]);
}

/// Checks a Secret.
pub(super) fn validate_secret(errors: &mut Errors, secret: &Field<'_>, old: Option<&Field<'_>>) {
    let data = secret.at("data");
    let mut size = 0;
    for (key, value) in data.entries() {
        size += decoded(value.text());
        if let Some(problem) = names::config_key(key) {
            value.invalid_part(errors, key, &problem);
        }
    }
    if size > MAX {
        data.too_long(errors, MAX);
    }
    let needed: &[&str] = match secret.at("type").text() {
        "kubernetes.io/tls" => &["tls.crt", "tls.key"],
        "kubernetes.io/dockerconfigjson" => &[".dockerconfigjson"],
        "kubernetes.io/dockercfg" => &[".dockercfg"],
        "kubernetes.io/ssh-auth" => &["ssh-privatekey"],
        _ => &[],
    };
    for key in needed {
        if data.value.get(key).is_none() {
            Field {
                path: format!("data[{key}]"),
                ..data.clone()
            }
            .required(errors, "");
        }
    }
    if let Some(old) = old {
        secret.at("type").immutable(errors, old.at("type").value);
    }
    frozen(errors, secret, old, &["data"]);
}

/// The length of what base64 text stands for.
fn decoded(text: &str) -> usize {
    text.len() / 4 * 3
}

/// An object that says that it is immutable stays as it is.
fn frozen(errors: &mut Errors, new: &Field<'_>, old: Option<&Field<'_>>, fields: &[&str]) {
    let Some(old) = old.filter(|old| old.at("immutable").value == true) else {
        return;
    };
    const DETAIL: &str = "field is immutable when `immutable` is set";
    if new.at("immutable").value != true {
        new.at("immutable").forbidden(errors, DETAIL);
    }
    for field in fields {
        if new.at(field).value != old.at(field).value {
            new.at(field).forbidden(errors, DETAIL);
        }
    }
}
