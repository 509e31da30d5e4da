"""What the SDK makes of servers that are slow, broken, gone, hostile, or not Bay at all."""

import json
from collections.abc import Callable, Iterator
from typing import Any

import canned
import fault_proxy
import httpx
import pytest
from real_bay import KEY

import bay
from bay.client._calls import Call
from bay.client._failures import LASTING_ATTEMPTS, MAX_PAUSE_S, Attempts

EXEC: dict[str, Any] = {
    "id": f"exec-{'0' * 24}",
    "argv": ["true"],
    "pid": 1,
    "tty": False,
    "state": "running",
    "exit_code": None,
    "signal": None,
    "started_at": "2030-01-01T00:00:00Z",
    "ended_at": None,
    "output_bytes": 0,
    "first_offset": 0,
}
END = {"exit_code": 0, "signal": None, "state": "exited"}
Answer = httpx.Response | Exception
Handler = Callable[[httpx.Request], httpx.Response]


class Script:
    """Answers requests with what it was given, in that order, and remembers them."""

    def __init__(self, *answers: Answer) -> None:
        self.left = list(answers)
        self.requests: list[httpx.Request] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        request.read()
        self.requests.append(request)
        answer = self.left.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer


def talking_to(script: Handler, **options: Any) -> bay.Client:
    return bay.Client("http://bay.test", "key", transport=httpx.MockTransport(script), **options)


def error(status: int, code: str, headers: dict[str, str] | None = None, **details: Any) -> httpx.Response:
    body = {"error": {"code": code, "message": f"a {code}", "request_id": "req-7", "details": details}}
    return httpx.Response(status, json=body, headers=headers)


def sandbox() -> httpx.Response:
    return httpx.Response(200, json=canned.SANDBOX)


def chunk(offset: int, data: str, stream: str = "stdout") -> dict[str, Any]:
    return {"offset": offset, "stream": stream, "data": data, "t": "2030-01-01T00:00:00Z"}


class Broken(httpx.SyncByteStream):
    """A body that ends with an exception."""

    def __init__(self, data: bytes, end: Exception) -> None:
        self._data, self._end = data, end

    def __iter__(self) -> Iterator[bytes]:
        yield self._data
        raise self._end


def lines(*items: dict[str, Any], end: Exception | None = None, half: str = "") -> httpx.Response:
    text = "".join(json.dumps(item) + "\n" for item in items) + half
    body = httpx.ByteStream(text.encode()) if end is None else Broken(text.encode(), end)
    return httpx.Response(200, stream=body)


def following(*answers: Answer, **options: Any) -> tuple[bay.Proc, Script]:
    """A command that is read from a server that gives these answers."""
    script = Script(sandbox(), httpx.Response(201, json=EXEC), *answers)
    proc = talking_to(script, **options).sandboxes.get("box").spawn("true")
    return proc, script


def printed(proc: bay.Proc, since: int | None = None) -> bytes:
    return b"".join(c.data for c in proc.output(since))


# Servers that are busy, slow or gone


def test_busy_is_tried_again_after_the_time_it_names() -> None:
    script = Script(error(503, "session_not_ready", retry_after_ms=1), sandbox())
    assert talking_to(script).sandboxes.get("box").name == "box"


def test_busy_is_given_up_when_the_time_is_longer_than_our_patience() -> None:
    script = Script(error(503, "session_not_ready", {"Retry-After": "60"}))
    with pytest.raises(bay.SandboxNotReady) as caught:
        talking_to(script, retry_s=1).sandboxes.get("box")
    assert caught.value.details["retry_after_ms"] == 60_000
    assert caught.value.request_id == "req-7"


def test_busy_without_a_time_is_not_tried_again() -> None:
    with pytest.raises(bay.DriverUnavailable):
        talking_to(Script(error(503, "driver_unavailable"))).sandboxes.get("box")


def test_a_command_that_v1_refused_because_it_was_not_ready_is_sent_again() -> None:
    done = {
        "success": True,
        "output": "",
        "error": None,
        "exit_code": 0,
        "execution_id": "e",
        "execution_time_ms": 1,
    }
    script = Script(
        sandbox(), error(503, "session_not_ready", retry_after_ms=1), httpx.Response(200, json=done)
    )
    assert talking_to(script).sandboxes.get("box").shell("true").success


