//! The part of JSONPath that printer columns use: fields, indexes, `[*]` and `[?(@.a == "b")]`.

use serde_json::Value;

/// One step of a path.
enum Step {
    Field(String),
    Index(i64),
    All,
    Filter { field: Vec<String>, equal: bool, to: Value },
}

/// All values that a path such as `.status.conditions[?(@.type=="Ready")].status` leads to; none if it cannot be read.
pub fn find<'a>(object: &'a Value, path: &str) -> Vec<&'a Value> {
    let Some(steps) = parse(path) else { return Vec::new() };
    let mut current = vec![object];
    for step in &steps {
        current = current.into_iter().flat_map(|value| follow(value, step)).collect();
    }
    current
}

/// Whether a path can be read.
pub fn is_valid(path: &str) -> bool {
    parse(path).is_some()
}

/// A found value as `kubectl` prints it: strings bare, everything else as JSON.
pub fn print(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

fn follow<'a>(value: &'a Value, step: &Step) -> Vec<&'a Value> {
    match step {
        Step::Field(name) => value.get(name).filter(|v| !v.is_null()).into_iter().collect(),
        Step::Index(index) => {
            let Some(items) = value.as_array() else {
                return Vec::new();
            };
            let from_end = items
                .len()
                .checked_sub(usize::try_from(index.unsigned_abs()).unwrap_or(usize::MAX));
            let index = if *index < 0 {
                from_end
            } else {
                usize::try_from(*index).ok()
            };
            index.and_then(|i| items.get(i)).into_iter().collect()
        }
        Step::All => children(value),
        Step::Filter { field, equal, to } => children(value)
            .into_iter()
            .filter(|child| {
                let found = field.iter().try_fold(*child, |v, key| v.get(key));
                found.is_some_and(|found| (found == to) == *equal)
            })
            .collect(),
    }
}

fn children(value: &Value) -> Vec<&Value> {
    match value {
        Value::Array(items) => items.iter().collect(),
        Value::Object(map) => map.values().collect(),
        _ => Vec::new(),
    }
}

fn parse(path: &str) -> Option<Vec<Step>> {
    let mut rest = path.trim();
    rest = rest.strip_prefix('{').and_then(|r| r.strip_suffix('}')).unwrap_or(rest);
    rest = rest.strip_prefix('$').unwrap_or(rest);
    let mut steps = Vec::new();
    while !rest.is_empty() {
        if let Some(after) = rest.strip_prefix('[') {
            let end = closing(after)?;
            steps.push(bracket(after.get(..end)?.trim())?);
            rest = after.get(end + 1..)?;
        } else {
            let (name, after) = field(rest.strip_prefix('.')?);
            match name.as_str() {
                // A dot alone is the object itself, and one before a bracket adds nothing.
                "" if after.is_empty() || after.starts_with('[') => {}
                "" => return None,
                "*" => steps.push(Step::All),
                _ => steps.push(Step::Field(name)),
            }
            rest = after;
        }
    }
    Some(steps)
}

/// Takes a field's name, in which `\.` is a dot.
fn field(text: &str) -> (String, &str) {
    let mut name = String::new();
    let mut escaped = false;
    for (index, c) in text.char_indices() {
        match c {
            '\\' if !escaped => escaped = true,
            '.' | '[' if !escaped => return (name, text.get(index..).unwrap_or_default()),
            _ => {
                name.push(c);
                escaped = false;
            }
        }
    }
    (name, "")
}

/// Where the bracket that was just opened closes, quotes and inner brackets considered.
fn closing(text: &str) -> Option<usize> {
    let mut depth = 0usize;
    let mut quote = None;
    for (index, c) in text.char_indices() {
        match (quote, c) {
            (Some(q), _) if q == c => quote = None,
            (Some(_), _) => {}
            (None, '"' | '\'') => quote = Some(c),
            (None, '[') => depth += 1,
            (None, ']') if depth == 0 => return Some(index),
            (None, ']') => depth -= 1,
            _ => {}
        }
    }
    None
}

fn bracket(inner: &str) -> Option<Step> {
    if inner == "*" {
        return Some(Step::All);
    }
    if let Some(filter) = inner.strip_prefix("?(").and_then(|f| f.strip_suffix(')')) {
        let (left, right, equal) = match filter.split_once("==") {
            Some((left, right)) => (left, right, true),
            None => filter.split_once("!=").map(|(left, right)| (left, right, false))?,
        };
        let field = left.trim().strip_prefix('@')?;
        let field = field
            .split('.')
            .filter(|part| !part.is_empty())
            .map(str::to_owned)
            .collect();
        return Some(Step::Filter {
            field,
            equal,
            to: literal(right.trim())?,
        });
    }
    if let Some(Value::String(name)) = literal(inner) {
        return Some(Step::Field(name));
    }
    inner.parse().ok().map(Step::Index)
}

/// A quoted string, a number, `true` or `false`.
fn literal(text: &str) -> Option<Value> {
    let quoted = |q: char| text.strip_prefix(q).and_then(|t| t.strip_suffix(q));
    match quoted('"').or_else(|| quoted('\'')) {
        Some(string) => Some(Value::String(string.to_owned())),
        None => serde_json::from_str(text).ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn finds_what_printer_columns_ask_for() {
        let object = json!({"spec": {"a.b": 1, "list": [{"n": "x", "v": 1}, {"n": "y", "v": 2}], "m": {"k": true}}});
        for (path, want) in [
            (".spec.m.k", vec![json!(true)]),
            (".spec.a\\.b", vec![json!(1)]),
            (".spec['a.b']", vec![json!(1)]),
            (".spec.list[0].v", vec![json!(1)]),
            (".spec.list[-1].n", vec![json!("y")]),
            (".spec.list[*].n", vec![json!("x"), json!("y")]),
            (".spec.list[?(@.n==\"y\")].v", vec![json!(2)]),
            (".spec.list[?(@.n != 'y')].v", vec![json!(1)]),
            ("{.spec.m.k}", vec![json!(true)]),
            (".spec.none", vec![]),
        ] {
            assert_eq!(find(&object, path), want.iter().collect::<Vec<_>>(), "{path}");
        }
    }

    #[test]
    fn what_cannot_be_read_is_said() {
        for path in ["spec", ".a[", ".a[?(x)]", "..a"] {
            assert!(!is_valid(path), "{path}");
        }
    }
}
