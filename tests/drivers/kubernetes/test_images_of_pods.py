"""Images that a caller named, in the words of kubelets: those that were fetched, and those that were not."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator
from typing import Any

import pytest
from kube_server import KubeServer, Pauses, Said, status

from bay.drivers.base import SessionSpec
from bay.drivers.kubernetes import named_images
from bay.drivers.kubernetes.kube import Kube
from bay.drivers.kubernetes.pod_watch import PodWatch, WaitingContainer, pod_state
from bay.errors import ImageDenied, ImageNotFound, ImagePlatform, SandboxNotReady
from bay.models import Resources
from bay.places import VolumeClaim

pytestmark = [pytest.mark.kubernetes, pytest.mark.anyio]

WAIT_S = 20.0
IMAGE = "docker.io/library/nosuch:1"
DIGEST = f"sha256:{'a' * 64}"
POD = "bay-sess-1"
UID = f"uid-{POD}"

# As containerd 1.7, containerd 2.1, CRI-O 1.34 and the registries behind them say it.
NOT_FOUND = [
    (
        f'rpc error: code = NotFound desc = failed to pull and unpack image "{IMAGE}": failed to resolve reference "{IMAGE}": '
        f"{IMAGE}: not found"
    ),
    "reading manifest 1 in docker.io/library/nosuch: manifest unknown",
    "name unknown: repository name not known to registry",
]
DENIED = [
    (
        f'failed to pull and unpack image "{IMAGE}": failed to resolve reference "{IMAGE}": pull access denied, repository does '
        "not exist or may require authorization: server message: insufficient_scope: authorization failed"
    ),
    (
        "failed to authorize: failed to fetch anonymous token: unexpected status from GET request to "
        "https://ghcr.io/token?scope=repository%3Ax%3Apull&service=ghcr.io: 403 Forbidden"
    ),
    "failed to resolve reference: unexpected status from HEAD request to https://r.example.com/v2/x: 401 Unauthorized",
    "reading manifest 1 in r.example.com/x: unauthorized: authentication required",
    "no basic auth credentials",
]
PLATFORM = [
    "failed to pull and unpack image: no match for platform in manifest: not found",
    'choosing image instance: no image found in image index for architecture "arm64"',
]
UNCLEAR = [
    'failed to do request: Head "https://r.example.com/v2/x": dial tcp: lookup r.example.com: no such host',
    "toomanyrequests: You have reached your pull rate limit",
    "context deadline exceeded",
    "write /var/lib/containerd/x: no space left on device",
    "",
]


@pytest.mark.parametrize(
    ("said", "kind"),
    [
        *((said, ImageNotFound) for said in NOT_FOUND),
        *((said, ImageDenied) for said in DENIED),
        *((said, ImagePlatform) for said in PLATFORM),
        *((said, None) for said in UNCLEAR),
    ],
)
def test_a_clear_answer_of_a_registry_is_an_error_of_bays(said: str, kind: type[Exception] | None) -> None:
    for reason in ("ErrImagePull", "ImagePullBackOff"):
        found = named_images.trouble(IMAGE, reason, said)
        assert (found and type(found)) == kind
        assert found is None or IMAGE in found.message
    assert named_images.trouble(IMAGE, "CreateContainerError", said) is None


@pytest.mark.parametrize("name", ["unauthorized", "denied", "r.example.com/not/denied", "a"])
def test_a_repository_may_be_called_like_an_error(name: str) -> None:
    image = f"{name if '/' in name else f'docker.io/library/{name}'}:1"
    said = f'failed to pull "{image}": failed to resolve "{image.removesuffix(":1")}": dial tcp: timeout'
    assert named_images.trouble(image, "ErrImagePull", said) is None
    assert isinstance(named_images.trouble(image, "ErrImagePull", f"{said}: not found"), ImageNotFound)


def test_an_image_that_nodes_must_have_and_have_not_is_not_found() -> None:
    found = named_images.trouble(IMAGE, "ErrImageNeverPull", "Container image is not present")
    assert isinstance(found, ImageNotFound)
    assert "pull_policy" in found.message


@pytest.mark.parametrize(
    ("image_id", "fetched"),
    [
        (f"docker.io/library/debian@{DIGEST}", f"docker.io/library/debian@{DIGEST}"),
        (f"docker-pullable://debian@{DIGEST}", f"debian@{DIGEST}"),
        (DIGEST, None),
        ("docker.io/library/debian:13", None),
        (f"docker://{DIGEST}", None),
        ("", None),
    ],
)
def test_an_image_id_tells_a_digest_only_where_a_registry_has_it(image_id: str, fetched: str | None) -> None:
    assert named_images.with_digest(image_id) == fetched


def test_the_image_of_a_container_is_known_once_the_kubelet_has_made_it() -> None:
    statuses = [{"name": "sandbox", "imageID": f"x/y@{DIGEST}"}, {"name": "other", "imageID": ""}]
    assert pod_state({"status": {"containerStatuses": statuses}}).images == {"sandbox": f"x/y@{DIGEST}"}


@pytest.fixture
async def watch(kube: Kube, pauses: Pauses) -> AsyncGenerator[PodWatch]:
    made = PodWatch(kube, labels="", sleep=pauses)
    task = asyncio.create_task(made.run())
    try:
        yield made
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


def spec(image: str = "docker.io/library/debian:13") -> SessionSpec:
    return SessionSpec(
        session_id="sess-1", sandbox_id="sandbox-1", image=image, isolation="container", resources=Resources(),
        workspace=VolumeClaim(name="bay-ws-1", read_write_once_pod=True), token="a-secret-of-one-session",
    )  # fmt: skip


def runs(image_id: str = "", **metadata: Any) -> dict[str, Any]:
    """The changes of a pod whose sandbox has that image."""
    there = {"name": POD, "uid": UID, **metadata}
    return {
        "metadata": there,
        "status": {"phase": "Running", "containerStatuses": [{"name": "sandbox", "imageID": image_id}]},
    }


async def test_the_digest_is_waited_for(watch: PodWatch, server: KubeServer) -> None:
    server.put(POD)
    opened = await server.watch()
    telling = asyncio.create_task(named_images.told(watch, spec(), UID))
    await opened.send("MODIFIED", server.put(POD, **runs()))
    await opened.send("MODIFIED", server.put(POD, **runs(f"docker.io/library/debian@{DIGEST}")))
    async with asyncio.timeout(WAIT_S):
        assert await telling == f"docker.io/library/debian@{DIGEST}"


@pytest.mark.parametrize("image", ["host", f"docker.io/library/debian:13@{DIGEST}"])
async def test_nothing_is_waited_for_where_the_image_is_known(watch: PodWatch, image: str) -> None:
    assert await named_images.told(watch, spec(image), UID) is None


async def test_a_pod_that_ends_or_is_another_one_tells_nothing(watch: PodWatch, server: KubeServer) -> None:
    server.put(POD)
    opened = await server.watch()
    for changed in (
        runs(deletionTimestamp="2026-01-01T00:00:00Z"),
        runs(f"docker.io/library/debian@{DIGEST}", uid="another"),
    ):
        telling = asyncio.create_task(named_images.told(watch, spec(), UID))
        await opened.send("MODIFIED", server.put(POD, **changed))
        async with asyncio.timeout(WAIT_S):
            assert await telling is None


def waiting(reason: str, message: str = "") -> WaitingContainer:
    return WaitingContainer("sandbox", reason, message)


def events(*said: tuple[str, str, str]) -> Said:
    items = [{"reason": reason, "message": message, "lastTimestamp": at} for at, reason, message in said]
    return Said(200, {"items": items})


BACK_OFF = waiting("ImagePullBackOff", f'Back-off pulling image "{IMAGE}"')


@pytest.mark.parametrize(
    ("said", "kind", "words"),
    [
        (f'Failed to pull image "{IMAGE}": {NOT_FOUND[0]}', ImageNotFound, "check the reference"),
        (f'Failed to pull image "{IMAGE}": {DENIED[0]}', ImageDenied, "pull_secrets"),
        (f'Failed to pull image "{IMAGE}": {UNCLEAR[0]}?sign=secret', SandboxNotReady, "no such host"),
    ],
)
async def test_the_reason_of_a_pull_that_is_tried_again_is_in_an_event(
    kube: Kube, server: KubeServer, said: str, kind: type[Exception], words: str
) -> None:
    server.next(
        "other",
        events(("2", "Failed", "Error: ImagePullBackOff"), ("1", "Failed", said), ("0", "Pulling", "")),
    )
    with pytest.raises(kind, match=words) as raised:
        await named_images.check(kube, pod_state({}), BACK_OFF, IMAGE)
    assert "secret" not in str(raised.value).replace("pull_secrets", "")


async def test_a_wait_without_a_reason_is_judged_by_others(kube: Kube, server: KubeServer) -> None:
    server.next("other", events(("1", "Pulling", "")), Said(403, status(403, "Forbidden", "no events")))
    for one in (waiting("PodInitializing"), waiting("ErrImagePull", UNCLEAR[0]), BACK_OFF, BACK_OFF):
        await named_images.check(kube, pod_state({}), one, IMAGE)
    assert server.count("other") == 2  # Events are asked for where the kubelet says nothing
