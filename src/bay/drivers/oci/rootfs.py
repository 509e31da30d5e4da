"""The root file system of a session, assembled in a mount namespace of the launching thread.

The mounts never exist in the host's own mount namespace: the container copies them when it starts, and when
the launching thread ends, or Bay is killed, the kernel drops the rest. Every layer is mounted id-mapped, so
files on disk are owned by inside ids (0, 1000, …) and no image has to be chowned for a session. Directories
that hold such files must be closed to the host's users.
"""

import contextlib
import errno
import os
import stat
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path

from bay.drivers.oci import overlay_checks
from bay.errors import Conflict
from bay.linux import mounts, overlays, remove_tree
from bay.linux.overlays import LayerNames
from bay.linux.processes import closing_fd

EMPTY_MASK = "mask"
"""The name of the empty directory that hides directories of /proc."""

_PRIVATE = mounts.NOSUID | mounts.NODEV
_DEVICES = {
    "null": (1, 3),
    "zero": (1, 5),
    "full": (1, 7),
    "random": (1, 8),
    "urandom": (1, 9),
    "tty": (5, 0),
}


@dataclass(frozen=True, slots=True)
class Layer:
    """An overlay at `target`: the directories `lower`, topmost first, and `writable`, which holds `upper` and
    `work`. A `lasting` layer's `upper` outlives the session, and is mounted by the next one. One that is
    `kept` is mounted again by the same session. No lower layer that is `foreign` may point into another: a
    stranger made it.
    """

    target: str
    lower: tuple[Path, ...]
    writable: Path
    lasting: bool = False
    foreign: bool = False
    kept: bool = False


@dataclass(frozen=True, slots=True)
class Bind:
    """The directory `source` of the host at `target`, with the MOUNT_ATTR bits `attributes`.
    With `own_inodes` it is read-only, and watches or locks on its files do not meet other sandboxes'. With
    `made` the target is of an owner's choice: it is made, and no link in the sandbox's files is followed.
    """

    target: str
    source: Path
    attributes: int
    idmapped: bool = False
    own_inodes: bool = False
    made: bool = False


@dataclass(frozen=True, slots=True)
class Rootfs:
    """The parts of a session's root. The first layer is the root itself; `names`: see `overlays`."""

    layers: tuple[Layer, ...]
    binds: tuple[Bind, ...]
    names: LayerNames


def prepare_writable(rootfs: Rootfs) -> None:
    """Make the `writable` directories of all layers: `work` empty, and `upper` unless a lasting one is there.
    A lasting one was written by a tenant or imported: see `overlay_checks`. Blocks; raises OSError,
    DriverUnavailable.
    """
    for layer in rootfs.layers:
        _prepare(layer)
    first, *rest = rootfs.layers
    if first.lasting:
        overlay_checks.mend_root(first.writable / "upper", [layer.target.lstrip("/") for layer in rest])


def _prepare(layer: Layer) -> None:
    upper, work = layer.writable / "upper", layer.writable / "work"
    is_used = layer.lasting or layer.kept
    if is_used:
        overlay_checks.check(layer.writable)
        if os.path.lexists(work):  # the half-copied layer of an earlier session
            remove_tree.remove_now(work)
    if not (is_used and upper.is_dir()):
        upper.mkdir(parents=True)
        upper.chmod(0o755)  # the merged directory shows the owner and mode of `upper`
    work.mkdir()


def assemble(rootfs: Rootfs, stage: Path, userns: int, id_base: int) -> Path:
    """Mount `rootfs` and return where; the thread is alone in its mount namespace and fs attributes.
    `stage` is an empty directory that the session's root may pass through. Blocks; raises OSError.
    """
    _begin(stage)
    # An overlay works with the ids of its mounter, and on an id-mapped layer the host's root is unmapped.
    with mounts.acting_as(id_base, id_base):
        _mount_root(rootfs, userns)
    return stage / "root"


def assemble_apart(rootfs: Rootfs, stage: Path, userns: int, id_base: int) -> dict[str, Path]:
    """The same with each mount beside the root, for CRIU to put into their places: where, by their targets.
    `/` is among them, and the two that a restore needs beside: `EMPTY_MASK`, and the device nodes.
    """
    _begin(stage)
    places: dict[str, Path] = {"/": stage / "root", EMPTY_MASK: stage / "empty"}
    Path("empty").mkdir(mode=0o555)
    # Read-only itself: CRIU makes several mounts of it, and gives their attributes to the first alone.
    _attach_at(_bound(Bind(EMPTY_MASK, Path("empty"), mounts.RDONLY), userns), "empty")
    with mounts.acting_as(id_base, id_base):
        first, *rest = rootfs.layers
        _attach_at(_overlay(0, first, userns, rootfs.names), "root")
        parts = [(layer.target, _overlay(n, layer, userns, rootfs.names)) for n, layer in enumerate(rest, 1)]
        parts += [(bind.target, _bind(bind, userns)) for bind in rootfs.binds]
        for number, (target, mount) in enumerate(parts):
            Path(f"part{number}").mkdir()
            _attach_at(mount, f"part{number}")
            places[target] = stage / f"part{number}"
    return {**places, **{f"/dev/{name}": Path("/dev", name) for name in _DEVICES}}


