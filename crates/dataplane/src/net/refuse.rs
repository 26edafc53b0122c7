//! How packets are refused that the eBPF programs have marked for it: by the kernel's own generators of a reset and of
//! "port unreachable", which only netfilter reaches.
//!
//! ```text
//! table inet weft-refuse {
//!     chain marked { type filter hook prerouting priority raw;
//!         meta mark 0x77656674 meta l4proto tcp reject with tcp reset
//!         meta mark 0x77656674 reject
//!     }
//! }
//! ```

use std::ffi::CStr;

use weft_model::Protocol;
use weft_packet::layout::REFUSE_MARK;

use super::NetError;
use super::nft::{self, Batch, Expr, Place, REGISTER};

const TABLE: &CStr = c"weft-refuse";
const CHAIN: &CStr = c"marked";
/// linux/netfilter_ipv4.h, nf_ip_hook_priorities: before connections are tracked.
const RAW: i32 = -300;

/// Makes sure that the rules are there, in the namespace of the calling thread.
pub fn ensure() -> Result<(), NetError> {
    let there = nft::contents(TABLE, CHAIN, &[]).map_err(|source| NetError::Kernel {
        what: "read the nftables rules for refusing packets".into(),
        source,
    })?;
    if there.is_some_and(|rules| !rules.is_empty()) {
        return Ok(());
    }
    let mark = REFUSE_MARK.to_ne_bytes();
    let marked = [Expr::MarkOf(REGISTER), Expr::Equal(&mark)];
    let tcp = [Protocol::Tcp.number()];
    let mut batch = Batch::new();
    batch.replace_table(TABLE);
    batch.add_filter_chain(TABLE, CHAIN, Place::PreRouting, RAW);
    let is_tcp = [Expr::Protocol(REGISTER), Expr::Equal(&tcp), Expr::Reset];
    batch.add_rule(TABLE, CHAIN, &[&marked[..], &is_tcp[..]].concat());
    batch.add_rule(TABLE, CHAIN, &[&marked[..], &[Expr::Unreachable]].concat());
    batch.commit("set the nftables rules for refusing packets")
}
