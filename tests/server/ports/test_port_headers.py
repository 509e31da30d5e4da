"""What an app gets to see of a request, and a browser of its answer."""

import base64

import pytest

from bay.server.ports.headers import (
    SANDBOXED,
    Headers,
    Seen,
    app_protocols,
    framing,
    toward_app,
    toward_browser,
)

pytestmark = pytest.mark.pure

SEEN = Seen(host="8000-web.localhost:8700", scheme="http", client="192.0.2.7")
BELOW = Seen(host="bay:8700", scheme="http", client="192.0.2.7", prefix="/v1/sandboxes/web/ports/8000")
FORWARDED = [
    (b"X-Forwarded-For", b"192.0.2.7"),
    (b"X-Forwarded-Host", b"8000-web.localhost:8700"),
    (b"X-Forwarded-Proto", b"http"),
    (b"X-Forwarded-Port", b"8700"),
]
CHOSEN = "a key that somebody chose"
KEYS = [b"bay_" + b"a" * 43, b"e2b_" + b"0a" * 20, CHOSEN.encode()]
HOST = (b"Host", b"8000-web.localhost:8700")


def asked(*given: tuple[bytes, bytes], with_authorization: bool = True) -> Headers:
    return toward_app(given, SEEN, with_authorization=with_authorization, is_key=CHOSEN.__eq__)


def test_what_a_browser_sends_is_passed_on_with_who_sent_it() -> None:
    given = [
        (b"host", b"x"),
        (b"accept", b"a"),
        (b"accept", b"b"),
        (b"origin", b"http://o"),
        (b"X-Odd", b"\xe9"),
    ]
    assert asked(*given) == [HOST, *given[1:], *FORWARDED]


@pytest.mark.parametrize(
    "name",
    [
        b"x-forwarded-for", b"X-Forwarded-Proto", b"x-forwarded-anything", b"forwarded", b"x-real-ip", b"x_forwarded_for",
        b"X_Real_IP", b"te", b"trailer", b"upgrade", b"keep-alive", b"proxy-authorization", b"transfer-encoding",
        b"transfer_encoding", b"content-length", b"Content_Length", b"expect", b"proxy-connection", b"connection", b"via",
    ],
)  # fmt: skip
def test_what_belongs_to_the_connection_and_what_says_who_asks_is_not(name: bytes) -> None:
    assert asked((name, b"1")) == [HOST, *FORWARDED]


def test_what_connection_names_goes_with_it_but_not_what_bay_says() -> None:
    given = [(b"connection", b"close, X-Secret , x-forwarded-for"), (b"x-secret", b"1"), (b"x-other", b"2")]
    assert asked(*given) == [HOST, (b"x-other", b"2"), *FORWARDED]


@pytest.mark.parametrize(
    ("cookies", "left"),
    [
        (b"a=1; bay-port=x.y; b=2", b"a=1; b=2"),
        (b"bay-port=x", None),
        (b"__Host-bay-port=x;a=1", b"a=1"),
        (b" bay-port =x; bay-port=y; a=1", b"a=1"),
        (b"BAY-PORT=x; a=1", b"a=1"),
        (b"bay-port; a=1", b"a=1"),
        (b"a=1; bay-console=x; b=2", b"a=1; b=2"),
        (b"__Host-bay-console=x; __host-BAY-console=y", None),
        (b"=bay-console=x; a=1", b"a=1"),
        (b"bay-ports=1; xbay-port=2", b"bay-ports=1; xbay-port=2"),
        (b"bay-consoles=1; xbay-console=2", b"bay-consoles=1; xbay-console=2"),
        (b"a=bay-port=1", b"a=bay-port=1"),
    ],
)
def test_bays_cookies_are_taken_out_and_others_left(cookies: bytes, left: bytes | None) -> None:
    assert asked((b"cookie", cookies)) == [HOST, *([(b"cookie", left)] if left else []), *FORWARDED]


