"""References to images: what they mean, and which are refused."""

import pytest

from bay.errors import InvalidArgument
from bay.images.references import Reference, address_in, host_and_port, parse, parse_host

pytestmark = pytest.mark.pure

DIGEST = "sha256:" + "0123456789abcdef" * 4


@pytest.mark.parametrize(
    ("text", "full"),
    [
        ("busybox", "docker.io/library/busybox:latest"),
        ("busybox:1.36", "docker.io/library/busybox:1.36"),
        ("grafana/grafana", "docker.io/grafana/grafana:latest"),
        ("docker.io/busybox", "docker.io/library/busybox:latest"),
        ("index.docker.io/a/b", "docker.io/a/b:latest"),
        ("Docker.IO/busybox", "docker.io/library/busybox:latest"),
        ("localhost/a", "localhost/a:latest"),
        ("localhost:5000/a/b/c:v1", "localhost:5000/a/b/c:v1"),
        ("GHCR.io/owner/x", "ghcr.io/owner/x:latest"),
        ("registry.example.com./x", "registry.example.com/x:latest"),
        ("10.1.2.3/x", "10.1.2.3/x:latest"),
        ("10.1.2.3:5000/x:y", "10.1.2.3:5000/x:y"),
        ("[::1]:5000/x", "[::1]:5000/x:latest"),
        ("[2001:DB8:0:0::1]/x:1", "[2001:db8::1]/x:1"),
        ("host:5000/x", "host:5000/x:latest"),
        ("xn--bcher-kva.example/x", "xn--bcher-kva.example/x:latest"),
        (f"busybox@{DIGEST}", f"docker.io/library/busybox@{DIGEST}"),
        (f"busybox:1@{DIGEST}", f"docker.io/library/busybox:1@{DIGEST}"),
        ("a__b/c---d", "docker.io/a__b/c---d:latest"),
        ("a/b:" + "t" * 128, "docker.io/a/b:" + "t" * 128),
        ("a/b:_x", "docker.io/a/b:_x"),
    ],
)
def test_a_reference_has_one_full_form_which_means_itself(text: str, full: str) -> None:
    assert str(parse(text)) == full
    assert parse(full) == parse(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        ":",
        "/",
        "@",
        ":tag",
        "/a",
        "a/",
        "a//b",
        "a:",
        "a:-x",
        "a:.x",
        "a:" + "t" * 129,
        "a:tag:tag",
        "a@",
        "a@sha256:abc",
        "a@SHA256:" + "0" * 64,
        "a@sha256:" + "A" * 64,
        f"a@{DIGEST}@{DIGEST}",
        "a@sha512:" + "0" * 128,
        f"a@{DIGEST}\n",
        "busybox\n",
        "busybox ",
        " busybox",
        "bu\0sybox",
        "bu\x1b[31msybox",
        "../etc/passwd",
        "a/../b",
        "a/./b",
        "a..b",
        "a___b",
        "-a",
        "a-",
        "_a",
        "größe",
        "образ",
        "イメージ",
        "a\u0661",  # a digit, and not an ASCII one
        "\ufb00",
        "docker://busybox",
        "oci:/etc",
        "dir:/etc",
        "https://registry.example.com/x",
        "host:0/x",
        "host:65536/x",
        "host:050/x",
        "host:\u0663/x",
        "host:/x",
        "host:5000/",
        "256.1.1.1/x",
        "1.2.3/x",
        "010.1.1.1/x",
        "[::1/x",
        "[::1]5000/x",
        "[::1]:/x",
        "[fe80::1%eth0]/x",
        "[127.0.0.1]/x",
        "[]/x",
        "::1/x",
        "-a.example/x",
        "a-.example/x",
        "a..example/x",
        "user@host.example/x",
        "user:pass@host.example/x",
        "bücher.example/x",
        f"{'l' * 64}.example/x",
        "a/" + "b" * 255,
        "a" * 1025,
        "a?x=y",
        "a#b",
        "a%2fb",
        "a\\b",
        "--help",
        "--authfile=/etc/shadow",
    ],
)
def test_a_text_that_names_no_image_is_refused(text: str) -> None:
    with pytest.raises(InvalidArgument) as refused:
        parse(text)
    assert len(refused.value.message) < 600
    assert refused.value.message.isprintable()


@pytest.mark.parametrize(
    ("text", "lower"), [("BusyBox", "busybox"), ("ghcr.io/Owner/x", "owner"), ("Foo/bar", "foo")]
)
def test_capitals_in_a_repository_are_named_with_the_way_out(text: str, lower: str) -> None:
    with pytest.raises(InvalidArgument, match=f"lower case; write '{lower}'"):
        parse(text)


def test_a_name_with_dots_and_no_slash_is_a_repository_as_with_docker() -> None:
    assert str(parse("registry.example.com")) == "docker.io/library/registry.example.com:latest"


def test_a_pinned_reference_keeps_its_tag_as_a_name() -> None:
    pinned = parse("busybox:1").pinned(DIGEST)
    assert pinned == Reference("docker.io", "library/busybox", "1", DIGEST)
    assert str(pinned) == f"docker.io/library/busybox:1@{DIGEST}"


@pytest.mark.parametrize(
    ("host", "name", "port"),
    [
        ("docker.io", "docker.io", None),
        ("localhost:5000", "localhost", 5000),
        ("[::1]", "::1", None),
        ("[::1]:80", "::1", 80),
    ],
)
def test_a_host_is_a_name_and_perhaps_a_port(host: str, name: str, port: int | None) -> None:
    assert parse_host(host) == host
    assert host_and_port(host) == (name, port)


def test_an_address_is_told_from_a_name() -> None:
    assert str(address_in("10.0.0.1:5000")) == "10.0.0.1"
    assert str(address_in("[::1]:5000")) == "::1"
    assert address_in("localhost:5000") is None
    assert parse("10.0.0.1/x").address is not None


@pytest.mark.parametrize("text", ["", "registry", "a/b", "http://a.b", "a.b/", "*.example.com", "a.b:x"])
def test_a_host_alone_is_held_to_the_same_rules(text: str) -> None:
    with pytest.raises(InvalidArgument):
        parse_host(text)
