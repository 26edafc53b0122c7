//! What aya has no call for, by bpf(2) itself: it attaches by interface name, cannot swap the program of a cgroup's link,
//! and reads and writes maps entry by entry.
#![expect(unsafe_code, reason = "bpf(2) takes addresses and gives bare descriptors")]

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use nix::libc;
use weft_packet::Plain;

// Numbers of linux/bpf.h: enum bpf_cmd.
const BPF_OBJ_PIN: libc::c_int = 6;
const BPF_OBJ_GET: libc::c_int = 7;
const BPF_OBJ_GET_INFO_BY_FD: libc::c_int = 15;
const BPF_MAP_LOOKUP_BATCH: libc::c_int = 24;
const BPF_MAP_UPDATE_BATCH: libc::c_int = 26;
const BPF_LINK_CREATE: libc::c_int = 28;
const BPF_LINK_UPDATE: libc::c_int = 29;

/// linux/bpf.h: with no other link named, in front of all.
const BPF_F_BEFORE: u32 = 1 << 3;

/// What a link attaches to.
#[derive(Clone, Copy)]
pub(super) enum Target<'a> {
    /// A cgroup directory.
    Cgroup(BorrowedFd<'a>),
    /// An interface of the calling thread's network namespace, behind what others have attached there.
    Interface(u32),
    /// The same, in front of what is attached there.
    FrontOf(u32),
}

/// `union bpf_attr` for BPF_OBJ_PIN and BPF_OBJ_GET.
#[repr(C)]
struct Object {
    pathname: u64,
    bpf_fd: u32,
    file_flags: u32,
}

/// `union bpf_attr` for BPF_LINK_CREATE.
#[repr(C)]
struct LinkCreate {
    prog_fd: u32,
    target: u32,
    attach_type: u32,
    flags: u32,
}

/// `union bpf_attr` for BPF_LINK_UPDATE.
#[repr(C)]
struct LinkUpdate {
    link_fd: u32,
    new_prog_fd: u32,
    flags: u32,
    old_prog_fd: u32,
}

/// `union bpf_attr` for the commands on many entries of a map.
#[repr(C)]
struct Batch {
    in_batch: u64,
    out_batch: u64,
    keys: u64,
    values: u64,
    count: u32,
    map_fd: u32,
    elem_flags: u64,
    flags: u64,
}

/// `union bpf_attr` for BPF_OBJ_GET_INFO_BY_FD.
#[repr(C)]
struct InfoByFd {
    bpf_fd: u32,
    info_len: u32,
    info: u64,
}

/// The start of `struct bpf_link_info`, as far as a link to a cgroup or an interface fills it.
#[repr(C)]
#[derive(Default)]
struct LinkInfo {
    kind: u32,
    id: u32,
    prog_id: u32,
    pad: u32,
    /// Of a link to an interface, a word for the interface, and one for the hook.
    target: [u32; 2],
    attach_type: u32,
    pad2: u32,
}

/// Calls bpf(2).
///
/// # Safety
/// `T` is the part of `union bpf_attr` that `command` reads, and the addresses in it are valid for what the command
/// does with them.
unsafe fn bpf<T>(command: libc::c_int, attr: &mut T) -> io::Result<libc::c_long> {
    // SAFETY: the kernel touches at most size_of::<T>() bytes at `attr`; the rest is the caller's promise.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_mut(attr), size_of::<T>()) };
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(result)
    }
}

/// As [`bpf`], for commands that give a descriptor.
///
/// # Safety
/// As for [`bpf`], and `command` gives a descriptor.
unsafe fn bpf_fd<T>(command: libc::c_int, attr: &mut T) -> io::Result<OwnedFd> {
    // SAFETY: the caller's promise.
    let fd = unsafe { bpf(command, attr)? };
    // SAFETY: the kernel has just made this descriptor for us, and descriptors fit an int.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

/// Attaches a program. The link lasts as long as its descriptor or a pin.
pub(super) fn create_link(program: impl AsFd, target: Target<'_>, attach_type: u32) -> io::Result<OwnedFd> {
    let program = program.as_fd();
    let mut attr = LinkCreate {
        prog_fd: program.as_raw_fd() as u32,
        target: match target {
            Target::Cgroup(fd) => fd.as_raw_fd() as u32,
            Target::Interface(ifindex) | Target::FrontOf(ifindex) => ifindex,
        },
        attach_type,
        flags: match target {
            Target::FrontOf(_) => BPF_F_BEFORE,
            Target::Cgroup(_) | Target::Interface(_) => 0,
        },
    };
    // SAFETY: the attribute holds no addresses, and the command gives a descriptor.
    unsafe { bpf_fd(BPF_LINK_CREATE, &mut attr) }
}

/// Makes a link run another program, in one step.
pub(super) fn update_link(link: impl AsFd, program: impl AsFd) -> io::Result<()> {
    let (link, program) = (link.as_fd(), program.as_fd());
    let mut attr = LinkUpdate {
        link_fd: link.as_raw_fd() as u32,
        new_prog_fd: program.as_raw_fd() as u32,
        flags: 0,
        old_prog_fd: 0,
    };
    // SAFETY: the attribute holds no addresses.
    unsafe { bpf(BPF_LINK_UPDATE, &mut attr)? };
    Ok(())
}

/// Pins a link below a bpffs.
pub(super) fn pin(link: impl AsFd, path: &Path) -> io::Result<()> {
    let (link, path) = (link.as_fd(), CString::new(path.as_os_str().as_bytes())?);
    let mut attr = Object {
        pathname: path.as_ptr() as u64,
        bpf_fd: link.as_raw_fd() as u32,
        file_flags: 0,
    };
    // SAFETY: `path` is a C string that lives until the call returns.
    unsafe { bpf(BPF_OBJ_PIN, &mut attr)? };
    Ok(())
}

/// Opens a pinned link.
pub(super) fn open_pin(path: &Path) -> io::Result<OwnedFd> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let mut attr = Object {
        pathname: path.as_ptr() as u64,
        bpf_fd: 0,
        file_flags: 0,
    };
    // SAFETY: `path` is a C string that lives until the call returns, and the command gives a descriptor.
    unsafe { bpf_fd(BPF_OBJ_GET, &mut attr) }
}