def test_an_authorization_is_passed_on_unless_it_is_bays() -> None:
    theirs = (b"authorization", b"Bearer abc")
    assert theirs in asked(theirs)
    assert asked(theirs, with_authorization=False) == [HOST, *FORWARDED]
    for value in (
        b"Bearer bay_" + b"a" * 43,
        b"bearer  bay_" + b"_" * 43 + b" ",
        b"Bearer e2b_" + b"0" * 40,
    ):  # also one that opens nothing any more
        assert asked((b"Authorization", value)) == [HOST, *FORWARDED]


@pytest.mark.parametrize("key", KEYS, ids=["made", "of-e2b", "chosen"])
@pytest.mark.parametrize(
    ("name", "form"),
    [(b"X-Api-Key", b"%s"), (b"authorization", b"Token %s"), (b"authorization", b'Key token="%s"'),
     (b"referer", b"http://x/?key=%s"), (b"X-Anything", b" %s ")],
)  # fmt: skip
def test_a_key_reaches_no_app_in_whatever_header_it_was_put(name: bytes, form: bytes, key: bytes) -> None:
    if b" " in key and b"=" in form:
        return  # a key with spaces cannot be told from the words around it
    assert asked((name, form % key)) == [HOST, *FORWARDED]


@pytest.mark.parametrize("key", KEYS, ids=["made", "of-e2b", "chosen"])
@pytest.mark.parametrize("form", [b"user:%s", b"%s:", b"%s"])
def test_a_key_reaches_no_app_by_basic(form: bytes, key: bytes) -> None:
    assert asked((b"Authorization", b"Basic " + base64.b64encode(form % key))) == [HOST, *FORWARDED]
    theirs = (b"Authorization", b"Basic " + base64.b64encode(form % b"a password of the app's own"))
    assert theirs in asked(theirs)


@pytest.mark.parametrize("name", [b"e2b-traffic-access-token", b"E2B_Traffic_Access_Token"])
def test_the_token_that_opens_a_port_reaches_no_app(name: bytes) -> None:
    assert asked((name, b"a-sealed-token"), (b"x-own", b"1")) == [HOST, (b"x-own", b"1"), *FORWARDED]


def test_a_cookie_with_a_key_is_taken_out_and_others_left() -> None:
    cookies = b"a=1; k=bay_" + b"x" * 43 + b"; b=2"
    assert asked((b"cookie", cookies)) == [HOST, (b"cookie", b"a=1; b=2"), *FORWARDED]


@pytest.mark.parametrize(
    "name",
    [b"X-Accel-Redirect", b"x-accel-buffering", b"X-Sendfile", b"X-LIGHTTPD-send-file", b"X-LiteSpeed-Location",
     b"X-Reproxy-URL"],
)  # fmt: skip
def test_an_app_gives_no_orders_to_a_proxy_before_bay(name: bytes) -> None:
    assert toward_browser([(name, b"/internal/secret"), (b"x-own", b"1")], 200, SEEN) == [(b"x-own", b"1")]


def test_a_body_is_framed_in_one_way() -> None:
    assert framing([(b"Content-Length", b"3")]) == [(b"Content-Length", b"3")]
    assert framing([(b"transfer-encoding", b"gzip, chunked")]) == [(b"Transfer-Encoding", b"chunked")]
    assert framing([(b"accept", b"x")]) == []


def test_an_answer_is_passed_on_without_what_belongs_to_the_connection() -> None:
    kept = [(b"content-type", b"a/b"), (b"content-length", b"3"), (b"location", b"/x"), (b"etag", b"1")]
    dropped = [
        (b"connection", b"x-hop"),
        (b"x-hop", b"1"),
        (b"keep-alive", b"1"),
        (b"alt-svc", b"1"),
        (b"date", b"x"),
        (b"Clear-Site-Data", b"*"),
    ]
    assert toward_browser([*dropped, *kept], 200, SEEN) == kept
    assert (b"content-length", b"3") not in toward_browser(
        [(b"Transfer-Encoding", b"chunked"), *kept], 200, SEEN
    )
    for status in (204, 304):
        assert (b"content-length", b"3") not in toward_browser(kept, status, SEEN)