def _begin(stage: Path) -> None:
    mounts.make_all_private()
    scratch = mounts.new_mount("tmpfs", [("size", "64k"), ("mode", "0711")])
    _attach_at(scratch, stage)
    os.chdir(stage)  # this thread's alone; so that the mount table inside shows short relative names
    Path("root").mkdir(mode=0o755)
    _make_devices()


def _make_devices() -> None:
    """Give the calling thread a `/dev` of its own, from which runc takes the nodes of the session's.
    Those of the host are shared files: a sandbox could watch others open them, and lock them for all.
    """
    Path("dev").mkdir()
    for name, numbers in _DEVICES.items():
        os.mknod(f"dev/{name}", stat.S_IFCHR, os.makedev(*numbers))
        Path("dev", name).chmod(0o666)
    with closing_fd(mounts.open_directory("/dev")) as host, closing_fd(mounts.open_tree("dev")) as own:
        mounts.attach(own, host)


def _mount_root(rootfs: Rootfs, userns: int) -> None:
    first, *rest = rootfs.layers
    _attach_at(_overlay(0, first, userns, rootfs.names), "root")
    with closing_fd(mounts.open_directory("root")) as root:
        for number, layer in enumerate(rest, 1):
            _attach_beneath(_overlay(number, layer, userns, rootfs.names), root, layer.target)
        for bind in rootfs.binds:
            mount = _bind(bind, userns)
            if bind.made:
                with _refused_in_words(mount, bind.target):
                    _make_beneath(root, bind.target)
            _attach_beneath(mount, root, bind.target)


def _overlay(number: int, layer: Layer, userns: int, names: LayerNames) -> int:
    with overlays.detached((*layer.lower, layer.writable), _PRIVATE, userns) as (*lower, writable):
        parts = overlays.OverlayLayers(lower, writable)
        mount = overlays.mount(parts, _options(layer), _PRIVATE, names, prefix=str(number))
    if os.fstatvfs(mount).f_flag & os.ST_RDONLY:
        # The kernel's sign that it could not use the upper layer; its log has the reason.
        raise OSError(errno.EROFS, f"the overlay at {layer.target} came up read-only; see dmesg")
    return mount


def _options(layer: Layer) -> list[tuple[str, str]]:
    # A layer that lasts is checkpointed, exported and mounted over a newer image: it must not point into this
    # one. One that does not has no need of the disk: no fsync is passed on.
    pointless = [("redirect_dir", "nofollow")] if layer.lasting or layer.foreign else []
    return pointless if layer.lasting else [*pointless, ("volatile", "")]


def _bind(bind: Bind, userns: int) -> int:
    return _with_own_inodes(bind, userns) if bind.own_inodes else _bound(bind, userns)


def _bound(bind: Bind, userns: int) -> int:
    mount = mounts.open_tree(bind.source)
    mounts.set_attributes(mount, bind.attributes, userns=userns if bind.idmapped else None)
    return mount


def _with_own_inodes(bind: Bind, userns: int) -> int:
    name, empty = f"bound{bind.target.replace('/', '-')}", "empty"  # without an upper layer two are needed
    for directory in (name, empty):
        Path(directory).mkdir(exist_ok=True)
    _attach_at(_bound(bind, userns), name)
    return mounts.new_mount("overlay", [("lowerdir", f"{name}:{empty}")], bind.attributes)


def _make_beneath(root: int, target: str) -> None:
    """Make the directory `target`, and those above it, as root inside; what is there stays."""
    above = os.dup(root)
    try:
        for name in target.lstrip("/").split("/"):
            with contextlib.suppress(FileExistsError):
                os.mkdir(name, dir_fd=above)
                # Whatever Bay's umask is; nothing runs in there yet that could put a link in its place.
                os.chmod(name, 0o755, dir_fd=above)  # noqa: S103 - as every directory of an image
            below = mounts.open_beneath(above, name)
            os.close(above)
            above = below
    finally:
        os.close(above)


@contextlib.contextmanager
def _refused_in_words(mount: int, target: str) -> Generator[None]:
    try:
        yield
    except OSError as error:
        os.close(mount)
        if error.errno not in (errno.ELOOP, errno.ENOTDIR, errno.EXDEV):
            raise
        raise Conflict(
            f"the volume at {target} cannot be mounted: a symbolic link or a file is in the way in the sandbox's own "
            "files; choose the path that the link leads to, or restore a checkpoint from before"
        ) from error


def _attach_at(mount: int, path: str | Path) -> None:
    with closing_fd(mounts.open_directory(path)) as directory, closing_fd(mount):
        mounts.attach(mount, directory)


def _attach_beneath(mount: int, root: int, target: str) -> None:
    with closing_fd(mount), closing_fd(mounts.open_beneath(root, target.lstrip("/"))) as directory:
        mounts.attach(mount, directory)
