"""The routes `/v1/templates`: named images of sandboxes, from which others start."""

from typing import Annotated, Any

from fastapi import Query, Response
from pydantic import Field, StringConstraints, model_validator

from bay.builds.written import MAX_STEPS
from bay.models import Pull, Sizes, Template
from bay.server.secrets.bodies import SecretBody
from bay.server.secrets.rules import MAX_IN_SANDBOX, checked
from bay.server.templates.build_spec import STEP_S, BuildSpec
from bay.server.templates.service import LATEST, MAX_POOL, NewTemplate, Templates
from bay.server.web.bodies import DURATION, Body, Most
from bay.server.web.dependencies import (
    Env,
    IdempotencyKey,
    Limit,
    Paging,
    Reader,
    Wait,
    Word,
    Writer,
    noun_router,
    service,
)
from bay.server.web.replies import PageOf, WireResponse

router = noun_router("templates", "/v1/templates")

TemplatesDep = Annotated[Templates, service(Templates)]

_SHELL = ("/bin/sh", "-c")
Command = (
    Annotated[str, StringConstraints(min_length=1, max_length=32_768, pattern=r"^[^\x00]*$")]
    | Annotated[tuple[Word, ...], Most(256), Field(min_length=1)]
)
Line = Annotated[str, StringConstraints(max_length=131_072, pattern=r"^[^\x00]*$")]
Label = Annotated[str, StringConstraints(min_length=1, max_length=256, pattern=r"^[^\x00]*$")]
Nanoseconds = Annotated[int, Field(ge=0, le=1 << 62)]
PoolSize = Annotated[
    int, Field(ge=0, le=MAX_POOL, description="Started sandboxes of it that wait for creates")
]
PoolMax = Annotated[
    int | None,
    Field(ge=0, le=MAX_POOL, description="As many of them at most, as creates come fast; null: `pool_size`"),
]
Shared = Annotated[bool, Field(description="Let every owner use it; needs an admin key")]


class EmptyBody(Body):
    """An object without fields, as an OCI config has them."""


class HealthcheckBody(Body):
    """HEALTHCHECK of an image; times are in nanoseconds."""

    Test: Annotated[tuple[Line, ...], Most(256)] | None = None
    Interval: Nanoseconds | None = None
    Timeout: Nanoseconds | None = None
    StartPeriod: Nanoseconds | None = None
    StartInterval: Nanoseconds | None = None
    Retries: Annotated[int | None, Field(ge=0, le=1_000_000)] = None


class ImageConfigBody(Body):
    """The fields of `config` in an OCI image's config that may be changed; omitted ones stay."""

    Env: Annotated[tuple[Line, ...], Most(1024), Field(description="NAME=VALUE each")] | None = None
    User: Annotated[str | None, Field(max_length=256)] = None
    WorkingDir: Annotated[str | None, Field(max_length=4095)] = None
    Entrypoint: Annotated[tuple[Line, ...], Most(1024)] | None = None
    Cmd: Annotated[tuple[Line, ...], Most(1024)] | None = None
    StopSignal: Annotated[str | None, Field(max_length=32)] = None
    ExposedPorts: (
        Annotated[dict[Label, EmptyBody], Most(1024), Field(description="Such as 80/tcp")] | None
    ) = None
    Labels: Annotated[dict[Label, Line], Most(1024)] | None = None
    Healthcheck: HealthcheckBody | None = None


class CopyStep(Body):
    """Files of the context, and where they go."""

    sources: Annotated[tuple[Line, ...], Most(1024), Field(min_length=1)]
    target: Annotated[str, Field(min_length=1, max_length=4095)]
    owner: Annotated[str, Field(max_length=257, description="user[:group], by name or number")] = ""
    mode: Annotated[str | None, Field(max_length=5, description="Octal digits, such as 755")] = None


class StepBody(Body):
    """One step, with one of the fields."""

    run: Annotated[
        Line | Annotated[tuple[Line, ...], Most(1024)] | None,
        Field(description="A text for /bin/sh, or a list"),
    ] = None
    copy_: Annotated[CopyStep | None, Field(alias="copy")] = None
    env: Annotated[dict[Label, Line], Most(1024)] | None = None
    workdir: Annotated[str | None, Field(max_length=4095)] = None
    user: Annotated[str | None, Field(max_length=257)] = None
    start_command: Line | None = None

    def to_step(self) -> dict[str, Any]:
        """The step as `bay.builds` reads it."""
        return self.model_dump(mode="json", by_alias=True, exclude_unset=True)


