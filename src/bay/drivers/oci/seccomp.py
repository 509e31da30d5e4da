"""The seccomp profile: an allow list of the system calls that a sandbox may make; others get EPERM.

It is the only layer against io_uring, keyrings, vsock, userfaultfd and the crypto sockets, and the first of
two against new namespaces. One architecture only: a second one (32-bit calls) brings a second set of numbers,
`socketcall` among them, whose arguments a filter cannot see.
"""

from typing import Any

_ARCHITECTURES = {"x86_64": "SCMP_ARCH_X86_64", "aarch64": "SCMP_ARCH_AARCH64"}

_ALLOW = "SCMP_ACT_ALLOW"
_ERRNO = "SCMP_ACT_ERRNO"
_DONE, _EPERM, _ENOMEM, _EINVAL, _ENOSYS, _EPROTONOSUPPORT = 0, 1, 12, 22, 38, 93

_FILES = """
    access chdir chmod chown chroot close close_range copy_file_range creat dup dup2 dup3 faccessat faccessat2
    fadvise64 fallocate fchdir fchmod fchmodat fchmodat2 fchown fchownat fdatasync fgetxattr flistxattr flock
    fremovexattr fsetxattr fstat fstatfs fsync ftruncate futimesat getcwd getdents getdents64 getxattr getxattrat
    inotify_add_watch inotify_init inotify_init1 inotify_rm_watch lchown lgetxattr link linkat listxattr listxattrat
    llistxattr lremovexattr lseek lsetxattr lstat mkdir mkdirat mknod mknodat name_to_handle_at newfstatat open
    openat openat2 pipe pipe2 pread64 preadv preadv2 pwrite64 pwritev pwritev2 read readahead readlink readlinkat
    readv removexattr removexattrat rename renameat renameat2 rmdir sendfile setxattr setxattrat splice stat statfs
    statx symlink symlinkat sync sync_file_range syncfs tee truncate umask unlink unlinkat utime utimensat utimes
    vmsplice write writev cachestat
"""
_MEMORY = """
    brk get_mempolicy madvise map_shadow_stack membarrier memfd_secret mincore mlock mlock2 mlockall
    mprotect mremap mseal msync munlock munlockall munmap pkey_alloc pkey_free pkey_mprotect process_madvise
    process_mrelease remap_file_pages
"""
_PROCESSES = """
    alarm arch_prctl capget capset execve execveat exit exit_group fork get_robust_list get_thread_area getcpu
    getegid geteuid getgid getgroups getitimer getpgid getpgrp getpid getppid getpriority getresgid getresuid
    getrlimit getrusage getsid gettid getuid ioprio_get ioprio_set kill landlock_add_rule landlock_create_ruleset
    landlock_restrict_self nanosleep pause pidfd_getfd pidfd_open pidfd_send_signal prctl
    process_vm_readv process_vm_writev ptrace restart_syscall rseq rt_sigaction rt_sigpending rt_sigprocmask
    rt_sigqueueinfo rt_sigreturn rt_sigsuspend rt_sigtimedwait rt_tgsigqueueinfo sched_get_priority_max
    sched_get_priority_min sched_getaffinity sched_getattr sched_getparam sched_getscheduler sched_rr_get_interval
    sched_setaffinity sched_setattr sched_setparam sched_setscheduler sched_yield seccomp set_robust_list
    set_thread_area set_tid_address setfsgid setfsuid setgid setgroups setitimer setpgid setpriority setregid
    setresgid setresuid setreuid setsid setuid sigaltstack sysinfo tgkill time times tkill uname vfork
    wait4 waitid
"""
_WAITING = """
    clock_getres clock_gettime clock_nanosleep epoll_create epoll_create1 epoll_ctl epoll_pwait epoll_pwait2
    epoll_wait eventfd eventfd2 futex futex_requeue futex_wait futex_waitv futex_wake gettimeofday poll ppoll
    pselect6 select signalfd signalfd4 timer_create timer_delete timer_getoverrun timer_gettime timer_settime
    timerfd_create timerfd_gettime timerfd_settime
"""
_TALKING = """
    accept accept4 bind connect getpeername getrandom getsockname getsockopt listen mq_getsetattr mq_notify mq_open
    mq_timedreceive mq_timedsend mq_unlink msgctl msgget msgrcv msgsnd recvfrom recvmmsg recvmsg semctl semget
    semop semtimedop sendmmsg sendmsg sendto shmat shmctl shmdt shutdown
"""
ALLOWED = tuple(
    sorted({*_FILES.split(), *_MEMORY.split(), *_PROCESSES.split(), *_WAITING.split(), *_TALKING.split()})
)

_AF_UNIX, _AF_INET, _AF_INET6, _AF_NETLINK = 1, 2, 10, 16
_NETLINK_ROUTE, _NETLINK_AUDIT = 0, 9
_SOCK_STREAM, _SOCK_DGRAM, _SOCK_TYPES = 1, 2, 0xF
_TCP, _UDP, _ICMP, _ICMP6 = 6, 17, 1, 58
_SOL_TCP, _TCP_ULP = 6, 31

