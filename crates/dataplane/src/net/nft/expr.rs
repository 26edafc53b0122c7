//! The steps of a rule, as the kernel runs them: they load, compare and look up in registers, and end in a verdict.

use std::ffi::CStr;
use std::time::Duration;

use netlink_bindings::nftables::{MetaKeys, PayloadBase, PushExprListAttrs, Registers, VerdictCode};
use netlink_bindings::traits::Pusher;
use netlink_bindings::utils::{finalize_nested_header, push_header, push_nested_header};

/// The first register: 16 bytes, or the first four of the small ones.
pub(in crate::net) const REGISTER: u32 = Registers::Reg1 as u32;

/// linux/netfilter/nf_tables.h: nft_lookup_attributes.
const LOOKUP_SOURCE: u16 = 2;
/// linux/netfilter/nf_tables.h: nft_lookup_flags.
const NOT_IN: u32 = 1;
/// linux/netfilter/nf_tables.h: nft_fib_result, nft_fib_flags.
const FIB_LINK: u32 = 1;
const FIB_ADDRESS_TYPE: u32 = 3;
const FIB_OF_DESTINATION: u32 = 1 << 1;
const FIB_BY_INCOMING: u32 = 1 << 3;
const FIB_PRESENT: u32 = 1 << 5;
/// linux/rtnetlink.h: RTN_LOCAL.
const LOCAL: u32 = 2;
/// linux/netfilter/nf_tables.h: nft_ct_keys.
const CT_STATE: u32 = 0;
const CT_STATUS: u32 = 2;
/// linux/netfilter/nf_conntrack_common.h: IPS_DST_NAT.
const DESTINATION_TRANSLATED: u32 = 1 << 5;
/// linux/netfilter/nf_conntrack_common.h: NF_CT_STATE_BIT, NF_CT_STATE_INVALID_BIT.
pub(in crate::net) const NEW: u32 = 1 << 3;
pub(in crate::net) const INVALID: u32 = 1;
/// linux/netfilter/nf_tables.h: nft_numgen_types.
const RANDOM: u32 = 1;
/// linux/netfilter/nf_tables.h: nft_reject_types, nft_reject_inet_code.
const RESET: u32 = 1;
const UNREACHABLE: u32 = 2;
const PORT_UNREACHABLE: u8 = 1;
/// linux/netfilter/nf_tables.h: NFT_OBJECT_COUNTER.
pub(in crate::net) const COUNTER: u32 = 1;
/// linux/netfilter/nf_tables.h: nft_dynset_attributes, nft_dynset_ops.
const DYNSET_SET: u16 = 1;
const DYNSET_OPERATION: u16 = 3;
const DYNSET_KEY: u16 = 4;
const DYNSET_DATA: u16 = 5;
const DYNSET_TIMEOUT: u16 = 6;
const UPDATE: u32 = 1;
const DELETE: u32 = 2;
/// linux/netfilter/nf_tables.h: NFTA_EXPR_DATA.
const EXPRESSION_DATA: u16 = 2;
/// linux/netfilter.h: NF_DROP.
const DROP: u32 = 0;
/// linux/netfilter/nf_tables.h: nft_cmp_ops, nft_nat_types.
const EQUAL: u32 = 0;
const DIFFERENT: u32 = 1;
const TRANSLATE_DESTINATION: u32 = 1;

