"""Ship's settings, taken out of its environment as they are read."""

import json
import os
from collections.abc import MutableMapping
from dataclasses import dataclass

from ship.files.built_in_skills import BuiltInSkill, skills_for
from ship.process import syscalls
from ship.process.accounts import Accounts
from ship.process.identity import Identity

# The interpreter's and the loader's, not the sandbox's: Ship's may come from a bundle that programs must not
# mix with theirs.
_INTERPRETER = ("PYTHONHOME", "PYTHONPATH", "PYTHONPLATLIBDIR", "PYTHONPYCACHEPREFIX", "PYTHONSAFEPATH")


@dataclass(frozen=True, slots=True)
class Settings:
    """`environment` is the rest, for programs."""

    socket: str
    token: str
    workspace: str
    cwd: str
    user: Identity
    root: Identity | None
    accounts: Accounts
    local: bool
    makes_account: bool
    skills: tuple[BuiltInSkill, ...]
    env_file: bool
    eager_kernel: bool
    kernel_environment: dict[str, str]
    environment: dict[str, str]


def take(environ: MutableMapping[str, str]) -> Settings:
    """The settings in `environ`, which loses them. Raises ValueError or KeyError when they are unusable."""
    syscalls.erase_variable("SHIP_TOKEN")
    told = {name: environ.pop(name) for name in list(environ) if name.startswith("SHIP_")}
    for name in _INTERPRETER:
        environ.pop(name, None)
    if not told["SHIP_TOKEN"]:
        raise ValueError("SHIP_TOKEN is empty")
    local = told.get("SHIP_LOCAL") == "1"
    workspace = os.path.normpath(told.get("SHIP_WORKSPACE", "/workspace"))
    user = _user(told, workspace, local)
    root = _root(local) if told.get("SHIP_ALLOW_ROOT") == "1" else None
    return Settings(
        socket=told["SHIP_SOCKET"],
        token=told["SHIP_TOKEN"],
        workspace=workspace,
        cwd=os.path.normpath(told.get("SHIP_CWD", workspace)),
        user=user,
        root=root,
        accounts=Accounts(
            user, root, _listed(told.get("SHIP_USERS", "*")), own_groups=_groups(told.get("SHIP_GROUPS", "*"))
        ),
        local=local,
        makes_account=told.get("SHIP_MAKE_ACCOUNT") == "1",
        skills=skills_for(frozenset(filter(None, told.get("SHIP_SKILLS", "").split(",")))),
        env_file=told.get("SHIP_ENV_FILE") == "1",
        eager_kernel=told.get("SHIP_KERNEL") == "eager",
        kernel_environment=json.loads(told.get("SHIP_KERNEL_ENV", "{}")),
        environment={**environ, **json.loads(told.get("SHIP_ENV", "{}"))},
    )


def _listed(users: str) -> frozenset[str] | None:
    return None if users == "*" else frozenset(filter(None, users.split(",")))


def _groups(numbers: str) -> tuple[int, ...] | None:
    return None if numbers == "*" else tuple(map(int, filter(None, numbers.split(","))))


def _user(told: dict[str, str], workspace: str, local: bool) -> Identity:
    uid = os.geteuid() if local else int(told.get("SHIP_UID", "1000"))
    gid = os.getegid() if local else int(told.get("SHIP_GID", "1000"))
    home = told.get("SHIP_HOME", workspace)
    return Identity(told.get("SHIP_USER", "ship"), uid, gid, home, switch=not local)


def _root(local: bool) -> Identity:
    uid, gid = (os.geteuid(), os.getegid()) if local else (0, 0)
    return Identity("root", uid, gid, "/root", switch=not local)
