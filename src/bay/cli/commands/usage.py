"""The command `usage`: the resources that a sandbox uses."""

from typing import TYPE_CHECKING, Annotated

import typer

from bay.cli.complete import NameArgument
from bay.cli.output import amount, dash, print_fields, print_json
from bay.cli.state import JsonOption, connect_box, duration_option, seconds

if TYPE_CHECKING:
    from bay.models import SandboxUsage


def usage(
    ctx: typer.Context,
    name: NameArgument,
    over: Annotated[
        float, duration_option("How long to measure the use of processors, up to 10s.", seconds)
    ] = 0.2,
    as_json: JsonOption = False,
) -> None:
    """Show the processors, memory, processes and disk that a sandbox uses."""
    with connect_box(ctx, name) as box:
        found = box.usage(over)
    print_json(found) if as_json else print_fields(_fields(found))


def _fields(found: "SandboxUsage") -> dict[str, str]:
    time = "-" if found.cpu_usec is None else f"{found.cpu_usec / 1_000_000:.1f}s"
    return {
        "cpus": f"{cores(found.cpus_used)} of {cores(found.cpus)}",
        "cpu time": time,
        "memory": f"{amount(found.memory_bytes)} of {amount(found.memory_limit_bytes)}",
        "cache": amount(found.memory_cache_bytes),
        "pids": f"{dash(found.pids)} of {dash(found.pids_limit)}",
        "disk": f"{amount(found.disk_bytes)} of {amount(found.disk_limit_bytes)}",
    }


def cores(count: float | None) -> str:
    """A number of cores, for people."""
    return "-" if count is None else f"{count:.2f}".rstrip("0").rstrip(".")
