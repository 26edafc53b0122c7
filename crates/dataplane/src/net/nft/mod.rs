//! Transactions of nftables over netlink: everything in one is in force, or nothing of it is.

mod expr;
mod socket;

use std::ffi::CStr;

use netlink_bindings::nftables::{Chained, Nfgenmsg, Request};

use super::NetError;
pub(super) use expr::{Expr, REGISTER};
pub(super) use socket::{contents, generation, has_element};

/// linux/netfilter.h: nfproto, of tables for both families.
pub(super) const INET: u8 = 1;
/// linux/netfilter.h: nfproto.
pub(super) const IPV4: u8 = 2;
/// linux/netfilter.h: nfproto.
pub(super) const IPV6: u8 = 10;
/// linux/netfilter/nfnetlink.h: the batch is for nftables.
const SUBSYSTEM: u16 = 10;

/// linux/netfilter.h: nf_inet_hooks.
#[derive(Clone, Copy, Debug)]
#[repr(u32)]
pub(super) enum Place {
    PreRouting = 0,
    Output = 3,
    PostRouting = 4,
}

/// linux/netfilter_ipv4.h, nf_ip_hook_priorities: where destinations are translated.
pub(super) const DESTINATION_NAT: i32 = -100;
/// linux/netfilter_ipv4.h, nf_ip_hook_priorities: where sources are translated.
pub(super) const SOURCE_NAT: i32 = 100;

/// A transaction in the making, for tables of the inet family.
pub(super) struct Batch {
    messages: Chained<'static>,
    /// What every message begins with.
    pub(super) header: Nfgenmsg,
}

impl Batch {
    /// An empty transaction.
    pub(super) fn new() -> Self {
        let mut batch = Self {
            messages: Chained::new(1),
            header: Nfgenmsg {
                nfgen_family: INET,
                ..Nfgenmsg::new()
            },
        };
        batch.edge(true);
        batch
    }

    fn edge(&mut self, begin: bool) {
        let mut header = Nfgenmsg::new();
        header.set_res_id(SUBSYSTEM);
        match begin {
            true => drop(self.messages.request().op_batch_begin_do(&header)),
            false => drop(self.messages.request().op_batch_end_do(&header)),
        }
    }

    /// A further message.
    pub(super) fn request(&mut self) -> Request<'_> {
        self.messages.request()
    }

    /// Takes a table away, where it is there.
    pub(super) fn remove_table(&mut self, table: &CStr) {
        // Adding before deleting, so that deleting never misses.
        self.add_table(table);
        let header = self.header.clone();
        self.request().op_deltable_do(&header).encode().push_name(table);
    }

    /// Makes a table anew, empty.
    pub(super) fn replace_table(&mut self, table: &CStr) {
        self.remove_table(table);
        self.add_table(table);
    }

    fn add_table(&mut self, table: &CStr) {
        let header = self.header.clone();
        self.request()
            .set_create()
            .op_newtable_do(&header)
            .encode()
            .push_name(table);
    }

    /// Adds a chain that only other chains call.
    pub(super) fn add_chain(&mut self, table: &CStr, name: &CStr) {
        let header = self.header.clone();
        let mut request = self.request().set_create().op_newchain_do(&header);
        request.encode().push_table(table).push_name(name);
    }

    /// Adds a chain that translates addresses and lets everything else pass.
    pub(super) fn add_nat_chain(&mut self, table: &CStr, name: &CStr, place: Place, priority: i32) {
        let header = self.header.clone();
        let mut request = self.request().set_create().op_newchain_do(&header);
        let chain = request.encode().push_table(table).push_name(name);
        let chain = chain.push_type(c"nat").push_policy(1);
        chain
            .nested_hook()
            .push_num(place as u32)
            .push_priority(priority)
            .end_nested();
    }

    /// Appends a rule to a chain.
    pub(super) fn add_rule(&mut self, table: &CStr, chain: &CStr, steps: &[Expr<'_>]) {
        let header = self.header.clone();
        let mut request = self.request().set_create().set_append().op_newrule_do(&header);
        let list = request.encode().push_table(table).push_chain(chain);
        let list = list.nested_expressions();
        steps.iter().fold(list, |list, step| step.push(list)).end_nested();
    }

    /// Puts it in force; `what` completes "cannot ...".
    pub(super) fn commit(mut self, what: &str) -> Result<(), NetError> {
        self.edge(false);
        let messages = self.messages.finalize().into_chained().into_buf();
        socket::send(messages).map_err(|source| NetError::Kernel {
            what: what.to_owned(),
            source,
        })
    }
}