/// One step. Steps without a register use [`REGISTER`].
#[derive(Clone, Copy, Debug)]
pub(in crate::net) enum Expr<'a> {
    /// Goes on with packets of this family (nfproto) only.
    Family(u8),
    /// Goes on with packets that came in by (`Iifname`), or leave by (`Oifname`), an interface whose name begins so.
    Interface(MetaKeys, &'a str),
    /// Goes on with packets by an interface whose name does not begin so.
    OtherInterface(MetaKeys, &'a str),
    /// Goes on with packets to an address of this machine.
    ToLocal,
    /// Goes on with packets of connections whose destination was translated.
    Translated,
    /// Loads a field of the network header: offset, length, register.
    Network(u32, u32, u32),
    /// Loads the number of the transport protocol into a register.
    Protocol(u32),
    /// Loads the destination port into a register.
    Port(u32),
    /// Goes on where the register begins with these bytes.
    Equal(&'a [u8]),
    /// Goes on where the register does not begin with these bytes.
    Different(&'a [u8]),
    /// Goes on where the value of the register is in the set.
    In(&'a CStr, u32),
    /// Goes on where the value of the register is not in the set.
    NotIn(&'a CStr, u32),
    /// Goes on where the first register's value is a key of the map, with the key's value in the second.
    Map(&'a CStr, u32, u32),
    /// Goes where the map says for the register's value; on, where it says nothing.
    Verdict(&'a CStr, u32),
    /// Puts these bytes into a register.
    Load(&'a [u8], u32),
    /// Puts a random number below this into a register.
    Random(u32, u32),
    /// Puts the value of the second register into the map, under the first, for this long unless it is put there again.
    /// What the map holds already only gets more time. Ends the rule where the map is full.
    Remember(&'a CStr, u32, u32, Duration),
    /// Takes the first register's value out of the map. The kernel wants a value as well, and does not look at it.
    Forget(&'a CStr, u32, u32),
    /// Writes the register's value into the packet's priority: where it outlives a rule, unlike in a register.
    Note(u32),
    /// Loads the packet's priority into a register.
    Noted(u32),
    /// Counts in this counter of the table.
    Count(&'a CStr),
    /// Runs another chain.
    Jump(&'a CStr),
    /// Runs another chain instead of the rest of this one.
    Goto(&'a CStr),
    /// Ends the packet without a word.
    Drop,
    /// Tells a TCP client at once that nobody listens.
    Reset,
    /// Tells the client by ICMP that nobody listens.
    Unreachable,
    /// Goes on with packets of connections in one of these states.
    State(u32),
    /// Goes on with packets that go back where they came from.
    Returning,
    /// Loads the packet's mark into a register.
    MarkOf(u32),
    /// Marks the packet with these bits.
    Mark(u32),
    /// Goes on with packets that have one of these bits, and takes them away.
    Marked(u32),
    /// Gives the packet the address of the interface it leaves by, or another of this machine.
    Masquerade,
    /// Sends the packet to the address, of this family, and the port in these registers.
    Destination(u8, u32, u32),
}

impl Expr<'_> {
    pub(super) fn push<P: Pusher>(self, list: PushExprListAttrs<P>) -> PushExprListAttrs<P> {
        match self {
            Expr::Family(family) => compare(load(list, MetaKeys::Nfproto, REGISTER), EQUAL, &[family]),
            Expr::Interface(which, name) => compare(load(list, which, REGISTER), EQUAL, name.as_bytes()),
            Expr::OtherInterface(which, name) => compare(load(list, which, REGISTER), DIFFERENT, name.as_bytes()),
            Expr::ToLocal => {
                let fib = list.nested_elem().nested_data_fib().push_dreg(REGISTER);
                let fib = fib.push_result(FIB_ADDRESS_TYPE).push_flags(FIB_OF_DESTINATION);
                compare(fib.end_nested().end_nested(), EQUAL, &LOCAL.to_ne_bytes())
            }
            Expr::Translated => any_of(load_ct(list, CT_STATUS), DESTINATION_TRANSLATED),
            Expr::State(states) => any_of(load_ct(list, CT_STATE), states),
            Expr::Returning => {
                let fib = list.nested_elem().nested_data_fib().push_dreg(REGISTER);
                let fib = fib.push_result(FIB_LINK);
                let fib = fib.push_flags(FIB_OF_DESTINATION | FIB_BY_INCOMING | FIB_PRESENT);
                compare(fib.end_nested().end_nested(), EQUAL, &[1])
            }
            Expr::MarkOf(register) => load(list, MetaKeys::Mark, register),
            Expr::Mark(bits) => set_mark(bitwise(load(list, MetaKeys::Mark, REGISTER), !bits, bits)),
            Expr::Marked(bits) => {
                let list = any_of(load(list, MetaKeys::Mark, REGISTER), bits);
                set_mark(bitwise(load(list, MetaKeys::Mark, REGISTER), !bits, 0))
            }
            Expr::Network(offset, length, to) => payload(list, PayloadBase::NetworkHeader, offset, length, to),
            Expr::Protocol(to) => load(list, MetaKeys::L4Proto, to),
            // Of TCP, UDP and SCTP alike.
            Expr::Port(to) => payload(list, PayloadBase::TransportHeader, 2, 2, to),
            Expr::Equal(value) => compare(list, EQUAL, value),
            Expr::Different(value) => compare(list, DIFFERENT, value),
            Expr::In(set, from) => look_up(list, set, 0, from, None),
            Expr::NotIn(set, from) => look_up(list, set, NOT_IN, from, None),
            Expr::Map(map, from, to) => look_up(list, map, 0, from, Some(to)),
            Expr::Verdict(map, from) => look_up(list, map, 0, from, Some(Registers::RegVerdict as u32)),
            Expr::Load(value, to) => {
                let immediate = list.nested_elem().nested_data_immediate().push_dreg(to);
                let immediate = immediate.nested_data().push_value(value).end_nested();
                immediate.end_nested().end_nested()
            }
            Expr::Random(below, to) => {
                // The crate writes this one register in host byte order.
                let numgen = list.nested_elem().nested_data_numgen().push_dreg(to.to_be());
                numgen.push_modulus(below).push_type(RANDOM).end_nested().end_nested()
            }
            Expr::Remember(map, key, data, timeout) => dynset(list, map, UPDATE, [key, data], Some(timeout)),
            Expr::Forget(map, key, data) => dynset(list, map, DELETE, [key, data], None),
            Expr::Note(from) => {
                let meta = list
                    .nested_elem()
                    .nested_data_meta()
                    .push_key(MetaKeys::Priority as u32);
                meta.push_sreg(from).end_nested().end_nested()
            }
            Expr::Noted(to) => load(list, MetaKeys::Priority, to),
            Expr::Count(counter) => {
                let reference = list.nested_elem().nested_data_objref().push_imm_type(COUNTER);
                reference.push_imm_name(counter).end_nested().end_nested()
            }
            Expr::Jump(chain) => verdict(list, VerdictCode::Jump as u32, Some(chain)),
            Expr::Goto(chain) => verdict(list, VerdictCode::Goto as u32, Some(chain)),
            Expr::Drop => verdict(list, DROP, None),
            Expr::Reset => {
                let reject = list.nested_elem().nested_data_reject().push_type(RESET);
                reject.end_nested().end_nested()
            }
            Expr::Unreachable => {
                let reject = list.nested_elem().nested_data_reject().push_type(UNREACHABLE);
                reject.push_icmp_code(PORT_UNREACHABLE).end_nested().end_nested()
            }
            Expr::Masquerade => list.nested_elem().push_name(c"masq").end_nested(),
            Expr::Destination(family, address, port) => {
                let nat = list.nested_elem().nested_data_nat().push_type(TRANSLATE_DESTINATION);
                let nat = nat.push_family(family.into()).push_reg_addr_min(address);
                nat.push_reg_proto_min(port).end_nested().end_nested()
            }
        }
    }
}

fn load<P: Pusher>(list: PushExprListAttrs<P>, key: MetaKeys, to: u32) -> PushExprListAttrs<P> {
    let meta = list.nested_elem().nested_data_meta().push_dreg(to);
    meta.push_key(key as u32).end_nested().end_nested()
}

fn compare<P: Pusher>(list: PushExprListAttrs<P>, operator: u32, value: &[u8]) -> PushExprListAttrs<P> {
    let compare = list.nested_elem().nested_data_cmp();
    let compare = compare.push_sreg(REGISTER).push_op(operator);
    let compare = compare.nested_data().push_value(value).end_nested();
    compare.end_nested().end_nested()
}

fn payload<P: Pusher>(
    list: PushExprListAttrs<P>,
    base: PayloadBase,
    offset: u32,
    length: u32,
    to: u32,
) -> PushExprListAttrs<P> {
    let load = list.nested_elem().nested_data_payload().push_dreg(to);
    let load = load.push_base(base as u32).push_offset(offset).push_len(length);
    load.end_nested().end_nested()
}

fn look_up<P: Pusher>(
    list: PushExprListAttrs<P>,
    set: &CStr,
    flags: u32,
    from: u32,
    to: Option<u32>,
) -> PushExprListAttrs<P> {
    let mut lookup = list.nested_elem().nested_data_lookup().push_set(set).push_flags(flags);
    // Not `push_sreg`: the description that the crate is generated from numbers these 3 and 4, the kernel 2 and 3.
    for (attribute, register) in [(LOOKUP_SOURCE, Some(from)), (LOOKUP_SOURCE + 1, to)] {
        if let Some(register) = register {
            push_number(lookup.as_vec_mut(), attribute, register);
        }
    }
    lookup.end_nested().end_nested()
}

/// A step that changes a map; the crate has none.
fn dynset<P: Pusher>(
    list: PushExprListAttrs<P>,
    map: &CStr,
    operation: u32,
    [key, data]: [u32; 2],
    timeout: Option<Duration>,
) -> PushExprListAttrs<P> {
    let mut step = list.nested_elem().push_name(c"dynset");
    let buffer = step.as_vec_mut();
    let start = push_nested_header(buffer, EXPRESSION_DATA);
    push_header(buffer, DYNSET_SET, map.to_bytes_with_nul().len() as u16);
    buffer.extend(map.to_bytes_with_nul());
    push_number(buffer, DYNSET_OPERATION, operation);
    push_number(buffer, DYNSET_KEY, key);
    push_number(buffer, DYNSET_DATA, data);
    if let Some(timeout) = timeout {
        push_header(buffer, DYNSET_TIMEOUT, 8);
        buffer.extend((timeout.as_millis() as u64).to_be_bytes());
    }
    finalize_nested_header(buffer, start);
    step.end_nested()
}

fn push_number(buffer: &mut Vec<u8>, attribute: u16, number: u32) {
    push_header(buffer, attribute, 4);
    buffer.extend(number.to_be_bytes());
}

fn load_ct<P: Pusher>(list: PushExprListAttrs<P>, key: u32) -> PushExprListAttrs<P> {
    let ct = list.nested_elem().nested_data_ct().push_dreg(REGISTER);
    ct.push_key(key).end_nested().end_nested()
}

/// Goes on where the register has one of these bits.
fn any_of<P: Pusher>(list: PushExprListAttrs<P>, bits: u32) -> PushExprListAttrs<P> {
    compare(bitwise(list, bits, 0), DIFFERENT, &[0; 4])
}

/// The register's value, but only these bits of it, and these other ones turned.
fn bitwise<P: Pusher>(list: PushExprListAttrs<P>, mask: u32, xor: u32) -> PushExprListAttrs<P> {
    let and = list.nested_elem().nested_data_bitwise();
    let and = and.push_sreg(REGISTER).push_dreg(REGISTER).push_len(4);
    let and = and.nested_mask().push_value(&mask.to_ne_bytes()).end_nested();
    let and = and.nested_xor().push_value(&xor.to_ne_bytes()).end_nested();
    and.end_nested().end_nested()
}

fn set_mark<P: Pusher>(list: PushExprListAttrs<P>) -> PushExprListAttrs<P> {
    let meta = list.nested_elem().nested_data_meta().push_key(MetaKeys::Mark as u32);
    meta.push_sreg(REGISTER).end_nested().end_nested()
}

fn verdict<P: Pusher>(list: PushExprListAttrs<P>, code: u32, chain: Option<&CStr>) -> PushExprListAttrs<P> {
    let verdict = list.nested_elem().nested_data_immediate();
    let verdict = verdict
        .push_dreg(Registers::RegVerdict as u32)
        .nested_data()
        .nested_verdict();
    let verdict = verdict.push_code(code);
    let verdict = match chain {
        Some(chain) => verdict.push_chain(chain),
        None => verdict,
    };
    verdict.end_nested().end_nested().end_nested().end_nested()
}
