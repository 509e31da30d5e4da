"""The verbs of the API of Kubernetes against a server that fails in every way."""

import asyncio
import base64
import json
import logging
import shutil
import ssl
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest
from kube_server import TOKEN, KubeServer, Pauses, Said, cut, kube_server, name_of, pod, status
from registry import authority

from bay.drivers.kubernetes.kube import (
    NODE,
    POD,
    VOLUME_SNAPSHOT,
    AlreadyExists,
    Expired,
    Kube,
    KubeAccess,
    KubeConflict,
    KubeRefused,
    ObjectChange,
    Persistence,
)
from bay.errors import DriverUnavailable

pytestmark = [pytest.mark.kubernetes, pytest.mark.anyio]

GONE = status(410, "Expired", "too old resource version: 1 (2000)")


async def refused(access: KubeAccess, pauses: Pauses | None = None) -> str:
    """The line for the operator, of a cluster that cannot be reached."""
    with pytest.raises(DriverUnavailable) as caught:
        await Kube.connect(access, persistence=Persistence(sleep=pauses or Pauses()))
    assert "\n" not in caught.value.message
    return caught.value.message


async def changes(kube: Kube, since: str = "1", silence_s: float = 20.0) -> list[ObjectChange]:
    """All of one watch."""
    async with asyncio.timeout(30):
        return [change async for change in kube.watch(POD, since=since, silence_s=silence_s)]


def tls_of(made: Path) -> ssl.SSLContext:
    """A server's side, with the certificate of an `authority`."""
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(made / "server.crt", made / "server.key")
    return tls


# --- The way to a cluster


async def test_a_kubeconfig_says_where_the_cluster_is_and_who_bay_is(kube: Kube, server: KubeServer) -> None:
    assert (kube.url, kube.namespace, kube.version) == (server.url, "boxes", (1, 37))
    assert server.seen[0].headers["Authorization"] == f"Bearer {TOKEN}"
    assert server.seen[0].headers["User-Agent"].startswith("bay/")


async def test_the_namespace_of_the_settings_comes_before_that_of_the_context(access: KubeAccess) -> None:
    kube = await Kube.connect(KubeAccess(kubeconfig=access.kubeconfig, namespace="mine"))
    await kube.aclose()
    assert kube.namespace == "mine"


@pytest.mark.parametrize(
    ("text", "fact"),
    [
        ("", "cannot be used"),
        ("not: [a", "cannot be used"),
        ("current-context: test\ncontexts: 7", "cannot be used"),
        (
            "{current-context: test, contexts: [{name: test, context: {cluster: c}}], clusters: [{name: d}]}",
            "Expected object with name c in",
        ),
    ],
)
async def test_a_wrong_kubeconfig_is_named_in_one_line(tmp_path: Path, text: str, fact: str) -> None:
    path = tmp_path / "kubeconfig"
    path.write_text(text)
    message = await refused(KubeAccess(kubeconfig=path))
    assert fact in message
    assert str(path) in message


async def test_no_message_about_a_kubeconfig_has_a_token_of_it(tmp_path: Path) -> None:
    path = tmp_path / "kubeconfig"
    path.write_text(
        "current-context: test\ncontexts: [{name: test, context: {cluster: c, user: u}}]\n"
        "clusters: [{name: c, cluster: {server: 'http://127.0.0.1:1'}}]\n"
        f"users: [{{name: u, token: {TOKEN}}}]"  # which belongs one step deeper
    )
    message = await refused(KubeAccess(kubeconfig=path))
    assert "Expected key user in" in message
    assert TOKEN not in message


async def test_a_missing_kubeconfig_and_a_missing_context_are_named(
    access: KubeAccess, tmp_path: Path
) -> None:
    assert "there is no kubeconfig" in await refused(KubeAccess(kubeconfig=tmp_path / "none"))
    assert "nowhere" in await refused(KubeAccess(kubeconfig=access.kubeconfig, context="nowhere"))


