//! SPDY/3.1, as far as Kubernetes clients use it: they open streams, both sides send data, either side ends.
//! No kept crate speaks it any more, and every kubectl still falls back to it.

mod connection;
mod frame;
mod headers;

pub(super) use connection::{Connection, Stream};
