"""The top layer of an image, which lies over its own: a directory for each place where a start mounts
something, and the files of /etc that a sandbox needs.

It is made once, when the image is imported, from files that a stranger made; a start reads none of them. That
the directories are real ones takes the sting out of an image that has links there.
"""

import os
import shutil
import stat
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from bay.drivers.base import ImageRoot, ImageUser
from bay.drivers.etc_files import HOSTNAME_FILE, HOSTS_FILE, PIP_CONF, RESOLV_CONF, UV_TOML
from bay.images.accounts import WORKSPACE, AccountFiles, completed, image_user, ship_user
from bay.images.config import ImageConfig
from bay.images.image_tree import ImageTree, read_image
from bay.linux.renames import built_beside, sync_file_system

_DIRECTORIES = {
    **dict.fromkeys((".ship", "dev", "proc", "sys", "workspace"), 0o755),
    **dict.fromkeys((".ship-run", "run/secrets"), 0o700),
    "tmp": 0o1777,
}
_SHELLS = ("/bin/bash", "/usr/bin/bash", "/bin/sh", "/usr/bin/sh")  # as Ship looks for one
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_MOST_FOLDERS = 64
_DEEPEST, _LONGEST = 32, 255
_LARGEST_ID = 65_535
# Where a distribution says that pip is not to install beside its own packages (PEP 668).
_MANAGED = tuple(f"/usr/lib/python3.{minor}/EXTERNALLY-MANAGED" for minor in range(9, 20))

# The /etc/profile of most images sets PATH anew, and a terminal would lose the sandbox's. Read first, so that
# other files of the folder add to it.
_PROFILE = """\
# PATH as this shell was given it, which /etc/profile may have set anew.
if [ -r "/proc/$$/environ" ]; then
  given=$(tr '\\0' '\\n' < "/proc/$$/environ" 2>/dev/null | sed -n 's/^PATH=//p' 2>/dev/null)
  [ -z "$given" ] || PATH=$given
  unset given
fi
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageFacts:
    """Facts found in an image's files when its top layer was made."""

    ship: ImageUser
    """Uid 1000, by the image's own name for it if there is one."""
    user: ImageUser | None
    """Whom USER names; None where that is no user that a process can be."""
    working_dir: str
    """WORKDIR, which is there; /workspace where the image names none."""
    shell: str | None
    python: str | None
    """The python3 in its PATH."""

    def root(self, layers: tuple[Path, ...], user: ImageUser) -> ImageRoot:
        """The root of a session of `user`, one of the two above; `layers` begin with the top layer."""
        cwd = self.working_dir if user == self.user else WORKSPACE
        return ImageRoot(layers=layers, user=user, cwd=cwd)

    def to_json(self) -> dict[str, Any]:
        """These facts as JSON-ready data."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "ImageFacts":
        """The facts that `to_json` wrote."""
        return cls(
            ship=_user(data["ship"]),
            user=None if data["user"] is None else _user(data["user"]),
            working_dir=data["working_dir"],
            shell=data["shell"],
            python=data["python"],
        )


@dataclass(frozen=True, slots=True)
class _Rights:
    """Mode and owner of an entry, by ids inside."""

    mode: int
    uid: int = 0
    gid: int = 0


@dataclass(frozen=True, slots=True)
class _Top:
    """The entries of a top layer: each directory after the one it is in, and files with their text."""

    directories: dict[str, _Rights]
    files: dict[str, tuple[str, _Rights]]


def make_top(tops: Path, image_id: str, layers: Sequence[Path], config: ImageConfig) -> ImageFacts:
    """Make `tops/image_id`, whole or not at all, for an image of `layers`, topmost first.

    One that is there already stays. Blocks; raises OSError.
    """
    tops.mkdir(parents=True, exist_ok=True, mode=0o700)
    top, facts = read_image(layers, tops, lambda tree: _plan(tree, config))
    with built_beside(tops / image_id) as building:
        _write(top, building)
        sync_file_system(building)
    return facts


def remove_unfinished(tops: Path) -> None:
    """Remove what a Bay that was killed left of top layers. Blocks; raises OSError."""
    for left in tops.glob(".building-*"):
        shutil.rmtree(left)


def _plan(tree: ImageTree, config: ImageConfig) -> tuple[_Top, ImageFacts]:
    shell = tree.program(_SHELLS)
    found = AccountFiles(*(tree.text(f"/etc/{name}") or "" for name in ("passwd", "group", "shadow")))
    accounts = completed(found, shell)
    where = _normal(config.working_dir)
    leading = _leading_to(tree, where)
    facts = ImageFacts(
        ship=ship_user(found),
        user=image_user(config.user, accounts),
        working_dir=where if leading or _is_directory(tree, where) else WORKSPACE,
        shell=shell,
        python=tree.program(f"{folder}/python3" for folder in _folders(config.env)),
    )
    directories = {
        "run": _like(tree, "/run", 0o755),
        **{name: _Rights(mode) for name, mode in _DIRECTORIES.items()},
        "etc": _like(tree, "/etc", 0o755),
        **({"root": _like(tree, "/root", 0o700)} if _is_open(tree, "/root") else {}),
        **leading,
        **_folders_of(tree),
    }
    return _Top(directories, _files(tree, accounts)), facts


def _files(tree: ImageTree, accounts: AccountFiles) -> dict[str, tuple[str, _Rights]]:
    plain = _Rights(0o644)
    return {
        "etc/hosts": (HOSTS_FILE, plain),
        "etc/hostname": (HOSTNAME_FILE, plain),
        "etc/resolv.conf": (RESOLV_CONF, plain),
        "etc/passwd": (accounts.passwd, _like_file(tree, "/etc/passwd", 0o644)),
        "etc/group": (accounts.group, _like_file(tree, "/etc/group", 0o644)),
        "etc/shadow": (accounts.shadow, _like_file(tree, "/etc/shadow", 0o640)),
        **{name: (text, plain) for name, text in _added(tree).items()},
    }


def _added(tree: ImageTree) -> dict[str, str]:
    """Files that an image gets when it has none of its own."""
    added = {"etc/profile.d/00-sandbox-path.sh": _PROFILE} if _is_open(tree, "/etc/profile.d") else {}
    if any(tree.status(path) for path in _MANAGED):
        added.update({"etc/pip.conf": PIP_CONF} if tree.status("/etc/pip.conf", follow=False) is None else {})
        added.update({"etc/uv/uv.toml": UV_TOML} if tree.status("/etc/uv", follow=False) is None else {})
    return added


def _folders_of(tree: ImageTree) -> dict[str, _Rights]:
    """The directories that the added files are in."""
    names = (str(PurePosixPath(name).parent) for name in _added(tree))
    return {name: _like(tree, f"/{name}", 0o755) for name in names if name != "etc"}


def _is_open(tree: ImageTree, path: str) -> bool:
    """Whether a directory of the top layer can lie at `path` without hiding anything."""
    found = tree.status(path, follow=False)
    return found is None or stat.S_ISDIR(found.st_mode)


def _is_directory(tree: ImageTree, path: str) -> bool:
    found = tree.status(path)
    return found is not None and stat.S_ISDIR(found.st_mode)


def _leading_to(tree: ImageTree, path: str) -> dict[str, _Rights]:
    """The directories to a WORKDIR that is not there, which an engine would make; none past a link, nor in
    /etc, where Bay's own files come to lie.
    """
    if not path or path.startswith("/etc/") or tree.status(path) is not None:
        return {}
    parents = [str(parent) for parent in reversed(PurePosixPath(path).parents)][1:]
    if not all(_is_open(tree, name) for name in (*parents, path)):
        return {}
    return {name.lstrip("/"): _like(tree, name, 0o755) for name in (*parents, path)}


def _like(tree: ImageTree, path: str, mode: int) -> _Rights:
    """As the image's directory at `path`, whose own the merged one shows no more; `mode` without one."""
    return _of(tree.status(path, follow=False), stat.S_IFDIR, mode)


