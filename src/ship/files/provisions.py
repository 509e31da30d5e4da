"""Puts Bay's own files into the workspace at each start: the built-in skills, and `.bay_env.sh`.

The workspace is the sandbox's, and may hold what an earlier session planted there. So every directory is
opened by its name in the one above, and no link is followed; a file is written beside its place and renamed
into it, as the sandbox's user. A place that is taken by something else stays as it is, and no failure stops
a start.
"""

import os
import shlex
import stat
from collections.abc import Iterable, Mapping

from ship import log
from ship.files.built_in_skills import BuiltInSkill
from ship.files.temporaries import temporary
from ship.process.identity import Identity
from tree_tar.beneath import NEW_FILE, OPEN_DIRECTORY, OPEN_FILE, closing, open_beneath, open_or_make

SKILLS = "skills"
SKILL_FILE = "SKILL.md"
ENV_FILE = ".bay_env.sh"


def skill_path(workspace: str, skill: BuiltInSkill) -> str:
    """Where a built-in skill lies."""
    return f"{workspace}/{SKILLS}/{skill.name}/{SKILL_FILE}"


def put_back(
    workspace: str, user: Identity, skills: Iterable[BuiltInSkill], env: Mapping[str, str] | None
) -> None:
    """Write the skills, and with `env` the file of those variables, where they are not as they should be."""
    with user.using_files():
        for skill in skills:
            _try_to_put(workspace, (SKILLS, skill.name), SKILL_FILE, skill.text.encode(), 0o644)
        if env is not None:
            _try_to_put(workspace, (), ENV_FILE, env_text(env).encode("utf-8", "surrogateescape"), 0o600)


def env_text(env: Mapping[str, str]) -> str:
    """A line `export NAME='value'` for each variable, for any POSIX shell."""
    return "".join(f"export {name}={shlex.quote(value)}\n" for name, value in env.items())


def _try_to_put(workspace: str, parts: tuple[str, ...], name: str, data: bytes, mode: int) -> None:
    try:
        with (
            closing(os.open(workspace, OPEN_DIRECTORY)) as top,
            closing(open_beneath(top, parts, open_or_make)) as parent,
        ):
            _put(parent, name, data, mode)
    except OSError as error:
        log.note(f"provision.unplaced {'/'.join((*parts, name))} {error.strerror}")


def _put(parent: int, name: str, data: bytes, mode: int) -> None:
    if _has(parent, name, data):
        return
    beside = temporary("upload")
    try:
        with open(os.open(beside, NEW_FILE, mode, dir_fd=parent), "wb") as file:
            file.write(data)
        os.rename(beside, name, src_dir_fd=parent, dst_dir_fd=parent)
    except OSError:
        _unlink(parent, beside)
        raise


def _has(parent: int, name: str, data: bytes) -> bool:
    """Whether the file is there with that content. A pipe is opened, and not waited for."""
    try:
        descriptor = os.open(name, OPEN_FILE, dir_fd=parent)
    except OSError:
        return False
    with open(descriptor, "rb") as file:
        return stat.S_ISREG(os.fstat(descriptor).st_mode) and file.read(len(data) + 1) == data


def _unlink(parent: int, name: str) -> None:
    try:
        os.unlink(name, dir_fd=parent)
    except OSError:
        return  # it was not made
