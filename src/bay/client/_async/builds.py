"""Builds of templates: the server does the steps; the client sends the files, and follows the log."""

import codecs
from collections.abc import AsyncGenerator
from contextlib import aclosing, suppress
from os import PathLike
from pathlib import Path

from bay.client._async.http import AsyncHttp
from bay.client._async.transfer import streamed
from bay.client._build_body import BuildOptions, OnLog, Recipe, check_ref
from bay.client._calls import Call
from bay.client._follow import Patience
from bay.client._local import Meter
from bay.client._options import known
from bay.client._paths import noun_path
from bay.client._seam import async_cleanup, async_in_thread, async_sleep
from bay.errors import BayError
from bay.models import Template


async def begin_build(
    http: AsyncHttp, context: str | PathLike[str], name: str, options: BuildOptions
) -> Template:
    """Ask for a build, and send the files that its steps may copy."""
    known("build", options, BuildOptions)
    check_ref(name)
    recipe = await async_in_thread(Recipe.of, Path(context), options)
    made = await http.one(Template, Call.once("/v1/templates", recipe.body(name, options), None))
    if recipe.files:
        meter = Meter(None, None)
        call = Call(
            "PUT",
            noun_path("templates", made.id, "context"),
            headers={"Content-Type": "application/x-tar"},
        )
        try:
            await http.json(call, streamed(lambda: recipe.stream(meter), meter, counted=False))
        except BaseException:
            await cancel_build(http, made.id)
            raise
    return made


async def follow_build(http: AsyncHttp, ref: str, log: OnLog, *, to_the_end: bool = True) -> None:
    """Give the log to `log` as it comes, until the build has ended; else as far as it has come."""
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    async with aclosing(_logged(http, ref, to_the_end)) as pieces:
        async for data in pieces:
            log(decoder.decode(data))


async def _logged(http: AsyncHttp, ref: str, to_the_end: bool) -> AsyncGenerator[bytes, None]:
    """The log, over as many connections as it takes. An error of its reader is none of a connection."""
    at = 0
    patience = Patience(http.config.retry_s)
    while True:
        params: dict[str, int | bool] = {"since": at, "follow": to_the_end}
        try:
            async with http.stream(Call.get(noun_path("templates", ref, "log"), params)) as response:
                patience.opened()
                async for data in response.aiter_bytes():
                    at += len(data)
                    patience.renew()
                    yield data
            if not to_the_end or not await _is_building(http, ref):
                return  # else Bay has ended the answer, and not the build
        except BayError as error:
            await async_sleep(patience.pause(error))


async def _is_building(http: AsyncHttp, ref: str) -> bool:
    return (await http.one(Template, Call.get(noun_path("templates", ref)))).state == "building"


async def cancel_build(http: AsyncHttp, template_id: str) -> None:
    """End a build whose caller leaves, and delete its template."""
    with async_cleanup(), suppress(BayError):  # the caller's own error is told
        await http.json(Call("DELETE", noun_path("templates", template_id)))
