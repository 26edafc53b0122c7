//! Weft behind other plugins of a chain: what they made stays, and ours is added.

use weft_model::cni::{AddResult, CniError, code};

use crate::env::Ids;

/// Refuses to add what is there already, by the account of the plugins before.
pub(crate) fn accept(previous: &AddResult, ids: &Ids) -> Result<(), CniError> {
    let ours = |interface: &&weft_model::cni::Interface| {
        interface.name == ids.ifname && !interface.sandbox.is_empty() && ids.netns.as_ref() == Some(&interface.sandbox)
    };
    match previous.interfaces.iter().find(ours) {
        None => Ok(()),
        Some(taken) => {
            let msg = format!(
                "an earlier plugin of the chain has made interface {} of this container",
                taken.name
            );
            let details = "prevResult lists it; Weft makes that interface itself: put weft-cni first in the list, or \
                           remove the plugin before it";
            Err(CniError::new(code::CONFIG, msg, details))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_our_own_interface_in_this_container_is_a_conflict() {
        let ids = |ifname: &str| Ids {
            container_id: "c".into(),
            ifname: ifname.into(),
            netns: Some("/run/netns/c".into()),
        };
        let previous = r#"{"interfaces":[{"name":"eth0"},{"name":"net0","sandbox":"/run/netns/c"},{"name":"net1","sandbox":"/run/netns/d"}]}"#;
        let previous: AddResult = serde_json::from_str(previous).unwrap();
        assert!(accept(&previous, &ids("eth0")).is_ok());
        assert!(accept(&previous, &ids("net1")).is_ok());
        let error = accept(&previous, &ids("net0")).unwrap_err();
        assert_eq!(error.code, code::CONFIG);
        assert!(
            error.msg.contains("net0") && error.details.contains("first"),
            "{error:?}"
        );
    }
}