@pytest.mark.parametrize("lost", [httpx.ReadError("reset"), httpx.RemoteProtocolError("closed")])
def test_a_command_that_may_have_run_is_not_sent_again(lost: Exception) -> None:
    script = Script(sandbox(), lost)
    with pytest.raises(bay.ConnectionFailed, match="broke"):
        talking_to(script).sandboxes.get("box").shell("rm -rf x")
    assert script.left == []


def test_a_command_that_never_left_is_sent_again() -> None:
    done = {
        "success": True,
        "output": "",
        "error": None,
        "exit_code": 0,
        "execution_id": "e",
        "execution_time_ms": 1,
    }
    script = Script(sandbox(), httpx.ConnectError("refused"), httpx.Response(200, json=done))
    assert talking_to(script).sandboxes.get("box").shell("true").success


def test_a_create_is_sent_again_under_the_same_key() -> None:
    script = Script(httpx.ReadError("reset"), httpx.Response(201, json=canned.SANDBOX))
    talking_to(script).sandboxes.create()
    keys = [request.headers["Idempotency-Key"] for request in script.requests]
    assert len(set(keys)) == 1
    assert len(keys) == 2


def test_a_call_whose_connection_breaks_after_longer_than_our_patience_is_sent_again() -> None:
    """As when the server waits for compute on the caller's behalf, and dies."""
    now_s = 100.0
    attempts = Attempts(Call.once("/v1/sandboxes", {}, wait_s=60), retry_s=10, clock=lambda: now_s)
    for _ in range(LASTING_ATTEMPTS):
        now_s += 30
        assert attempts.pause(bay.ConnectionFailed("broke")) < MAX_PAUSE_S
    now_s += 30
    with pytest.raises(bay.ConnectionFailed):  # but not for ever
        attempts.pause(bay.ConnectionFailed("broke"))


def test_a_server_that_breaks_each_connection_at_once_is_given_up_when_our_patience_ends() -> None:
    now_s = 100.0
    attempts = Attempts(Call.get("/v1/sandboxes"), retry_s=10, clock=lambda: now_s)
    broke = bay.ConnectionFailed("broke")
    for _ in range(9):
        now_s += attempts.pause(broke)
    assert 108 < now_s < 110
    with pytest.raises(bay.ConnectionFailed):
        attempts.pause(broke)


def test_a_long_call_that_may_have_had_its_effect_is_not_sent_again() -> None:
    now_s = 100.0
    attempts = Attempts(Call("POST", "/v1/sandboxes/box/shell/exec"), retry_s=10, clock=lambda: now_s)
    now_s += 30
    with pytest.raises(bay.ConnectionFailed):
        attempts.pause(bay.ConnectionFailed("broke"))


def test_an_input_whose_close_was_answered_into_a_broken_connection_is_closed() -> None:
    proc, script = following(httpx.ReadError("reset"), error(409, "conflict"))
    proc.close_stdin()
    assert [request.url.params["eof"] for request in script.requests[2:]] == ["true", "true"]
    proc, _ = following(error(409, "conflict"))
    with pytest.raises(bay.Conflict):  # no answer was lost: it has ended
        proc.close_stdin()


def test_a_run_whose_start_was_answered_into_a_broken_connection_is_found_again() -> None:
    ended = EXEC | {"state": "exited", "exit_code": 0, "stdout": "once", "stderr": ""}
    script = Script(
        sandbox(), httpx.ReadError("reset"), error(409, "conflict"), httpx.Response(200, json=ended)
    )
    assert talking_to(script).sandboxes.get("box").run("true").stdout == "once"
    first, second = (json.loads(request.content)["id"] for request in script.requests[1:3])
    assert first == second
    assert script.requests[3].url.path.endswith(f"/execs/{first}")


def test_a_conflict_that_is_about_something_else_stays_one() -> None:
    script = Script(sandbox(), error(409, "conflict"), error(404, "not_found"))
    with pytest.raises(bay.Conflict):
        talking_to(script).sandboxes.get("box").run("true")


def test_a_run_outlasts_what_one_request_may_wait() -> None:
    ended = EXEC | {"state": "exited", "exit_code": 0, "stdout": "late", "stderr": ""}
    script = Script(
        sandbox(),
        httpx.Response(201, json=EXEC),
        httpx.Response(200, json=EXEC),
        httpx.Response(200, json=ended),
    )
    assert talking_to(script).sandboxes.get("box").run("make", timeout_s=None).stdout == "late"
    assert [float(request.url.params["wait"]) for request in script.requests[1:]] == [30, 30, 30]