async def test_a_refused_connection_is_tried_again_and_then_named(
    access: KubeAccess, server: KubeServer, tmp_path: Path, pauses: Pauses
) -> None:
    server.port = 1  # which nothing listens at
    message = await refused(KubeAccess(kubeconfig=server.kubeconfig(tmp_path)), pauses)
    assert "cannot be reached" in message
    assert "http://127.0.0.1:1" in message
    assert len(pauses.taken) == Persistence().tries - 1


async def test_a_server_without_a_valid_address_is_named(tmp_path: Path, server: KubeServer) -> None:
    server.scheme = "what"
    assert "no valid URL" in await refused(KubeAccess(kubeconfig=server.kubeconfig(tmp_path)))


async def test_a_certificate_of_another_authority_is_not_trusted(tmp_path: Path, pauses: Pauses) -> None:
    own, other = authority(tmp_path / "own", "127.0.0.1"), authority(tmp_path / "other", "127.0.0.1")
    async with kube_server(tls_of(own)) as server:
        wrong = server.kubeconfig(tmp_path, ca=other / "ca.crt")
        message = await refused(KubeAccess(kubeconfig=wrong), pauses)
        right = server.kubeconfig(tmp_path, ca=own / "ca.crt")
        await (await Kube.connect(KubeAccess(kubeconfig=right))).aclose()
    assert "is not trusted" in message
    assert pauses.taken == []
    assert len(server.seen) == 1  # no token went to the one that is not trusted


async def test_refused_credentials_are_named_but_not_shown(
    access: KubeAccess, server: KubeServer, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    server.always("version", Said(401, status(401, "Unauthorized", "Unauthorized")))
    message = await refused(access)
    assert "does not accept Bay's credentials" in message
    assert TOKEN not in message + caplog.text


async def test_a_web_server_is_no_cluster(access: KubeAccess, server: KubeServer) -> None:
    server.always("version", Said(200, b"<html>hello"))
    assert "no JSON object" in await refused(access)


async def test_a_token_that_was_replaced_in_its_file_is_used_from_the_next_refusal_on(
    access: KubeAccess, server: KubeServer, tmp_path: Path
) -> None:
    kube = await Kube.connect(access)
    server.kubeconfig(tmp_path, token="the-next")
    server.next("list", Said(401, status(401, "Unauthorized")))
    assert [one async for one in kube.list(POD)] == []
    await kube.aclose()
    assert [seen.headers["Authorization"] for seen in server.seen[1:]] == [
        f"Bearer {TOKEN}",
        "Bearer the-next",
    ]


async def test_a_token_for_another_cluster_is_not_sent_to_this_one(
    access: KubeAccess, server: KubeServer, tmp_path: Path
) -> None:
    """Someone has chosen another context of the kubeconfig meanwhile."""
    kube = await Kube.connect(access)
    port, server.port = server.port, 1
    server.kubeconfig(tmp_path, token="of-another-cluster")
    server.port = port
    server.next("list", Said(401, status(401, "Unauthorized")))
    with pytest.raises(DriverUnavailable, match="names another API server"):
        [one async for one in kube.list(POD)]
    await kube.aclose()
    assert {seen.headers["Authorization"] for seen in server.seen} == {f"Bearer {TOKEN}"}


async def test_a_pod_is_who_its_service_account_is_and_reads_new_tokens_in_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = authority(tmp_path / "made", "127.0.0.1")
    account = tmp_path / "account"
    account.mkdir()
    shutil.copy(made / "ca.crt", account)
    (account / "namespace").write_text("of-the-pod\n")
    (account / "token").write_text("first\n")
    now = 1000.0
    async with kube_server(tls_of(made)) as server:
        monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "127.0.0.1")
        monkeypatch.setenv("KUBERNETES_SERVICE_PORT", str(server.port))
        kube = await Kube.connect(KubeAccess(service_account=account), clock=lambda: now)
        (account / "token").write_text("second\n")
        await kube.get(POD, "a")
        now += 61
        await kube.get(POD, "a")
        (account / "token").write_text("")  # as in the middle of a write: the former one is used
        now += 61
        await kube.get(POD, "a")
        await kube.aclose()
    assert kube.namespace == "of-the-pod"
    tokens = [seen.headers["Authorization"].split()[1] for seen in server.seen]
    assert tokens == ["first", "first", "second", "second"]


