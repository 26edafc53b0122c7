//! Transactions of nftables over netlink: everything in one is in force, or nothing of it is.

mod element;
mod expr;
mod interval;
mod socket;

use std::ffi::CStr;

use netlink_bindings::nftables::{Chained, Nfgenmsg, PushSetDescConcatAttrs, Request, SetFlags};

use super::NetError;
pub(super) use element::{Element, Value, comment};
pub(super) use expr::{COUNTER, Expr, INVALID, NEW, REGISTER};
pub(super) use interval::{Interval, intervals};
pub(super) use socket::{chains, comments, contents, counters, generation, has_element, has_table};

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
    Forward = 2,
    Output = 3,
    PostRouting = 4,
}

/// linux/netfilter_ipv4.h, nf_ip_hook_priorities: where destinations are translated.
pub(super) const DESTINATION_NAT: i32 = -100;
/// linux/netfilter_ipv4.h, nf_ip_hook_priorities: where packets are filtered.
pub(super) const FILTER: i32 = 0;
/// linux/netfilter_ipv4.h, nf_ip_hook_priorities: where sources are translated.
pub(super) const SOURCE_NAT: i32 = 100;

/// linux/netfilter/nf_tables.h: NFT_DATA_VERDICT.
const VERDICT: u32 = 0xffff_ff00;

/// A part of a key or of a value.
#[derive(Clone, Copy, Debug)]
pub(super) enum Field {
    Ipv4,
    Ipv6,
    Protocol,
    Port,
    /// A number in host byte order.
    Number,
    /// The same, as a packet's priority has it.
    Class,
}

impl Field {
    /// The number of the type in nftables' own tools, so that `nft list` prints it as what it is.
    fn kind(self) -> u32 {
        match self {
            Field::Ipv4 => 7,
            Field::Ipv6 => 8,
            Field::Protocol => 12,
            Field::Port => 13,
            Field::Number => 19,
            Field::Class => 23,
        }
    }

    /// In bytes, as a part of several.
    fn length(self) -> u32 {
        match self {
            Field::Ipv6 => 16,
            _ => 4,
        }
    }
}

/// The parts of a key or of a value.
#[derive(Clone, Copy, Debug)]
pub(super) struct Fields<'a>(pub(super) &'a [Field]);

impl Fields<'_> {
    fn kind(&self) -> u32 {
        self.0.iter().fold(0, |kinds, field| (kinds << 6) | field.kind())
    }

    fn length(&self) -> u32 {
        self.0.iter().map(|field| field.length()).sum()
    }
}

/// What the keys of a map stand for.
#[derive(Clone, Copy, Debug)]
pub(super) enum To<'a> {
    Data(Fields<'a>),
    /// Chains to go on in.
    Verdict,
}

/// A set or a map.
#[derive(Clone, Copy, Debug)]
pub(super) struct Set<'a> {
    pub(super) name: &'a CStr,
    /// linux/netfilter/nf_tables.h: nft_set_flags.
    pub(super) flags: u32,
    pub(super) key: Fields<'a>,
    /// `None`: a set.
    pub(super) value: Option<To<'a>>,
    /// How many elements it may have; where rules add some, it has to be said.
    pub(super) size: Option<u32>,
}

/// A transaction in the making, for tables of the inet family.
pub(super) struct Batch {
    messages: Chained<'static>,
    /// How many messages have been asked for, the first and the last included.
    count: usize,
    /// What every message begins with.
    pub(super) header: Nfgenmsg,
}

impl Batch {
    /// An empty transaction.
    pub(super) fn new() -> Self {
        let mut batch = Self {
            messages: Chained::new(1),
            count: 1,
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
        self.count += 1;
        self.messages.request()
    }

    /// How many messages it consists of.
    pub(super) fn messages(&self) -> usize {
        self.count + 1
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

    /// Adds a table, unless it is there.
    pub(super) fn add_table(&mut self, table: &CStr) {
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

    /// Deletes a chain with its rules. Nothing may lead to it any more.
    pub(super) fn delete_chain(&mut self, table: &CStr, name: &CStr) {
        let header = self.header.clone();
        let mut request = self.request().op_delchain_do(&header);
        request.encode().push_table(table).push_name(name);
    }

    /// Deletes all rules of a chain that is there.
    pub(super) fn flush_chain(&mut self, table: &CStr, name: &CStr) {
        let header = self.header.clone();
        let mut request = self.request().op_delrule_do(&header);
        request.encode().push_table(table).push_chain(name);
    }

    /// Adds a chain that translates addresses and lets everything else pass.
    pub(super) fn add_nat_chain(&mut self, table: &CStr, name: &CStr, place: Place, priority: i32) {
        self.add_base_chain(table, name, c"nat", place, priority);
    }

    /// Adds a chain that sees every packet and lets pass what it does not drop.
    pub(super) fn add_filter_chain(&mut self, table: &CStr, name: &CStr, place: Place, priority: i32) {
        self.add_base_chain(table, name, c"filter", place, priority);
    }

    fn add_base_chain(&mut self, table: &CStr, name: &CStr, kind: &CStr, place: Place, priority: i32) {
        let header = self.header.clone();
        let mut request = self.request().set_create().op_newchain_do(&header);
        let chain = request.encode().push_table(table).push_name(name);
        let chain = chain.push_type(kind).push_policy(1);
        chain
            .nested_hook()
            .push_num(place as u32)
            .push_priority(priority)
            .end_nested();
    }

    /// Adds a set or map, unless it is there. `id` is the transaction's own number of it.
    pub(super) fn add_set(&mut self, table: &CStr, id: u32, set: &Set<'_>) {
        let header = self.header.clone();
        let mut request = self.request().set_create().op_newset_do(&header);
        let encoder = request.encode().push_table(table).push_name(set.name).push_id(id);
        let encoder = encoder.push_flags(set.flags).push_key_type(set.key.kind());
        let mut encoder = encoder.push_key_len(set.key.length());
        encoder = match &set.value {
            None => encoder,
            Some(To::Verdict) => encoder.push_data_type(VERDICT).push_data_len(0),
            Some(To::Data(fields)) => encoder.push_data_type(fields.kind()).push_data_len(fields.length()),
        };
        let concatenated = set.flags & SetFlags::Concat as u32 != 0;
        if set.size.is_some() || concatenated {
            let mut description = encoder.nested_desc();
            if let Some(size) = set.size {
                description = description.push_size(size);
            }
            if concatenated {
                let fields = description.nested_concat();
                let push = |list: PushSetDescConcatAttrs<_>, field: &Field| {
                    list.nested_elem().push_len(field.length()).end_nested()
                };
                description = set.key.0.iter().fold(fields, push).end_nested();
            }
            encoder = description.end_nested();
        }
        drop(encoder);
    }

    /// Adds a counter, unless it is there.
    pub(super) fn add_counter(&mut self, table: &CStr, name: &CStr) {
        let header = self.header.clone();
        let mut request = self.request().set_create().op_newobj_do(&header);
        let object = request.encode().push_table(table).push_name(name).push_type(COUNTER);
        object.nested_data_counter().end_nested();
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
