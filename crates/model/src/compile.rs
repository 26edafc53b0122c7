//! From what the cluster wants to what this node's kernel must hold: pure functions of one key and what it refers to.

mod endpoints;
mod forwarding;
mod health;
mod masquerade;
mod problem;
mod routes;
mod service;
mod trust;

pub use forwarding::{
    Backend, Choice, Forwarding, Frontend, FrontendKind, Rule, SetKey, Source, Step, Target, WhenEmpty,
};
pub use health::{HealthCheck, health_check};
pub use masquerade::{Masquerade, masquerade};
pub use problem::{AddressField, Problem};
pub use routes::{NextHop, Overlap, Reach, RouteTable, Routes, Routing, Underlay, ranges};
pub use service::service;
pub use trust::Untrusted;
