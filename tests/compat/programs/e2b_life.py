"""The life of sandboxes by the Python SDK of E2B: what a program that manages them does."""

import os
from datetime import timedelta

from e2b import Sandbox, SandboxNotFoundException, SandboxQuery, SandboxState, Template

os.environ.setdefault("E2B_API_KEY", os.environ["BAY_API_KEY"])
os.environ.setdefault("E2B_API_URL", os.environ["BAY_URL"] + "/e2b")
os.environ.setdefault("E2B_SANDBOX_URL", os.environ["BAY_URL"])

metadata = {"user name": "a b/c=&%", "kind": "life"}
sandbox = Sandbox.create(timeout=300, metadata=metadata, envs={"COLOUR": "red"})
assert sandbox.is_running()
info = sandbox.get_info()
assert info.sandbox_id == sandbox.sandbox_id
assert info.metadata == metadata
assert info.state == SandboxState.RUNNING
assert info.template_id == "base"
assert sandbox.get_host(3000).startswith(f"3000-{sandbox.sandbox_id}.")

other = Sandbox.create("code-interpreter-v1", metadata={"kind": "other"})
found = Sandbox.list(query=SandboxQuery(metadata=metadata)).next_items()
assert [item.sandbox_id for item in found] == [sandbox.sandbox_id]
pages = Sandbox.list(limit=1)
listed = []
while pages.has_next:
    listed += [item.sandbox_id for item in pages.next_items()]
assert listed[:2] == [other.sandbox_id, sandbox.sandbox_id]
late = Sandbox.list(query=SandboxQuery(started_after=other.get_info().started_at)).next_items()
assert [item.sandbox_id for item in late] == [other.sandbox_id]

sandbox.set_timeout(60)
near = sandbox.get_info().end_at
Sandbox.connect(sandbox.sandbox_id, timeout=30)
assert sandbox.get_info().end_at == near
Sandbox.connect(sandbox.sandbox_id, timeout=400)
assert sandbox.get_info().end_at > near

assert sandbox.commands.run("echo $COLOUR").stdout == "red\n"
sandbox.pause()
assert not sandbox.is_running()
kept = [one.timestamp for one in sandbox.get_metrics()]
assert [one.timestamp for one in sandbox.get_metrics()] == kept  # none is of now
assert Sandbox.get_info(sandbox.sandbox_id).state == SandboxState.PAUSED
again = sandbox.connect()
assert again.is_running()

snapshot = sandbox.create_snapshot()
for name in (None, snapshot.snapshot_id):
    [found] = Sandbox.list_snapshots(name=name).next_items()
    assert found.snapshot_id == snapshot.snapshot_id
assert Template.exists("base")
assert not Template.exists("no-such")
copy = Sandbox.create(snapshot.snapshot_id)
assert copy.is_running()
assert Sandbox.delete_snapshot(snapshot.snapshot_id)
*_, now = sandbox.get_metrics()
assert (now.cpu_count, now.mem_total) == (info.cpu_count, info.memory_mb << 20), now
assert 0 <= now.cpu_used_pct <= 100
assert 0 < now.mem_used <= now.mem_total
assert 0 <= now.disk_used <= now.disk_total
an_hour = timedelta(hours=1)
assert sandbox.get_metrics(now.timestamp - an_hour, now.timestamp + an_hour)[-1].timestamp >= now.timestamp
assert sandbox.get_metrics(end=now.timestamp - an_hour) == []

for one in (copy, other, sandbox):
    assert one.kill()
assert not Sandbox.kill(sandbox.sandbox_id)
assert not sandbox.is_running()
try:
    Sandbox.connect(sandbox.sandbox_id)
    raise AssertionError("a killed sandbox was connected to")
except SandboxNotFoundException:
    pass
print("done")
