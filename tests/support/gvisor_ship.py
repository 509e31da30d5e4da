"""A Ship that is the first process of a sandbox of gVisor, by the runsc of this machine."""

import json
import os
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import shared_cache
from ship_harness import PATIENCE_S, TOKEN, Ship

from bay.drivers.oci.runsc import FLAGS
from bay.drivers.oci.spec import CAPABILITIES, CLOSURE, SOCKET_DIR, SOCKET_NAME, ship_command

_FLAGS = (*FLAGS, "--ignore-cgroups")
_FOLDERS = (
    "dev",
    "etc",
    "home",
    "proc",
    "root",
    "run",
    "tmp",
    "usr",
    "workspace",
    CLOSURE[1:],
    SOCKET_DIR[1:],
)
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@contextmanager
def running(**settings: str) -> Generator[Ship]:
    """A Ship until the end of the block, which has this machine's /usr and nothing else of it."""
    home = Path(tempfile.mkdtemp(prefix="ship-gvisor-", dir="/tmp"))
    try:
        with _started(home, settings) as ship:
            yield ship
    finally:
        shutil.rmtree(home)


def stop(ship: Ship) -> int:
    """TERM to Ship, and its exit code."""
    if ship.process.poll() is None:
        subprocess.run(
            [*_runsc(ship.workspace.parent), "kill", ship.mark, "TERM"], check=True, timeout=PATIENCE_S
        )
    return ship.process.wait(PATIENCE_S)


def _runsc(home: Path) -> list[str]:
    return ["runsc", "--root", str(home / "state"), "--network=none", *_FLAGS]


@contextmanager
def _started(home: Path, settings: dict[str, str]) -> Generator[Ship]:
    name = home.name
    for folder in ("workspace", "socket", *(f"root/{folder}" for folder in _FOLDERS)):
        (home / folder).mkdir(parents=True)
    os.chown(home / "workspace", 1000, 1000)
    for link in ("bin", "lib", "lib64", "sbin"):
        (home / "root" / link).symlink_to(f"usr/{link}")
    (home / "root/etc/passwd").write_text(
        "root:x:0:0:root:/root:/bin/bash\nship:x:1000:1000:ship:/workspace:/bin/bash\n"
    )
    (home / "root/etc/group").write_text("root:x:0:\nship:x:1000:\n")
    (home / "root/etc/shadow").write_text("root:*:::::::\n")
    (home / "root/etc/shadow").chmod(0o600)
    told = {
        "SHIP_TOKEN": TOKEN,
        "SHIP_ALLOW_ROOT": "1",
        "SHIP_SOCKET": f"{SOCKET_DIR}/{SOCKET_NAME}",
        **settings,
    }
    (home / "config.json").write_text(json.dumps(_spec(home, {"PATH": _PATH, **told})))
    run = [*_with_read_only(home), *_runsc(home), "run", "--bundle", str(home), name]
    process = subprocess.Popen(run, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
    try:
        assert process.stdout
        assert process.stdout.readline() == b"ready\n"
        ship = Ship(process, home / "socket" / SOCKET_NAME, home / "workspace", name)
        yield ship
        ship.http.close()
        stop(ship)
    finally:
        subprocess.run(
            [*_runsc(home), "delete", "--force", name], check=False, capture_output=True, timeout=30
        )
        process.kill()
        process.wait()
        if process.stdout:
            process.stdout.close()


def _with_read_only(home: Path) -> list[str]:
    """Runs a command where /usr and the closure are mounted read-only. runsc truncates files of a mount that
    its specification alone calls that.
    """
    mounted = {"closure": next((shared_cache.filled() / "closures").iterdir()), "usr": Path("/usr")}
    script = ""
    for name, source in mounted.items():
        (home / name).mkdir()
        script += f"mount --bind {source} {home / name} && mount -o remount,bind,ro {home / name} && "
    return ["unshare", "--mount", "sh", "-c", f'{script} exec "$@"', "sh"]


def _spec(home: Path, environment: dict[str, str]) -> dict[str, Any]:
    granted = {kind: list(CAPABILITIES) for kind in ("bounding", "effective", "permitted")}
    return {
        "ociVersion": "1.0.2",
        "hostname": "gvisor",
        "root": {"path": str(home / "root"), "readonly": False},
        "process": {
            "terminal": False,
            "user": {"uid": 0, "gid": 0},
            "args": ship_command(platform.machine()),
            "env": [f"{name}={value}" for name, value in environment.items()],
            "cwd": "/",
            "noNewPrivileges": True,
            "capabilities": granted,
        },
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc"},
            {"destination": "/dev", "type": "tmpfs", "source": "tmpfs"},
            {"destination": "/dev/pts", "type": "devpts", "source": "devpts"},
            {"destination": "/dev/shm", "type": "tmpfs", "source": "tmpfs", "options": ["mode=1777"]},
            {"destination": "/tmp", "type": "tmpfs", "source": "tmpfs", "options": ["mode=1777"]},
            _bind("/usr", home / "usr", "ro"),
            _bind(CLOSURE, home / "closure", "ro"),
            _bind("/workspace", home / "workspace"),
            _bind(SOCKET_DIR, home / "socket"),
        ],
        "linux": {"namespaces": [{"type": kind} for kind in ("pid", "mount", "ipc", "uts", "network")]},
    }


def _bind(destination: str, source: Path, *options: str) -> dict[str, Any]:
    return {"destination": destination, "type": "bind", "source": str(source), "options": ["rbind", *options]}
