//! A value together with its path, and the rules that many kinds share.

use serde_json::{Map, Value};

use crate::api::fields::is_empty;
use crate::api::status::FieldError;

static NULL: Value = Value::Null;

/// The broken rules found so far.
pub(super) type Errors = Vec<FieldError>;

/// A part of an object, and where it is: `spec.ports[0].nodePort`.
#[derive(Clone, Debug)]
pub(super) struct Field<'a> {
    /// The value; `Null` if there is none.
    pub(super) value: &'a Value,
    /// The path from the top of the object.
    pub(super) path: String,
}

impl<'a> Field<'a> {
    /// The object itself.
    pub(super) fn root(value: &'a Value) -> Self {
        Self {
            value,
            path: String::new(),
        }
    }

    /// The field at a dotted path below this one.
    pub(super) fn at(&self, path: &str) -> Self {
        let mut value = self.value;
        for key in path.split('.') {
            value = value.get(key).unwrap_or(&NULL);
        }
        let path = if self.path.is_empty() {
            path.to_owned()
        } else {
            format!("{}.{path}", self.path)
        };
        Self { value, path }
    }

    /// The elements of this list.
    pub(super) fn items(&self) -> Vec<Self> {
        let items = self.value.as_array().map(Vec::as_slice).unwrap_or_default();
        let with_index = items.iter().enumerate();
        with_index
            .map(|(index, value)| Self {
                value,
                path: format!("{}[{index}]", self.path),
            })
            .collect()
    }

    /// The entries of this object, the key in the path as `data[key]`.
    pub(super) fn entries(&self) -> Vec<(&'a str, Self)> {
        let Some(map) = self.value.as_object() else {
            return Vec::new();
        };
        map.iter()
            .map(|(key, value)| {
                (
                    key.as_str(),
                    Self {
                        value,
                        path: format!("{}[{key}]", self.path),
                    },
                )
            })
            .collect()
    }

    /// The entries of this object.
    pub(super) fn map(&self) -> Option<&'a Map<String, Value>> {
        self.value.as_object()
    }

    /// The text, or `""`.
    pub(super) fn text(&self) -> &'a str {
        self.value.as_str().unwrap_or_default()
    }

    /// The whole number, if it is one.
    pub(super) fn int(&self) -> Option<i64> {
        self.value.as_i64()
    }

    /// Whether there is no value.
    pub(super) fn is_missing(&self) -> bool {
        self.value.is_null()
    }

    /// Whether there is no value, or an empty one.
    pub(super) fn is_empty(&self) -> bool {
        is_empty(self.value)
    }

    /// `Invalid value`, unless `problem` is none.
    pub(super) fn invalid_if(&self, errors: &mut Errors, problem: Option<impl AsRef<str>>) {
        if let Some(problem) = problem {
            self.invalid(errors, problem.as_ref());
        }
    }

    /// Reports an `Invalid value`.
    pub(super) fn invalid(&self, errors: &mut Errors, detail: &str) {
        errors.push(FieldError::invalid(&self.path, self.value, detail));
    }

    /// Reports an `Invalid value` that is not the field's own, such as a label's key.
    pub(super) fn invalid_part(&self, errors: &mut Errors, part: &str, detail: &str) {
        errors.push(FieldError::invalid(&self.path, &part.into(), detail));
    }

    /// Reports a `Required value`; the detail may be empty.
    pub(super) fn required(&self, errors: &mut Errors, detail: &str) {
        errors.push(FieldError::required(&self.path, detail));
    }

    /// Reports `Forbidden`.
    pub(super) fn forbidden(&self, errors: &mut Errors, detail: &str) {
        errors.push(FieldError::forbidden(&self.path, detail));
    }

    /// Reports `Duplicate value`.
    pub(super) fn duplicate(&self, errors: &mut Errors) {
        errors.push(FieldError::duplicate(&self.path, self.value));
    }

    /// Reports `Not found`.
    pub(super) fn not_found(&self, errors: &mut Errors) {
        errors.push(FieldError::not_found(&self.path, self.value));
    }

    /// Reports `Too long`.
    pub(super) fn too_long(&self, errors: &mut Errors, limit: usize) {
        let message = format!("Too long: may not be more than {limit} bytes");
        errors.push(FieldError {
            reason: "FieldValueTooLong",
            field: self.path.clone(),
            message,
        });
    }

    /// Reports `Too many`.
    pub(super) fn too_many(&self, errors: &mut Errors, found: usize, limit: usize) {
        let message = format!("Too many: {found}: must have at most {limit} items");
        errors.push(FieldError {
            reason: "FieldValueTooMany",
            field: self.path.clone(),
            message,
        });
    }

    /// The value is one of `supported`; an absent one is fine.
    pub(super) fn one_of(&self, errors: &mut Errors, supported: &[&str]) {
        if !self.is_missing() && !supported.contains(&self.text()) {
            errors.push(FieldError::not_supported(&self.path, self.value, supported));
        }
    }

    /// The text is there.
    pub(super) fn must_exist(&self, errors: &mut Errors) -> bool {
        if self.is_empty() {
            self.required(errors, "");
        }
        !self.is_empty()
    }

    /// The number, if there is one, is at least 0.
    pub(super) fn not_negative(&self, errors: &mut Errors) {
        if self.int().is_some_and(|n| n < 0) {
            self.invalid(errors, "must be greater than or equal to 0");
        }
    }

    /// The number, if there is one, is at least 1.
    pub(super) fn positive(&self, errors: &mut Errors) {
        if self.int().is_some_and(|n| n < 1) {
            self.invalid(errors, "must be greater than 0");
        }
    }

    /// The number is a port.
    pub(super) fn port(&self, errors: &mut Errors) {
        if !self.int().is_some_and(|n| (1..=65_535).contains(&n)) {
            self.invalid_number(errors, "must be between 1 and 65535, inclusive");
        }
    }

    /// `Invalid value` with Go's 0 in place of an absent number.
    fn invalid_number(&self, errors: &mut Errors, detail: &str) {
        let zero = Value::from(0);
        let value = if self.is_missing() { &zero } else { self.value };
        errors.push(FieldError::invalid(&self.path, value, detail));
    }

    /// The value is what it was in `old`.
    pub(super) fn immutable(&self, errors: &mut Errors, old: &Value) {
        if self.value != old {
            self.invalid(errors, "field is immutable");
        }
    }
}
