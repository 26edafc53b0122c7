//! Pools as one node sees them: the blocks it has, who has which address of them, and what it wants and gives back.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

use super::pool::{Pool, addresses};
use super::spec::{NodeAddressesSpec, NodeAddressesStatus, PoolBlocks, Request, Used};

/// Why a pool gives no address.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PoolsError {
    /// Nobody has told of such a pool.
    #[error("there is no IPPool {pool}; create it, or correct the annotation weft.dev/ip-pool (`kubectl get ippools`)")]
    NoPool {
        /// Its name.
        pool: String,
    },
    /// The pool may not be used.
    #[error("IPPool {pool} gives no addresses: {why}")]
    Closed {
        /// Its name.
        pool: String,
        /// The cause and what to do.
        why: String,
    },
    /// Every address that this node has of the pool is in use, or it has none.
    #[error("IPPool {pool} has no free {family} address on this node: {used} of {capacity} are in use; {remedy}")]
    Exhausted {
        /// Its name.
        pool: String,
        /// `IPv4` or `IPv6`.
        family: &'static str,
        /// Addresses of that family in use here.
        used: u64,
        /// Addresses of that family that this node may give.
        capacity: u64,
        /// Why the controller gives no more, if it has said so, and what to do.
        remedy: String,
    },
    /// A fixed address that another pod of this node has.
    #[error("address {ip} is in use by {owner}; delete that pod, or ask for another address (annotation weft.dev/ip)")]
    Taken {
        /// The address.
        ip: IpAddr,
        /// Who has it.
        owner: String,
    },
    /// A fixed address in no block of this node.
    #[error("address {ip} is not one of this node's: {remedy}")]
    Elsewhere {
        /// The address.
        ip: IpAddr,
        /// Why the controller does not give it, if it has said so, and what to do.
        remedy: String,
    },
}

/// Who has which address out of which pool's block; see [`NodePools::users`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User<'a> {
    /// The address.
    pub ip: IpAddr,
    /// Who has it.
    pub owner: &'a str,
}

/// The pools of one node.
///
/// It gives only from blocks that the controller has allocated and that are not being given back. A block that
/// vanishes while in use stays reserved, is reported by [`lost`](Self::lost), and wanted again.
#[derive(Clone, Debug, Default)]
pub struct NodePools {
    pools: BTreeMap<String, Terms>,
    blocks: BTreeMap<IpNet, Block>,
    /// Blocks given back for good, until the controller has taken them.
    releasing: BTreeMap<IpNet, String>,
    owners: BTreeMap<IpAddr, String>,
    of_owner: HashMap<String, Vec<IpAddr>>,
    /// Owners that wait for an address of a pool.
    waiting: BTreeMap<String, BTreeSet<String>>,
    /// Owners that wait for these addresses.
    wanted: BTreeMap<String, Vec<IpAddr>>,
    refused: BTreeMap<String, String>,
    /// Counts what is freed, so that what was freed last is given last.
    clock: u64,
}

/// A pool, and whether this node may use it.
#[derive(Clone, Debug)]
struct Terms {
    pool: Pool,
    /// Why not, where it may not.
    closed: Option<String>,
    /// False where nothing is kept in advance.
    buffered: bool,
}

#[derive(Clone, Debug)]
struct Block {
    pool: String,
    used: u64,
    /// Offset of the address to try first.
    next: u64,
    /// When an address of it was freed last.
    freed: u64,
}

impl NodePools {
    /// A node without blocks.
    pub fn new() -> Self {
        Self::default()
    }

    /// Tells of a pool, or of its change. `closed` says why this node may not use it (it is being deleted, or meant
    /// for other nodes) and what to do: then what is free is given back. A pool that is not `buffered` keeps nothing
    /// in advance; pods get its addresses when they ask.
    pub fn set_pool(&mut self, pool: Pool, closed: Option<String>, buffered: bool) {
        self.pools.insert(pool.name.clone(), Terms { pool, closed, buffered });
    }

    /// A pool that has gone: what is free of it is given back.
    pub fn remove_pool(&mut self, name: &str) {
        self.pools.remove(name);
    }

    /// A pool that this node has been told of.
    pub fn pool(&self, name: &str) -> Option<&Pool> {
        self.pools.get(name).map(|terms| &terms.pool)
    }

    /// Takes over what an earlier run of the agent was giving back: nothing of it is ever given again. To be called
    /// with the status that the API has, before the first [`set_allocated`](Self::set_allocated).
    pub fn resume(&mut self, status: &NodeAddressesStatus) {
        for of in &status.releasing {
            let blocks = of.cidrs.iter().map(|cidr| (*cidr, of.pool.clone()));
            self.releasing.extend(blocks);
        }
    }

