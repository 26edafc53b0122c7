//! Names and Ethernet addresses that follow from which interface of which container it is, so that they can be
//! found again without a record.

use sha2::{Digest, Sha256};

use super::Mac;

/// What every host side's name starts with.
pub(super) const PREFIX: &str = "weft";
/// Hexadecimal digits after it: as many as an interface name (15 bytes) has room for.
const DIGITS: usize = 11;

fn digest(container_id: &str, ifname: &str) -> [u8; 32] {
    // A container ID has no '/', so no two pairs give the same text.
    Sha256::digest(format!("{container_id}/{ifname}").as_bytes()).into()
}

/// Name of the host side of a container's interface.
pub fn host_side(container_id: &str, ifname: &str) -> String {
    let hex: String = digest(container_id, ifname)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    format!("{PREFIX}{}", &hex[..DIGITS])
}

/// True for names that [`host_side`] gives, and no others.
pub fn is_host_side(name: &str) -> bool {
    let hex = |digits: &str| digits.len() == DIGITS && digits.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    name.strip_prefix(PREFIX).is_some_and(hex)
}

/// Ethernet addresses of the pod's side and of the host's: unicast and locally administered (IEEE 802, 8.2).
pub fn macs(container_id: &str, ifname: &str) -> (Mac, Mac) {
    let hash = digest(container_id, ifname);
    let mac = |at: usize, side: u8| {
        Mac([
            0x02 | side,
            hash[at],
            hash[at + 1],
            hash[at + 2],
            hash[at + 3],
            hash[at + 4],
        ])
    };
    (mac(8, 0x00), mac(16, 0x10))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_fit_and_are_recognised() {
        let name = host_side(&"f".repeat(64), "eth0");
        assert_eq!(name.len(), 15);
        assert!(is_host_side(&name));
        assert_ne!(name, host_side(&"f".repeat(64), "eth1"));
        for foreign in [
            "weft",
            "weft0",
            "weft-lab-node",
            "eth0",
            "weft0123456789ABC",
            "weftzzzzzzzzzzz",
        ] {
            assert!(!is_host_side(foreign), "{foreign}");
        }
    }

    #[test]
    fn addresses_are_local_unicast_and_differ() {
        let (pod, host) = macs("c1", "eth0");
        assert_ne!(pod, host);
        assert!([pod, host].iter().all(|mac| mac.0[0] & 0x03 == 0x02));
    }
}
