//! The system calls that a running VM's process makes, by seccomp: everything else is refused (EPERM), and what only an
//! intruder would try ends the process. Two filters, of which the stricter verdict counts.

use std::collections::BTreeMap;
use std::io;

use nix::libc;
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
    TargetArch, apply_filter_all_threads,
};

/// Memory of the process.
const MEMORY: &[i64] = &[
    libc::SYS_brk,
    libc::SYS_madvise,
    libc::SYS_membarrier,
    libc::SYS_mincore,
    libc::SYS_mlock,
    libc::SYS_mmap,
    libc::SYS_mprotect,
    libc::SYS_mremap,
    libc::SYS_msync,
    libc::SYS_munlock,
    libc::SYS_munmap,
];

/// Threads, signals and time.
const THREADS: &[i64] = &[
    libc::SYS_clock_getres,
    libc::SYS_clock_gettime,
    libc::SYS_clock_nanosleep,
    libc::SYS_exit,
    libc::SYS_exit_group,
    libc::SYS_futex,
    libc::SYS_get_robust_list,
    libc::SYS_getcpu,
    libc::SYS_getegid,
    libc::SYS_geteuid,
    libc::SYS_getgid,
    libc::SYS_getpid,
    libc::SYS_getppid,
    libc::SYS_getrandom,
    libc::SYS_getrlimit,
    libc::SYS_getrusage,
    libc::SYS_gettid,
    libc::SYS_gettimeofday,
    libc::SYS_getuid,
    libc::SYS_nanosleep,
    libc::SYS_restart_syscall,
    libc::SYS_rseq,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigpending,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_rt_sigsuspend,
    libc::SYS_rt_sigtimedwait,
    libc::SYS_sched_getaffinity,
    libc::SYS_sched_getparam,
    libc::SYS_sched_getscheduler,
    libc::SYS_sched_yield,
    libc::SYS_set_robust_list,
    libc::SYS_sigaltstack,
    libc::SYS_signalfd4,
    libc::SYS_sysinfo,
    libc::SYS_tgkill,
    libc::SYS_time,
    libc::SYS_timer_create,
    libc::SYS_timer_delete,
    libc::SYS_timer_settime,
    libc::SYS_timerfd_create,
    libc::SYS_timerfd_gettime,
    libc::SYS_timerfd_settime,
    libc::SYS_uname,
];

/// Files, within what Landlock leaves of them, and waiting for descriptors.
const FILES: &[i64] = &[
    libc::SYS_access,
    libc::SYS_close,
    libc::SYS_close_range,
    libc::SYS_copy_file_range,
    libc::SYS_dup,
    libc::SYS_dup2,
    libc::SYS_dup3,
    libc::SYS_epoll_create1,
    libc::SYS_epoll_ctl,
    libc::SYS_epoll_pwait,
    libc::SYS_epoll_pwait2,
    libc::SYS_epoll_wait,
    libc::SYS_eventfd2,
    libc::SYS_faccessat,
    libc::SYS_faccessat2,
    libc::SYS_fadvise64,
    libc::SYS_fallocate,
    libc::SYS_fchmod,
    libc::SYS_fcntl,
    libc::SYS_fdatasync,
    libc::SYS_flock,
    libc::SYS_fstat,
    libc::SYS_fstatfs,
    libc::SYS_fsync,
    libc::SYS_ftruncate,
    libc::SYS_getcwd,
    libc::SYS_getdents64,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
    libc::SYS_io_uring_setup,
    libc::SYS_ioctl,
    libc::SYS_link,
    libc::SYS_linkat,
    libc::SYS_lseek,
    libc::SYS_lstat,
    libc::SYS_memfd_create,
    libc::SYS_mkdir,
    libc::SYS_mkdirat,
    libc::SYS_newfstatat,
    libc::SYS_open,
    libc::SYS_openat,
    libc::SYS_openat2,
    libc::SYS_pipe,
    libc::SYS_pipe2,
    libc::SYS_poll,
    libc::SYS_ppoll,
    libc::SYS_pread64,
    libc::SYS_preadv,
    libc::SYS_preadv2,
    libc::SYS_pselect6,
    libc::SYS_pwrite64,
    libc::SYS_pwritev,
    libc::SYS_pwritev2,
    libc::SYS_read,
    libc::SYS_readlink,
    libc::SYS_readlinkat,
    libc::SYS_readv,
    libc::SYS_rename,
    libc::SYS_renameat,
    libc::SYS_renameat2,
    libc::SYS_rmdir,
    libc::SYS_select,
    libc::SYS_sendfile,
    libc::SYS_splice,
    libc::SYS_stat,
    libc::SYS_statfs,
    libc::SYS_statx,
    libc::SYS_sync_file_range,
    libc::SYS_umask,
    libc::SYS_unlink,
    libc::SYS_unlinkat,
    libc::SYS_write,
    libc::SYS_writev,
];

