//! The system calls that a container may make.
//!
//! A list of what is allowed: whatever else there is, now or in later kernels, fails as if the kernel did not know it, which programs
//! expect. What is missing from it is administration of the machine, kernel modules, new namespaces and mounts, tracing of others, keys,
//! BPF, io_uring, and sockets other than those of files and of the internet.
//!
//! A container runtime is given the list by names ([`profile`]); for programs, which need none, it is made into instructions of the
//! kernel's filter machine here ([`filter`]), with the numbers of this processor's calls beside the names.

use libc::{c_long, sock_filter};
use serde_json::{Value, json};

/// The calls, by their names on all processors; a runtime leaves out those that its own does not have.
const ALLOWED: &str = include_str!("seccomp.txt");
/// Those of them that this processor's kernel has, with their numbers (from the headers of Linux), in ascending order; and the number of the
/// architecture. Calls of a foreign one (of 32 bits, on the same kernel) are refused.
#[cfg(target_arch = "x86_64")]
const NATIVE: Option<(&str, u32)> = Some((include_str!("seccomp-x86_64.txt"), 0xc000_003e));
#[cfg(target_arch = "aarch64")]
const NATIVE: Option<(&str, u32)> = Some((include_str!("seccomp-aarch64.txt"), 0xc000_00b7));
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
const NATIVE: Option<(&str, u32)> = None;
/// What is answered to others.
const ENOSYS: u32 = 38;
/// All flags of `clone` that make a namespace.
const CLONE_NEW: u64 = 0x7e02_0000;
/// `AF_UNIX`, `AF_INET`, `AF_INET6` and `AF_NETLINK`, by which programs list their addresses.
const SOCKET_FAMILIES: [u64; 4] = [1, 2, 10, 16];
/// Personalities that C libraries ask for: Linux as it is, with or without a short address space, and which it is.
const PERSONALITIES: [u64; 5] = [0, 0x8, 0x2_0000, 0x2_0008, 0xffff_ffff];

/// The profile, as a runtime's configuration has it.
pub(crate) fn profile() -> Value {
    let allowed: Vec<&str> = ALLOWED.split_whitespace().collect();
    let mut rules = vec![json!({ "names": allowed, "action": "SCMP_ACT_ALLOW" })];
    let mut allow =
        |name: &str, arg: Value| rules.push(json!({ "names": [name], "action": "SCMP_ACT_ALLOW", "args": [arg] }));
    for (name, values) in [("socket", &SOCKET_FAMILIES[..]), ("personality", &PERSONALITIES[..])] {
        for value in values {
            allow(name, json!({ "index": 0, "value": value, "op": "SCMP_CMP_EQ" }));
        }
    }
    allow("clone", json!({ "index": 0, "value": CLONE_NEW, "valueTwo": 0, "op": "SCMP_CMP_MASKED_EQ" }));
    let architectures = match std::env::consts::ARCH {
        "x86_64" => vec!["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"],
        "aarch64" => vec!["SCMP_ARCH_AARCH64", "SCMP_ARCH_ARM"],
        _ => Vec::new(),
    };
    json!({ "defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": ENOSYS, "architectures": architectures, "syscalls": rules })
}

/// Where the number, the architecture and the first argument's lower half are in what a filter is given (`struct seccomp_data`); what is
/// compared with an argument here has 32 bits.
const NUMBER: u32 = 0;
const ARCHITECTURE: u32 = 4;
const FIRST_ARGUMENT: u32 = if cfg!(target_endian = "little") { 16 } else { 20 };
const LOAD: u32 = libc::BPF_LD | libc::BPF_W | libc::BPF_ABS;

/// The same as [`profile`] for the kernel itself; none where this processor's numbers are not known.
pub(crate) fn filter() -> Option<Vec<sock_filter>> {
    let (calls, architecture) = NATIVE?;
    let numbers = calls.split_whitespace().filter_map(|call| call.rsplit_once('=')?.1.parse().ok());
    let refuse = answer(libc::SECCOMP_RET_ERRNO | ENOSYS);
    let mut filter =
        vec![step(LOAD, ARCHITECTURE), jump(libc::BPF_JEQ, architecture, 1, 0), refuse, step(LOAD, NUMBER)];
    for (first, last) in ranges(numbers) {
        filter.extend([jump(libc::BPF_JGE, first, 0, 2), jump(libc::BPF_JGT, last, 1, 0), allow()]);
    }
    let number = |call: c_long| u32::try_from(call).ok();
    for (call, values) in [(libc::SYS_socket, &SOCKET_FAMILIES[..]), (libc::SYS_personality, &PERSONALITIES[..])] {
        let tests = values.iter().flat_map(|value| [jump(libc::BPF_JEQ, *value as u32, 0, 1), allow()]);
        with_argument(&mut filter, number(call)?, tests.collect());
    }
    with_argument(&mut filter, number(libc::SYS_clone)?, vec![jump(libc::BPF_JSET, CLONE_NEW as u32, 1, 0), allow()]);
    filter.push(refuse);
    Some(filter)
}