def test_a_server_that_does_not_answer_is_a_timeout(proxy: fault_proxy.Proxy) -> None:
    with (
        bay.Client(f"{proxy.url}/mute", KEY, timeout_s=0.1) as client,
        pytest.raises(bay.Timeout, match="timeout_s"),
    ):
        client.health()


def test_a_server_that_is_not_there_is_named_with_the_way_out() -> None:
    with bay.Client("http://127.0.0.1:1") as client, pytest.raises(bay.ConnectionFailed) as caught:
        client.health()
    assert "http://127.0.0.1:1" in caught.value.message
    assert "bay serve" in caught.value.message


def test_a_real_server_that_is_busy_once_is_no_matter(proxy: fault_proxy.Proxy) -> None:
    with bay.Client(f"{proxy.url}/busy", KEY) as client, client.sandbox() as box:
        assert box.run("echo hi").stdout == "hi\n"


# Output that breaks off


def test_output_goes_on_where_a_connection_broke() -> None:
    proc, script = following(
        lines(chunk(0, "YWI="), end=httpx.ReadError("reset")),
        httpx.ConnectError("refused"),
        lines(chunk(2, "Y2Q="), END),
    )
    assert printed(proc) == b"abcd"
    assert [request.url.params["since"] for request in script.requests[2:]] == ["0", "2", "2"]


def test_output_goes_on_after_half_a_line() -> None:
    proc, _ = following(lines(chunk(0, "YWI="), half='{"offset": 2, "str'), lines(chunk(2, "Y2Q="), END))
    assert printed(proc) == b"abcd"


def test_bytes_that_come_twice_are_given_once() -> None:
    proc, _ = following(lines(chunk(0, "YWI="), end=httpx.ReadError("reset")), lines(chunk(1, "YmM="), END))
    assert [(c.offset, c.data) for c in proc.output()] == [(0, b"ab"), (2, b"c")]


def test_a_silent_command_is_not_a_dead_one() -> None:
    quiet = [lines(end=httpx.ReadTimeout("silence")) for _ in range(5)]
    proc, _ = following(*quiet, lines(chunk(0, "YQ=="), END), retry_s=0)
    assert printed(proc) == b"a"


def test_output_is_given_up_when_the_server_stays_away() -> None:
    proc, _ = following(lines(chunk(0, "YQ==")), *[httpx.ConnectError("refused")] * 9, retry_s=0.2)
    with pytest.raises(bay.ConnectionFailed):
        printed(proc)


def test_output_goes_on_through_a_server_that_is_not_ready_yet() -> None:
    proc, _ = following(
        lines(chunk(0, "YQ==")), error(503, "session_not_ready"), lines(chunk(1, "Yg=="), END)
    )
    assert printed(proc) == b"ab"


def test_output_that_is_refused_is_not_asked_for_again() -> None:
    proc, script = following(error(404, "not_found"))
    with pytest.raises(bay.NotFound):
        printed(proc)
    assert script.left == []


def test_lost_output_is_skipped_and_shows_in_the_offsets() -> None:
    proc, script = following(error(410, "output_gone", first_offset=100), lines(chunk(100, "YQ=="), END))
    assert [(c.offset, c.data) for c in proc.output()] == [(100, b"a")]
    assert script.requests[-1].url.params["since"] == "100"


def test_lost_output_is_an_error_for_who_wants_every_byte() -> None:
    proc, _ = following(error(410, "output_gone", first_offset=100))
    with pytest.raises(bay.OutputGone) as caught:
        printed(proc, since=50)
    assert caught.value.details["first_offset"] == 100


@pytest.mark.parametrize("first", [None, "x", 0, -1])
def test_lost_output_that_names_no_way_on_is_an_error(first: object) -> None:
    proc, _ = following(error(410, "output_gone", first_offset=first))
    with pytest.raises(bay.OutputGone):
        printed(proc)


@pytest.mark.parametrize(
    "line",
    [
        "[]",
        "{",
        "hello",
        '{"offset": 0, "data": "!"}',
        '{"offset": 0, "stream": "stdout", "data": 7, "t": "x"}',
    ],
)
def test_a_line_that_is_no_output_is_an_error_and_no_loop(line: str) -> None:
    proc, _ = following(lines(half=f"{line}\n"))
    with pytest.raises(bay.BayError, match="server"):
        printed(proc)


