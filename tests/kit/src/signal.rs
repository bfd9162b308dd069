//! Signals to processes that this test started, by their ids. The only module with `unsafe`: the standard library
//! can kill a child, but can neither interrupt it nor reach its process group.
#![allow(unsafe_code)]

/// The signals that tests send.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signal {
    /// What Ctrl-C sends: SIGINT.
    Interrupt,
    /// A polite end: SIGTERM.
    Terminate,
    /// An end without warning: SIGKILL.
    Kill,
    /// Freezes the process: SIGSTOP.
    Stop,
    /// Lets it go on: SIGCONT.
    Continue,
}

impl Signal {
    fn number(self) -> libc::c_int {
        match self {
            Self::Interrupt => libc::SIGINT,
            Self::Terminate => libc::SIGTERM,
            Self::Kill => libc::SIGKILL,
            Self::Stop => libc::SIGSTOP,
            Self::Continue => libc::SIGCONT,
        }
    }
}

/// Sends a signal to one process. False when there is no such process any more.
///
/// # Panics
/// For process ids 0 and 1, which never are a test's child.
pub fn send(pid: u32, signal: Signal) -> bool {
    let pid = libc::pid_t::try_from(pid).expect("a process id fits");
    assert!(pid > 1, "process {pid} is not a child of a test");
    // SAFETY: kill takes two integers and touches no memory of ours.
    unsafe { libc::kill(pid, signal.number()) == 0 }
}

/// Sends a signal to every process of a group. False when nobody is left in it.
///
/// # Panics
/// For group ids 0 and 1, which would mean the test itself or everybody.
pub fn send_group(group: u32, signal: Signal) -> bool {
    let group = libc::pid_t::try_from(group).expect("a process id fits");
    assert!(group > 1, "process group {group} is not a child of a test");
    // SAFETY: as above; a negative id, never -1, addresses the group.
    unsafe { libc::kill(-group, signal.number()) == 0 }
}
