"""The resource limits of every process of a session: those of the runc that starts it, which it inherits.

runc could not set them. In a user namespace that another than root made, as the session's is, raising a limit or
setting that of another process takes CAP_SYS_RESOURCE on the host, which Bay may lack.
"""

import resource

RLIMITS = {
    "core": 1,  # 0 would still start a core_pattern program, as root of the host: see core(5); seccomp keeps it at 1
    "memlock": 8 << 20,
    "msgqueue": 819_200,
    "nofile": 65_536,
    "sigpending": 16_384,
}


def limited(command: list[str]) -> list[str]:
    """`command` with the limits of a session, as far as Bay's own hard limits allow."""
    options = [f"--{name}={limit}:{limit}" for name, limit in _limits().items()]
    return ["prlimit", *options, "--", *command]


def _limits() -> dict[str, int]:
    hard = {name: resource.getrlimit(getattr(resource, f"RLIMIT_{name.upper()}"))[1] for name in RLIMITS}
    return {
        name: wanted if hard[name] == resource.RLIM_INFINITY else min(wanted, hard[name])
        for name, wanted in RLIMITS.items()
    }
