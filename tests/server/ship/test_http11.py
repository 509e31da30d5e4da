"""The client of HTTP/1.1 sends and takes exactly what h11 does, whichever of the two reads it."""

import asyncio
from collections.abc import Callable

import h11
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bay.server.ship.http11 import Headers, Http11Client

pytestmark = pytest.mark.pure

MAX_HEAD = 200
HOST = (b"Host", b"x")

odd = st.sampled_from([
    b"", b" ", b"\t", b"\x00", b"\r", b"\n", b"\r\n ", b"\x7f", b"\x0b", b"\x80\xff", b":", b"a", b"close", b"0", b"5",
    b"-1", b"+5", b"5, 5", b"5, 6", b"0x5", b"chunked", b"gzip, chunked", b"Close", b"keep-alive, close", b"x" * 210,
])  # fmt: skip
values = st.lists(odd, max_size=3).map(b"".join)
names = st.sampled_from(
    [
        b"Content-Length",
        b"content-length",
        b"Transfer-Encoding",
        b"Connection",
        b"X",
        b"x y",
        b"X ",
        b"",
        b"\xe9",
    ]
)
lengths = st.just((b"Content-Length", b"5"))
headers = st.lists(lengths | st.tuples(names, values), max_size=4)
starts = st.sampled_from([
    b"HTTP/1.1 200 OK", b"HTTP/1.1 200", b"HTTP/1.1 204 No", b"HTTP/1.1 304 ", b"HTTP/1.0 200 OK", b"HTTP/1.1 100 Go",
    b"HTTP/1.1 101 Up", b"HTTP/1.1 999 x", b"HTTP/1.1 20 x", b"HTTP/2.0 200 x", b"HTTP/1.1 200 \xe9", b"http/1.1 200 OK", b"",
])  # fmt: skip
ends = st.sampled_from([b"\r\n", b"\r\n", b"\r\n", b"\n", b"\r"])
bodies = st.sampled_from(
    [b"", b"hello", b"hell", b"hello more", b"5\r\nhello\r\n0\r\n\r\n", b"0\r\n\r\n", b"5\r\nhel"]
)


@st.composite
def answers(draw: st.DrawFn) -> list[bytes]:
    """The bytes of an answer in any cut."""
    end = draw(ends)
    lines = [draw(starts), *(name + b": " + value for name, value in draw(headers))]
    data = b"".join(line + end for line in lines) + end + draw(bodies)
    cut = draw(st.integers(0, len(data)))
    return [data[:cut], data[cut:]]


async def outcome(client: Http11Client, parts: list[bytes]) -> tuple[object, bool]:
    """All that a caller sees of an answer, and whether another request may follow."""
    left = list(parts)

    async def read() -> bytes:
        return left.pop(0) if left else b""

    seen = list[object]()
    try:
        while not seen or seen[-1][0] < 200:  # pyright: ignore[reportIndexIssue, reportUnknownVariableType]
            answer = await client.answer(read)
            seen.append((answer.status, answer.headers))
            if answer.status == 101:
                return (seen, client.rest), False
        body = b"".join([part async for part in client.body(lambda: client.part(read))])
    except (h11.RemoteProtocolError, ConnectionError):
        return (seen, "broken"), False
    return (seen, body), client.recycle()


OK, LENGTH = b"HTTP/1.1 200 OK\r\n", b"Content-Length: 5\r\n"
KNOWN = [
    OK + LENGTH + b"\r\nhello",
    OK + LENGTH + b"\r\nhell",
    OK + LENGTH + b"\r\nhello more",
    OK + LENGTH + b"Connection: keep-alive, Close\r\n\r\nhello",
    OK + LENGTH + LENGTH + b"\r\nhello",
    OK + LENGTH + b"Content-Length: 4\r\n\r\nhello",
    OK + LENGTH + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
    OK + LENGTH + b"Transfer-Encoding: gzip\r\n\r\nhello",
    OK + LENGTH + b"X: a\x00b\r\n\r\nhello",
    OK + LENGTH + b"X: a\rb\r\n\r\nhello",
    OK + LENGTH + b"X: a\r\n b\r\n\r\nhello",
    OK + LENGTH + b"X : a\r\n\r\nhello",
    OK + b"Content-Length: +5\r\n\r\nhello",
    OK + b"Content-Length: 5, 5\r\n\r\nhello",
    OK + b"Content-Length: " + b"0" * 19 + b"5\r\n\r\nhello",
    OK + b"Content-Length: " + b"9" * 22 + b"\r\n\r\nhello",
    OK + b"\r\nhello",
    OK.replace(b"1.1", b"1.0") + LENGTH + b"\r\nhello",
    (OK + LENGTH + b"\r\nhello").replace(b"\r", b""),
    b"HTTP/1.1 304 x\r\n" + LENGTH + b"\r\n",
    b"HTTP/1.1 304 x\r\n" + LENGTH + b"\r\nhello",
    b"HTTP/1.1 204 x\r\n" + LENGTH + b"\r\n",
    b"HTTP/1.1 103 x\r\n\r\n" + OK + LENGTH + b"\r\nhello",
    OK + LENGTH + b"X: " + b"x" * MAX_HEAD + b"\r\n\r\nhello",
]