async def test_proxies_of_the_environment_are_not_used(
    access: KubeAccess, server: KubeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    await (await Kube.connect(access, persistence=Persistence(tries=1))).aclose()
    assert server.count("version") == 1


async def test_a_program_of_the_kubeconfig_gives_a_token(server: KubeServer, tmp_path: Path) -> None:
    program = tmp_path / "login.py"
    reply = {
        "apiVersion": "client.authentication.k8s.io/v1",
        "kind": "ExecCredential",
        "status": {"token": "x1"},
    }
    program.write_text(f"print({json.dumps(reply)!r})")
    how = f"{{exec: {{apiVersion: {reply['apiVersion']}, command: {sys.executable}, args: ['{program}']}}}}"
    kube = await Kube.connect(KubeAccess(kubeconfig=server.kubeconfig(tmp_path, user=how)))
    await kube.aclose()
    assert server.seen[0].headers["Authorization"] == "Bearer x1"


async def test_no_key_of_a_kubeconfig_stays_in_a_temporary_file(
    server: KubeServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = authority(tmp_path / "made", "127.0.0.1")
    files = tmp_path / "temporary"
    files.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(files))
    tls = tls_of(made)
    tls.load_verify_locations(made / "ca.crt")
    tls.verify_mode = ssl.CERT_REQUIRED
    async with kube_server(tls) as secure:
        data = {name: _base64(made / name) for name in ("server.crt", "server.key")}
        how = f"{{client-certificate-data: {data['server.crt']}, client-key-data: {data['server.key']}}}"
        access = KubeAccess(kubeconfig=secure.kubeconfig(tmp_path, ca=made / "ca.crt", user=how))
        for _ in range(2):
            await (await Kube.connect(access)).aclose()
            assert list(files.iterdir()) == []


def _base64(path: Path) -> str:
    return base64.b64encode(path.read_bytes()).decode()


def test_a_bay_with_another_driver_does_not_load_the_library() -> None:
    """It would take half a second of each start, and 60 MB."""
    program = "import sys, bay.server.main; print(sorted({'kubernetes', 'aiohttp'} & set(sys.modules)))"
    ended = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, timeout=60)
    assert ended.stdout == b"[]\n"


# --- Requests that fail


async def test_a_busy_server_is_asked_again_after_the_time_that_it_names(
    kube: Kube, server: KubeServer, pauses: Pauses
) -> None:
    busy = Said(429, status(429, "TooManyRequests"), {"Retry-After": "7"})
    server.next("other", busy, busy, Said(201, pod("a", 1)))
    assert (await kube.create(POD, {"metadata": {"name": "a"}}))["metadata"]["name"] == "a"
    assert len(pauses.taken) == 2
    assert all(7 < pause < 9 for pause in pauses.taken)


async def test_a_server_that_stays_busy_ends_in_an_error(
    kube: Kube, server: KubeServer, pauses: Pauses
) -> None:
    server.always("list", Said(429, status(429, message="too many"), {"Retry-After": "1"}))
    with pytest.raises(DriverUnavailable, match="too busy to list pods"):
        [one async for one in kube.list(POD)]
    assert server.count("list") == Persistence().tries


async def test_a_server_that_asks_for_an_hour_is_not_waited_for(
    kube: Kube, server: KubeServer, pauses: Pauses
) -> None:
    server.always("list", Said(429, b"", {"Retry-After": "3600"}))
    with pytest.raises(DriverUnavailable, match="try again later"):
        [one async for one in kube.list(POD)]
    assert pauses.taken == []


@pytest.mark.parametrize(
    "fault", [Said(500, status(500, "InternalError")), Said(503, b"no"), cut], ids=name_of
)
async def test_a_request_that_may_be_repeated_survives_failures(
    kube: Kube, server: KubeServer, pauses: Pauses, fault: Any
) -> None:
    server.put("a")
    server.next("list", fault, fault)
    assert [one["metadata"]["name"] async for one in kube.list(POD)] == ["a"]
    assert pauses.taken