@pytest.mark.parametrize(
    ("cookie", "at_host", "below"),
    [
        (b"a=1", b"a=1", b"a=1; Path=/v1/sandboxes/web/ports/8000"),
        (b"a=1; Path=/; Domain=localhost; HttpOnly", b"a=1; Path=/; HttpOnly", b"a=1; HttpOnly; Path=/v1/sandboxes/web/ports/8000"),
        (b"a=1;DOMAIN = .example.com;domain=x", b"a=1", b"a=1; Path=/v1/sandboxes/web/ports/8000"),
        (b"bay-port=evil; Path=/", None, None),
        (b" __Host-bay-port =evil", None, None),
        (b"bay-console=evil; Path=/; Domain=localhost", None, None),
        (b"__HOST-bay-console=evil; Secure; Path=/", None, None),
        (b" = bay-console=evil", None, None),
    ],
)  # fmt: skip
def test_an_app_sets_cookies_for_itself_alone(
    cookie: bytes, at_host: bytes | None, below: bytes | None
) -> None:
    for seen, expected in ((SEEN, at_host), (BELOW, below)):
        found = [v for n, v in toward_browser([(b"Set-Cookie", cookie)], 200, seen) if n == b"Set-Cookie"]
        assert found == ([] if expected is None else [expected])


def test_below_bays_own_host_an_app_is_of_no_origin() -> None:
    given = [
        (b"content-security-policy", b"sandbox allow-same-origin"),
        (b"strict-transport-security", b"max-age=1"),
        (b"service-worker-allowed", b"/"),
    ]
    assert toward_browser(given, 200, BELOW) == [
        given[0],  # a browser obeys both, so that the stricter holds
        (b"content-security-policy", SANDBOXED),
        (b"x-content-type-options", b"nosniff"),
    ]
    assert b"allow-same-origin" not in SANDBOXED


@pytest.mark.parametrize(
    ("location", "below"),
    [
        (b"/login", b"/v1/sandboxes/web/ports/8000/login"),
        (b"//evil.example/", b"//evil.example/"),
        (b"next", b"next"),
        (b"https://x/", b"https://x/"),
    ],
)
def test_a_redirect_to_a_path_stays_with_the_app(location: bytes, below: bytes) -> None:
    assert toward_browser([(b"location", location)], 302, BELOW)[0] == (b"location", below)


def test_the_app_learns_below_which_path_it_is_shown() -> None:
    assert (b"X-Forwarded-Prefix", b"/v1/sandboxes/web/ports/8000") in toward_app(
        [], BELOW, with_authorization=False, is_key=CHOSEN.__eq__
    )


@pytest.mark.parametrize(
    ("host", "scheme", "port"),
    [
        ("x", "http", "80"),
        ("x", "https", "443"),
        ("x:9", "https", "9"),
        ("[::1]", "http", "80"),
        ("[::1]:9", "http", "9"),
    ],
)
def test_the_port_is_the_one_the_browser_spoke_to(host: str, scheme: str, port: str) -> None:
    assert Seen(host=host, scheme=scheme, client="").port == port


def test_protocols_for_bay_are_not_offered_to_the_app() -> None:
    assert app_protocols(["bay.v1", "bay.bearer.c2VjcmV0", "chat", "Bay.Bearer.x"]) == ["chat"]


@pytest.mark.parametrize(
    ("offered", "left"),
    [(b"chat, bay.v1,bay.bearer.c2VjcmV0", [b"chat"]), (b"bay.bearer.c2VjcmV0", []), (b"a,b", [b"a, b"])],
)
def test_nor_are_they_in_a_request_that_is_none_for_a_websocket(offered: bytes, left: list[bytes]) -> None:
    seen = Seen(host="h", scheme="http", client="")
    found = toward_app(
        [(b"sec-websocket-protocol", offered)], seen, with_authorization=True, is_key=CHOSEN.__eq__
    )
    assert [value for name, value in found if name == b"sec-websocket-protocol"] == left