class BuildFields(Body):
    """The part of a create that builds."""

    dockerfile: Annotated[
        str | None, Field(min_length=1, max_length=1 << 20, description="The text of a Dockerfile")
    ] = None
    image: Annotated[
        str | None, Field(max_length=512, description="The image that `steps` begin with: id or reference")
    ] = None
    steps: Annotated[tuple[StepBody, ...], Most(MAX_STEPS)] | None = None
    args: Annotated[dict[Label, Line], Most(1024), Field(description="Values of ARGs")] = Field(
        default_factory=dict
    )
    secrets: Annotated[
        tuple[SecretBody, ...], Field(description="Secrets that the commands are given"), Most(MAX_IN_SANDBOX)
    ] = ()
    pull: Annotated[Pull, Field(description="Whether the base image is fetched")] = "missing"
    step_timeout: Annotated[
        int, Field(ge=1, le=86_400, description="Seconds that one step may take"), DURATION
    ] = STEP_S
    context: Annotated[
        bool, Field(description="Files follow by `PUT …/context`; the build waits an hour for them")
    ] = False

    def to_build(self) -> BuildSpec | None:
        """The build, if it is one."""
        if self.dockerfile is None and self.steps is None:
            return None
        return BuildSpec(
            dockerfile=self.dockerfile,
            image=self.image,
            steps=None if self.steps is None else tuple(step.to_step() for step in self.steps),
            args=self.args,
            secrets=checked(tuple(one.to_noun() for one in self.secrets), {}),
            pull=self.pull,
            step_timeout_s=self.step_timeout,
            context="awaited" if self.context else "none",
        )


