"""A kernel that is not Python in a sandbox of the `oci` driver, by its kernel spec: the bridge has all it
needs in Ship's closure.

The kernel is the real bash_kernel. Of it and of what it needs, only what Ship did not bring is put into the
workspace, for Ship's own interpreter. Rejected: Debian's python3-ipykernel on the host; the image's own
Python would have IPython then, which other tests need it not to have.
"""

import asyncio
import json
import os
import secrets
import shutil
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from bay.drivers.base import Handle
from bay.places import directory_of
from bay.testing.driver_bench import TOKEN, DriverBench, call, endpoint_of

pytestmark = [pytest.mark.host, pytest.mark.anyio]

_PACKAGES = ("bash_kernel", "comm", "filetype", "ipykernel", "nest_asyncio2", "packaging", "psutil")
_START = 'exec /.ship/lib/ld-linux-*.so.* --library-path /.ship/lib /.ship/bin/python3 -S -B -m bash_kernel -f "$1"'
_SPEC = {
    "argv": ["sh", "-c", _START, "sh", "{connection_file}"],
    "display_name": "Bash",
    "language": "bash",
    "env": {"PYTHONPATH": "/workspace/packages:/.ship/jupyter:/.ship/kernel"},
}


def install(workspace: Path, prefix: str = ".local") -> None:
    """Put the kernel and its spec into a workspace."""
    for name in _PACKAGES:
        _copy(name, workspace / "packages")
    spec = workspace / prefix / "share/jupyter/kernels/bash"
    spec.mkdir(parents=True)
    (spec / "kernel.json").write_text(json.dumps(_SPEC))
    for path in workspace.rglob("*"):
        os.chown(path, 1000, 1000)


def _copy(name: str, target: Path) -> None:
    target.mkdir(exist_ok=True)
    spec = find_spec(name)
    assert spec is not None
    assert spec.origin is not None
    origin = Path(spec.origin)
    if origin.name == "__init__.py":
        shutil.copytree(origin.parent, target / name, ignore=shutil.ignore_patterns("__pycache__"))
    else:
        shutil.copyfile(origin, target / origin.name)


async def printed(handle: Handle, kernel: str, code: str) -> str:
    """What a cell printed; its end is the last line."""
    cell = f"cell-{secrets.token_hex(8)}"
    path = f"/kernels/{kernel}/cells/{cell}/events?follow=true"
    await call(endpoint_of(handle), "POST", f"/kernels/{kernel}/cells", {"id": cell, "code": code})
    reader, writer = await asyncio.open_unix_connection(endpoint_of(handle).socket_path)
    try:
        writer.write(f"GET {path} HTTP/1.0\r\nAuthorization: Bearer {TOKEN}\r\n\r\n".encode())
        async with asyncio.timeout(60):
            answer = await reader.read()
    finally:
        writer.close()
    events: list[dict[str, Any]] = [
        json.loads(line) for line in answer.partition(b"\r\n\r\n")[2].splitlines()
    ]
    return "".join(str(event.get("text") or event.get("message") or "") for event in events)


async def test_a_bash_kernel_runs_in_a_sandbox_by_its_spec(oci: DriverBench) -> None:
    spec = oci.spec()
    install(directory_of(spec.workspace))
    try:
        handle = await oci.start(spec)
        await call(endpoint_of(handle), "POST", "/kernels", {"id": "kern-bash", "spec": "bash"})

        assert await printed(handle, "kern-bash", "word=kept; cd /tmp; id -u") == "1000\n"
        assert await printed(handle, "kern-bash", "echo $word in $PWD") == "kept in /tmp\n"
        assert await printed(handle, "kern-bash", "echo /tmp/kernel-*") == "/tmp/kernel-*\n", (
            "no sockets lie about"
        )
    finally:
        await oci.driver.destroy(oci.handle(spec.session_id))


async def test_a_kernel_spec_beside_the_programs_of_path_is_found_as_conda_has_them(oci: DriverBench) -> None:
    env = {"PATH": "/workspace/conda/bin:/usr/bin:/bin"}
    spec = oci.spec(kernel_env=env)
    install(directory_of(spec.workspace), "conda")
    try:
        handle = await oci.start(spec)
        listed = await call(endpoint_of(handle), "GET", "/kernelspecs")
        assert [found["name"] for found in listed["items"]] == ["python3", "javascript", "bash"]
        await call(endpoint_of(handle), "POST", "/kernels", {"id": "kern-bash", "spec": "bash", "env": env})
        assert await printed(handle, "kern-bash", "echo ran") == "ran\n"
    finally:
        await oci.driver.destroy(oci.handle(spec.session_id))