@pytest.mark.parametrize("method", ["GET", "HEAD", "CONNECT"])
@pytest.mark.parametrize("answer", KNOWN)
def test_a_known_answer_is_taken_as_h11_takes_it(method: str, answer: bytes) -> None:
    for cut in (len(answer), len(answer) // 2, 1):
        compare(method, [answer[:cut], answer[cut:]])


@given(method=st.sampled_from(["GET", "HEAD"]), parts=answers())
def test_an_answer_is_taken_as_h11_takes_it(method: str, parts: list[bytes]) -> None:
    compare(method, parts)


def compare(method: str, cut: list[bytes]) -> None:
    """One client is free to take the answer for a common one, the other is not."""
    parts = [part for part in cut if part]
    ours, judged = Http11Client(MAX_HEAD), Http11Client(MAX_HEAD)
    ours.ask(method, b"/", [HOST])
    judged.encode(h11.Request(method=method, target=b"/", headers=[HOST]), h11.EndOfMessage())
    found, stays = asyncio.run(outcome(ours, parts))
    expected, may_stay = asyncio.run(outcome(judged, parts))
    assert found == expected
    assert may_stay or not stays


@given(
    method=st.sampled_from(["GET", "POST", "x-y", "CONNECT", "G T", "G\r\n", ""]),
    target=st.sampled_from([b"/", b"/a?b=c", b"*", b"/ x", b"/\r\nX: y", b"", b"/\xe9"]),
    given_headers=st.lists(
        st.tuples(
            names | st.sampled_from([b"Host", b"Upgrade", b"Expect", b"X: a\r\nY"]),
            values | st.just(b"a\r\nY: b"),
        ),
        max_size=3,
    ),
    body=st.sampled_from([None, b"", b"hello"]),
)
def test_a_request_is_sent_or_refused_as_h11_does_it(
    method: str, target: bytes, given_headers: Headers, body: bytes | None
) -> None:
    asked = [HOST, *given_headers]
    framing = [] if body is None else [(b"Content-Length", b"%d" % len(body))]

    def judged() -> bytes:
        request = h11.Request(method=method, target=target, headers=[*asked, *framing])
        events = (request, h11.Data(data=body or b""), h11.EndOfMessage())
        return b"".join(Http11Client(MAX_HEAD).encode(*events))

    def ours() -> bytes:
        return b"".join(Http11Client(MAX_HEAD).ask(method, target, asked, body))

    assert sent(ours) == sent(judged)


@pytest.mark.parametrize("header", [(b"X", b"a\r\nY: b"), (b"X: a\r\nY", b"b")])
def test_a_header_with_another_one_in_it_is_not_sent(header: tuple[bytes, bytes]) -> None:
    with pytest.raises(h11.LocalProtocolError):
        Http11Client(MAX_HEAD).ask("GET", b"/", [HOST, header])


def sent(send: Callable[[], bytes]) -> bytes | str:
    """The bytes, or why they are refused."""
    try:
        return send()
    except h11.LocalProtocolError as error:
        return str(error)


@pytest.mark.parametrize("behind", [b"x", b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"])
def test_a_connection_with_unasked_bytes_serves_no_more(behind: bytes) -> None:
    client = Http11Client(MAX_HEAD)
    client.ask("GET", b"/", [HOST])
    found, stays = asyncio.run(outcome(client, [b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok" + behind]))
    assert (found, stays) == (([(200, [(b"content-length", b"2")])], b"ok"), False)


def test_a_connection_serves_common_and_other_answers_by_turns() -> None:
    client = Http11Client(MAX_HEAD)
    common = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
    chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n"
    for answer in (common, chunked, chunked, common):
        assert client.ask("GET", b"/", [HOST]) == [b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"]
        (_, body), stays = asyncio.run(outcome(client, [answer]))  # pyright: ignore[reportGeneralTypeIssues, reportUnknownVariableType]
        assert (body, stays) == (b"ok", True)
