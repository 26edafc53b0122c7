//! Names for pod templates: short, and equal exactly for equal templates.

use serde_json::Value;

/// Characters that cannot form words, as Kubernetes uses in generated names.
const ALPHABET: &[u8; 27] = b"bcdfghjklmnpqrstvwxz2456789";

/// The hash of a template; `collisions` gives another one where the first is taken by a different template.
pub(crate) fn of(template: &Value, collisions: i64) -> String {
    let text = canonical(template);
    let salt = if collisions > 0 {
        collisions.to_string()
    } else {
        String::new()
    };
    // FNV-1a, 32 bits.
    let sum = text.bytes().chain(salt.bytes()).fold(0x811c_9dc5_u32, |sum, byte| {
        (sum ^ u32::from(byte)).wrapping_mul(0x0100_0193)
    });
    let digits = sum.to_string();
    digits
        .bytes()
        .map(|digit| ALPHABET[usize::from(digit) % ALPHABET.len()] as char)
        .collect()
}

/// JSON text with sorted keys and without empty members, so that equal meanings give equal text.
fn canonical(value: &Value) -> String {
    match value {
        Value::Object(map) => {
            let mut members: Vec<_> = map.iter().filter(|(_, value)| !value.is_null()).collect();
            members.sort_by_key(|(key, _)| *key);
            let members = members
                .iter()
                .map(|(key, value)| format!("{key:?}:{}", canonical(value)));
            format!("{{{}}}", members.collect::<Vec<_>>().join(","))
        }
        Value::Array(items) => {
            let items = items.iter().map(canonical);
            format!("[{}]", items.collect::<Vec<_>>().join(","))
        }
        other => other.to_string(),
    }
}

/// Are two templates the same, apart from the label that carries their hash?
pub(crate) fn same_template(a: &Value, b: &Value, hash_label: &str) -> bool {
    let plain = |template: &Value| {
        let mut template = template.clone();
        if let Some(labels) = template["metadata"]["labels"].as_object_mut() {
            labels.remove(hash_label);
        }
        canonical(&template)
    };
    plain(a) == plain(b)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn equal_templates_have_equal_hashes() {
        let a = json!({"metadata": {"creationTimestamp": null, "labels": {"app": "web"}}, "spec": {"x": [1]}});
        let b = json!({"spec": {"x": [1]}, "metadata": {"labels": {"app": "web", "hash": "abc"}}});
        assert!(same_template(&a, &b, "hash"));
        assert_ne!(of(&a, 0), of(&b, 0));
        assert_ne!(of(&a, 0), of(&a, 1));
        assert!(of(&a, 0).bytes().all(|c| ALPHABET.contains(&c)));
    }
}
