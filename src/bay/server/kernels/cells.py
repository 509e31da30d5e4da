"""Cells of kernels as the history keeps them."""

from dataclasses import replace
from datetime import datetime

from bay.models import CellStatus, Exec

MAX_CELL_BYTES = 48 << 20
"""Most that is read of one cell which is wanted as a whole: three times as much as Ship keeps of one."""


def ended_row(row: Exec, status: CellStatus | None, at: datetime) -> Exec:
    """The row of code in a kernel that has ended: as of a process that exits with 1 unless all went well."""
    exit_code = 0 if status == "ok" else 1
    return replace(row, state="exited", exit_code=exit_code, timed_out=status == "timeout", ended_at=at)
