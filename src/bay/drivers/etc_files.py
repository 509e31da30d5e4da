"""Files in /etc that sandboxes of every image have, as text."""

HOSTNAME = "sandbox"
"""The name of a sandbox that has none of its own yet."""

HOSTNAME_FILE = f"{HOSTNAME}\n"
HOSTS_FILE = f"127.0.0.1 localhost {HOSTNAME}\n::1 localhost ip6-localhost\n"
RESOLV_CONF = "nameserver 127.0.0.53\n"

# A sandbox is the environment that Debian asks for (PEP 668): pip may install, for the user into ~/.local.
PIP_CONF = "[global]\nbreak-system-packages = true\nroot-user-action = ignore\n"
UV_TOML = "[pip]\nbreak-system-packages = true\n"

EXEC_GROUPS = range(60_000, 61_000)
"""The groups of execs (see ship/process/groups.py): `groups` complains of one without a name."""


def exec_group_line(gid: int) -> str:
    """The line of /etc/group for the exec group `gid`."""
    return f"exec-{gid}:x:{gid}:"
