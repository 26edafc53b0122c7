//! The steps of a rule, as the kernel runs them: they load, compare and look up in registers, and end in a verdict.

use std::ffi::CStr;

use netlink_bindings::nftables::{MetaKeys, PayloadBase, PushExprListAttrs, Registers, VerdictCode};
use netlink_bindings::traits::Pusher;
use netlink_bindings::utils::push_header;

/// The first register: 16 bytes, or the first four of the small ones.
pub(in crate::net) const REGISTER: u32 = Registers::Reg1 as u32;

/// linux/netfilter/nf_tables.h: nft_lookup_attributes.
const LOOKUP_SOURCE: u16 = 2;
/// linux/netfilter/nf_tables.h: nft_lookup_flags.
const NOT_IN: u32 = 1;
/// linux/netfilter/nf_tables.h: nft_fib_result, nft_fib_flags.
const FIB_ADDRESS_TYPE: u32 = 3;
const FIB_OF_DESTINATION: u32 = 2;
/// linux/rtnetlink.h: RTN_LOCAL.
const LOCAL: u32 = 2;
/// linux/netfilter/nf_tables.h: nft_ct_keys.
const CT_STATUS: u32 = 2;
/// linux/netfilter/nf_conntrack_common.h: IPS_DST_NAT.
const DESTINATION_TRANSLATED: u32 = 1 << 5;
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
    /// Goes on where the register's value is in the set.
    In(&'a CStr),
    /// Goes on where the register's value is not in the set.
    NotIn(&'a CStr),
    /// Goes on where the register's value is a key of the map, with the key's value in its place.
    Map(&'a CStr),
    /// Runs another chain.
    Jump(&'a CStr),
    /// Gives the packet the address of the interface it leaves by, or another of this machine.
    Masquerade,
    /// Sends the packet to the address in [`REGISTER`], of this family, and the port in the other register.
    Destination(u8, u32),
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
            Expr::Translated => {
                let ct = list.nested_elem().nested_data_ct().push_dreg(REGISTER);
                let list = ct.push_key(CT_STATUS).end_nested().end_nested();
                let and = list.nested_elem().nested_data_bitwise();
                let and = and.push_sreg(REGISTER).push_dreg(REGISTER).push_len(4);
                let and = and
                    .nested_mask()
                    .push_value(&DESTINATION_TRANSLATED.to_ne_bytes())
                    .end_nested();
                let and = and.nested_xor().push_value(&[0; 4]).end_nested();
                compare(and.end_nested().end_nested(), DIFFERENT, &[0; 4])
            }
            Expr::Network(offset, length, to) => payload(list, PayloadBase::NetworkHeader, offset, length, to),
            Expr::Protocol(to) => load(list, MetaKeys::L4Proto, to),
            // Of TCP, UDP and SCTP alike.
            Expr::Port(to) => payload(list, PayloadBase::TransportHeader, 2, 2, to),
            Expr::Equal(value) => compare(list, EQUAL, value),
            Expr::Different(value) => compare(list, DIFFERENT, value),
            Expr::In(set) => look_up(list, set, 0, false),
            Expr::NotIn(set) => look_up(list, set, NOT_IN, false),
            Expr::Map(map) => look_up(list, map, 0, true),
            Expr::Jump(chain) => {
                let verdict = list.nested_elem().nested_data_immediate();
                let verdict = verdict
                    .push_dreg(Registers::RegVerdict as u32)
                    .nested_data()
                    .nested_verdict();
                let verdict = verdict.push_code(VerdictCode::Jump as u32).push_chain(chain);
                verdict.end_nested().end_nested().end_nested().end_nested()
            }
            Expr::Masquerade => list.nested_elem().push_name(c"masq").end_nested(),
            Expr::Destination(family, port) => {
                let nat = list.nested_elem().nested_data_nat().push_type(TRANSLATE_DESTINATION);
                let nat = nat.push_family(family.into()).push_reg_addr_min(REGISTER);
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

fn look_up<P: Pusher>(list: PushExprListAttrs<P>, set: &CStr, flags: u32, value: bool) -> PushExprListAttrs<P> {
    let mut lookup = list.nested_elem().nested_data_lookup().push_set(set).push_flags(flags);
    // Not `push_sreg`: the description that the crate is generated from numbers these 3 and 4, the kernel 2 and 3.
    for attribute in [Some(LOOKUP_SOURCE), value.then_some(LOOKUP_SOURCE + 1)]
        .into_iter()
        .flatten()
    {
        push_header(lookup.as_vec_mut(), attribute, 4);
        lookup.as_vec_mut().extend(REGISTER.to_be_bytes());
    }
    lookup.end_nested().end_nested()
}
