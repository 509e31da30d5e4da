"""The resource limits of a session's processes: those of the runc that starts it, which they inherit.

runc could not set them: root did not make the session's user namespace, so limits there are set by
CAP_SYS_RESOURCE on the host alone, which Bay may lack.
"""

import resource

RLIMITS = {
    "core": 1,  # at 0 the kernel still starts a core_pattern program, as root of the host: see core(5)
    "memlock": 8 << 20,
    "msgqueue": 819_200,
    "nofile": 65_536,
    "sigpending": 16_384,
}


def limited(command: list[str]) -> list[str]:
    """`command` with the limits of a session, as far as Bay's own hard limits allow."""
    options = [f"--{name}={limit}:{limit}" for name, limit in limits().items()]
    return ["prlimit", *options, "--", *command]


def limits() -> dict[str, int]:
    """The limits of a session, as far as Bay's own hard limits allow, by their names in resource."""
    hard = {name: resource.getrlimit(getattr(resource, f"RLIMIT_{name.upper()}"))[1] for name in RLIMITS}
    return {
        name: wanted if hard[name] == resource.RLIM_INFINITY else min(wanted, hard[name])
        for name, wanted in RLIMITS.items()
    }
