"""Checkpoints of a sprite, which are named after their numbers: `v1`, `v2` …"""

import re
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from typing import Annotated, Any, TypeVar

from fastapi import Query
from pydantic import BaseModel
from starlette.responses import JSONResponse, Response

from bay.clock import utc_now
from bay.errors import BayError, Conflict, HostError, NotFound
from bay.models import Checkpoint
from bay.server.checkpoints.requests import LIMIT
from bay.server.checkpoints.service import Checkpoints, NewCheckpoint
from bay.server.compat.routers import format_router
from bay.server.compat.sprites.streams import Line, whole
from bay.server.compat.sprites.wire import PREFIX, time_of
from bay.server.web.dependencies import Reader, Writer, service

router = format_router(PREFIX + "/{name}")

CheckpointsDep = Annotated[Checkpoints, service(Checkpoints)]

CURRENT = "Current"
"""The id of the present files, which stand among the checkpoints in a list."""

_ID = re.compile(r"v([1-9]\d{0,8})")

T = TypeVar("T")


class MakeCheckpoint(BaseModel):
    """The comment of a checkpoint. Null is as good as none."""

    comment: str | None = None


@router.post("/checkpoint")
async def create_checkpoint(
    caller: Writer, checkpoints: CheckpointsDep, name: str, body: MakeCheckpoint | None = None
) -> Response:
    """Make a checkpoint of the present files. Clients learn its id from the text of the lines."""
    new = NewCheckpoint(comment=(body and body.comment) or None)
    made = await _attempted(checkpoints.create(caller, name, new, None))
    return whole(_progress("Creating checkpoint...", made, _created))


@router.get("/checkpoints")
async def list_checkpoints(
    caller: Reader,
    checkpoints: CheckpointsDep,
    name: str,
    history: Annotated[str, Query(max_length=64)] = "",
) -> Response:
    """The present files, then the checkpoints, newest first; with `history` those that grew from that one."""
    found = await checkpoints.page(caller, name, auto=None, after=0, limit=LIMIT)
    shown = [one for one in _shown(found.items) if not history or history in one["history"]]
    return JSONResponse(shown)


@router.get("/checkpoints/{checkpoint_id}")
async def get_checkpoint(
    caller: Reader, checkpoints: CheckpointsDep, name: str, checkpoint_id: str
) -> Response:
    """One checkpoint, or the present files as `Current`."""
    found = await checkpoints.page(caller, name, auto=None, after=0, limit=LIMIT)
    shown = next((one for one in _shown(found.items) if one["id"] == checkpoint_id), None)
    if shown is None:
        raise NotFound(f"there is no checkpoint {checkpoint_id}; list them to see which there are")
    return JSONResponse(shown)


@router.delete("/checkpoints/{checkpoint_id}", status_code=204)
async def delete_checkpoint(
    caller: Writer, checkpoints: CheckpointsDep, name: str, checkpoint_id: str
) -> Response:
    """Remove a checkpoint; what grew from it stays."""
    await checkpoints.delete(caller, name, _ref_of(checkpoint_id))
    return Response(status_code=204)


@router.post("/checkpoints/{checkpoint_id}/restore")
async def restore_checkpoint(
    caller: Writer, checkpoints: CheckpointsDep, name: str, checkpoint_id: str
) -> Response:
    """Put the files back. A restore that fails is an error among the lines, and changes nothing."""
    restored = await _attempted(checkpoints.restore(caller, name, _ref_of(checkpoint_id)))
    done = f"Restored to checkpoint {checkpoint_id}"
    return whole(_progress(f"Restoring checkpoint {checkpoint_id}...", restored, lambda _: (done,)))


async def _attempted(act: Awaitable[T]) -> T | BayError:
    """The result of `act`, or why it failed once it had begun. Raises what the caller has to mend."""
    try:
        return await act
    except (Conflict, HostError) as error:
        return error


def _progress(begun: str, outcome: T | BayError, told: Callable[[T], Sequence[str]]) -> Iterator[Line]:
    yield _line("info", data=begun)
    if isinstance(outcome, BayError):
        yield _line("error", error=outcome.message)
        return
    texts = told(outcome)
    for text in texts:
        yield _line("info", data=text)
    yield _line("complete", data=texts[-1])


def _created(made: Checkpoint) -> Sequence[str]:
    return f"  ID: v{made.number}", f"Checkpoint v{made.number} created successfully"


def _line(kind: str, **said: str) -> Line:
    return {"type": kind, **said, "time": time_of(utc_now())}


def _ref_of(checkpoint_id: str) -> str | int:
    """The number in the id; a text that has none may be an id or a name of Bay's."""
    found = _ID.fullmatch(checkpoint_id)
    return int(found[1]) if found else checkpoint_id


def _shown(found: Iterable[Checkpoint]) -> list[dict[str, Any]]:
    by_id = {one.id: one for one in found}
    current = next((one for one in by_id.values() if one.current), None)
    present = _entry(CURRENT, current, by_id) | {"create_time": time_of(utc_now())}
    newest_first = sorted(by_id.values(), key=lambda one: one.number, reverse=True)
    return [present, *(_checkpoint(one, by_id) for one in newest_first)]


def _checkpoint(one: Checkpoint, by_id: dict[str, Checkpoint]) -> dict[str, Any]:
    told = {"create_time": time_of(one.created_at), "comment": one.comment or "", "is_auto": one.auto}
    return _entry(f"v{one.number}", by_id.get(one.parent_id or ""), by_id) | told


def _entry(known_as: str, parent: Checkpoint | None, by_id: dict[str, Checkpoint]) -> dict[str, Any]:
    """The entry with that id, of files that grew from `parent`."""
    ancestors: list[str] = []
    while parent is not None and len(ancestors) <= len(by_id):
        ancestors.append(f"v{parent.number}")
        parent = by_id.get(parent.parent_id or "")
    return {
        "id": known_as,
        "create_time": None,
        "source_id": ancestors[0] if ancestors else "",
        "comment": "",
        "history": ancestors[::-1],
        "is_auto": False,
        "health": None,
    }
