//! Elements of sets and maps, and how a transaction adds and deletes them.

use std::ffi::{CStr, CString};

use netlink_bindings::nftables::{PushSetelemListAttrs, PushSetelemListElemAttrs, SetElemFlags, VerdictCode};
use netlink_bindings::traits::Pusher;
use netlink_bindings::utils::{finalize_nested_header, push_header, push_nested_header};

use super::Batch;

/// How many elements go into one message; its attributes are limited to 64 KiB, and an element has 180 bytes at most
/// (two IPv6 addresses from and to) or 330 with a comment.
const CHUNK: usize = 190;
/// linux/netfilter/nf_tables.h: NFTA_SET_ELEM_KEY_END, NFTA_DATA_VALUE.
const KEY_END: u16 = 10;
const DATA_VALUE: u16 = 1;
/// linux/netfilter/nf_tables.h has no name for it; libnftnl: NFTNL_UDATA_SET_ELEM_COMMENT.
const COMMENT: u8 = 0;

/// What a key of a set or map stands for.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::net) enum Value {
    /// It is in the set.
    Member,
    /// From here on (or, in an interval set's other borders, up to here) addresses are in the set.
    End,
    /// With all up to this key.
    UpTo(Vec<u8>),
    /// These bytes.
    Data(Vec<u8>),
    /// Go on in this chain.
    Goto(CString),
}

/// An element. Keys and values are as the kernel compares them: each part of a concatenation fills whole words.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::net) struct Element {
    pub(in crate::net) key: Vec<u8>,
    pub(in crate::net) value: Value,
    /// For who reads the rules with `nft`.
    pub(in crate::net) comment: Option<String>,
}

impl Element {
    /// A key with what it stands for.
    pub(in crate::net) fn new(key: Vec<u8>, value: Value) -> Self {
        Self {
            key,
            value,
            comment: None,
        }
    }

    fn push<P: Pusher>(&self, list: PushSetelemListElemAttrs<P>, whole: bool) -> PushSetelemListElemAttrs<P> {
        let mut item = list.nested_elem();
        if self.value == Value::End {
            item = item.push_flags(&(SetElemFlags::IntervalEnd as u32).to_be_bytes());
        }
        item = item.nested_key().push_value(&self.key).end_nested();
        if let Value::UpTo(end) = &self.value {
            // Not `nested_key_end`: the description that the crate is generated from lacks an attribute before it.
            let buffer = item.as_vec_mut();
            let attribute = push_nested_header(buffer, KEY_END);
            push_header(buffer, DATA_VALUE, end.len() as u16);
            buffer.extend(end);
            finalize_nested_header(buffer, attribute);
        }
        if whole {
            item = match &self.value {
                Value::Data(data) => item.nested_data().push_value(data).end_nested(),
                Value::Goto(chain) => {
                    let verdict = item.nested_data().nested_verdict();
                    let verdict = verdict.push_code(VerdictCode::Goto as u32).push_chain(chain);
                    verdict.end_nested().end_nested()
                }
                Value::Member | Value::End | Value::UpTo(_) => item,
            };
            if let Some(comment) = &self.comment {
                item = item.push_userdata(&user_data(comment));
            }
        }
        item.end_nested()
    }
}

/// A comment as `nft` writes it: kind, length, text that ends in a zero.
fn user_data(comment: &str) -> Vec<u8> {
    let text: Vec<u8> = comment.bytes().filter(|byte| *byte != 0).take(250).collect();
    let mut data = vec![COMMENT, text.len() as u8 + 1];
    data.extend(text);
    data.push(0);
    data
}

/// The comment in an element's user data.
pub(in crate::net) fn comment(user_data: &[u8]) -> Option<&str> {
    let [COMMENT, _, text @ .., 0] = user_data else {
        return None;
    };
    std::str::from_utf8(text).ok()
}

impl Batch {
    /// Adds elements to a set or map; refused where a key is there with another value.
    pub(in crate::net) fn add_elements<'a>(
        &mut self,
        table: &CStr,
        set: &CStr,
        elements: impl IntoIterator<Item = &'a Element>,
    ) {
        self.push_elements(table, set, elements.into_iter().collect(), true);
    }

    /// Deletes elements from a set or map; refused where one is not there.
    pub(in crate::net) fn delete_elements<'a>(
        &mut self,
        table: &CStr,
        set: &CStr,
        elements: impl IntoIterator<Item = &'a Element>,
    ) {
        self.push_elements(table, set, elements.into_iter().collect(), false);
    }

    /// To delete an element, its key is enough.
    fn push_elements(&mut self, table: &CStr, set: &CStr, elements: Vec<&Element>, add: bool) {
        let header = self.header.clone();
        let push = |attributes: PushSetelemListAttrs<&mut Vec<u8>>, chunk: &[&Element]| {
            let list = attributes.push_table(table).push_set(set).nested_elements();
            let list = chunk.iter().fold(list, |list, element| element.push(list, add));
            list.end_nested();
        };
        for chunk in elements.chunks(CHUNK) {
            match add {
                true => push(self.request().set_create().op_newsetelem_do(&header).encode(), chunk),
                false => push(self.request().op_delsetelem_do(&header).encode(), chunk),
            }
        }
    }

    /// Deletes all elements of a set or map that is there.
    pub(in crate::net) fn flush_set(&mut self, table: &CStr, set: &CStr) {
        let header = self.header.clone();
        let mut request = self.request().op_delsetelem_do(&header);
        request.encode().push_table(table).push_set(set);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_comment_is_read_as_it_was_written() {
        let data = user_data("default/web port 80/TCP");
        assert_eq!(comment(&data), Some("default/web port 80/TCP"));
        assert_eq!(data.len(), 26);
        assert_eq!(comment(&user_data(&"x".repeat(300))).map(str::len), Some(250));
        assert_eq!(comment(&[1, 2, 3]), None);
    }
}
