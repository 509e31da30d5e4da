"""Rows of the history for code that ran in a kernel."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime

from bay.cell_output import python_result
from bay.models import CellEvent, CellStatus, Exec, PythonResult
from bay.store import execs, history
from bay.store.deferred import DeferredWrites


def begun_row(cell_id: str, at: datetime) -> Exec:
    """The row of code that begins to run as the cell of that id."""
    return Exec(
        id=cell_id, argv=("python",), pid=None, tty=False, state="running", exit_code=None, signal=None,
        started_at=at, ended_at=None, output_bytes=0, first_offset=0,
    )  # fmt: skip


def write_end(
    deferred: DeferredWrites, session_id: str, row: Exec, events: Sequence[CellEvent], status: CellStatus | None,
    at: datetime,
) -> PythonResult:  # fmt: skip
    """Write soon what came of it, as of a process that exits with 1 unless all went well; and return that."""
    result = python_result(row.id, events)
    outcome = history.outcome_of(result)
    exit_code = 0 if status == "ok" else 1
    ended = replace(row, state="exited", exit_code=exit_code, timed_out=status == "timeout", ended_at=at)
    deferred.put(lambda db: history.finish(db, session_id, outcome))
    deferred.put(lambda db: execs.save(db, session_id, ended))
    return result
