"""Which host names lead to which port of which sandbox, and which lead nowhere."""

import pytest

from bay.errors import InvalidArgument
from bay.server.ports.gate import PortHost, PortHosts, host_of

pytestmark = pytest.mark.pure

ID = "sandbox-0123456789abcdef01234567"
LOCAL = PortHosts(None, "127.0.0.1", 8700)
PUBLIC = PortHosts("https://bay.example.com", "127.0.0.1", 8700)


@pytest.mark.parametrize(
    ("host", "sandbox", "port"),
    [
        ("8000-web.localhost:8700", "web", 8000),
        ("8000-WEB.LocalHost:8700", "web", 8000),
        ("8000-web.localhost", "web", 8000),
        ("web.localhost:8700", "web", None),
        (f"65535-{ID}.localhost:1", ID, 65535),
        (f"{ID}.localhost:8700", ID, None),
        ("8000-9000-web.localhost:8700", "9000-web", 8000),
        ("1-a--b.localhost", "a--b", 1),
    ],
)
def test_a_host_leads_to_a_port(host: str, sandbox: str, port: int | None) -> None:
    found = LOCAL.look(host)
    assert isinstance(found, PortHost)
    assert (found.sandbox, found.port, found.scheme, found.host) == (sandbox, port, "http", host.lower())


@pytest.mark.parametrize(
    "host",
    ["localhost:8700", "localhost", "127.0.0.1:8700", "[::1]:8700", "10.0.0.7", "bay", "build-1:8700"],
)
def test_bay_itself_is_reached_by_address_by_localhost_and_by_a_name_of_the_own_network(host: str) -> None:
    assert LOCAL.look(host) == "bay"


@pytest.mark.parametrize(
    "host",
    [
        "evil.example", "8000-web.evil.example", "bay.example.com", "8000-web.bay.example.com", "a.8000-web.localhost",
        "localhost.evil.example", "8000-web.localhost.", "localhost.", "8000-web.localhost.evil.example", ".localhost",
        "8000-.localhost", "-web.localhost", "65536-web.localhost", "8000-web_x.localhost", "8000-web.localhost:123456",
        "web.localhost:8700@evil.example", "web.localhost/x", "web.localhost#", "127.0.0.1.evil.example", "",
        "8000-web.127.0.0.1", "web..localhost", "8000-web.localhost:", "\u0131.localhost", "web.localhost, evil.example",
    ],
)  # fmt: skip
def test_a_host_of_a_strangers_domain_or_of_no_form_leads_nowhere(host: str) -> None:
    assert LOCAL.look(host) is None


def test_the_name_that_bay_listens_on_is_its_own() -> None:
    hosts = PortHosts(None, "Bay.Lan.Example", 8700)
    assert hosts.look("bay.lan.example:8700") == "bay"
    assert hosts.look("8000-web.bay.lan.example:8700") is None


def test_a_port_label_is_not_taken_for_a_name_with_leading_zeros() -> None:
    found = LOCAL.look("08000-web.localhost")
    assert isinstance(found, PortHost)
    assert (found.sandbox, found.port) == ("08000-web", None)  # which no sandbox can have as its host
    assert host_of("08000-web") is None


def test_the_domain_of_the_public_url_serves_beside_localhost() -> None:
    found = PUBLIC.look("8000-web.bay.example.com")
    assert isinstance(found, PortHost)
    assert (found.sandbox, found.port, found.scheme, found.origin) == (
        "web",
        8000,
        "https",
        "https://8000-web.bay.example.com",
    )
    assert isinstance(PUBLIC.look("8000-web.localhost:8700"), PortHost)
    assert PUBLIC.look("bay.example.com") == "bay"
    assert PUBLIC.look("example.com") is None


def test_urls_name_the_public_domain_or_else_localhost() -> None:
    assert LOCAL.url("web", 8000) == "http://8000-web.localhost:8700/"
    assert LOCAL.url("web", None) == "http://web.localhost:8700/"
    assert PUBLIC.url("web", 8000) == "https://8000-web.bay.example.com/"
    assert PortHosts("http://bay.test:8080", "x", 1).url("web", 80) == "http://80-web.bay.test:8080/"
    assert PortHosts("http://10.0.0.1:9000", "x", 8700).url("web", 80) == "http://80-web.localhost:8700/"


@pytest.mark.parametrize("here", ["127.0.0.1", "localhost", "[::1]"])
def test_urls_on_this_machine_have_the_port_of_a_balancer_that_is_there_too(here: str) -> None:
    hosts = PortHosts(f"http://{here}:9000", "x", 8700)
    assert (hosts.url("web", 80), hosts.domain) == ("http://80-web.localhost:9000/", "localhost:9000")
    assert PortHosts(f"http://{here}", "x", 8700).url("web", None) == "http://web.localhost/"
    assert PortHosts(f"https://{here}", "x", 8700).url("web", None) == "http://web.localhost:8700/"
    place = hosts.look("80-web.localhost:9000")
    assert isinstance(place, PortHost)
    assert place.origin == "http://80-web.localhost:9000"


@pytest.mark.parametrize(
    ("hosts", "other", "place", "beside"),
    [
        (LOCAL, "1-web.localhost:8700", "2-web.localhost:8700", True),
        (LOCAL, "1-web.localhost:8701", "1-web.localhost:8700", False),
        (LOCAL, "1-web.localhost", "1-web.localhost:8700", False),
        (LOCAL, "1-web.localhost:80", "1-web.localhost", True),
        (PUBLIC, "1-web.bay.example.com:443", "2-web.bay.example.com", True),
        (PUBLIC, "1-web.bay.example.com:8443", "1-web.bay.example.com", False),
        (PUBLIC, "1-web.localhost", "1-web.localhost:8700", False),
        (PortHosts("https://bay.test:8443", "x", 1), "1-web.bay.test:8443", "2-web.bay.test", True),
        (PortHosts("https://bay.test", "x", 1), "1-web.bay.test", "2-web.bay.test:8700", True),
    ],
)
def test_at_another_port_of_the_address_there_is_another_server(
    hosts: PortHosts, other: str, place: str, beside: bool
) -> None:
    found = hosts.look(other), hosts.look(place)
    assert isinstance(found[0], PortHost)
    assert isinstance(found[1], PortHost)
    assert hosts.is_beside(found[0], found[1]) is beside


def test_an_origin_has_no_default_port() -> None:
    found = PUBLIC.look("web.bay.example.com:443")
    assert isinstance(found, PortHost)
    assert found.origin == "https://web.bay.example.com"


@pytest.mark.parametrize(
    ("name", "host"),
    [
        ("web", "web"),
        ("a-1", "a-1"),
        ("8000-web", None),
        ("1-", None),
        ("x" * 57, "x" * 57),
        ("x" * 58, None),
        (None, None),
    ],
)
def test_a_name_is_a_host_where_it_cannot_be_taken_for_a_port_and_leaves_room_for_one(
    name: str | None, host: str | None
) -> None:
    assert host_of(name) == host


@pytest.mark.parametrize(
    "url",
    [
        "bay.example.com",
        "ftp://bay.example.com",
        "https://",
        "https://x/y",
        "https://u@x",
        "https://x:99999",
        "",
    ],
)
def test_a_public_url_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(InvalidArgument, match="public_url"):
        PortHosts(url, "127.0.0.1", 8700)