/// Sockets: of monitors, viewers, image servers and the network cards.
const SOCKETS: &[i64] = &[
    libc::SYS_accept,
    libc::SYS_accept4,
    libc::SYS_bind,
    libc::SYS_connect,
    libc::SYS_getpeername,
    libc::SYS_getsockname,
    libc::SYS_getsockopt,
    libc::SYS_listen,
    libc::SYS_recvfrom,
    libc::SYS_recvmmsg,
    libc::SYS_recvmsg,
    libc::SYS_sendmmsg,
    libc::SYS_sendmsg,
    libc::SYS_sendto,
    libc::SYS_setsockopt,
    libc::SYS_shutdown,
    libc::SYS_socket,
    libc::SYS_socketpair,
];

/// What nothing in a VM's process ever does.
const FATAL: &[i64] = &[
    libc::SYS_acct,
    libc::SYS_add_key,
    libc::SYS_bpf,
    libc::SYS_chroot,
    libc::SYS_delete_module,
    libc::SYS_execve,
    libc::SYS_execveat,
    libc::SYS_finit_module,
    libc::SYS_fork,
    libc::SYS_init_module,
    libc::SYS_ioperm,
    libc::SYS_iopl,
    libc::SYS_kexec_file_load,
    libc::SYS_kexec_load,
    libc::SYS_keyctl,
    libc::SYS_mount,
    libc::SYS_move_mount,
    libc::SYS_open_by_handle_at,
    libc::SYS_perf_event_open,
    libc::SYS_pivot_root,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_ptrace,
    libc::SYS_reboot,
    libc::SYS_request_key,
    libc::SYS_setns,
    libc::SYS_settimeofday,
    libc::SYS_swapon,
    libc::SYS_umount2,
    libc::SYS_unshare,
    libc::SYS_userfaultfd,
    libc::SYS_vfork,
];

/// Puts the filters on all threads.
///
/// # Errors
/// The kernel's refusal.
pub(super) fn restrict() -> io::Result<()> {
    // The last one keeps further filters away.
    for filter in [fatal(), without_clone3(), allowed()] {
        let program: BpfProgram = filter.and_then(TryInto::try_into).map_err(io::Error::other)?;
        apply_filter_all_threads(&program).map_err(io::Error::other)?;
    }
    Ok(())
}

type Filter = Result<SeccompFilter, seccompiler::BackendError>;