@pytest.mark.parametrize("fault", [Said(500, status(500, "InternalError")), cut], ids=name_of)
async def test_a_failing_server_is_unknown_and_not_gone(
    kube: Kube, server: KubeServer, pauses: Pauses, fault: Any
) -> None:
    server.always("other", fault)
    with pytest.raises(DriverUnavailable, match="try again later"):
        await kube.get(POD, "a")
    assert len(pauses.taken) == Persistence().tries - 1
    assert pauses.taken[-1] > pauses.taken[0]


@pytest.mark.parametrize("fault", [Said(500, status(500, "InternalError")), cut], ids=name_of)
async def test_a_create_whose_outcome_is_unknown_is_not_repeated(
    kube: Kube, server: KubeServer, fault: Any
) -> None:
    server.always("other", fault)
    with pytest.raises(DriverUnavailable):
        await kube.create(POD, {})
    assert server.count("other") == 1


async def test_a_create_that_was_never_sent_is_sent_again(access: KubeAccess, server: KubeServer) -> None:
    async def sleep(_: float) -> None:
        await server.listen()

    server.next("version", Said(200, {"major": "1"}, {"Connection": "close"}))
    kube = await Kube.connect(access, persistence=Persistence(sleep=sleep))
    await server.stop_listening()
    server.next("other", Said(201, pod("a", 1)))
    assert (await kube.create(POD, {}))["metadata"]["name"] == "a"
    await kube.aclose()
    assert server.count("other") == 1


async def test_a_slow_server_is_unknown(access: KubeAccess, server: KubeServer) -> None:
    once = Persistence(tries=1)
    kube = await Kube.connect(access, persistence=once)
    await kube.aclose()
    impatient = await Kube.connect(KubeAccess(kubeconfig=access.kubeconfig, timeout_s=0.3), persistence=once)
    never = asyncio.Event()

    async def hang(_: object) -> None:
        await never.wait()

    server.next("other", hang)
    with pytest.raises(DriverUnavailable, match=r"said nothing for 0\.3 s"):
        await impatient.get(POD, "a")
    never.set()
    await impatient.aclose()


# --- The verbs


