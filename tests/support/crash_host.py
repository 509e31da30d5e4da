"""What one case of the crash matrix has on this host, found without asking Bay."""

import json
import os
import re
import sqlite3
import stat
import subprocess
from collections import Counter
from collections.abc import Iterator, Set
from pathlib import Path

from crash_case import Place

from bay.network.slots import number_of
from bay.server.data_dir import instance_of

_SESSION = re.compile(r"sess-[0-9a-f]{24}")
_IMAGE, _DATA = "image of its memory", "data directory"
_KEPT = {".checkpoints"}
_CGROUPS = Path("/sys/fs/cgroup")
_LEFT_ROWS = {
    "sandbox": "SELECT id FROM sandboxes WHERE deleted_at IS NULL",
    "session": "SELECT id FROM sessions WHERE ended_at IS NULL",
    "cargo": "SELECT id FROM cargos WHERE deleted_at IS NULL",
    "checkpoint": "SELECT id FROM checkpoints WHERE state != 'gone'",
    "running exec": "SELECT id FROM execs WHERE state = 'running'",
}


def by_session(place: Place) -> dict[str, set[str]]:
    """For each kind of thing that a session has, the ids of the sessions that have one."""
    return {
        _IMAGE: set(memories(place)),
        "container": _names(place.run_dir / "runc"),
        "control group": {group.name for group in _groups(place)},
        "run directory": _names(place.run_dir / "sessions"),
        _DATA: _names(place.data_dir / "oci/sessions") - _KEPT | _names(place.data_dir / "cargo/.layers"),
        "id range": {Path(holder).name for holder in _holders(place)},
        "process": {session for _, session in _contained(place)},
        "network device": set(_devices(place)),
    }


def owners(kind: str, live: Set[str], asleep: Set[str]) -> Set[str]:
    """Those of the `live` sessions that are to have a thing of a kind; `asleep` are those that hibernate."""
    if kind == _IMAGE:
        return asleep
    return live if kind == _DATA else live - asleep


def memories(place: Place) -> dict[str, int]:
    """The sessions with an image of their memory, whole or not, each with the bytes that CRIU has written."""
    images = place.data_dir / "oci/memory"
    return {
        name: sum(_size(file) for kind in ("img", "gz") for file in images.glob(f"{name}/*.{kind}"))
        for name in _names(images) - _KEPT
    }


def unusable_memories(place: Place) -> set[str]:
    """The sessions with an image that was not finished, or that a restore has begun to use."""
    images = place.data_dir / "oci/memory"
    return {name for name in _names(images) - _KEPT if not (images / name / "manifest.json").exists()}


def containers_of(place: Place) -> Counter[str]:
    """How many containers each sandbox has, by what the driver wrote beside them."""
    return Counter(
        json.loads((place.run_dir / "sessions" / session / "owner.json").read_text())["sandbox_id"]
        for session in _names(place.run_dir / "runc")
        if (place.run_dir / "sessions" / session / "owner.json").exists()
    )


def cargos(place: Place) -> set[str]:
    """Ids of the cargos that have files or a fence."""
    files = {name for name in _names(place.data_dir / "cargo") if not name.startswith(".")}
    # A fence is of a cargo and of one of the sandboxes that have had it.
    return files | {name.lstrip(".").partition(".")[0] for name in _names(place.data_dir / "cargo/.fences")}


def checkpoints(place: Place) -> set[str]:
    """Ids of the checkpoints that have files."""
    return _names(place.data_dir / "cargo/.checkpoints")


def checkpoint_memories(place: Place) -> set[str]:
    """Ids of the checkpoints that have an image or a copy of layers, whole or not."""
    return {name for parent in _kept(place) for name in _names(parent)}


def whole_memories(place: Place) -> dict[str, int]:
    """Ids of those that have both, with the bytes of the image."""
    images, layers = _kept(place)
    whole = {path.parent.name for path in images.glob("*/manifest.json")} & _names(layers)
    return {one: sum(_size(file) for file in (images / one).iterdir()) for one in whole}


def _kept(place: Place) -> tuple[Path, Path]:
    return place.data_dir / "oci/memory/.checkpoints", place.data_dir / "oci/sessions/.checkpoints"


def trash(place: Place) -> list[str]:
    """Removed cargos that still take space."""
    hidden = (".trash", ".making")
    return [
        f"{where} {name}" for where in hidden for name in sorted(_names(place.data_dir / "cargo" / where))
    ]


def unfinished(place: Place) -> list[str]:
    """What a Bay that runs still removes by and by: files, and then the rows of checkpoints that had them."""
    return trash(place) + [row for row in _left_rows(place) if row.startswith("row of checkpoint ")]


def is_frozen(place: Place, session_id: str) -> bool:
    """Whether the kernel keeps the processes of a session from running."""
    return any(
        _text(group / "freezer.state") in ("FROZEN", "FREEZING") or _text(group / "cgroup.freeze") == "1"
        for group in _groups(place)
        if group.name == session_id
    )


def runs(place: Place, session_id: str, command: str) -> bool:
    """Whether a process of a session has that command line."""
    return any(
        _text(Path(f"/proc/{pid}/cmdline")).replace("\0", " ").strip() == command
        for pid, session in _contained(place)
        if session == session_id
    )


def strays(place: Place, live: set[str], asleep: Set[str] = frozenset()) -> list[str]:
    """What belongs to the case and to none of its `live` sessions, of which those `asleep` hibernate."""
    awake = live - asleep
    found = [
        f"{kind} of {session}"
        for kind, ids in by_session(place).items()
        for session in sorted(ids - owners(kind, live, asleep))
    ]
    found += [f"mount {line}" for line in _mounts(place) if f" {place.data_dir}/cargo " not in line]
    found += [f"process {pid} {_text(Path(f'/proc/{pid}/cmdline'))!r}" for pid in _marked(place)]
    found += [f"socket {path}" for path in _sockets(place) if not awake & set(path.parts)]
    return found + _namespaces(place, len(awake))