_RLIMIT_CORE = 4

# Flags of mmap, memfd_create and shmget.
_MAP_HUGETLB, _MFD_HUGETLB, _SHM_HUGETLB = 0x4_0000, 0x4, 0o4000
_MFD_NOEXEC_SEAL, _MFD_EXEC = 0x8, 0x10

# Every CLONE_NEW* that fits in `clone`'s flags; CLONE_NEWTIME shares its bit with the exit signal there.
NEW_NAMESPACES = 0x7E02_0000
_CLONE_NEWTIME = 0x80

_NEW_USER = 0x1000_0000

# Of ptrace: the two requests that set options, and the option to answer for filtered calls.
_SETS_OPTIONS = (0x4200, 0x4206)
_TRACE_SECCOMP = 0x80

# The type byte of btrfs ioctls: unprivileged, they escape quotas and lock a workspace against deletion.
_BTRFS_IOCTL = 0x94
FICLONE, FICLONERANGE, FIDEDUPERANGE = 0x4004_9409, 0x4020_940D, 0xC018_9436

_F_LINUX_SPECIFIC = 0x400

_PERSONALITIES = (0, 0x004_0000, 0xFFFF_FFFF)  # plain, ADDR_NO_RANDOMIZE, and a question for the present one


def profile(machine: str) -> dict[str, Any]:
    """The `linux.seccomp` object of an OCI spec for `machine` (as in `uname -m`)."""
    return {
        "defaultAction": _ERRNO,
        "defaultErrnoRet": _EPERM,
        "architectures": [_ARCHITECTURES[machine]],
        "syscalls": [
            {"names": list(ALLOWED), "action": _ALLOW},
            *_sockets(),
            *_socket_options(),
            *_limits(),
            *_huge_pages(),
            *_namespaces(),
            *_ioctls(),
            *_fcntls(),
            *(_when("personality", _equal(0, value)) for value in _PERSONALITIES),
        ],
    }


def profile_in_gvisor(machine: str) -> dict[str, Any]:
    """The same for gVisor, whose kernel answers for itself: it refuses user namespaces alone.

    gVisor takes the capabilities of a program in a user namespace of its own for rights over the sandbox's
    network: it would read and send any packets there, and take addresses and devices away.
    """
    new, tracing = _masked(0, _NEW_USER, _NEW_USER), _masked(3, _TRACE_SECCOMP, _TRACE_SECCOMP)
    return {
        "defaultAction": _ALLOW,
        "architectures": [_ARCHITECTURES[machine]],
        "syscalls": [
            _answer("clone", _EPERM, new),
            _answer("unshare", _EPERM, new),
            # Its flags are behind a pointer, and glibc falls back to clone at ENOSYS. For runsc each error
            # is EPERM, but ENOSYS where a tracer has to answer and is not there. So none may be that tracer.
            {"names": ["clone3"], "action": "SCMP_ACT_TRACE"},
            *(_answer("ptrace", _EPERM, _equal(0, request), tracing) for request in _SETS_OPTIONS),
        ],
    }


def _sockets() -> list[dict[str, Any]]:
    # Listed families only: AF_VSOCK reaches the hypervisor, AF_ALG the page cache of shared files.
    return [
        _when("socket", _equal(0, _AF_UNIX)),
        *_internet(_AF_INET),
        *_internet(_AF_INET6),
        _when("socket", _equal(0, _AF_NETLINK), _equal(2, _NETLINK_ROUTE)),
        # `useradd` and others that write to the audit log go on without it when it does not exist.
        _answer("socket", _EPROTONOSUPPORT, _equal(0, _AF_NETLINK), _equal(2, _NETLINK_AUDIT)),
        _when("socketpair", _equal(0, _AF_UNIX)),
    ]


def _internet(family: int) -> list[dict[str, Any]]:
    # Type and protocol are listed too: SCTP, DCCP, L2TP, SMC, UDP-Lite and MPTCP are large, rarely used
    # code, which the kernel loads for everybody. SCTP and DCCP can be asked for by their type alone.
    allowed = {_SOCK_STREAM: (0, _TCP), _SOCK_DGRAM: (0, _UDP, _ICMP, _ICMP6)}
    return [
        _when("socket", _equal(0, family), _masked(1, _SOCK_TYPES, kind), _equal(2, protocol))
        for kind, protocols in allowed.items()
        for protocol in protocols
    ]


def _socket_options() -> list[dict[str, Any]]:
    # All but TCP_ULP, which puts kernel TLS on a connection. Levels and options that share its lowest bits
    # are refused with it; no family that is allowed has both.
    return [
        *(_when("setsockopt", _masked(1, bit, ~_SOL_TCP & bit)) for bit in (1, 2, 4, 8)),
        *(_when("setsockopt", _masked(2, bit, ~_TCP_ULP & bit)) for bit in (1, 2, 4, 8, 16, 32)),
    ]


