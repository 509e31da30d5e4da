"""The routes `/v1/images`: root file systems that sandboxes start from."""

from contextlib import AsyncExitStack
from typing import Annotated

from fastapi import Query, Request, Response
from pydantic import Field
from starlette.responses import StreamingResponse

from bay.models import ContainerImage, Pull
from bay.server.images.service import Images, WantedImage
from bay.server.web.bodies import DURATION, Body, raw_body
from bay.server.web.dependencies import (
    IdempotencyKey,
    Limit,
    Paging,
    Reader,
    Wait,
    Writer,
    noun_router,
    service,
)
from bay.server.web.replies import HeldResponse, Items, PageOf, WireResponse, download_headers

router = noun_router("images", "/v1/images")

ImagesDep = Annotated[Images, service(Images)]

Ref = Annotated[
    str,
    Field(
        min_length=1, max_length=512, description="Such as `debian:13` or `registry.example.com/app@sha256:…`"
    ),
]
Shared = Annotated[bool, Field(description="Let every owner use it; needs an admin key")]


class PullImage(Body):
    """The image to fetch."""

    ref: Ref
    pull: Annotated[
        Pull,
        Field(description="`always` asks the registry; `missing` and `never` take an image that is here"),
    ] = "always"
    shared: Shared = False


class PruneImages(Body):
    """Which unused images to remove."""

    unused_for: Annotated[
        int, Field(ge=0, description="Seconds since a sandbox last started from it"), DURATION
    ] = 0


class ImageList(PageOf[ContainerImage]):
    """A page of images, oldest first."""


class PrunedImages(Items[ContainerImage]):
    """The removed images."""


@router.post("", status_code=201, response_model=ContainerImage)
async def pull_image(
    caller: Writer,
    images: ImagesDep,
    body: PullImage,
    wait: Wait = None,
    idempotency_key: IdempotencyKey = None,
) -> WireResponse:
    """Have the image that the reference names. Answers at once, or with `wait` when it is ready or failed."""
    wanted = WantedImage(ref=body.ref, pull=body.pull, shared=body.shared)
    made = await images.pull(caller, wanted, wait_s=wait or 0, idempotency_key=idempotency_key)
    return WireResponse(made, 201)


@router.post(
    "/import",
    status_code=201,
    response_model=ContainerImage,
    openapi_extra=raw_body(
        "application/x-tar", "An archive of `docker save`, `podman save` or an OCI layout"
    ),
)
async def import_image(
    caller: Writer,
    images: ImagesDep,
    request: Request,
    ref: Annotated[str, Query(min_length=1, max_length=512, description="The reference to give it")],
    shared: Annotated[bool, Query(description="Let every owner use it; needs an admin key")] = False,
    wait: Wait = None,
) -> WireResponse:
    """Make an image of the body, a tar archive of one image."""
    made = await images.upload(caller, ref, request.stream(), shared=shared, wait_s=wait or 0)
    return WireResponse(made, 201)


@router.get("", response_model=ImageList)
async def list_images(caller: Reader, images: ImagesDep, paging: Paging, limit: Limit = 50) -> WireResponse:
    """Your images and shared ones, oldest first."""
    page = await images.page(caller, after=paging.after, limit=limit)
    return WireResponse(paging.reply(page))


@router.post("/prune", response_model=PrunedImages)
async def prune_images(caller: Writer, images: ImagesDep, body: PruneImages | None = None) -> WireResponse:
    """Remove your images that no sandbox and no checkpoint needs."""
    body = body or PruneImages()
    return WireResponse({"items": await images.prune(caller, body.unused_for)})


@router.get("/{image_ref:path}/export", response_class=StreamingResponse)
async def export_image(caller: Reader, images: ImagesDep, image_ref: str) -> StreamingResponse:
    """The image as a tar of an OCI layout, its layers uncompressed."""
    stack = AsyncExitStack()
    found, chunks = await stack.enter_async_context(images.export(caller, image_ref))
    headers = download_headers(f"{found.id}.tar")
    return HeldResponse(stack, chunks, media_type="application/x-tar", headers=headers)


@router.get("/{image_ref:path}", response_model=ContainerImage)
async def get_image(caller: Reader, images: ImagesDep, image_ref: str, wait: Wait = None) -> WireResponse:
    """One image, by id or reference; of several with that reference the newest. With `wait`, once its pull
    has ended.
    """
    return WireResponse(await images.get(caller, image_ref, wait or 0))


@router.delete("/{image_ref:path}", status_code=204)
async def delete_image(caller: Writer, images: ImagesDep, image_ref: str) -> Response:
    """Remove an image that nothing uses, and cancel its pull; a second call succeeds too."""
    await images.delete(caller, image_ref)
    return Response(status_code=204)
