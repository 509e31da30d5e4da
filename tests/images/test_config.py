"""The config of an image: what is read of it, and what is refused."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from image_files import ImageFile, as_json, digest_of, layer_of

from bay.errors import ImageInvalid
from bay.images.config import MAX_LAYERS, Healthcheck, ImageConfig

pytestmark = pytest.mark.pure

DIFF_ID = digest_of(b"")


def config(**inner: Any) -> ImageConfig:
    return ImageConfig.from_json(ImageFile(config={"config": inner}).config_bytes)


def test_all_that_an_image_says_is_read() -> None:
    read = ImageConfig.from_json(
        as_json(
            {
                "os": "linux",
                "architecture": "arm64",
                "variant": "v8",
                "created": "2024-05-01T10:00:00.123456789Z",
                "config": {
                    "User": "node:staff",
                    "ExposedPorts": {"80/tcp": {}, "53/udp": {}, "9000": {}, "8000-8010/tcp": {}},
                    "Env": ["PATH=/usr/bin:/bin", "A=b=c", "EMPTY=", "A=later", "UNSET"],
                    "Entrypoint": ["/entry", "--x"],
                    "Cmd": ["serve", ""],
                    "Volumes": {"/data": {}},
                    "WorkingDir": "/app/../srv/./x/",
                    "Labels": {"org.example.a": "1"},
                    "StopSignal": "SIGRTMIN+3",
                    "Healthcheck": {
                        "Test": ["CMD-SHELL", "curl -f http://localhost/"],
                        "Interval": 30_000_000_000,
                        "Timeout": 1_500_000_000,
                        "StartPeriod": 0,
                        "Retries": 3,
                    },
                },
                "rootfs": {"type": "layers", "diff_ids": [DIFF_ID]},
                "history": [{"created_by": "a"}, {"created_by": "b", "empty_layer": True}],
                "container_config": {"ignored": True},
            }
        )
    )
    assert read == ImageConfig(
        os="linux",
        architecture="arm64",
        variant="v8",
        env={"PATH": "/usr/bin:/bin", "A": "later", "EMPTY": ""},
        user="node:staff",
        working_dir="/srv/x",
        entrypoint=("/entry", "--x"),
        cmd=("serve", ""),
        stop_signal="SIGRTMIN+3",
        healthcheck=Healthcheck(
            test=("CMD-SHELL", "curl -f http://localhost/"), interval_s=30, timeout_s=1.5, retries=3
        ),
        exposed_ports=("80/tcp", "53/udp", "9000/tcp", "8000-8010/tcp"),
        labels={"org.example.a": "1"},
        created="2024-05-01T10:00:00.123456789Z",
        diff_ids=(DIFF_ID,),
    )
    assert read.platform == "linux/arm64/v8"
    assert ImageConfig.from_row(json.loads(json.dumps(read.to_json()))) == read


def test_an_image_may_say_nothing_but_its_platform() -> None:
    least = ImageConfig.from_json(b'{"os": "linux", "architecture": "amd64"}')
    assert least == ImageConfig(os="linux", architecture="amd64")
    assert ImageConfig.from_row(json.loads(json.dumps(least.to_json()))) == least
    nothing = dict.fromkeys(("User", "Env", "Cmd", "Entrypoint", "WorkingDir", "Labels", "Healthcheck"))
    assert (
        ImageConfig.from_json(as_json({"os": "linux", "architecture": "amd64", "config": nothing})) == least
    )


@pytest.mark.parametrize("created", ["yesterday", 5, None, {"a": 1}, "\x1b[31m", "9" * 65])
def test_a_strange_time_of_creation_is_left_out(created: object) -> None:
    assert ImageConfig.from_json(ImageFile(config={"created": created}).config_bytes).created is None


@pytest.mark.parametrize(
    ("given", "read"),
    [("app", "/app"), ("//app", "/app"), ("../../etc", "/etc"), ("/", "/"), ("", ""), ("/a/../..", "/")],
)
def test_the_working_directory_is_absolute_and_in_one_spelling(given: str, read: str) -> None:
    assert config(WorkingDir=given).working_dir == read


@pytest.mark.parametrize(
    ("inner", "word"),
    [
        ({"Env": ["=x"]}, "Env"),
        ({"Env": [""]}, "Env"),
        ({"Env": ["A B=x"]}, "Env"),
        ({"Env": ["A\n=x"]}, "Env"),
        ({"Env": ["A\x00=x"]}, "NUL"),
        ({"Env": ["A=x\x00y"]}, "NUL"),
        ({"Env": ["N" * 257 + "=x"]}, "Env"),
        ({"Env": ["A=" + "x" * (128 << 10)]}, "bytes"),
        ({"Env": [f"A{n}=" + "x" * 100_000 for n in range(6)]}, "bytes"),
        ({"Env": [f"A{n}=x" for n in range(1025)]}, "entries"),
        ({"Env": "A=b"}, "list"),
        ({"Env": {"A": "b"}}, "list"),
        ({"Env": [5]}, "text"),
        ({"Env": [None]}, "text"),
        ({"Cmd": "true"}, "list"),
        ({"Cmd": [["true"]]}, "text"),
        ({"Entrypoint": ["a\0b"]}, "NUL"),
        ({"Cmd": ["x"] * 1025}, "entries"),
        ({"User": "a:b:c"}, "User"),
        ({"User": "a b"}, "User"),
        ({"User": "root\n0"}, "User"),
        ({"User": "../x"}, "User"),
        ({"User": ":"}, "User"),
        ({"User": "u" * 129}, "User"),
        ({"User": 0.5}, "text"),
        ({"WorkingDir": "/a\0"}, "NUL"),
        ({"WorkingDir": "/" + "a" * 4096}, "bytes"),
        ({"WorkingDir": ["/"]}, "text"),
        ({"StopSignal": "SIG TERM"}, "StopSignal"),
        ({"StopSignal": "-9"}, "StopSignal"),
        ({"StopSignal": "999"}, "StopSignal"),
        ({"ExposedPorts": {"0/tcp": {}}}, "ExposedPorts"),
        ({"ExposedPorts": {"65536": {}}}, "ExposedPorts"),
        ({"ExposedPorts": {"90-80/tcp": {}}}, "ExposedPorts"),
        ({"ExposedPorts": {"80/icmp": {}}}, "ExposedPorts"),
        ({"ExposedPorts": {"٣": {}}}, "ExposedPorts"),
        ({"ExposedPorts": ["80"]}, "object"),
        ({"Labels": {"a": 5}}, "text"),
        ({"Labels": {"a" * 257: ""}}, "bytes"),
        ({"Labels": {str(n): "" for n in range(1025)}}, "entries"),
        ({"Healthcheck": []}, "object"),
        ({"Healthcheck": {"Test": ["RUN", "x"]}}, "CMD-SHELL"),
        ({"Healthcheck": {"Test": ["NONE"], "Interval": -1}}, "Interval"),
        ({"Healthcheck": {"Test": ["NONE"], "Interval": "30s"}}, "Interval"),
        ({"Healthcheck": {"Test": ["NONE"], "Interval": 1 << 62}}, "year"),
        ({"Healthcheck": {"Test": ["NONE"], "Retries": 1 << 40}}, "retries"),
    ],
)
def test_a_value_against_its_rule_is_refused_by_name(inner: dict[str, Any], word: str) -> None:
    with pytest.raises(ImageInvalid, match=word) as refused:
        config(**inner)
    assert len(refused.value.message) < 300
    assert refused.value.message.isprintable()


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"null",
        b"[]",
        b"{",
        b"\xff\xfe",
        b'{"os": "\\ud800"}',
        b"[" * 200_000,
        b'{"a": ' * 100_000,
        b'{"size": ' + b"9" * 5000 + b"}",
        b" " * (1 << 20) + b"{}",
        b'{"os": 5, "architecture": "amd64"}',
        b'{"architecture": "amd64"}',
        b'{"os": "linux"}',
        b'{"os": "linux\\n", "architecture": "amd64"}',
        b'{"os": "linux", "architecture": "amd64", "config": []}',
        b'{"os": "linux", "architecture": "amd64", "rootfs": []}',
    ],
)
def test_a_config_that_is_none_is_refused(data: bytes) -> None:
    with pytest.raises(ImageInvalid):
        ImageConfig.from_json(data)


@pytest.mark.parametrize(
    "diff_ids",
    [["sha256:../../etc"], ["sha256:" + "A" * 64], [5], [None], "sha256:", [DIFF_ID] * (MAX_LAYERS + 1)],
)
def test_layers_have_digests_and_are_not_too_many(diff_ids: object) -> None:
    with pytest.raises(ImageInvalid):
        ImageConfig.from_json(ImageFile(config={"rootfs": {"diff_ids": diff_ids}}).config_bytes)


def test_a_history_of_more_layers_than_there_are_is_refused_and_a_shorter_one_is_not() -> None:
    layers = [layer_of({"a": b""}), layer_of({"b": b""})]
    ImageConfig.from_json(ImageFile(layers, {"history": [{}]}).config_bytes)
    ImageConfig.from_json(ImageFile(layers, {"history": [{}, {}, {"empty_layer": True}]}).config_bytes)
    with pytest.raises(ImageInvalid, match="2 layers in `diff_ids` and 3 in `history`"):
        ImageConfig.from_json(ImageFile(layers, {"history": [{}, {}, {}]}).config_bytes)
    with pytest.raises(ImageInvalid, match="history"):
        ImageConfig.from_json(ImageFile(layers, {"history": [5]}).config_bytes)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=10), inner, max_size=5),
    max_leaves=20,
)
KEYS = (
    "User",
    "ExposedPorts",
    "Env",
    "Entrypoint",
    "Cmd",
    "WorkingDir",
    "Labels",
    "StopSignal",
    "Healthcheck",
)


@given(st.dictionaries(st.sampled_from(("os", "created", "rootfs", "history", "variant")), JSON), JSON, JSON)
def test_any_json_is_read_or_refused_and_survives_a_row(top: dict[str, Any], test: Any, value: Any) -> None:
    inner = {**dict.fromkeys(KEYS, value), "Healthcheck": {"Test": test, "Interval": value}}
    try:
        read = ImageConfig.from_json(ImageFile(config={**top, "config": inner}).config_bytes)
    except ImageInvalid:
        return
    assert ImageConfig.from_row(json.loads(json.dumps(read.to_json()))) == read
    json.dumps(read.env).encode()