/// The cgroup that a link is attached to: the inode number of its directory, or zero if that has gone.
pub(super) fn cgroup_of(link: impl AsFd) -> io::Result<u64> {
    let [low, high] = info(link)?.target.map(u32::to_ne_bytes);
    let mut id = [0; 8];
    id[..4].copy_from_slice(&low);
    id[4..].copy_from_slice(&high);
    Ok(u64::from_ne_bytes(id))
}

/// The interface that a link is attached to, or zero if that has gone, or the link was taken off.
pub(super) fn interface_of(link: impl AsFd) -> io::Result<u32> {
    Ok(info(link)?.target[0])
}

fn info(link: impl AsFd) -> io::Result<LinkInfo> {
    let link = link.as_fd();
    let mut info = LinkInfo::default();
    let mut attr = InfoByFd {
        bpf_fd: link.as_raw_fd() as u32,
        info_len: size_of::<LinkInfo>() as u32,
        info: std::ptr::from_mut(&mut info) as u64,
    };
    // SAFETY: the kernel writes at most `info_len` bytes to `info`, which outlives the call.
    unsafe { bpf(BPF_OBJ_GET_INFO_BY_FD, &mut attr)? };
    Ok(info)
}

/// The number that the kernel gave the network namespace of the calling thread, and gives no other.
pub(super) fn netns_cookie() -> io::Result<u64> {
    // linux/socket.h.
    const SO_NETNS_COOKIE: libc::c_int = 71;
    let socket = std::net::UdpSocket::bind((std::net::Ipv4Addr::UNSPECIFIED, 0))?;
    let (mut cookie, mut length) = (0u64, size_of::<u64>() as libc::socklen_t);
    // SAFETY: the kernel writes at most `length` bytes to `cookie`, which outlives the call.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            SO_NETNS_COOKIE,
            std::ptr::from_mut(&mut cookie).cast(),
            &mut length,
        )
    };
    if result == 0 {
        Ok(cookie)
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Adds or replaces entries, one after the other. After an error, those before the one that failed are written.
/// `keys` and `values` are of the map's own sizes, and as many of one as of the other.
pub(super) fn update_batch<K: Plain, V: Plain>(map: impl AsFd, keys: &[K], values: &[V]) -> io::Result<()> {
    debug_assert_eq!(keys.len(), values.len());
    let mut attr = Batch {
        in_batch: 0,
        out_batch: 0,
        keys: keys.as_ptr() as u64,
        values: values.as_ptr() as u64,
        count: keys.len().min(values.len()) as u32,
        map_fd: map.as_fd().as_raw_fd() as u32,
        elem_flags: 0,
        flags: 0,
    };
    // SAFETY: the kernel reads `count` keys and values, which the slices hold and which outlive the call.
    unsafe { bpf(BPF_MAP_UPDATE_BATCH, &mut attr)? };
    Ok(())
}

/// Every entry of a hash map. What is written meanwhile may be among them or not.
pub(super) fn lookup_all<K: Plain, V: Plain>(map: impl AsFd) -> io::Result<Vec<(K, V)>> {
    /// How many at once. A bucket has to fit, or the kernel asks for more room.
    const MANY: usize = 4096;
    let map = map.as_fd();
    let (mut found, mut room) = (vec![], MANY);
    // The place where to go on: as large as a key where the map is no hash table, which has four bytes.
    let (mut place, mut next) = (vec![0u64; 8], vec![0u64; 8]);
    let mut first = true;
    loop {
        let (mut keys, mut values) = (Vec::<K>::with_capacity(room), Vec::<V>::with_capacity(room));
        let mut attr = Batch {
            in_batch: if first { 0 } else { place.as_ptr() as u64 },
            out_batch: next.as_mut_ptr() as u64,
            keys: keys.as_mut_ptr() as u64,
            values: values.as_mut_ptr() as u64,
            count: room as u32,
            map_fd: map.as_raw_fd() as u32,
            elem_flags: 0,
            flags: 0,
        };
        // SAFETY: the kernel writes at most `count` keys and values, for which there is room, and the place, which is
        // larger than any key of ours; all of it outlives the call.
        let result = unsafe { bpf(BPF_MAP_LOOKUP_BATCH, &mut attr) };
        let end = match &result {
            Err(e) if e.raw_os_error() == Some(libc::ENOSPC) => {
                room *= 2;
                continue;
            }
            Err(e) if e.kind() == io::ErrorKind::NotFound => true,
            Err(_) => return result.map(|_| found),
            Ok(_) => false,
        };
        let count = (attr.count as usize).min(room);
        // SAFETY: the kernel has written so many of both, and every bit pattern is a value of theirs.
        unsafe {
            keys.set_len(count);
            values.set_len(count);
        }
        found.extend(keys.into_iter().zip(values));
        if end {
            return Ok(found);
        }
        std::mem::swap(&mut place, &mut next);
        first = false;
    }
}