class CreateTemplate(BuildFields):
    """The source of the template, and how its sandboxes begin: a sandbox, a Dockerfile, or an image and
    steps. Sizes that are omitted are the sandbox's, of a build the profile's.
    """

    name: Annotated[str, Field(max_length=63, description="a-z, 0-9 and inner hyphens")]
    tag: Annotated[str, Field(max_length=63)] = LATEST
    sandbox: Annotated[
        str | None, Field(max_length=64, description="Id or name of the sandbox to freeze")
    ] = None
    shared: Shared = False
    profile: Annotated[
        str | None, Field(max_length=128, description="Profile of its sandboxes; default: the sandbox's")
    ] = None
    start_command: Annotated[
        Command | None,
        Field(description="Runs in each sandbox as the service `main`; a text by /bin/sh, a list as it is"),
    ] = None
    ready_command: Annotated[
        Command | None, Field(description="Health check of `main`, which serves once this ends with 0")
    ] = None
    cpus: Annotated[float | None, Field(ge=0.01, le=1024, allow_inf_nan=False)] = None
    memory_mb: Annotated[int | None, Field(ge=64, le=1 << 30)] = None
    disk_mb: Annotated[int | None, Field(ge=16, le=1 << 30)] = None
    pids: Annotated[int | None, Field(ge=16, le=1_000_000)] = None
    env: Annotated[Env, Field(description="Variables of its sandboxes, below those of the create")] = Field(
        default_factory=dict
    )
    user: Annotated[
        str | None,
        Field(
            max_length=256, pattern=r"^[^\s:/\x00-\x1f\x7f]{1,128}(:[^\s:/\x00-\x1f\x7f]{1,128})?$",
            description="USER of its image, for profiles with `user: image`",
        ),
    ] = None  # fmt: skip
    working_dir: Annotated[
        str | None,
        Field(max_length=4095, pattern=r"^/[^\x00]*$", description="WORKDIR of its image, absolute"),
    ] = None
    pool_size: PoolSize = 0
    pool_max: PoolMax = None

    config: Annotated[
        ImageConfigBody | None,
        Field(description="Changes to the image's config, in the form of an OCI image's"),
    ] = None

    @model_validator(mode="after")
    def _something_to_be_ready(self) -> "CreateTemplate":
        if self.ready_command is not None and self.start_command is None:
            raise ValueError("ready_command says when start_command serves; give that as well")
        return self

    @model_validator(mode="after")
    def _one_source(self) -> "CreateTemplate":
        given = [name for name in ("sandbox", "dockerfile", "steps") if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError("give one of sandbox, dockerfile and steps")
        if (self.steps is None) != (self.image is None):
            raise ValueError("image and steps belong together")
        if self.sandbox is not None and (unfit := self.model_fields_set & BuildFields.model_fields.keys()):
            raise ValueError(f"{min(unfit)} is for builds; leave it out, or give dockerfile or steps")
        if self.sandbox is None and self.config is not None:
            raise ValueError("config is for a sandbox; the Dockerfile or the steps say it of a build")
        return self

    def to_new(self) -> NewTemplate:
        """The class that the service takes."""
        own = {"start_command", "ready_command", "cpus", "memory_mb", "disk_mb", "pids", "config"}
        return NewTemplate(
            **self.model_dump(exclude=own | BuildFields.model_fields.keys()),
            build=self.to_build(),
            config=self.config and self.config.model_dump(mode="json", exclude_unset=True),
            start_command=_argv(self.start_command),
            ready_command=_argv(self.ready_command),
            sizes=Sizes(cpus=self.cpus, memory_mb=self.memory_mb, disk_mb=self.disk_mb, pids=self.pids),
        )


class UpdateTemplate(Body):
    """The fields to change; omitted ones stay."""

    tag: Annotated[str, Field(max_length=63, description="Taken from another template of the same name")] = (
        LATEST
    )
    shared: Shared = False
    pool_size: PoolSize = 0
    pool_max: PoolMax = None


class AddAlias(Body):
    """One more name of a template."""

    name: Annotated[str, Field(max_length=63, description="a-z, 0-9 and inner hyphens")]
    tag: Annotated[str, Field(max_length=63)] = LATEST


class TemplateList(PageOf[Template]):
    """A page of templates, oldest first."""


@router.post("", status_code=201, response_model=Template)
async def create_template(
    caller: Writer,
    templates: TemplatesDep,
    body: CreateTemplate,
    wait: Wait = None,
    idempotency_key: IdempotencyKey = None,
) -> WireResponse:
    """Make a template of a sandbox as it is. Answers at once, or with `wait` when it is ready or failed."""
    made = await templates.create(caller, body.to_new(), wait_s=wait or 0, idempotency_key=idempotency_key)
    return WireResponse(made, 201)


@router.get("", response_model=TemplateList)
async def list_templates(
    caller: Reader,
    templates: TemplatesDep,
    paging: Paging,
    limit: Limit = 50,
    name: Annotated[str | None, Query(max_length=63, description="Only those of this name")] = None,
) -> WireResponse:
    """Your templates and shared ones, oldest first."""
    page = await templates.page(caller, name=name, after=paging.after, limit=limit)
    return WireResponse(paging.reply(page))


@router.get("/{template_ref}", response_model=Template)
async def get_template(
    caller: Reader, templates: TemplatesDep, template_ref: str, wait: Wait = None
) -> WireResponse:
    """One template, by id, `name` or `name:tag`. With `wait`, once it is ready or failed."""
    return WireResponse(await templates.get(caller, template_ref, wait or 0))


@router.patch("/{template_ref}", response_model=Template)
async def update_template(
    caller: Writer, templates: TemplatesDep, template_ref: str, body: UpdateTemplate
) -> WireResponse:
    """Change its tag, who may use it, or its pool."""
    return WireResponse(await templates.update(caller, template_ref, body.model_dump(exclude_unset=True)))


@router.post("/{template_ref}/aliases", response_model=Template)
async def add_alias(
    caller: Writer, templates: TemplatesDep, template_ref: str, body: AddAlias
) -> WireResponse:
    """Have it be found by one more name and tag, which any other template loses."""
    return WireResponse(await templates.add_alias(caller, template_ref, body.name, body.tag))


@router.delete("/{template_ref}", status_code=204)
async def delete_template(caller: Writer, templates: TemplatesDep, template_ref: str) -> Response:
    """Remove a template that no sandbox needs, or one name of several; a second call by id succeeds too."""
    await templates.delete(caller, template_ref)
    return Response(status_code=204)


def _argv(command: str | tuple[str, ...] | None) -> tuple[str, ...] | None:
    return (*_SHELL, command) if isinstance(command, str) else command