/// Goes on with the tests of a call's first argument, and refuses it if none of them allows it.
fn with_argument(filter: &mut Vec<sock_filter>, number: u32, tests: Vec<sock_filter>) {
    let others = u8::try_from(tests.len() + 2).unwrap_or(u8::MAX);
    filter.extend([jump(libc::BPF_JEQ, number, 0, others), step(LOAD, FIRST_ARGUMENT)]);
    filter.extend(tests);
    filter.push(answer(libc::SECCOMP_RET_ERRNO | ENOSYS));
}

/// The first and the last of numbers that follow each other.
fn ranges(numbers: impl Iterator<Item = u32>) -> Vec<(u32, u32)> {
    let mut ranges: Vec<(u32, u32)> = Vec::new();
    for number in numbers {
        match ranges.last_mut() {
            Some((_, last)) if *last + 1 == number => *last = number,
            _ => ranges.push((number, number)),
        }
    }
    ranges
}

fn allow() -> sock_filter {
    answer(libc::SECCOMP_RET_ALLOW)
}

fn answer(value: u32) -> sock_filter {
    step(libc::BPF_RET, value)
}

fn step(code: u32, k: u32) -> sock_filter {
    sock_filter { code: code as u16, jt: 0, jf: 0, k }
}

/// Compares what was loaded, and leaves out so many instructions if that holds, or does not.
fn jump(comparison: u32, k: u32, jt: u8, jf: u8) -> sock_filter {
    sock_filter { code: (libc::BPF_JMP | comparison | libc::BPF_K) as u16, jt, jf, k }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic)]
    use super::*;

    /// What the kernel would do with a call.
    fn is_allowed(filter: &[sock_filter], architecture: u32, number: c_long, argument: u64) -> bool {
        let (mut at, mut loaded) = (0, 0);
        loop {
            let sock_filter { code, jt, jf, k } = filter[at];
            at += 1;
            let mut test = |holds: bool| at += usize::from(if holds { jt } else { jf });
            match u32::from(code) {
                LOAD => {
                    loaded = match k {
                        NUMBER => u32::try_from(number).unwrap(),
                        ARCHITECTURE => architecture,
                        FIRST_ARGUMENT => argument as u32,
                        _ => panic!("it loads {k}"),
                    }
                }
                libc::BPF_RET => return k == libc::SECCOMP_RET_ALLOW,
                code => match code & !(libc::BPF_JMP | libc::BPF_K) {
                    libc::BPF_JEQ => test(loaded == k),
                    libc::BPF_JGE => test(loaded >= k),
                    libc::BPF_JGT => test(loaded > k),
                    libc::BPF_JSET => test(loaded & k != 0),
                    other => panic!("it jumps by {other}"),
                },
            }
        }
    }

    #[test]
    fn the_filter_allows_what_is_on_the_list_and_nothing_else() {
        let (Some(filter), Some((calls, architecture))) = (filter(), NATIVE) else { return };
        let allowed = |number, argument| is_allowed(&filter, architecture, number, argument);
        let names: Vec<&str> = ALLOWED.split_whitespace().collect();
        let mut native: Vec<c_long> = vec![libc::SYS_socket, libc::SYS_personality, libc::SYS_clone];
        for call in calls.split_whitespace() {
            let (name, number) = call.split_once('=').unwrap();
            assert!(names.contains(&name), "{name} is not on the list");
            native.push(number.parse().unwrap());
            assert!(allowed(number.parse().unwrap(), u64::MAX), "{call}");
        }
        for number in 0..1_024 {
            assert!(native.contains(&number) || !allowed(number, 0), "{number} is allowed");
        }
        // The numbers are those of this kernel.
        for (name, number) in [("read", libc::SYS_read), ("execve", libc::SYS_execve), ("futex", libc::SYS_futex)] {
            assert!(calls.split_whitespace().any(|call| call == format!("{name}={number}")), "{name}");
        }
        for refused in [libc::SYS_mount, libc::SYS_unshare, libc::SYS_ptrace, libc::SYS_bpf, libc::SYS_clone3] {
            assert!(!allowed(refused, 0), "{refused}");
        }
        assert!(!is_allowed(&filter, architecture ^ 1, libc::SYS_read, 0), "another architecture's calls");
    }

    #[test]
    fn the_filter_looks_at_the_first_argument() {
        let (Some(filter), Some((_, architecture))) = (filter(), NATIVE) else { return };
        let allowed = |number, argument| is_allowed(&filter, architecture, number, argument);
        for (family, is_fine) in [(libc::AF_UNIX, true), (libc::AF_INET6, true), (libc::AF_PACKET, false)] {
            assert_eq!(allowed(libc::SYS_socket, family as u64), is_fine, "{family}");
        }
        assert!(allowed(libc::SYS_personality, 0) && !allowed(libc::SYS_personality, 0x4_0000));
        let thread = (libc::CLONE_VM | libc::CLONE_THREAD) as u64;
        assert!(allowed(libc::SYS_clone, thread) && !allowed(libc::SYS_clone, thread | libc::CLONE_NEWUSER as u64));
    }
}