async def test_create_sends_the_kind_and_names_bay_as_manager(kube: Kube, server: KubeServer) -> None:
    server.next("other", Said(201, pod("a", 1)))
    await kube.create(POD, {"metadata": {"name": "a"}})
    seen = server.seen[-1]
    assert (seen.method, seen.path) == ("POST", "/api/v1/namespaces/boxes/pods")
    assert seen.query == {"fieldManager": "bay"}
    assert seen.body == {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a"}}


async def test_a_create_may_be_asked_for_without_being_made(kube: Kube, server: KubeServer) -> None:
    server.next("other", Said(201, pod("a", 1)))
    await kube.create(POD, {"metadata": {"name": "a"}}, dry_run=True)
    assert server.seen[-1].query == {"fieldManager": "bay", "dryRun": "All"}


async def test_create_of_a_taken_name(kube: Kube, server: KubeServer) -> None:
    server.next("other", Said(409, status(409, "AlreadyExists", 'pods "a" already exists')))
    with pytest.raises(AlreadyExists, match="already exists"):
        await kube.create(POD, {})


async def test_two_creates_that_count_against_one_quota_both_end(kube: Kube, server: KubeServer) -> None:
    modified = Said(409, status(409, "Conflict", "the object has been modified"))
    server.next("other", modified, Said(201, pod("a", 1)))
    assert (await kube.create(POD, {}))["metadata"]["uid"] == "uid-a"


@pytest.mark.parametrize(
    ("code", "reason", "words"),
    [
        (403, "Forbidden", 'pods "a" is forbidden: exceeded quota: compute, used: pods=10, limited: pods=10'),
        (403, "Forbidden", 'pods "a" is forbidden: violates PodSecurity "restricted:latest": runAsNonRoot'),
        (422, "Invalid", 'Pod "a" is invalid: spec.containers: Required value'),
        (404, "NotFound", 'namespaces "boxes" not found'),
    ],
)
async def test_a_refusal_keeps_the_words_of_the_server(
    kube: Kube, server: KubeServer, pauses: Pauses, code: int, reason: str, words: str
) -> None:
    server.next("other", Said(code, status(code, reason, words)))
    with pytest.raises(KubeRefused) as caught:
        await kube.create(POD, {})
    assert words in caught.value.message
    assert (caught.value.answered, caught.value.reason) == (code, reason)
    assert pauses.taken == []


async def test_the_words_of_a_server_are_bounded_and_on_one_line(kube: Kube, server: KubeServer) -> None:
    server.next("other", Said(422, status(422, "Invalid", "many\nlines " * 10_000)))
    with pytest.raises(KubeRefused) as caught:
        await kube.create(POD, {})
    assert len(caught.value.message) < 700
    assert "\n" not in caught.value.message


async def test_get_of_nothing_is_none(kube: Kube, server: KubeServer) -> None:
    assert await kube.get(POD, "a") is None
    assert server.seen[-1].path == "/api/v1/namespaces/boxes/pods/a"
    assert await kube.get(NODE, "n/../x") is None
    assert server.seen[-1].path == "/api/v1/nodes/n/../x"


@pytest.mark.parametrize(
    "body",
    [b"404 page not found", b"<html>", status(404, "NotFound", "the server could not find the resource")],
)
async def test_a_404_that_names_no_object_is_not_taken_for_gone(
    kube: Kube, server: KubeServer, body: Any
) -> None:
    """A proxy on the way says it too, and so does an API server that does not know the kind."""
    server.always("other", Said(404, body))
    with pytest.raises(KubeRefused):
        await kube.get(VOLUME_SNAPSHOT, "a")
    with pytest.raises(KubeRefused):
        await kube.delete(POD, "a")


async def test_delete_names_the_object_that_it_means(kube: Kube, server: KubeServer) -> None:
    server.next("other", Said(200, pod("a", 1)))
    assert await kube.delete(POD, "a", uid="uid-a", grace_s=0) is True
    body = server.seen[-1].body
    assert body["preconditions"] == {"uid": "uid-a"}
    assert body["gracePeriodSeconds"] == 0
    assert await kube.delete(POD, "a") is False
    assert not {"preconditions", "gracePeriodSeconds"} & set(server.seen[-1].body)


async def test_delete_of_another_object_of_that_name(kube: Kube, server: KubeServer) -> None:
    server.next("other", Said(409, status(409, "Conflict", "the UID in the precondition does not match")))
    with pytest.raises(KubeConflict, match="does not match"):
        await kube.delete(POD, "a", uid="uid-of-before")


TEST = [
    {"op": "test", "path": "/metadata/uid", "value": "u"},
    {"op": "remove", "path": "/metadata/finalizers"},
]


async def test_a_list_is_a_json_patch_and_a_dict_is_a_merge_patch(kube: Kube, server: KubeServer) -> None:
    server.next("other", Said(200, pod("a", 1)), Said(200, pod("a", 1)))
    await kube.patch(POD, "a", TEST)
    await kube.patch(POD, "a", {"metadata": {"labels": {"role": "session"}}})
    kinds = [seen.headers["Content-Type"] for seen in server.seen[-2:]]
    assert kinds == ["application/json-patch+json", "application/merge-patch+json"]
    assert await kube.patch(POD, "a", TEST) is None


@pytest.mark.parametrize("code", [409, 422])
async def test_a_test_of_a_patch_that_fails(kube: Kube, server: KubeServer, code: int) -> None:
    server.next("other", Said(code, status(code, "Invalid", "the server rejected our request")))
    with pytest.raises(KubeConflict):
        await kube.patch(POD, "a", TEST)


async def test_a_patch_to_an_invalid_object_is_no_conflict(kube: Kube, server: KubeServer) -> None:
    invalid = status(422, "Invalid", "spec: Forbidden", causes=[{"reason": "FieldValueForbidden"}])
    server.next("other", Said(422, invalid), Said(422, status(422, "Invalid", "no")))
    with pytest.raises(KubeRefused) as caught:
        await kube.patch(POD, "a", TEST)
    assert not isinstance(caught.value, KubeConflict)
    with pytest.raises(KubeRefused) as caught:
        await kube.patch(POD, "a", {"spec": {}})
    assert not isinstance(caught.value, KubeConflict)


async def test_a_patch_with_tests_is_not_repeated_when_its_outcome_is_unknown(
    kube: Kube, server: KubeServer
) -> None:
    server.next("other", cut, cut, Said(200, pod("a", 1)))
    with pytest.raises(DriverUnavailable):
        await kube.patch(POD, "a", TEST)
    assert server.count("other") == 1
    assert await kube.patch(POD, "a", {"metadata": {}}) is not None
    assert server.count("other") == 3


async def test_permissions_are_asked_for_in_the_namespace(kube: Kube, server: KubeServer) -> None:
    server.next("other", Said(201, {"status": {"allowed": True}}), Said(201, {"status": {}}))
    assert await kube.may("create", POD) is True
    assert await kube.may("get", NODE) is False
    first, second = (seen.body["spec"]["resourceAttributes"] for seen in server.seen[-2:])
    assert (first["verb"], first["resource"], first["namespace"]) == ("create", "pods", "boxes")
    assert (second["resource"], second["namespace"]) == ("nodes", "")


async def test_a_kind_that_the_cluster_lacks_is_not_served(kube: Kube, server: KubeServer) -> None:
    served = {"resources": [{"name": "volumesnapshots"}, {"name": "volumesnapshots/status"}]}
    server.next("other", Said(200, served), Said(200, {"resources": []}), Said(404, b"404 page not found"))
    assert await kube.serves(VOLUME_SNAPSHOT)
    assert server.seen[-1].path == "/apis/snapshot.storage.k8s.io/v1"
    assert not await kube.serves(VOLUME_SNAPSHOT)
    assert not await kube.serves(VOLUME_SNAPSHOT)
    server.always("other", Said(403, status(403, "Forbidden", "no")))
    with pytest.raises(KubeRefused):
        await kube.serves(VOLUME_SNAPSHOT)


async def test_a_version_without_numbers_is_read_from_its_name(
    access: KubeAccess, server: KubeServer
) -> None:
    server.next("version", Said(200, {"major": "", "minor": "", "gitVersion": "v1.20.2"}))
    kube = await Kube.connect(access)
    await kube.aclose()
    assert kube.version == (1, 20)


async def test_events_are_those_of_one_object(kube: Kube, server: KubeServer) -> None:
    server.next("other", Said(200, {"items": [{"reason": "FailedScheduling"}, "no event"]}))
    assert [one.get("reason") for one in await kube.events_of("u")] == ["FailedScheduling", None]
    assert server.seen[-1].query["fieldSelector"] == "involvedObject.uid=u"


# --- Lists


async def test_a_list_comes_in_pages_and_asks_for_no_version(kube: Kube, server: KubeServer) -> None:
    for number in range(5):
        server.put(f"p{number}")
    server.page = 2
    assert [one["metadata"]["name"] async for one in kube.list(POD, labels="a=b")] == [
        f"p{n}" for n in range(5)
    ]
    assert server.count("list") == 3
    assert all("resourceVersion" not in seen.query for seen in server.seen)
    assert server.seen[-1].query["labelSelector"] == "a=b"


async def test_a_list_that_is_forgotten_in_the_middle_begins_again(kube: Kube, server: KubeServer) -> None:
    for number in range(3):
        server.put(f"p{number}")
    server.page = 1
    server.next("list", Said(200, server._list({}, only_metadata=False)), Said(410, GONE))
    assert [one["metadata"]["name"] async for one in kube.list(POD)] == ["p0", "p1", "p2"]


async def test_a_list_that_is_always_forgotten_ends_in_an_error(kube: Kube, server: KubeServer) -> None:
    server.always("list", Said(410, GONE))
    with pytest.raises(DriverUnavailable, match="forgets lists"):
        [one async for one in kube.list(POD)]


@pytest.mark.parametrize("body", [{}, {"items": []}, {"metadata": 7, "items": []}])
async def test_an_answer_that_is_no_list_is_not_an_empty_list(
    kube: Kube, server: KubeServer, body: Any
) -> None:
    server.always("list", Said(200, body))
    with pytest.raises(DriverUnavailable, match="no list of pods"):
        [one async for one in kube.list(POD)]


async def test_a_list_of_metadata_is_one(kube: Kube, server: KubeServer) -> None:
    server.put("a")
    assert [set(one) async for one in kube.list(POD, metadata_only=True)] == [{"metadata"}]


# --- Watches


async def test_a_watch_asks_for_bookmarks_and_for_an_end(kube: Kube, server: KubeServer) -> None:
    reading = asyncio.create_task(changes(kube, "77"))
    watch = await server.watch()
    await watch.send("ADDED", pod("a", 78))
    await watch.bookmark(90)
    watch.end()
    assert [change.type for change in await reading] == ["ADDED", "BOOKMARK"]
    query = server.seen[-1].query
    assert (query["resourceVersion"], query["allowWatchBookmarks"]) == ("77", "true")
    assert 300 <= int(query["timeoutSeconds"]) <= 600


async def test_a_half_open_watch_ends(kube: Kube, server: KubeServer) -> None:
    reading = asyncio.create_task(changes(kube, silence_s=0.3))
    watch = await server.watch()
    await watch.send("ADDED", pod("a", 78))
    with pytest.raises(DriverUnavailable, match=r"said nothing for 0\.3 s"):
        await reading
    watch.end()


async def test_an_expired_version_is_said_as_a_status_or_as_an_event(kube: Kube, server: KubeServer) -> None:
    server.next("watch", Said(410, GONE))
    with pytest.raises(Expired):
        await changes(kube)
    reading = asyncio.create_task(changes(kube))
    watch = await server.watch()
    await watch.send("ERROR", GONE)
    with pytest.raises(Expired):
        await reading
    watch.end()


@pytest.mark.parametrize(
    "data",
    [
        b"\x00\xff garbage\n",
        b'{"type": "ADDED", "object": {"metadata"',
        b'{"type": "ADDED"}\n',
        b'{"type": 7, "object": {"metadata": {}}}\n',
        b"[]\n",
        b"[" * 100_000 + b"\n",
        json.dumps({"type": "ERROR", "object": status(500, "InternalError")}).encode() + b"\n",
    ],
    ids=["garbage", "half a line", "no object", "no type", "an array", "too deep", "an error"],
)
async def test_a_watch_that_says_nonsense_is_unknown(kube: Kube, server: KubeServer, data: bytes) -> None:
    reading = asyncio.create_task(changes(kube))
    watch = await server.watch()
    await watch.raw(data)
    watch.end()
    with pytest.raises(DriverUnavailable):
        await reading


async def test_a_watch_that_breaks_is_unknown(kube: Kube, server: KubeServer) -> None:
    reading = asyncio.create_task(changes(kube))
    watch = await server.watch()
    await watch.send("ADDED", pod("a", 78))
    await watch.cut()
    with pytest.raises(DriverUnavailable, match="broke the connection"):
        await reading


async def test_an_event_may_come_in_pieces_and_be_huge(kube: Kube, server: KubeServer) -> None:
    reading = asyncio.create_task(changes(kube))
    watch = await server.watch()
    huge = pod("a", 78, spec={"text": "x" * (9 << 20)})
    line = json.dumps({"type": "ADDED", "object": huge}).encode() + b"\n\n"
    for start in range(0, len(line), 1 << 20):
        await watch.raw(line[start : start + (1 << 20)])
    watch.end()
    assert (await reading)[0].object == huge
