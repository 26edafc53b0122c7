//! Walks over objects for server-side apply: which fields there are, which changed, merging and removing.

use serde_json::{Map, Value};

use super::fieldset::FieldSet;
use super::shape::{Place, Shape, key_step, value_step};

/// Every field of a value.
pub(super) fn fields_of(value: &Value, place: Place<'_>) -> FieldSet {
    let mut set = FieldSet::default();
    match (value, place.shape(value)) {
        (Value::Object(fields), Shape::Fields) if !fields.is_empty() => {
            for (name, value) in fields {
                set.insert(format!("f:{name}"), fields_of(value, place.field(name)));
            }
        }
        (Value::Array(items), Shape::Keyed(keys)) if !items.is_empty() => {
            for item in items {
                let below = FieldSet {
                    own: true,
                    ..fields_of(item, place.item())
                };
                set.insert(key_step(&keys, item), below);
            }
        }
        (Value::Array(items), Shape::Set) if !items.is_empty() => {
            for item in items {
                set.insert(value_step(item), FieldSet::leaf());
            }
        }
        _ => set.own = true,
    }
    set
}

/// The fields of `new` that are not in `old`, or differ there.
pub(super) fn changed(old: &Value, new: &Value, place: Place<'_>) -> FieldSet {
    let mut set = FieldSet::default();
    match (old, new, place.shape(new)) {
        (Value::Object(old), Value::Object(new), Shape::Fields) => {
            for (name, value) in new {
                let place = place.field(name);
                let below = old
                    .get(name)
                    .map_or_else(|| fields_of(value, place), |old| changed(old, value, place));
                set.insert(format!("f:{name}"), below);
            }
        }
        (Value::Array(old), Value::Array(new), Shape::Keyed(keys)) => {
            for item in new {
                let step = key_step(&keys, item);
                let below = match old.iter().find(|old| key_step(&keys, old) == step) {
                    Some(old) => changed(old, item, place.item()),
                    None => FieldSet {
                        own: true,
                        ..fields_of(item, place.item())
                    },
                };
                set.insert(step, below);
            }
        }
        (Value::Array(old), Value::Array(new), Shape::Set) => {
            for item in new.iter().filter(|item| !old.contains(item)) {
                set.insert(value_step(item), FieldSet::leaf());
            }
        }
        _ if old == new => {}
        _ => set = fields_of(new, place),
    }
    set
}

/// Puts what `applied` says into `target`.
pub(super) fn merge(target: &mut Value, applied: &Value, place: Place<'_>) {
    match (&mut *target, applied, place.shape(applied)) {
        (Value::Object(fields), Value::Object(applied), Shape::Fields) => {
            for (name, value) in applied {
                match fields.get_mut(name) {
                    Some(old) => merge(old, value, place.field(name)),
                    None => {
                        fields.insert(name.clone(), value.clone());
                    }
                }
            }
        }
        (Value::Array(items), Value::Array(applied), Shape::Keyed(keys)) => {
            for item in applied {
                let step = key_step(&keys, item);
                match items.iter_mut().find(|old| key_step(&keys, old) == step) {
                    Some(old) => merge(old, item, place.item()),
                    None => items.push(item.clone()),
                }
            }
        }
        (Value::Array(items), Value::Array(applied), Shape::Set) => {
            for item in applied {
                if !items.contains(item) {
                    items.push(item.clone());
                }
            }
        }
        _ => *target = applied.clone(),
    }
}

/// Takes the fields in `gone` out of `target`, except where somebody in `others` owns something below.
pub(super) fn remove(target: &mut Value, gone: &FieldSet, others: &FieldSet, place: Place<'_>) {
    let nobody = FieldSet::default();
    let shape = place.shape(target);
    match (target, shape) {
        (Value::Object(fields), Shape::Fields) => remove_fields(fields, gone, others, place),
        (Value::Array(items), Shape::Keyed(keys)) => items.retain_mut(|item| {
            let step = key_step(&keys, item);
            let Some(below) = gone.children.get(&step) else {
                return true;
            };
            let theirs = others.children.get(&step).unwrap_or(&nobody);
            if below.own && theirs.is_empty() {
                return false;
            }
            remove(item, below, theirs, place.item());
            true
        }),
        (Value::Array(items), Shape::Set) => {
            items.retain(|item| gone.children.get(&value_step(item)).is_none_or(|below| !below.own));
        }
        _ => {}
    }
}

fn remove_fields(fields: &mut Map<String, Value>, gone: &FieldSet, others: &FieldSet, place: Place<'_>) {
    let nobody = FieldSet::default();
    for (step, below) in &gone.children {
        let Some(name) = step.strip_prefix("f:") else { continue };
        let theirs = others.children.get(step).unwrap_or(&nobody);
        let Some(value) = fields.get_mut(name) else { continue };
        if below.own && theirs.is_empty() {
            fields.remove(name);
            continue;
        }
        remove(value, below, theirs, place.field(name));
        let emptied = value.as_object().is_some_and(Map::is_empty) || value.as_array().is_some_and(Vec::is_empty);
        if emptied && theirs.is_empty() {
            fields.remove(name);
        }
    }
}
