"""Ship's settings, taken out of its environment as they are read."""

import json
import os
from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass
from typing import cast

from ship.files.built_in_skills import BuiltInSkill, skills_for
from ship.process import syscalls
from ship.process.accounts import Accounts
from ship.process.identity import Identity

# The interpreter's and the loader's, not the sandbox's: Ship's may come from a bundle that programs must not
# mix with theirs.
_HOME = "PYTHONHOME"
_INTERPRETER = ("PYTHONPATH", "PYTHONPLATLIBDIR", "PYTHONPYCACHEPREFIX", "PYTHONSAFEPATH")
_CLUSTER = "KUBERNETES_"
"""Variables that Kubernetes gives to each container: the address of its API server."""
_CONTAINER = frozenset(("HOSTNAME", "LD_PRELOAD", "LD_AUDIT"))
"""Variables that a container runtime adds to those of the image, or a pod takes from the image."""


@dataclass(frozen=True, slots=True)
class Settings:
    """`environment` is the rest, for programs."""

    socket: str
    """The path of the Unix socket; empty where Ship listens on TCP."""
    token: str
    workspace: str
    cwd: str
    user: Identity
    root: Identity | None
    accounts: Accounts
    local: bool
    switches: bool
    """Whether Ship can become another user. If not, it has no more rights than its programs."""
    makes_account: bool
    skills: tuple[BuiltInSkill, ...]
    env_file: bool
    eager_kernel: bool
    writes_down: bool
    """Whether files shall be on their disk at each pause and at the end."""
    kernel_environment: dict[str, str]
    environment: dict[str, str]


def take(environ: MutableMapping[str, str]) -> Settings:
    """The settings in `environ`, which loses them. Raises ValueError or KeyError when they are unusable."""
    told = take_raw(environ)
    if not told["SHIP_SOCKET"]:
        raise ValueError("SHIP_SOCKET is empty")
    return read(told, environ)


def take_raw(environ: MutableMapping[str, str]) -> dict[str, str]:
    """The texts of all settings in `environ`, which loses them. They are erased from the memory that
    /proc/PID/environ shows: gVisor shows it to every user.
    """
    for name in environ:
        if name.startswith("SHIP_"):
            syscalls.erase_variable(name)  # before it is popped, which would only take it out of the list
    # An interpreter of a bundle is told its home, and reads no other variable: those are the image's.
    for name in () if environ.pop(_HOME, None) else _INTERPRETER:
        environ.pop(name, None)
    return {name: environ.pop(name) for name in list(environ) if name.startswith("SHIP_")}


def read(told: Mapping[str, str], environ: Mapping[str, str]) -> Settings:
    """The settings in these texts; `environ` is for programs. Raises ValueError or KeyError."""
    if not told["SHIP_TOKEN"]:
        raise ValueError("SHIP_TOKEN is empty")
    local = told.get("SHIP_LOCAL") == "1"
    switches = not local and told.get("SHIP_SWITCH") != "0"
    workspace = os.path.normpath(told.get("SHIP_WORKSPACE", "/workspace"))
    user = _user(told, workspace, switches)
    is_root_allowed = told.get("SHIP_ALLOW_ROOT") == "1" and (switches or local)
    root = _root(switches) if is_root_allowed else None
    if not switches and not local:
        environ = {name: value for name, value in environ.items() if _is_of_image(name)}
    return Settings(
        socket=told.get("SHIP_SOCKET", ""),
        token=told["SHIP_TOKEN"],
        workspace=workspace,
        cwd=os.path.normpath(told.get("SHIP_CWD", workspace)),
        user=user,
        root=root,
        accounts=Accounts(
            user, root, _listed(told.get("SHIP_USERS", "*")), own_groups=_groups(told.get("SHIP_GROUPS", "*"))
        ),
        local=local,
        switches=switches,
        makes_account=told.get("SHIP_MAKE_ACCOUNT") == "1",
        skills=skills_for(frozenset(filter(None, told.get("SHIP_SKILLS", "").split(",")))),
        env_file=told.get("SHIP_ENV_FILE") == "1",
        eager_kernel=told.get("SHIP_KERNEL") == "eager",
        writes_down=told.get("SHIP_SYNC") == "1",
        kernel_environment=_variables(told.get("SHIP_KERNEL_ENV", "{}")),
        environment={**environ, **_variables(told.get("SHIP_ENV", "{}"))},
    )


def _is_of_image(name: str) -> bool:
    return name not in _CONTAINER and not name.startswith(_CLUSTER)


def _variables(text: str) -> dict[str, str]:
    found: object = json.loads(text)
    pairs = cast("dict[object, object]", found).items() if isinstance(found, dict) else [(None, None)]
    if not all(isinstance(name, str) and isinstance(value, str) for name, value in pairs):
        raise ValueError("variables must be a JSON object of texts")
    return cast("dict[str, str]", found)


def _listed(users: str) -> frozenset[str] | None:
    return None if users == "*" else frozenset(filter(None, users.split(",")))


def _groups(numbers: str) -> tuple[int, ...] | None:
    return None if numbers == "*" else tuple(map(int, filter(None, numbers.split(","))))


def _user(told: Mapping[str, str], workspace: str, switches: bool) -> Identity:
    uid = int(told.get("SHIP_UID", "1000")) if switches else os.geteuid()
    gid = int(told.get("SHIP_GID", "1000")) if switches else os.getegid()
    home = told.get("SHIP_HOME", workspace)
    return Identity(told.get("SHIP_USER", "ship"), uid, gid, home, switch=switches)


def _root(switches: bool) -> Identity:
    uid, gid = (0, 0) if switches else (os.geteuid(), os.getegid())
    return Identity("root", uid, gid, "/root", switch=switches)