def test_the_end_tells_how_the_command_ended() -> None:
    end: dict[str, Any] = {"exit_code": None, "signal": 15, "state": "killed", "timed_out": True}
    proc, _ = following(lines(chunk(0, "YQ=="), end))
    assert printed(proc) == b"a"
    assert (proc.info.state, proc.info.signal, proc.info.timed_out, proc.info.output_bytes) == (
        "killed",
        15,
        True,
        1,
    )


# Answers that are not Bay's


@pytest.mark.parametrize("fault", ["html", "garbage"])
def test_an_answer_that_is_not_bays_says_so(proxy: fault_proxy.Proxy, fault: str) -> None:
    with (
        bay.Client(f"{proxy.url}/{fault}", KEY) as client,
        pytest.raises(bay.BayError, match="not an answer of Bay"),
    ):
        client.sandboxes.get("box")


def test_a_redirect_is_not_followed_and_names_its_target(proxy: fault_proxy.Proxy) -> None:
    with (
        bay.Client(f"{proxy.url}/redirect", KEY) as client,
        pytest.raises(bay.BayError, match=r"elsewhere\.invalid"),
    ):
        client.sandboxes.get("box")


@pytest.mark.parametrize(
    "answer",
    [
        httpx.Response(502, text="<html>Bad Gateway</html>", headers={"Content-Type": "text/html"}),
        httpx.Response(500, json={"error": "a word"}),
        httpx.Response(404, json=[]),
        httpx.Response(200, json=[]),
        httpx.Response(200, json={}),
        httpx.Response(200, json=canned.SANDBOX | {"created_at": "yesterday"}),
        httpx.Response(200, json=canned.SANDBOX | {"created_at": 7}),
        httpx.Response(200, json=canned.SANDBOX | {"containers": 7}),
        httpx.Response(200, content=b"\xff\xfe"),
    ],
)
def test_no_answer_makes_anything_but_a_bay_error(answer: httpx.Response) -> None:
    with pytest.raises(bay.BayError):
        talking_to(Script(answer)).sandboxes.get("box")


@pytest.mark.parametrize("page", [{}, {"items": None}, {"items": 7}])
def test_a_page_without_items_is_an_error(page: dict[str, Any]) -> None:
    with pytest.raises(bay.BayError, match="not a list"):
        list(talking_to(Script(httpx.Response(200, json=page))).sandboxes.list())


def test_an_unknown_error_code_keeps_its_status_and_words() -> None:
    with pytest.raises(bay.BayError) as caught:
        talking_to(Script(error(418, "teapot"))).sandboxes.get("box")
    assert (caught.value.status, caught.value.message) == (418, "a teapot")


# Interruptions


def test_a_create_that_is_interrupted_is_taken_back() -> None:
    script = Script(KeyboardInterruptInside(), httpx.Response(201, json=canned.SANDBOX), httpx.Response(204))
    with pytest.raises(KeyboardInterruptInside), talking_to(script).sandbox():
        pytest.fail("the block must not be entered")
    first, second, third = script.requests
    assert first.headers["Idempotency-Key"] == second.headers["Idempotency-Key"]
    assert first.content == second.content
    assert (third.method, third.url.path) == ("DELETE", f"/v1/sandboxes/{canned.SANDBOX['id']}")


def test_a_create_that_was_refused_is_not_tried_again() -> None:
    script = Script(error(409, "conflict"))
    with pytest.raises(bay.Conflict), talking_to(script).sandbox():
        pytest.fail("the block must not be entered")


class KeyboardInterruptInside(Exception):
    """Stands for Ctrl-C while a request is under way; a real one would end the test run."""


def test_https_to_a_port_of_plain_http_says_so(url: str) -> None:
    with bay.Client(url.replace("http:", "https:"), "key", retry_s=0) as client:
        with pytest.raises(
            bay.ConnectionFailed, match=r"speaks plain http.*set BAY_URL to http://127"
        ) as caught:
            client.health()
        assert "SSL" not in str(caught.value)


@pytest.mark.parametrize("key", [None, "wrong"])
def test_a_key_that_is_missing_or_wrong_says_where_keys_are(
    url: str, key: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("BAY_API_KEY", raising=False)
    with bay.Client(url, key) as client, pytest.raises(bay.Unauthorized, match=r"BAY_API_KEY.*admin\.key"):
        client.sandboxes.get("x")
