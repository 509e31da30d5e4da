"""The routes of envd's `filesystem.Filesystem`: parse, one call of the service, format."""

from collections.abc import Mapping
from typing import Annotated, Any

from fastapi import Request
from starlette.responses import Response

from bay.server.compat.e2b.connect import answered, streamed
from bay.server.compat.e2b.entries import entry_of, list_of
from bay.server.compat.e2b.envd_requests import ENVD, user_of
from bay.server.compat.e2b.file_service import KEEPALIVE, EnvdFiles
from bay.server.compat.e2b.messages import Message
from bay.server.compat.e2b.watchers import EnvdWatchers
from bay.server.compat.routers import format_router
from bay.server.web.dependencies import Reader, Writer, service
from ship_protocol import LISTED_DEPTH

router = format_router(f"{ENVD}/filesystem.Filesystem")

EnvdFilesDep = Annotated[EnvdFiles, service(EnvdFiles)]
EnvdWatchersDep = Annotated[EnvdWatchers, service(EnvdWatchers)]


@router.post("/Stat")
async def envd_stat(caller: Reader, files: EnvdFilesDep, sandbox_id: str, request: Request) -> Response:
    """The entry at a path."""

    async def call(asked: Message) -> Mapping[str, Any]:
        found = await files.stat(caller, sandbox_id, user_of(request), _path(asked))
        return {"entry": entry_of(found)}

    return await answered(request, call)


@router.post("/MakeDir")
async def envd_make_directory(
    caller: Writer, files: EnvdFilesDep, sandbox_id: str, request: Request
) -> Response:
    """A new directory."""

    async def call(asked: Message) -> Mapping[str, Any]:
        made = await files.make_directory(caller, sandbox_id, user_of(request), _path(asked))
        return {"entry": entry_of(made)}

    return await answered(request, call)


@router.post("/Move")
async def envd_move(caller: Writer, files: EnvdFilesDep, sandbox_id: str, request: Request) -> Response:
    """Another path for a file or directory."""

    async def call(asked: Message) -> Mapping[str, Any]:
        source, destination = asked.text("source"), asked.text("destination")
        moved = await files.move(caller, sandbox_id, user_of(request), source, destination)
        return {"entry": entry_of(moved)}

    return await answered(request, call)


@router.post("/ListDir")
async def envd_list(caller: Reader, files: EnvdFilesDep, sandbox_id: str, request: Request) -> Response:
    """The entries below a directory."""

    async def call(asked: Message) -> bytes:
        depth = min(asked.number("depth") or 1, LISTED_DEPTH)
        found = await files.list_directory(caller, sandbox_id, user_of(request), _path(asked), depth)
        return await list_of(found)

    return await answered(request, call)


@router.post("/Remove")
async def envd_remove(caller: Writer, files: EnvdFilesDep, sandbox_id: str, request: Request) -> Response:
    """Nothing at a path."""

    async def call(asked: Message) -> Mapping[str, Any]:
        await files.remove(caller, sandbox_id, user_of(request), _path(asked))
        return {}

    return await answered(request, call)


@router.post("/WatchDir")
async def envd_watch(caller: Reader, files: EnvdFilesDep, sandbox_id: str, request: Request) -> Response:
    """The stream of a directory's events."""
    return await streamed(
        request,
        lambda asked: files.watch(
            caller,
            sandbox_id,
            user_of(request),
            _path(asked),
            recursive=asked.flag("recursive"),
            entries=asked.flag("include_entry"),
        ),
        KEEPALIVE,
    )


@router.post("/CreateWatcher")
async def envd_create_watcher(
    caller: Reader, watchers: EnvdWatchersDep, sandbox_id: str, request: Request
) -> Response:
    """A watcher that keeps a directory's events for a client that asks."""

    async def call(asked: Message) -> Mapping[str, Any]:
        made = await watchers.create(
            caller,
            sandbox_id,
            user_of(request),
            _path(asked),
            recursive=asked.flag("recursive"),
            entries=asked.flag("include_entry"),
        )
        return {"watcherId": made}

    return await answered(request, call)


@router.post("/GetWatcherEvents")
async def envd_watcher_events(
    caller: Reader, watchers: EnvdWatchersDep, sandbox_id: str, request: Request
) -> Response:
    """The events since the last question."""

    async def call(asked: Message) -> Mapping[str, Any]:
        return {"events": await watchers.events(caller, sandbox_id, asked.text("watcher_id"))}

    return await answered(request, call)


@router.post("/RemoveWatcher")
async def envd_remove_watcher(
    caller: Reader, watchers: EnvdWatchersDep, sandbox_id: str, request: Request
) -> Response:
    """The end of a watcher."""

    async def call(asked: Message) -> Mapping[str, Any]:
        await watchers.remove(caller, sandbox_id, asked.text("watcher_id"))
        return {}

    return await answered(request, call)


def _path(asked: Message) -> str:
    return asked.text("path") or "."
