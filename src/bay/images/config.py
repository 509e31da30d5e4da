"""The config of an image, checked and bounded: a stranger wrote it, and Bay acts on what it says.

Both forms are read, of OCI (https://github.com/opencontainers/image-spec/blob/main/config.md) and of Docker,
which adds a health check. Values that mean nothing here (VOLUME, ONBUILD, SHELL) are left out.
"""

import json
import posixpath
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, cast

from bay.errors import ImageInvalid
from bay.images.references import is_digest

LONGEST = 1 << 20
"""Bytes of a config."""
MAX_LAYERS = 128

_MAX_ENTRIES = 1024
_MAX_TEXT = 128 << 10
"""Bytes of one string: the kernel takes no longer one as an argument or a variable (MAX_ARG_STRLEN)."""
_MAX_TOGETHER = 512 << 10
"""Bytes of all arguments."""
_MAX_ENV = 96 << 10
"""Bytes of all variables as JSON: Ship gets them in one variable, which has 128 KiB at most (execve(2))."""
_MAX_PORTS = 3 * 65_536
_MAX_NAME = 256
_MAX_PATH = 4095
_MAX_SECONDS = 366 * 86_400.0
_MAX_RETRIES = 1_000_000

_WORD = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_VARIABLE = re.compile(r"[^=\x00-\x20\x7f]{1,256}")
_PART_OF_USER = r"[^\s:/\x00-\x1f\x7f]{1,128}"
_USER = re.compile(rf"{_PART_OF_USER}(?::{_PART_OF_USER})?")
_SIGNAL = re.compile(r"(?:SIG)?[A-Z][A-Z0-9]{0,15}(?:[+-][0-9]{1,2})?|[1-9][0-9]?", re.IGNORECASE)
_PORT = re.compile(r"([0-9]{1,5})(?:-([0-9]{1,5}))?(?:/(tcp|udp|sctp))?")
_CREATED = re.compile(r"[0-9T:.Zz+ -]{1,64}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Healthcheck:
    """How the image wants its service to be checked. `test` begins with NONE, CMD or CMD-SHELL."""

    test: tuple[str, ...]
    interval_s: float | None = None
    timeout_s: float | None = None
    start_period_s: float | None = None
    start_interval_s: float | None = None
    retries: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageConfig:
    """An image's config. `user` is a name or a number, with a group after a colon or not; "" is root.
    `working_dir` is absolute, or "". `exposed_ports` are in the form 80/tcp or 8000-8010/udp.
    """

    os: str
    architecture: str
    variant: str | None = None
    env: Mapping[str, str] = field(default_factory=dict[str, str])
    user: str = ""
    working_dir: str = ""
    entrypoint: tuple[str, ...] = ()
    cmd: tuple[str, ...] = ()
    stop_signal: str | None = None
    healthcheck: Healthcheck | None = None
    exposed_ports: tuple[str, ...] = ()
    labels: Mapping[str, str] = field(default_factory=dict[str, str])
    created: str | None = None
    diff_ids: tuple[str, ...] = ()

    @property
    def platform(self) -> str:
        """Such as linux/arm64/v8."""
        return "/".join(part for part in (self.os, self.architecture, self.variant) if part)

    def to_json(self) -> dict[str, Any]:
        """The config in Bay's own form, which `from_row` reads."""
        return asdict(self)

    def to_oci(self) -> dict[str, Any]:
        """The config in an image's own form, without its layers."""
        check = self.healthcheck
        inner: dict[str, Any] = {
            "Env": [f"{name}={value}" for name, value in self.env.items()],
            "User": self.user,
            "WorkingDir": self.working_dir,
            "Entrypoint": list(self.entrypoint),
            "Cmd": list(self.cmd),
            "StopSignal": self.stop_signal,
            "Healthcheck": check and _healthcheck_to_oci(check),
            "ExposedPorts": {port: {} for port in self.exposed_ports},
            "Labels": dict(self.labels),
        }
        top: dict[str, Any] = {
            "os": self.os, "architecture": self.architecture, "variant": self.variant, "created": self.created,
            "config": {key: value for key, value in inner.items() if value},
        }  # fmt: skip
        return {key: value for key, value in top.items() if value is not None}

    @classmethod
    def from_row(cls, data: Mapping[str, Any]) -> "ImageConfig":
        """The config that `to_json` wrote, which is trusted."""
        found = dict(data)
        if (test := found["healthcheck"]) is not None:
            fields: dict[str, Any] = {**test, "test": tuple(test["test"])}
            found["healthcheck"] = Healthcheck(**fields)
        for name in ("entrypoint", "cmd", "exposed_ports", "diff_ids"):
            found[name] = tuple(found[name])
        return cls(**found)

    @classmethod
    def from_json(cls, data: bytes) -> "ImageConfig":
        """The config in an image's own form. Raises ImageInvalid with the rule that it breaks."""
        top = json_object(data, "config", LONGEST)
        inner = _object(top, "config")
        return cls(
            os=_word(top, "os"),
            architecture=_word(top, "architecture"),
            variant=_word(top, "variant") if top.get("variant") else None,
            env=_env(inner),
            user=_matching(inner, "User", _USER, "a user or user:group") or "",
            working_dir=_working_dir(inner),
            entrypoint=_arguments(inner, "Entrypoint"),
            cmd=_arguments(inner, "Cmd"),
            stop_signal=_matching(inner, "StopSignal", _SIGNAL, "a signal"),
            healthcheck=_healthcheck(_object(inner, "Healthcheck")),
            exposed_ports=_ports(inner),
            labels=_labels(inner),
            created=_created(top),
            diff_ids=_diff_ids(top),
        )


def json_object(data: bytes, what: str, longest: int) -> dict[str, Any]:
    """The JSON object in `data`, whose texts are whole characters. Raises ImageInvalid."""
    if len(data) > longest:
        raise ImageInvalid(f"the image's {what} has more than {longest} bytes, the limit")
    try:
        found = json.loads(data)
        # Halves of characters pass JSON, and nothing after it: no file name, column or argument.
        json.dumps(found, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:
        raise ImageInvalid(f"the image's {what} is not JSON that can be read") from error
    if not isinstance(found, dict):
        raise ImageInvalid(f"the image's {what} is not a JSON object")
    return cast("dict[str, Any]", found)


def _object(of: Mapping[str, Any], key: str, most: int = _MAX_ENTRIES) -> dict[str, Any]:
    found = of.get(key)
    if found is None:
        return {}
    if not isinstance(found, dict):
        raise _wrong(key, "is not an object")
    if len(cast("dict[str, Any]", found)) > most:
        raise _wrong(key, f"has more than {most} entries")
    return cast("dict[str, Any]", found)


def _list(of: Mapping[str, Any], key: str) -> Sequence[Any]:
    found = of.get(key)
    if found is None:
        return ()
    if not isinstance(found, list):
        raise _wrong(key, "is not a list")
    if len(cast("list[Any]", found)) > _MAX_ENTRIES:
        raise _wrong(key, f"has more than {_MAX_ENTRIES} entries")
    return cast("list[Any]", found)


def _text(value: object, key: str, most: int = _MAX_TEXT) -> str:
    if not isinstance(value, str):
        raise _wrong(key, "has something that is not text")
    if "\0" in value:
        raise _wrong(key, "has a NUL")
    if len(value.encode()) > most:
        raise _wrong(key, f"has a text of more than {most} bytes")
    return value


def _word(of: Mapping[str, Any], key: str) -> str:
    value = of.get(key)
    if not isinstance(value, str) or not _WORD.fullmatch(value):
        raise _wrong(key, "is missing, or not a plain word")
    return value


def _matching(of: Mapping[str, Any], key: str, pattern: re.Pattern[str], what: str) -> str | None:
    value = of.get(key)
    if value is None or value == "":
        return None
    if not pattern.fullmatch(_text(value, key)):
        raise _wrong(key, f"is not {what}")
    return cast("str", value)


def _env(inner: Mapping[str, Any]) -> dict[str, str]:
    """The variables; of two with one name the later counts, as with Docker."""
    found: dict[str, str] = {}
    for entry in _list(inner, "Env"):
        name, equals, value = _text(entry, "Env").partition("=")
        if not _VARIABLE.fullmatch(name):
            raise _wrong("Env", "has an entry that is not NAME=VALUE with a name of 1 to 256 characters")
        if equals:  # without one it unsets a variable, for Docker
            found[name] = value
    if len(json.dumps(found, ensure_ascii=False).encode()) > _MAX_ENV:
        raise _wrong("Env", f"has more than {_MAX_ENV} bytes")
    return found


def _arguments(inner: Mapping[str, Any], key: str) -> tuple[str, ...]:
    found = tuple(_text(one, key) for one in _list(inner, key))
    _together(key, found)
    return found


def _together(key: str, texts: Sequence[str]) -> None:
    if sum(len(text.encode()) + 1 for text in texts) > _MAX_TOGETHER:
        raise _wrong(key, f"has more than {_MAX_TOGETHER} bytes")


def _working_dir(inner: Mapping[str, Any]) -> str:
    path = _text(inner.get("WorkingDir") or "", "WorkingDir", _MAX_PATH)
    return "/" + posixpath.normpath(f"/{path}").lstrip("/") if path else ""


def _ports(inner: Mapping[str, Any]) -> tuple[str, ...]:
    return tuple(_port(key) for key in _object(inner, "ExposedPorts", _MAX_PORTS))


def _port(text: str) -> str:
    found = _PORT.fullmatch(text)
    if found is None or not 1 <= int(found[1]) <= int(found[2] or found[1]) <= 65535:
        raise _wrong("ExposedPorts", "has an entry that is not PORT/tcp or PORT/udp")
    return text if found[3] else f"{text}/tcp"


def _labels(inner: Mapping[str, Any]) -> dict[str, str]:
    given = _object(inner, "Labels")
    return {_text(key, "Labels", _MAX_NAME): _text(value, "Labels") for key, value in given.items()}


def _healthcheck(found: Mapping[str, Any]) -> Healthcheck | None:
    test = _arguments(found, "Test")
    if not test:
        return None  # inherited from a base image, with Docker, whose config has it then
    if test[0] not in {"NONE", "CMD", "CMD-SHELL"}:
        raise _wrong("Healthcheck", "begins with none of NONE, CMD and CMD-SHELL")
    return Healthcheck(
        test=test,
        interval_s=_seconds(found, "Interval"),
        timeout_s=_seconds(found, "Timeout"),
        start_period_s=_seconds(found, "StartPeriod"),
        start_interval_s=_seconds(found, "StartInterval"),
        retries=_retries(found),
    )


def _healthcheck_to_oci(check: Healthcheck) -> dict[str, Any]:
    seconds = {
        "Interval": check.interval_s,
        "Timeout": check.timeout_s,
        "StartPeriod": check.start_period_s,
        "StartInterval": check.start_interval_s,
    }
    times = {key: round(value * 1e9) for key, value in seconds.items() if value is not None}
    retries = {} if check.retries is None else {"Retries": check.retries}
    return {"Test": list(check.test), **times, **retries}


def _seconds(found: Mapping[str, Any], key: str) -> float | None:
    """Docker writes nanoseconds, and 0 for its default."""
    nanoseconds = _number(found, key)
    if nanoseconds / 1e9 > _MAX_SECONDS:
        raise _wrong("Healthcheck", f"has a {key} of more than a year")
    return nanoseconds / 1e9 or None


def _retries(found: Mapping[str, Any]) -> int | None:
    retries = _number(found, "Retries")
    if retries > _MAX_RETRIES:
        raise _wrong("Healthcheck", f"has more than {_MAX_RETRIES} retries")
    return retries or None


def _number(found: Mapping[str, Any], key: str) -> int:
    value = found.get(key) or 0
    if not isinstance(value, int) or not 0 <= value < 1 << 63:
        raise _wrong("Healthcheck", f"has a {key} that is not a number from 0 up")
    return int(value)


def _created(top: Mapping[str, Any]) -> str | None:
    """For people alone, so a strange one is no reason to refuse the image."""
    value = top.get("created")
    return value if isinstance(value, str) and _CREATED.fullmatch(value) else None


def _diff_ids(top: Mapping[str, Any]) -> tuple[str, ...]:
    """The hashes of the layers, the lowest first. `history` may tell less than there is, as some tools write
    it, and no more: then layers are missing.
    """
    given = _list(_object(top, "rootfs"), "diff_ids")
    if len(given) > MAX_LAYERS:
        raise ImageInvalid(f"the image has {len(given)} layers; the limit is {MAX_LAYERS}")
    if not all(isinstance(one, str) and is_digest(one) for one in given):
        raise _wrong("diff_ids", "has an entry that is not a SHA-256 digest")
    _check_history(top, len(given))
    return tuple(given)


def _check_history(top: Mapping[str, Any], layers: int) -> None:
    history = _list(top, "history")
    if not history:
        return
    if not all(isinstance(one, dict) for one in history):
        raise _wrong("history", "has an entry that is not an object")
    told = sum(not cast("dict[str, Any]", one).get("empty_layer") for one in history)
    if told > layers:
        raise ImageInvalid(
            f"the image's config has {layers} layers in `diff_ids` and {told} in `history`; build it again"
        )


def _wrong(key: str, why: str) -> ImageInvalid:
    return ImageInvalid(f"the image's config: {key} {why}")