    /// Sets what the controller has allocated. What has been taken back is forgotten, but for addresses in use.
    pub fn set_allocated(&mut self, spec: &NodeAddressesSpec) {
        let allocated: BTreeMap<IpNet, &String> = spec
            .allocated
            .iter()
            .flat_map(|of| of.cidrs.iter().map(|cidr| (*cidr, &of.pool)))
            .collect();
        self.blocks.retain(|cidr, _| allocated.contains_key(cidr));
        self.releasing.retain(|cidr, _| allocated.contains_key(cidr));
        for (cidr, pool) in allocated {
            if let Some(block) = self.blocks.get_mut(&cidr) {
                block.pool.clone_from(pool);
                continue;
            }
            let used = self.owners.range(cidr.network()..=cidr.broadcast()).count() as u64;
            self.blocks.insert(
                cidr,
                Block {
                    pool: pool.clone(),
                    used,
                    next: 0,
                    freed: 0,
                },
            );
        }
        self.refused = spec
            .refused
            .iter()
            .map(|refusal| (refusal.pool.clone(), refusal.message.clone()))
            .collect();
    }

    /// Takes an address that its owner had before a restart, whether its block is known yet or not. The owner of an
    /// address that is taken already is returned, and nothing changes.
    pub fn reserve(&mut self, ip: IpAddr, owner: &str) -> Result<(), String> {
        match self.owners.get(&ip) {
            Some(other) if other == owner => Ok(()),
            Some(other) => Err(other.clone()),
            None => {
                self.take(ip, owner);
                Ok(())
            }
        }
    }

    /// One address of each family of a pool; all of them or none. An owner that gets none is waited for: the node
    /// asks for more until the owner gets some or is [freed](Self::free).
    pub fn allocate(&mut self, owner: &str, pool: &str) -> Result<Vec<IpAddr>, PoolsError> {
        let terms = self
            .pools
            .get(pool)
            .ok_or_else(|| PoolsError::NoPool { pool: pool.to_owned() })?;
        if let Some(why) = &terms.closed {
            return Err(PoolsError::Closed {
                pool: pool.to_owned(),
                why: why.clone(),
            });
        }
        let families = [true, false].into_iter().filter(|ipv4| terms.pool.has_family(*ipv4));
        let picked: Result<Vec<_>, _> = families.map(|ipv4| self.pick(pool, ipv4)).collect();
        match picked {
            Ok(ips) => {
                self.stop_waiting(owner);
                ips.iter().for_each(|ip| self.take(*ip, owner));
                Ok(ips)
            }
            Err(error) => {
                self.waiting
                    .entry(pool.to_owned())
                    .or_default()
                    .insert(owner.to_owned());
                Err(error)
            }
        }
    }

    /// Exactly these addresses; all of them or none. An owner that gets none is waited for, as by
    /// [`allocate`](Self::allocate).
    pub fn allocate_fixed(&mut self, owner: &str, ips: &[IpAddr]) -> Result<(), PoolsError> {
        for ip in ips {
            if let Some(other) = self.owners.get(ip).filter(|other| *other != owner) {
                return Err(PoolsError::Taken {
                    ip: *ip,
                    owner: other.clone(),
                });
            }
        }
        let elsewhere = ips.iter().find(|ip| {
            self.block_of(**ip)
                .is_none_or(|cidr| self.releasing.contains_key(&cidr))
        });
        if let Some(ip) = elsewhere {
            self.wanted.insert(owner.to_owned(), ips.to_vec());
            let remedy = self.refused.get(&ip.to_string()).cloned();
            let remedy = remedy.unwrap_or_else(|| "it has been asked for; see that `weft controller` runs".into());
            return Err(PoolsError::Elsewhere { ip: *ip, remedy });
        }
        self.stop_waiting(owner);
        for ip in ips {
            if !self.owners.contains_key(ip) {
                self.take(*ip, owner);
            }
        }
        Ok(())
    }

    /// Gives back everything that this owner has or waits for. Returns how many addresses that were.
    pub fn free(&mut self, owner: &str) -> usize {
        self.stop_waiting(owner);
        let ips = self.of_owner.remove(owner).unwrap_or_default();
        for ip in &ips {
            self.owners.remove(ip);
            self.clock += 1;
            let freed = self.clock;
            if let Some(block) = self.block_of(*ip).and_then(|cidr| self.blocks.get_mut(&cidr)) {
                block.used = block.used.saturating_sub(1);
                block.freed = freed;
            }
        }
        ips.len()
    }

