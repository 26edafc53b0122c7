//! The cluster's names, answered on every node from the watch the node already has.
//!
//! ```text
//! model::Change --> Zone (plain struct: hash maps by name) --> answer --> client
//!                          not a name of the cluster --> forward --> upstream resolver
//! ```
//!
//! `zone` holds every rule of the Kubernetes DNS specification and knows no socket. `respond` turns bytes
//! into bytes. `server` and `forward` own the sockets. The wire format is hickory's.

mod bind;
mod error;
mod forward;
mod health;
mod respond;
mod run;
mod server;
mod upstream;
pub mod zone;

pub use error::Error;
pub use run::{Config, run};
pub use upstream::{parse_resolv_conf, read_resolv_conf};
