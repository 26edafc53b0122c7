//! Addresses and ports as maps and packets hold them: network byte order, one size for both families.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// `00 00 00 00 00 00 00 00 00 00 ff ff` in memory starts every v4-mapped address (RFC 4291, 2.5.5.2).
const V4_MAPPED: [u8; 4] = [0, 0, 0xff, 0xff];

/// An IP address: 16 bytes in network order, IPv4 as `::ffff:a.b.c.d`.
///
/// Held as two words whose bytes in memory are in network order: keys are compared and copied in few instructions,
/// and lie on the kernel's stack at the alignment that the verifier wants.
#[repr(transparent)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Addr([u64; 2]);

impl Addr {
    /// `::`
    pub const NONE: Self = Self([0; 2]);

    /// From 16 bytes in network order: an IPv6 or v4-mapped address.
    #[inline(always)]
    pub const fn from_v6_bytes(b: [u8; 16]) -> Self {
        Self([
            u64::from_ne_bytes([b[0], b[1], b[2], b[3], b[4], b[5], b[6], b[7]]),
            u64::from_ne_bytes([b[8], b[9], b[10], b[11], b[12], b[13], b[14], b[15]]),
        ])
    }

    /// From four words whose bytes in memory are in network order, as the kernel hands out IPv6 addresses.
    #[inline(always)]
    pub const fn from_v6_words(words: [u32; 4]) -> Self {
        let [a, b, c, d] = words;
        let (a, b, c, d) = (a.to_ne_bytes(), b.to_ne_bytes(), c.to_ne_bytes(), d.to_ne_bytes());
        Self::from_v6_bytes([
            a[0], a[1], a[2], a[3], b[0], b[1], b[2], b[3], c[0], c[1], c[2], c[3], d[0], d[1], d[2], d[3],
        ])
    }

    /// The four words that [`Addr::from_v6_words`] takes.
    #[inline(always)]
    pub const fn v6_words(self) -> [u32; 4] {
        let b = self.bytes();
        [
            u32::from_ne_bytes([b[0], b[1], b[2], b[3]]),
            u32::from_ne_bytes([b[4], b[5], b[6], b[7]]),
            u32::from_ne_bytes([b[8], b[9], b[10], b[11]]),
            u32::from_ne_bytes([b[12], b[13], b[14], b[15]]),
        ]
    }

    /// From four bytes in network order: an IPv4 address.
    #[inline(always)]
    pub const fn from_v4_bytes(b: [u8; 4]) -> Self {
        let m = V4_MAPPED;
        Self([0, u64::from_ne_bytes([m[0], m[1], m[2], m[3], b[0], b[1], b[2], b[3]])])
    }

    /// The 16 bytes, in network order.
    #[inline(always)]
    pub const fn bytes(self) -> [u8; 16] {
        let (a, b) = (self.0[0].to_ne_bytes(), self.0[1].to_ne_bytes());
        [
            a[0], a[1], a[2], a[3], a[4], a[5], a[6], a[7], b[0], b[1], b[2], b[3], b[4], b[5], b[6], b[7],
        ]
    }

    /// The last four bytes, in network order: an IPv4 address, if [`Addr::is_v4`].
    #[inline(always)]
    pub const fn v4_bytes(self) -> [u8; 4] {
        let b = self.0[1].to_ne_bytes();
        [b[4], b[5], b[6], b[7]]
    }

    /// Whether this is an IPv4 address (v4-mapped).
    #[inline(always)]
    pub const fn is_v4(self) -> bool {
        let b = self.0[1].to_ne_bytes();
        self.0[0] == 0 && u32::from_ne_bytes([b[0], b[1], b[2], b[3]]) == u32::from_ne_bytes(V4_MAPPED)
    }

    /// What stands for the clients in a network namespace, by the kernel's cookie of it: no host has such an address
    /// (RFC 4291, 2.7: a multicast address of a reserved scope).
    #[inline(always)]
    pub const fn of_netns(cookie: u64) -> Self {
        Self([u64::from_be(0xff00 << 48), cookie])
    }

    /// `0.0.0.0` or `::`, whichever is of this address's family.
    #[inline(always)]
    pub const fn unspecified(self) -> Self {
        if self.is_v4() {
            Self::from_v4_bytes([0; 4])
        } else {
            Self::NONE
        }
    }

    /// `::`
    #[inline(always)]
    pub const fn is_unspecified_v6(self) -> bool {
        self.0[0] | self.0[1] == 0
    }

    /// `fe80::/10`
    #[inline(always)]
    pub const fn is_link_local_v6(self) -> bool {
        let b = self.0[0].to_ne_bytes();
        b[0] == 0xfe && b[1] & 0xc0 == 0x80
    }

    /// The link-local address that an interface has by itself: `fe80::/64` and its Ethernet address (RFC 4291,
    /// appendix A).
    #[inline(always)]
    pub const fn link_local_of(mac: [u8; 6]) -> Self {
        let [a, b, c, d, e, f] = mac;
        Self::from_v6_bytes([0xfe, 0x80, 0, 0, 0, 0, 0, 0, a ^ 2, b, c, 0xff, 0xfe, d, e, f])
    }