def is_held(place: Place) -> bool:
    """Whether the host has anything of the case but its files."""
    held = strays(place, set()) or _parents(place) or _mounts(place) or _network(place)
    return bool(held) or place.run_dir.exists()


def remains(place: Place) -> list[str]:
    """What is left when nothing should be."""
    found = strays(place, set()) + [f"cargo {cargo_id}" for cargo_id in sorted(cargos(place))]
    found += [f"checkpoint {checkpoint_id}" for checkpoint_id in sorted(checkpoints(place))]
    found += [f"memory of checkpoint {one}" for one in sorted(checkpoint_memories(place))]
    found += [f"control group {group}" for group in _parents(place)]
    found += [f"mount {line}" for line in _mounts(place)]  # that of the pool, too
    found += _network(place)
    if place.run_dir.exists():
        found.append(f"{place.run_dir}: {sorted(os.listdir(place.run_dir))}")
    return found + trash(place) + _left_rows(place)


def _devices(place: Place) -> Iterator[str]:
    """The sessions, or numbers that no session claims, with a device on the host."""
    for name in _names(Path("/proc/sys/net/ipv4/conf")):
        if number := number_of(instance_of(place.data_dir)[:4], name):
            holder = _text(place.ids_dir / str(number - 1))
            yield Path(holder).name if holder else f"nobody's slot {number}"


def _network(place: Place) -> list[str]:
    instance = instance_of(place.data_dir)[:4]
    tables = subprocess.run(["nft", "list", "tables"], check=True, capture_output=True, text=True).stdout
    devices = [name for name in _names(Path("/proc/sys/net/ipv4/conf")) if name.startswith(f"bay{instance}-")]
    return [f"nftables {line}" for line in tables.splitlines() if f"bay_{instance}" in line] + devices


def _left_rows(place: Place) -> list[str]:
    database = sqlite3.connect(place.data_dir / "bay.db")
    try:
        return [
            f"row of {kind} {row_id}"
            for kind, query in _LEFT_ROWS.items()
            for (row_id,) in database.execute(query)
        ]
    finally:
        database.close()


def _namespaces(place: Place, sessions: int) -> list[str]:
    # Those that no process is in and no mount holds are gone: the kernel keeps no others.
    own = {kind: os.readlink(f"/proc/self/ns/{kind}") for kind in ("net", "pid", "user")}
    found: dict[str, set[str]] = {kind: set() for kind in own}
    for pid in [*(pid for pid, _ in _contained(place)), *_marked(place)]:
        for kind, host in own.items():
            if (link := _link(f"/proc/{pid}/ns/{kind}")) not in ("", host):
                found[kind].add(link)
    return [
        f"{len(links)} {kind} namespaces for {sessions} sessions"
        for kind, links in found.items()
        if len(links) > sessions
    ]


def _contained(place: Place) -> list[tuple[int, str]]:
    """Processes in a control group of the case, each with the session it belongs to."""
    found: list[tuple[int, str]] = []
    for pid in _pids():
        inside = re.search(rf"/bay/{place.instance}/([^/\n]+)", _text(Path(f"/proc/{pid}/cgroup")))
        if inside and not _is_dead(pid):
            found.append((pid, inside[1]))
    return found


def _marked(place: Place) -> list[int]:
    """Other processes that a Bay of the case started: helpers, runc, rm. CRIU has no mark, but arguments."""
    mark, path = f"{place.mark}\0", f"{place.root}/"
    return [
        pid
        for pid in _pids()
        if mark in _text(Path(f"/proc/{pid}/environ")) + "\0" or path in _text(Path(f"/proc/{pid}/cmdline"))
        if not _is_dead(pid)
    ]


def _is_dead(pid: int) -> bool:
    return _text(Path(f"/proc/{pid}/stat")).rpartition(")")[2].split()[:1] in ([], ["Z"])


def _mounts(place: Place) -> list[str]:
    lines = _text(Path("/proc/self/mountinfo")).splitlines()
    return [line for line in lines if f"{place.root}/" in line or place.instance in line]


def _sockets(place: Place) -> Iterator[Path]:
    for parent, _, names in os.walk(place.root):
        for path in (Path(parent, name) for name in names):
            if stat.S_ISSOCK(path.lstat().st_mode):
                yield path


def _groups(place: Place) -> list[Path]:
    return [group for parent in _parents(place) for group in parent.glob("*/")]


def _parents(place: Place) -> list[Path]:
    # Version 2 and each hierarchy of version 1.
    return [path for prefix in ("", "*/") for path in _CGROUPS.glob(f"{prefix}bay/{place.instance}/")]


def _holders(place: Place) -> list[str]:
    # An empty claim was being written when its Bay was killed: it holds nothing, and the next one takes the
    # file.
    claims = [place.ids_dir / name for name in _names(place.ids_dir) if name.isdecimal()]
    return [holder for claim in claims if (holder := _text(claim))]


def _pids() -> list[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdecimal()]


def _names(directory: Path) -> set[str]:
    return set(os.listdir(directory)) if directory.is_dir() else set()


def _text(file: Path) -> str:
    try:
        return file.read_text(errors="replace").strip()
    except OSError:
        return ""


def _size(file: Path) -> int:
    try:
        return file.stat().st_size
    except OSError:
        return 0


def _link(path: str) -> str:
    try:
        return os.readlink(path)
    except OSError:
        return ""
