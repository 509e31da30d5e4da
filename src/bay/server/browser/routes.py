"""The routes `…/browser`: commands to the sandbox's browser, and what they left."""

from typing import Annotated

from fastapi import Path, Request
from pydantic import Field, StringConstraints, model_validator

from bay.models import BrowserBatch, BrowserReplay, BrowserResult, BrowserTrace
from bay.server.browser.replays import MAX_CMD, MOST_COMMANDS
from bay.server.browser.service import BrowserOptions, Browsers
from bay.server.web.bodies import DURATION, Body, Description, Most, Tags
from bay.server.web.concurrency import while_connected
from bay.server.web.dependencies import Reader, Writer, noun_router, service
from bay.server.web.replies import WireResponse

router = noun_router("browser", "/v1/sandboxes/{sandbox_id}/browser")

BrowsersDep = Annotated[Browsers, service(Browsers)]

_MAX_CMDS = 256 << 10
Cmd = Annotated[str, StringConstraints(min_length=1, max_length=MAX_CMD, pattern=r"^[^\x00]*$")]
Learn = Annotated[bool, Field(description="Store a trace that a skill can be made of")]
IncludeTrace = Annotated[bool, Field(description="Store a trace and name it in the answer")]
StopOnError = Annotated[bool, Field(description="Run nothing after a command that failed")]
BatchTimeout = Annotated[int, Field(ge=1, le=600, description="Seconds for all commands together"), DURATION]
SkillKey = Annotated[str, Path(max_length=255, description="The key of a skill")]
TraceRef = Annotated[str, Path(max_length=64, description="The `trace_ref` of an answer")]


class RunBrowser(Body):
    """A command for the browser."""

    cmd: Annotated[Cmd, Field(description="As behind `agent-browser` on a command line")]
    timeout: Annotated[int, Field(ge=1, le=300, description="Seconds"), DURATION] = 30
    description: Description = None
    tags: Tags = None
    learn: Learn = False
    include_trace: IncludeTrace = False


class RunBrowserBatch(Body):
    """Commands for the browser, one after the other."""

    commands: Annotated[list[Cmd], Field(min_length=1), Most(MOST_COMMANDS)]
    timeout: BatchTimeout = 60
    stop_on_error: StopOnError = True
    description: Description = None
    tags: Tags = None
    learn: Learn = False
    include_trace: IncludeTrace = False

    @model_validator(mode="after")
    def _bounded(self) -> "RunBrowserBatch":
        if sum(map(len, self.commands)) > _MAX_CMDS:
            raise ValueError(f"commands have more than {_MAX_CMDS} characters together; send several batches")
        return self


class RunBrowserSkill(Body):
    """How to run a skill."""

    timeout: BatchTimeout = 60
    stop_on_error: StopOnError = True
    include_trace: IncludeTrace = False
    description: Description = None
    tags: Tags = None


@router.post("/exec", response_model=BrowserResult)
async def browser_exec(
    caller: Writer, browsers: BrowsersDep, sandbox_id: str, body: RunBrowser, request: Request
) -> WireResponse:
    """Run a command in the sandbox's browser. One runs at a time, and ends when its client disconnects."""
    options = BrowserOptions(
        timeout_s=body.timeout,
        description=body.description,
        tags=body.tags,
        learn=body.learn,
        include_trace=body.include_trace,
    )
    running = browsers.exec(caller, sandbox_id, body.cmd, options)
    return WireResponse(await while_connected(request, running))


@router.post("/exec_batch", response_model=BrowserBatch)
async def browser_exec_batch(
    caller: Writer, browsers: BrowsersDep, sandbox_id: str, body: RunBrowserBatch, request: Request
) -> WireResponse:
    """Run commands one after the other within one time limit; a failed one is an answer, not an error."""
    options = BrowserOptions(
        timeout_s=body.timeout,
        description=body.description,
        tags=body.tags,
        learn=body.learn,
        include_trace=body.include_trace,
    )
    running = browsers.batch(caller, sandbox_id, body.commands, options, stop_on_error=body.stop_on_error)
    return WireResponse(await while_connected(request, running))


@router.post("/skills/{skill_key:path}/run", response_model=BrowserReplay)
async def run_browser_skill(
    caller: Writer,
    browsers: BrowsersDep,
    sandbox_id: str,
    skill_key: SkillKey,
    request: Request,
    body: RunBrowserSkill | None = None,
) -> WireResponse:
    """Run the commands of a skill's active release as a batch; 404 without one."""
    given = body or RunBrowserSkill()
    options = BrowserOptions(
        timeout_s=given.timeout,
        description=given.description,
        tags=given.tags,
        include_trace=given.include_trace,
    )
    running = browsers.run_skill(caller, sandbox_id, skill_key, options, stop_on_error=given.stop_on_error)
    return WireResponse(await while_connected(request, running))


@router.get("/traces/{trace_ref}", response_model=BrowserTrace)
async def get_browser_trace(
    caller: Reader, browsers: BrowsersDep, sandbox_id: str, trace_ref: TraceRef
) -> WireResponse:
    """A stored trace."""
    return WireResponse(await browsers.trace(caller, sandbox_id, trace_ref))
