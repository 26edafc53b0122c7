//! Custom resources: what their definition says about them, applied to objects.
//!
//! Of a structural schema everything is honoured but its CEL rules (`x-kubernetes-validations`), which are only warned about.

mod format;
pub mod jsonpath;
mod shape;
mod validate;
mod warnings;

pub use shape::{fill, prune};
pub use validate::validate;
pub use warnings::warnings;