    /// Chooses the blocks that are more than the node needs, to be given back for good.
    ///
    /// A node needs `max(minAllocate, in use and waited for + preAllocate)` addresses of each family, and may keep
    /// `maxAboveWatermark` more; only whole blocks that nobody uses can go.
    pub fn release_excess(&mut self) {
        let mut free: Vec<IpNet> = self
            .giving()
            .filter(|(_, block)| block.used == 0)
            .map(|(cidr, _)| cidr)
            .collect();
        // The highest first, so that what stays is together.
        free.reverse();
        for cidr in free {
            let Some(block) = self.blocks.get(&cidr) else { continue };
            let (name, ipv4) = (block.pool.clone(), cidr.addr().is_ipv4());
            let (need, spare) = self.need(&name, ipv4);
            let fixed = self.wanted.values().flatten().any(|ip| cidr.contains(ip));
            if !fixed && self.capacity(&name, ipv4) >= need + spare + addresses(&cidr) {
                self.releasing.insert(cidr, name);
            }
        }
    }

    /// What the node's agent says: what it wants, gives back and uses. The session is the agent's to fill in.
    pub fn status(&self) -> NodeAddressesStatus {
        let names: BTreeSet<&String> = self
            .pools
            .keys()
            .chain(self.blocks.values().map(|block| &block.pool))
            .collect();
        let requested = names.iter().map(|pool| Request {
            pool: (*pool).clone(),
            ipv4: self.need(pool, true).0,
            ipv6: self.need(pool, false).0,
        });
        let used = names.iter().map(|pool| {
            let mut used = Used {
                pool: (*pool).clone(),
                ..Used::default()
            };
            for (cidr, block) in self.blocks.iter().filter(|(_, block)| block.pool == **pool) {
                used.used += block.used;
                used.capacity += addresses(cidr);
            }
            used
        });
        let lost = self
            .lost()
            .map(|user| user.ip)
            .filter(|ip| self.pools.values().any(|terms| terms.pool.contains(ip)));
        let wanted: BTreeSet<IpAddr> = self.wanted.values().flatten().copied().chain(lost).collect();
        NodeAddressesStatus {
            session: String::new(),
            requested: requested.filter(|request| request.ipv4 + request.ipv6 > 0).collect(),
            wanted: wanted.into_iter().collect(),
            releasing: by_pool(self.releasing.iter().map(|(cidr, pool)| (pool, *cidr))),
            used: used.filter(|used| used.capacity > 0).collect(),
        }
    }

