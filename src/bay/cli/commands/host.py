"""The commands `host`, `prepare-restart` and `settings` of `admin`: a Bay's host, and its settings."""

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING

import typer

from bay.cli.output import age, amount, dash, note, print_columns, print_fields, print_json, print_list
from bay.cli.state import JsonOption, connect
from bay.clock import utc_now

if TYPE_CHECKING:
    from bay.models import HostOverview, HostStorage, PreparedSandbox, SettingInForce, StartTimes


def host(ctx: typer.Context, as_json: JsonOption = False) -> None:
    """Show the host of the Bay that answers: load, memory, storage, starts, the sandboxes of all owners."""
    with connect(ctx) as client:
        found = client.admin.host()
    if as_json:
        print_json(found)
    else:
        print_fields(_fields(found))


def prepare_restart(ctx: typer.Context, as_json: JsonOption = False) -> int:
    """Hibernate all sandboxes that may, so that their memory outlives a restart of the host, and list all."""
    with connect(ctx) as client:
        found = client.admin.prepare_restart()
    if as_json:
        print_json(found)
    else:
        heads = ("SANDBOX", "NAME", "OWNER", "COMPUTE", "MEMORY", "SIZE", "REASON")
        print_columns(heads, map(_prepared_row, found.items))
        note(f"{found.kept} kept, {found.refused} refused, {found.left} left; stop Bay and restart the host")
    return 1 if found.refused else 0


def settings(ctx: typer.Context, as_json: JsonOption = False) -> None:
    """List the settings in force and where each comes from; of a secret only whether it is set."""
    with connect(ctx) as client:
        found = client.admin.settings()
    print_list(found, as_json, ("SETTING", "VALUE", "FROM"), _setting_row)


def _fields(found: "HostOverview") -> dict[str, str]:
    memory, sandboxes = found.memory, found.sandboxes
    available = f"{amount(memory.available_bytes)} of {amount(memory.total_bytes)} available"
    return {
        "bay": f"{found.version}, up {age(found.started_at, utc_now())}",
        "driver": found.driver,
        "replica": dash(found.replica),
        "processors": str(found.processors),
        "load": " ".join(f"{one:.2f}" for one in found.load),
        "memory": f"{available}, reserve {amount(memory.reserve_bytes)}",
        "storage": _storage(found.storage),
        "sandboxes": _counts(sandboxes.total, sandboxes.by_status),
        "compute": _counts(sandboxes.sessions, sandboxes.by_compute),
        "pools": f"{sandboxes.pooled} waiting, {found.pool_hits} hits, {found.pool_misses} misses",
        "starts": _starts(found.starts),
    }


def _storage(found: "HostStorage | None") -> str:
    if found is None:
        return "-"
    return f"{found.backend}, {amount(found.free_bytes)} of {amount(found.total_bytes)} free"


def _counts(total: int, parts: Mapping[str, int]) -> str:
    words = ", ".join(f"{count} {word}" for word, count in sorted(parts.items()) if count)
    return f"{total} ({words})" if words else str(total)


def _starts(found: "StartTimes") -> str:
    """The number and the mean, and the bound of the bucket in which the slowest twentieth begins."""
    if not found.count:
        return "0"
    passed = 0
    for bucket in found.buckets:
        passed += bucket.count
        if passed >= 0.95 * found.count:
            bound = "longer than all bounds" if bucket.le_s is None else f"within {bucket.le_s:g} s"
            return f"{found.count}, {found.sum_s / found.count:.3f} s on average, 95 % {bound}"
    return str(found.count)


def _prepared_row(one: "PreparedSandbox") -> tuple[str, ...]:
    size = "-" if one.memory_bytes is None else amount(one.memory_bytes)
    return (one.sandbox_id, dash(one.name), one.owner, one.compute, one.memory, size, dash(one.reason))


def _setting_row(setting: "SettingInForce") -> tuple[str, ...]:
    return (setting.name, _value(setting), dash(setting.origin))


def _value(setting: "SettingInForce") -> str:
    if setting.is_secret:
        return "(set)" if setting.is_set else "-"
    if setting.value is None or isinstance(setting.value, str):
        return dash(setting.value)
    return json.dumps(setting.value, ensure_ascii=False)