def _like_file(tree: ImageTree, path: str, mode: int) -> _Rights:
    owned = _of(tree.status(path), stat.S_IFREG, mode)
    return _Rights(owned.mode & 0o777, owned.uid, owned.gid)


def _of(found: os.stat_result | None, kind: int, mode: int) -> _Rights:
    if found is None or stat.S_IFMT(found.st_mode) != kind or max(found.st_uid, found.st_gid) > _LARGEST_ID:
        return _Rights(mode)
    return _Rights(stat.S_IMODE(found.st_mode), found.st_uid, found.st_gid)


def _normal(working_dir: str) -> str:
    """WORKDIR as an absolute path; empty where it is none, or where a start mounts something over it."""
    parts = PurePosixPath(os.path.normpath(f"/{working_dir}")).parts[1:]
    hidden = {*parts[:1], "/".join(parts[:2])} & set(_DIRECTORIES)
    if not working_dir or "\0" in working_dir or len(parts) > _DEEPEST or hidden:
        return ""
    return f"/{'/'.join(parts)}" if all(len(os.fsencode(part)) <= _LONGEST for part in parts) else ""


def _folders(env: Mapping[str, str]) -> list[str]:
    return [folder for folder in env.get("PATH", _PATH).split(":") if folder.startswith("/")][:_MOST_FOLDERS]


def _write(top: _Top, building: Path) -> None:
    building.chmod(0o755)
    for name, owned in top.directories.items():
        (building / name).mkdir(exist_ok=True)
        _give(building / name, owned)
    for name, (text, owned) in top.files.items():
        (building / name).write_bytes(text.encode("utf-8", "surrogateescape"))
        _give(building / name, owned)


def _give(path: Path, owned: _Rights) -> None:
    os.chown(path, owned.uid, owned.gid)
    path.chmod(owned.mode)


def _user(data: Mapping[str, Any]) -> ImageUser:
    groups = data["groups"]
    return ImageUser(
        name=data["name"],
        uid=data["uid"],
        gid=data["gid"],
        home=data["home"],
        groups=None if groups is None else tuple(groups),
    )