    /// Who has which addresses of a pool, in the order of the addresses.
    pub fn users(&self, pool: &str) -> impl Iterator<Item = User<'_>> {
        self.blocks
            .iter()
            .filter(move |(_, block)| block.pool == pool)
            .flat_map(|(cidr, _)| self.owners.range(cidr.network()..=cidr.broadcast()))
            .map(|(ip, owner)| User { ip: *ip, owner })
    }

    /// Addresses in use whose block is not, or no longer, this node's.
    pub fn lost(&self) -> impl Iterator<Item = User<'_>> {
        let lost = self.owners.iter().filter(|(ip, _)| self.block_of(**ip).is_none());
        lost.map(|(ip, owner)| User { ip: *ip, owner })
    }

    /// Who has this address.
    pub fn owner(&self, ip: IpAddr) -> Option<&str> {
        self.owners.get(&ip).map(String::as_str)
    }

    /// Every block of the node, those being given back too.
    pub fn blocks(&self) -> impl Iterator<Item = IpNet> + '_ {
        self.blocks.keys().copied()
    }

    /// Blocks from which addresses are given.
    fn giving(&self) -> impl Iterator<Item = (IpNet, &Block)> {
        let open = self
            .blocks
            .iter()
            .filter(|(cidr, _)| !self.releasing.contains_key(cidr));
        open.map(|(cidr, block)| (*cidr, block))
    }

    /// Addresses that the node may give, used or not.
    fn capacity(&self, pool: &str, ipv4: bool) -> u64 {
        let of = self
            .giving()
            .filter(|(cidr, block)| block.pool == pool && cidr.addr().is_ipv4() == ipv4);
        of.map(|(cidr, _)| addresses(&cidr)).sum()
    }

    fn used(&self, pool: &str, ipv4: bool) -> u64 {
        let of = self
            .blocks
            .iter()
            .filter(|(cidr, block)| block.pool == pool && cidr.addr().is_ipv4() == ipv4);
        of.map(|(_, block)| block.used).sum()
    }

    /// How many addresses the node has to have of a pool, and how many more it may keep.
    fn need(&self, name: &str, ipv4: bool) -> (u64, u64) {
        let open = self
            .pools
            .get(name)
            .filter(|terms| terms.closed.is_none() && terms.pool.has_family(ipv4));
        let Some(terms) = open else { return (0, 0) };
        let waiting = self.waiting.get(name).map_or(0, BTreeSet::len) as u64;
        let busy = self.used(name, ipv4) + waiting;
        if !terms.buffered {
            return (busy, 0);
        }
        let need = terms.pool.min_allocate.max(busy + terms.pool.pre_allocate);
        (need, terms.pool.max_above_watermark)
    }

    /// The fullest block first, so that others become free; of those alike, the one at rest for longest.
    fn pick(&self, pool: &str, ipv4: bool) -> Result<IpAddr, PoolsError> {
        let of = self
            .giving()
            .filter(|(cidr, block)| block.pool == pool && cidr.addr().is_ipv4() == ipv4);
        let with_room = of.filter(|(cidr, block)| block.used < addresses(cidr));
        let best = with_room.min_by_key(|(cidr, block)| (Reverse(block.used), block.freed, *cidr));
        let found = best.and_then(|(cidr, block)| {
            let size = addresses(&cidr);
            // At most `used` addresses are taken, so one more than that many tries find a free one.
            let mut tries = (0..=block.used).map(|step| address(&cidr, (block.next + step) % size));
            tries.find(|ip| !self.owners.contains_key(ip))
        });
        found.ok_or_else(|| PoolsError::Exhausted {
            pool: pool.to_owned(),
            family: if ipv4 { "IPv4" } else { "IPv6" },
            used: self.used(pool, ipv4),
            capacity: self.capacity(pool, ipv4),
            remedy: match self.refused.get(pool) {
                Some(why) => why.clone(),
                None => "more has been asked for; see that `weft controller` runs".into(),
            },
        })
    }

    fn take(&mut self, ip: IpAddr, owner: &str) {
        self.owners.insert(ip, owner.to_owned());
        self.of_owner.entry(owner.to_owned()).or_default().push(ip);
        let Some(cidr) = self.block_of(ip) else { return };
        if let Some(block) = self.blocks.get_mut(&cidr) {
            block.used += 1;
            block.next = (offset(&cidr, ip) + 1) % addresses(&cidr);
        }
    }

    fn stop_waiting(&mut self, owner: &str) {
        self.waiting.retain(|_, owners| {
            owners.remove(owner);
            !owners.is_empty()
        });
        self.wanted.remove(owner);
    }

    /// The block that holds an address: the last that begins at or before it, for blocks never overlap.
    fn block_of(&self, ip: IpAddr) -> Option<IpNet> {
        let upto = ..=IpNet::from(ip);
        let (cidr, _) = self.blocks.range(upto).next_back()?;
        cidr.contains(&ip).then_some(*cidr)
    }
}

/// Blocks in the order of pool and address, as the API has them.
pub(super) fn by_pool<'a>(blocks: impl Iterator<Item = (&'a String, IpNet)>) -> Vec<PoolBlocks> {
    let mut pools: BTreeMap<&String, BTreeSet<IpNet>> = BTreeMap::new();
    for (pool, cidr) in blocks {
        pools.entry(pool).or_default().insert(cidr);
    }
    let of = |(pool, cidrs): (&String, BTreeSet<IpNet>)| PoolBlocks {
        pool: pool.clone(),
        cidrs: cidrs.into_iter().collect(),
    };
    pools.into_iter().map(of).collect()
}

fn address(cidr: &IpNet, offset: u64) -> IpAddr {
    match cidr.network() {
        // A block has at most 65,536 addresses: the offset fits.
        IpAddr::V4(base) => IpAddr::V4(Ipv4Addr::from(u32::from(base).wrapping_add(offset as u32))),
        IpAddr::V6(base) => IpAddr::V6(Ipv6Addr::from(u128::from(base).wrapping_add(u128::from(offset)))),
    }
}

fn offset(cidr: &IpNet, ip: IpAddr) -> u64 {
    match (cidr.network(), ip) {
        (IpAddr::V4(base), IpAddr::V4(ip)) => u64::from(u32::from(ip).wrapping_sub(u32::from(base))),
        (IpAddr::V6(base), IpAddr::V6(ip)) => u128::from(ip).wrapping_sub(u128::from(base)) as u64,
        _ => 0,
    }
}

#[cfg(test)]
mod tests;