def _limits() -> list[dict[str, Any]]:
    # RLIMIT_CORE stays at 1: at any other value a crash can start the host's core_pattern program, as its
    # root. Setting it succeeds without effect, else ssh-agent and gpg fail; at 1 nothing is dumped either.
    return [
        *(_when("setrlimit", other) for other in _other_than_core(0)),
        *(_when("prlimit64", other) for other in _other_than_core(1)),
        _when("prlimit64", _equal(1, _RLIMIT_CORE), _null(2)),
        _answer("setrlimit", _DONE, _equal(0, _RLIMIT_CORE)),
        _answer("prlimit64", _DONE, _equal(1, _RLIMIT_CORE), _null(3)),
    ]


def _other_than_core(index: int) -> list[dict[str, Any]]:
    # The kernel's limits are 0 to 15, so one of the four lowest bits differs.
    return [_masked(index, bit, ~_RLIMIT_CORE & bit) for bit in (1, 2, 4, 8)]


def _huge_pages() -> list[dict[str, Any]]:
    # They are no memory of the control group, and there are only as many as the operator reserved.
    calls = (("mmap", 3, _MAP_HUGETLB), ("memfd_create", 1, _MFD_HUGETLB), ("shmget", 2, _SHM_HUGETLB))
    return [
        *(_when(name, _masked(index, flag, 0)) for name, index, flag in calls),
        _answer("mmap", _ENOMEM, _masked(3, _MAP_HUGETLB, _MAP_HUGETLB)),
        _answer("shmget", _ENOMEM, _masked(2, _SHM_HUGETLB, _SHM_HUGETLB)),
        *_huge_memfds(),
    ]


def _huge_memfds() -> list[dict[str, Any]]:
    # Every kernel answers EINVAL to the two flags that exclude each other. Chromium sets all flags at once to
    # learn whether the call exists, and aborts at any other answer.
    huge, both = _MFD_HUGETLB, _MFD_NOEXEC_SEAL | _MFD_EXEC
    return [
        _answer("memfd_create", _ENOMEM, _masked(1, huge | _MFD_NOEXEC_SEAL, huge)),
        _answer("memfd_create", _ENOMEM, _masked(1, huge | _MFD_EXEC, huge)),
        _answer("memfd_create", _EINVAL, _masked(1, huge | both, huge | both)),
    ]


def _namespaces() -> list[dict[str, Any]]:
    return [
        _when("clone", _masked(0, NEW_NAMESPACES, 0)),
        _when("unshare", _masked(0, NEW_NAMESPACES | _CLONE_NEWTIME, 0)),
        # Its flags are behind a pointer; at ENOSYS for clone3 glibc falls back to clone. Contexts of
        # asynchronous I/O are counted for the whole host: one sandbox could take them all.
        {"names": ["clone3", "io_setup", "io_uring_setup"], "action": _ERRNO, "errnoRet": _ENOSYS},
    ]


def _ioctls() -> list[dict[str, Any]]:
    # "Type byte is not 0x94" is "one of its eight bits differs". The kernel reads the argument's low half.
    bits = [1 << bit for bit in range(8, 16)]
    return [
        *(_when("ioctl", _masked(1, bit, ~(_BTRFS_IOCTL << 8) & bit)) for bit in bits),
        *(_when("ioctl", _equal(1, request)) for request in (FICLONE, FICLONERANGE, FIDEDUPERANGE)),
    ]


def _fcntls() -> list[dict[str, Any]]:
    # All but F_SETLEASE and F_SETDELEG: an open of such a file waits for its holder, or is refused, also in
    # Bay on the host when it copies, weighs or backs up. They are 0x400 and 0x410; other commands with that
    # bit, as the sizes of pipes, have one of the four lowest as well.
    above = _F_LINUX_SPECIFIC
    return [
        _when("fcntl", _masked(1, above, 0)),
        *(_when("fcntl", _masked(1, above | bit, above | bit)) for bit in (1, 2, 4, 8)),
    ]


def _when(name: str, *conditions: dict[str, Any]) -> dict[str, Any]:
    return {"names": [name], "action": _ALLOW, "args": list(conditions)}


def _answer(name: str, error: int, *conditions: dict[str, Any]) -> dict[str, Any]:
    return {"names": [name], "action": _ERRNO, "errnoRet": error, "args": list(conditions)}


def _null(index: int) -> dict[str, Any]:
    return _masked(index, 0xFFFF_FFFF_FFFF_FFFF, 0)


def _equal(index: int, value: int) -> dict[str, Any]:
    # Compared as in the kernel: 32 bits, with any upper half of the register.
    return _masked(index, 0xFFFF_FFFF, value)


def _masked(index: int, mask: int, value: int) -> dict[str, Any]:
    return {"index": index, "value": mask, "valueTwo": value, "op": "SCMP_CMP_MASKED_EQ"}