    /// `224.0.0.0/4`, and the broadcast `255.255.255.255`, as v4-mapped.
    #[inline(always)]
    pub const fn is_group_v4(self) -> bool {
        let b = self.v4_bytes();
        self.is_v4() && (b[0] & 0xf0 == 0xe0 || u32::from_ne_bytes(b) == u32::MAX)
    }

    /// `ff00::/8`
    #[inline(always)]
    pub const fn is_multicast_v6(self) -> bool {
        self.0[0].to_ne_bytes()[0] == 0xff
    }
}

impl From<IpAddr> for Addr {
    fn from(ip: IpAddr) -> Self {
        match ip {
            IpAddr::V4(v4) => Self::from_v4_bytes(v4.octets()),
            IpAddr::V6(v6) => Self::from_v6_bytes(v6.octets()),
        }
    }
}

impl From<Addr> for IpAddr {
    fn from(addr: Addr) -> Self {
        if addr.is_v4() {
            Ipv4Addr::from(addr.v4_bytes()).into()
        } else {
            Ipv6Addr::from(addr.bytes()).into()
        }
    }
}

impl core::fmt::Debug for Addr {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        core::fmt::Display::fmt(&IpAddr::from(*self), f)
    }
}

/// A port: two bytes in network order in memory.
#[repr(transparent)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Port(u16);

impl Port {
    /// From host byte order.
    #[inline(always)]
    pub const fn from_host(port: u16) -> Self {
        Self(port.to_be())
    }

    /// From the kernel's form: a half-word whose bytes in memory are in network order.
    #[inline(always)]
    pub const fn from_wire(port: u16) -> Self {
        Self(port)
    }

    /// In host byte order.
    #[inline(always)]
    pub const fn host(self) -> u16 {
        u16::from_be(self.0)
    }

    /// In the kernel's form: a half-word whose bytes in memory are in network order.
    #[inline(always)]
    pub const fn wire(self) -> u16 {
        self.0
    }
}

impl core::fmt::Debug for Port {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        core::fmt::Display::fmt(&self.host(), f)
    }
}

#[cfg(test)]
mod tests {
    use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_v4_address_is_the_same_however_it_came() {
        let ip = IpAddr::V4(Ipv4Addr::new(10, 96, 0, 1));
        assert_eq!(Addr::from(ip), Addr::from_v4_bytes([10, 96, 0, 1]));
        assert!(Addr::from(ip).is_v4());
        let mapped: IpAddr = "::ffff:10.96.0.1".parse().unwrap();
        assert_eq!(Addr::from(mapped), Addr::from(ip));
    }

    #[test]
    fn scopes() {
        let addr = |s: &str| Addr::from(s.parse::<IpAddr>().unwrap());
        assert!(addr("::").is_unspecified_v6());
        assert!(!addr("::1").is_unspecified_v6());
        assert!(addr("fe80::1").is_link_local_v6() && addr("febf::1").is_link_local_v6());
        assert!(!addr("fec0::1").is_link_local_v6());
        assert!(addr("ff02::1").is_multicast_v6());
        assert!(!addr("fd00::1").is_multicast_v6());
        assert!(addr("224.0.0.1").is_group_v4() && addr("239.9.9.9").is_group_v4());
        assert!(addr("255.255.255.255").is_group_v4() && !addr("255.255.255.254").is_group_v4());
        assert!(!addr("ff02::1").is_group_v4() && !addr("223.0.0.1").is_group_v4());
        assert_eq!(Addr::link_local_of([2, 0, 0, 0, 0, 7]), addr("fe80::ff:fe00:7"));
    }

    #[test]
    fn a_port_is_two_bytes_in_network_order() {
        assert_eq!(Port::from_host(0x1234).wire().to_ne_bytes(), [0x12, 0x34]);
        assert_eq!(Port::from_wire(u16::from_ne_bytes([0x12, 0x34])).host(), 0x1234);
    }

    proptest! {
        #[test]
        fn words_and_bytes_are_the_same_address(bytes: [u8; 16]) {
            let addr = Addr::from_v6_bytes(bytes);
            prop_assert_eq!(addr.bytes(), bytes);
            prop_assert_eq!(Addr::from_v6_words(addr.v6_words()), addr);
            let words = addr.v6_words().map(u32::to_ne_bytes);
            prop_assert_eq!(words.as_flattened(), &bytes);
        }

        #[test]
        fn there_and_back(bytes: [u8; 16], v4: [u8; 4]) {
            let v6 = Ipv6Addr::from(bytes);
            let expected = v6.to_ipv4_mapped().map_or(IpAddr::V6(v6), IpAddr::V4);
            prop_assert_eq!(IpAddr::from(Addr::from(IpAddr::V6(v6))), expected);
            let v4 = IpAddr::V4(Ipv4Addr::from(v4));
            prop_assert_eq!(IpAddr::from(Addr::from(v4)), v4);
        }
    }
}
