//! Ports for listeners that are told their port before they bind it.
//!
//! The kernel gives outgoing connections ports from 32768 on, so a port "that was free a moment ago" up there is
//! taken away at random. These come from 10000-19999 instead, from blocks that this process holds by file locks:
//! two test programs on one machine never hand out the same port. 15000-15099 stay out, for Istio's own ports.

use std::fs::{File, OpenOptions};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::sync::Mutex;

const FIRST: u16 = 10_000;
const BLOCK: u16 = 100;
const BLOCKS: u16 = 100;
const RESERVED_BLOCK: u16 = 50;

const FIRST_RANGE: u16 = 20_000;
const RANGE: u16 = 300;
const RANGES: u16 = 40;

/// Ports from 20000 to 31999 that are this value's alone, for programs that hand out ports themselves.
#[derive(Debug)]
pub struct Range {
    first: u16,
    _lock: File,
}

struct Leases {
    blocks: Vec<(u16, File)>,
    next: usize,
}

static LEASES: Mutex<Leases> = Mutex::new(Leases { blocks: Vec::new(), next: 0 });

/// A loopback address with a port that nobody listens on and that no other caller of this function got lately.
///
/// # Panics
/// When every block of ports is held by other test programs.
pub fn free() -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, free_number()))
}

/// Like [`free`], only the number.
pub fn free_number() -> u16 {
    let mut leases = LEASES.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    for _ in 0..usize::from(BLOCK * 4) {
        let port = leases.next_port();
        if bindable(port) {
            return port;
        }
    }
    panic!("no free port among {} blocks of {BLOCK}", leases.blocks.len());
}

// === impl Range ===

impl Range {
    /// Takes a free range.
    ///
    /// # Panics
    /// When all are taken.
    pub fn take() -> Self {
        let start = u16::try_from(std::process::id() % u32::from(RANGES)).unwrap_or(0);
        let mut numbers = (0..RANGES).map(|step| (start + step) % RANGES);
        let found = numbers.find_map(|number| Some((number, lock(&format!("range-{number}"))?)));
        let (number, lock) = found.unwrap_or_else(|| panic!("every range of ports is held by another test program"));
        Self { first: FIRST_RANGE + number * RANGE, _lock: lock }
    }

    /// Which of the ranges it is, from 0.
    pub fn number(&self) -> u16 {
        (self.first - FIRST_RANGE) / RANGE
    }

    /// Its lowest port.
    pub fn first(&self) -> u16 {
        self.first
    }

    /// Its highest port.
    pub fn last(&self) -> u16 {
        self.first + RANGE - 1
    }
}

// === impl Leases ===

impl Leases {
    fn next_port(&mut self) -> u16 {
        let capacity = self.blocks.len() * usize::from(BLOCK);
        if self.next >= capacity {
            match self.lease_block() {
                Some(block) => self.blocks.push(block),
                None if self.blocks.is_empty() => panic!("every block of ports is held by another test program"),
                None => self.next = 0,
            }
        }
        let (block, _) = &self.blocks[self.next / usize::from(BLOCK)];
        let offset = u16::try_from(self.next % usize::from(BLOCK)).unwrap_or(0);
        self.next += 1;
        FIRST + block * BLOCK + offset
    }

    fn lease_block(&self) -> Option<(u16, File)> {
        let start = u16::try_from(std::process::id() % u32::from(BLOCKS)).unwrap_or(0);
        let mut blocks = (0..BLOCKS).map(|step| (start + step) % BLOCKS).filter(|block| *block != RESERVED_BLOCK);
        blocks.find_map(|block| Some((block, lock(&block.to_string())?)))
    }
}

fn lock(name: &str) -> Option<File> {
    let folder = std::env::temp_dir().join("xebec-test-ports");
    std::fs::create_dir_all(&folder).unwrap_or_else(|e| panic!("cannot create {}: {e}", folder.display()));
    let file = OpenOptions::new().create(true).truncate(false).write(true).open(folder.join(name)).ok()?;
    file.try_lock().ok().map(|()| file)
}

fn bindable(port: u16) -> bool {
    TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() && TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn ports_are_distinct_below_the_ephemeral_range_and_never_istios_own() {
        let ports: BTreeSet<u16> = (0..250).map(|_| free_number()).collect();
        assert_eq!(ports.len(), 250);
        assert!(ports.iter().all(|p| (10_000..20_000).contains(p) && !(15_000..15_100).contains(p)), "{ports:?}");
    }

    #[test]
    fn two_ranges_share_no_port() {
        let (one, other) = (Range::take(), Range::take());
        assert!(one.last() < other.first() || other.last() < one.first(), "{one:?} {other:?}");
        assert!([&one, &other].iter().all(|r| r.first() >= 20_000 && r.last() < 32_000), "{one:?} {other:?}");
    }

    #[test]
    fn a_port_that_is_listened_on_is_not_free() {
        let address = free();
        let _listener = TcpListener::bind(address).unwrap();
        assert!(!bindable(address.port()));
    }
}