fn allowed() -> Filter {
    let calls = [MEMORY, THREADS, FILES, SOCKETS].concat();
    let mut rules: BTreeMap<_, _> = calls.into_iter().map(|call| (call, vec![])).collect();
    // Threads may be started, processes not.
    let thread = libc::CLONE_THREAD as u64;
    let shares = SeccompCondition::new(0, SeccompCmpArgLen::Qword, SeccompCmpOp::MaskedEq(thread), thread)?;
    rules.insert(libc::SYS_clone, vec![SeccompRule::new(vec![shares])?]);
    // Its own limits may be asked for; nobody's set.
    let ask = SeccompCondition::new(2, SeccompCmpArgLen::Qword, SeccompCmpOp::Eq, 0)?;
    rules.insert(libc::SYS_prlimit64, vec![SeccompRule::new(vec![ask])?]);
    // The names of threads.
    let name = |option| SeccompCondition::new(0, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, option as u64);
    let names = [libc::PR_SET_NAME, libc::PR_GET_NAME, libc::PR_SET_VMA].map(name);
    let names = names.into_iter().map(|condition| SeccompRule::new(vec![condition?]));
    rules.insert(libc::SYS_prctl, names.collect::<Result<_, _>>()?);
    // Answered by the other filters.
    rules.insert(libc::SYS_clone3, vec![]);
    rules.extend(FATAL.iter().map(|call| (*call, vec![])));
    filter(rules, SeccompAction::Errno(libc::EPERM as u32), SeccompAction::Allow)
}

/// `clone3` has its flags in memory, where a filter can't see them: the C library takes `clone` if it isn't there.
fn without_clone3() -> Filter {
    let rules = BTreeMap::from([(libc::SYS_clone3, vec![])]);
    filter(rules, SeccompAction::Allow, SeccompAction::Errno(libc::ENOSYS as u32))
}

fn fatal() -> Filter {
    let rules = FATAL.iter().map(|call| (*call, vec![])).collect();
    filter(rules, SeccompAction::Allow, SeccompAction::KillProcess)
}

fn filter(rules: BTreeMap<i64, Vec<SeccompRule>>, otherwise: SeccompAction, matched: SeccompAction) -> Filter {
    SeccompFilter::new(rules, otherwise, matched, TargetArch::x86_64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_filters_compile_and_no_call_is_both_allowed_and_fatal() {
        for filter in [allowed(), without_clone3(), fatal()] {
            let program: BpfProgram = filter.unwrap().try_into().unwrap();
            assert!(program.len() < 4096, "the kernel takes 4,096 instructions");
        }
        let calls = [MEMORY, THREADS, FILES, SOCKETS].concat();
        assert_eq!(calls.iter().find(|call| FATAL.contains(call)), None);
    }

    /// Set in the process that is confined.
    const ACT: &str = "FERRO_CONFINED_ACT";

    /// What this does in a process of its own, which `act` names.
    fn confined(act: &str) -> std::process::ExitStatus {
        let mut test = std::process::Command::new(std::env::current_exe().unwrap());
        test.args(["--exact", "sandbox::calls::tests::the_confined_process", "--nocapture"]).env(ACT, act);
        test.stdout(std::process::Stdio::null()).status().unwrap()
    }

    #[test]
    fn the_confined_process() {
        let Ok(act) = std::env::var(ACT) else { return };
        restrict().unwrap();
        match act.as_str() {
            "work" => {
                let doubled = std::thread::spawn(|| 21 * 2).join().unwrap();
                let file = tempfile::tempfile().unwrap();
                file.set_len(doubled).unwrap();
                let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
                drop(std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap());
            }
            "refused" => {
                let refused = nix::unistd::sethostname("taken-over").unwrap_err();
                assert_eq!(refused, nix::errno::Errno::EPERM);
            }
            "spawn" => {
                let refused = std::process::Command::new("/bin/true").status().unwrap_err();
                assert_eq!(refused.kind(), std::io::ErrorKind::PermissionDenied);
            }
            "exec" => drop(std::os::unix::process::CommandExt::exec(&mut std::process::Command::new("/bin/true"))),
            _ => drop(nix::unistd::chroot("/")),
        }
    }

    #[test]
    fn a_confined_process_works_and_can_neither_start_a_program_nor_change_the_system() {
        use std::os::unix::process::ExitStatusExt;
        assert!(confined("work").success());
        assert!(confined("refused").success());
        assert!(confined("spawn").success());
        assert_eq!(confined("chroot").signal(), Some(libc::SIGSYS));
        assert_eq!(confined("exec").signal(), Some(libc::SIGSYS));
    }
}
