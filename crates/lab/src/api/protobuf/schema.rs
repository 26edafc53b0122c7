//! Which fields the messages of the built-in kinds have.

use std::collections::HashMap;
use std::sync::LazyLock;

/// The table, in a form made for reading by people too.
const TABLE: &str = include_str!("fields.txt");

/// What is in a field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Type {
    Text,
    Bytes,
    Int,
    Bool,
    Double,
    Time,
    MicroTime,
    Duration,
    Quantity,
    IntOrText,
    /// JSON inside protobuf.
    Raw,
    /// A message that is only a list of texts.
    Texts,
    Message(String),
}

/// How often a field is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cardinality {
    Plain,
    Pointer,
    List,
    Map,
}

/// A field of a message.
#[derive(Clone, Debug)]
pub(super) struct Field {
    pub(super) number: u64,
    /// In JSON; empty where the field's own fields belong to the parent.
    pub(super) name: String,
    pub(super) kind: Type,
    pub(super) cardinality: Cardinality,
}

/// Every message.
pub(super) struct Schema(HashMap<&'static str, Vec<Field>>);

static SCHEMA: LazyLock<Schema> = LazyLock::new(|| {
    let lines = TABLE.lines().filter(|line| !line.starts_with('#'));
    let message = |line: &'static str| {
        let mut words = line.split(' ');
        Some((words.next()?, words.filter_map(field).collect()))
    };
    Schema(lines.filter_map(message).collect())
});

impl Schema {
    /// The table, parsed on first use.
    pub(super) fn get() -> &'static Schema {
        &SCHEMA
    }

    /// The fields of a message.
    pub(super) fn message(&self, name: &str) -> Option<&[Field]> {
        self.0.get(name).map(Vec::as_slice)
    }
}

fn field(word: &str) -> Option<Field> {
    let (number, rest) = word.split_once('=')?;
    let (name, kind) = rest.split_once(':')?;
    let bare = kind.trim_end_matches(['?', '*', '%']);
    let cardinality = match kind.as_bytes().last()? {
        b'?' => Cardinality::Pointer,
        b'*' => Cardinality::List,
        b'%' => Cardinality::Map,
        _ => Cardinality::Plain,
    };
    let kind = match bare {
        "string" => Type::Text,
        "bytes" => Type::Bytes,
        "int" => Type::Int,
        "bool" => Type::Bool,
        "double" => Type::Double,
        "time" => Type::Time,
        "microtime" => Type::MicroTime,
        "duration" => Type::Duration,
        "quantity" => Type::Quantity,
        "intstr" => Type::IntOrText,
        "raw" => Type::Raw,
        "strings" => Type::Texts,
        message => Type::Message(message.to_owned()),
    };
    let name = if name == "-" { String::new() } else { name.to_owned() };
    Some(Field {
        number: number.parse().ok()?,
        name,
        kind,
        cardinality,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_word_of_the_table_is_understood() {
        for line in TABLE.lines().filter(|line| !line.starts_with('#')) {
            let (name, words) = line.split_once(' ').unwrap_or((line, ""));
            let fields = Schema::get().message(name).unwrap();
            assert_eq!(fields.len(), words.split_whitespace().count(), "{name}");
            for field in fields {
                if let Type::Message(inner) = &field.kind {
                    assert!(Schema::get().message(inner).is_some(), "{name}.{}: {inner}", field.name);
                }
            }
        }
    }
}
