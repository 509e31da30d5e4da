"""The layout of the driver's directories: paths follow from the session's id alone."""

import json
import os
import re
from dataclasses import dataclass
from pathlib import Path

from bay.drivers.oci import layers
from bay.drivers.oci.spec import SOCKET_NAME
from bay.errors import InvalidArgument
from bay.linux.processes import boot_id

_KEPT = ".checkpoints"
"""Among the directories of sessions, with a name that no session has."""
_SESSION_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,127}")


@dataclass(frozen=True, slots=True)
class SessionPlaces:
    """One session's directories. `data`, with its layers, is on disk; `run` does not outlive a boot."""

    session_id: str
    data: Path
    run: Path
    former: Path
    """Where a Bay without `layers` had `data`."""
    memory: Path
    """Where its memory is while it hibernates, on disk."""

    @property
    def bundle(self) -> Path:
        """The bundle that runc starts from; removed after the start."""
        return self.run / "bundle"

    @property
    def sandbox_state(self) -> Path:
        """Where runsc keeps the state of a session that it runs."""
        return self.run / "runsc"

    @property
    def saving(self) -> Path:
        """There while its memory is being saved, and after a Bay was killed meanwhile."""
        return self.run / "saving"

    @property
    def socket_dir(self) -> Path:
        """Where Ship makes its socket."""
        return self.run / "sock"

    @property
    def socket(self) -> Path:
        """Ship's socket, as the host sees it."""
        return self.socket_dir / SOCKET_NAME

    @property
    def lock(self) -> Path:
        """Held while the session is started or removed, also by a runc whose Bay was killed."""
        return self.run / "lock"

    def note_first_process(self, pid: int, started: int) -> None:
        """Write down the session's first process, for a Bay that has lost the handle."""
        self._first_process.write_text(json.dumps({"pid": pid, "started": started, "boot": boot_id()}))

    def first_process(self) -> tuple[int, int] | None:
        """Its pid and start time; None when none was noted since this host booted."""
        try:
            noted = json.loads(self._first_process.read_text())
            return (int(noted["pid"]), int(noted["started"])) if noted["boot"] == boot_id() else None
        except (OSError, ValueError, KeyError, TypeError):  # none, or one that was being written
            return None

    @property
    def _first_process(self) -> Path:
        return self.run / "first-process.json"

    def make(self, sandbox_id: str, layer_bytes: int | None) -> None:
        """Make both directories, labelled with their sandbox; `data` holds `layer_bytes`, where limited."""
        layers.make(self.data, layer_bytes)
        _label(self.data, sandbox_id)
        self.make_run(sandbox_id)

    def make_from(self, kept: Path, sandbox_id: str, layer_bytes: int | None) -> None:
        """Make `data` alone, as a copy of the layers `kept`."""
        layers.copy(kept, self.data, layer_bytes)
        _label(self.data, sandbox_id)

    def make_run(self, sandbox_id: str) -> None:
        """Make `run` alone, of a session whose layers are there."""
        self.run.mkdir(mode=0o700)
        _label(self.run, sandbox_id)

    def exist(self) -> bool:
        """Whether there is anything of the session."""
        return any(path.exists() for path in (self.data, self.run, self.former, self.memory))

    def sandbox_id(self) -> str | None:
        """The sandbox that `make` noted, or None when neither directory has it."""
        for directory in (self.run, self.data, self.former):
            try:
                return str(json.loads((directory / "owner.json").read_text())["sandbox_id"])
            except (OSError, ValueError, KeyError, TypeError):
                continue
        return None


@dataclass(frozen=True, slots=True)
class Layout:
    """The directories of one Bay: `root` persists, `run_dir` does not, and `cache` can be made again.
    `layers` has the sessions' writable layers, on a file system that can limit them, if there is one.
    """

    root: Path
    run_dir: Path
    cache: Path
    layers: Path

    @property
    def stage(self) -> Path:
        """The empty directory on which launching threads mount the root, each in its own mount namespace."""
        return self.run_dir / "stage"

    @property
    def runc_root(self) -> Path:
        """Where runc keeps its state."""
        return self.run_dir / "runc"

    @property
    def memories(self) -> Path:
        """The memory of sessions that hibernate."""
        return self.root / "memory"

    @property
    def trial(self) -> Path:
        """The workspace of the session that is saved as a trial; a Bay that is killed meanwhile leaves it."""
        return self.run_dir / "trial"

    @property
    def images(self) -> Path:
        """Read-only root file systems."""
        return self.cache / "images"

    @property
    def closures(self) -> Path:
        """Ship's interpreter closures."""
        return self.cache / "closures"

    def make(self) -> None:
        """Make the directories that all sessions share."""
        # Files made inside carry inside ids: a set-uid one would be root's, so no host user may get near.
        _make(self.root, 0o700)
        _make(self.layers, 0o700)
        _make(self.memories, 0o700)
        # The session's own root passes through here to reach its mounts, and may do nothing else.
        _make(self.run_dir, 0o711)
        _make(self.stage, 0o711)
        _make(self.runc_root, 0o700)
        _make(self.run_dir / "sessions", 0o700)

    def remove_if_empty(self) -> None:
        """Remove the directories of `make` in `run_dir`, unless a session is in them."""
        for directory in (self.stage, self.runc_root, self.run_dir / "sessions", self.run_dir):
            try:
                directory.rmdir()
            except OSError:
                continue  # in use, or gone

    def session(self, session_id: str) -> SessionPlaces:
        """The places of one session. Raises InvalidArgument for an id that could be a path."""
        if not is_session_id(session_id):
            raise InvalidArgument(f"{session_id!r} is not a session id")
        return SessionPlaces(
            session_id,
            data=self.layers / session_id,
            run=self.run_dir / "sessions" / session_id,
            former=self.root / "sessions" / session_id,
            memory=self.memories / session_id,
        )

    def checkpoint(self, checkpoint_id: str) -> tuple[Path, Path]:
        """Where the memory of a checkpoint is, and where its layers. Raises InvalidArgument for an id that
        could be a path.
        """
        if not is_session_id(checkpoint_id):
            raise InvalidArgument(f"{checkpoint_id!r} is not a checkpoint id")
        return self.memories / _KEPT / checkpoint_id, self.layers / _KEPT / checkpoint_id

    def checkpoint_ids(self) -> set[str]:
        """The checkpoints that have a directory, in either place."""
        parents = (self.memories / _KEPT, self.layers / _KEPT)
        return {name.lstrip(".") for parent in parents if parent.is_dir() for name in os.listdir(parent)}

    def session_ids(self) -> set[str]:
        """The sessions that have a directory, in either place, or a state of runc."""
        former = self.root / "sessions"
        parents = (self.layers, self.memories, former, self.run_dir / "sessions", self.runc_root)
        return {name for parent in parents if parent.is_dir() for name in os.listdir(parent)}


def is_session_id(text: str) -> bool:
    """Whether `text` may name a session: something else that lies among the sessions is not one."""
    return _SESSION_ID.fullmatch(text) is not None


def _label(directory: Path, sandbox_id: str) -> None:
    (directory / "owner.json").write_text(json.dumps({"sandbox_id": sandbox_id}))


def _make(directory: Path, mode: int) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    directory.chmod(mode)
