"""The client's configuration: Bay's URL, the key and the time limits, read once, when a client is made."""

import os
from dataclasses import dataclass
from typing import TypedDict
from urllib.parse import urlsplit

from bay import __version__
from bay.errors import InvalidArgument

DEFAULT_URL = "http://127.0.0.1:8700"
CONNECT_S = 10.0
_LOOPBACK = frozenset({"127.0.0.1", "::1", "localhost"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """`timeout_s` bounds each silence of the server, `retry_s` all waits between attempts of one call."""

    url: str
    api_key: str | None
    timeout_s: float
    retry_s: float
    proxied: bool = True
    """Whether the environment's proxies apply; this machine itself is reached without one in any case."""


class HttpOptions(TypedDict):
    """The arguments of httpx's sync and async client."""

    base_url: str
    headers: dict[str, str]
    follow_redirects: bool
    verify: bool
    trust_env: bool


def resolve(
    base_url: str | None, api_key: str | None, timeout_s: float, retry_s: float, *, proxied: bool = True
) -> Config:
    """The settings given, else `BAY_URL` and `BAY_API_KEY`, else this machine without a key."""
    return Config(
        url=_checked_url(base_url or os.environ.get("BAY_URL") or DEFAULT_URL),
        api_key=_checked_key(api_key or os.environ.get("BAY_API_KEY") or ""),
        timeout_s=timeout_s,
        retry_s=retry_s,
        proxied=proxied,
    )


def http_options(config: Config) -> HttpOptions:
    """Redirects are never followed: they would carry the key to an address that the caller did not choose.

    Loading the certificate store takes some 50 ms, so a plain `http` URL does without it. Proxy
    settings of the environment do not apply to this machine itself.
    """
    parts = urlsplit(config.url)
    headers = {"User-Agent": f"bay-python/{__version__}", "Accept-Encoding": "identity"}
    if config.api_key:
        headers["Authorization"] = f"Bearer {config.api_key}"
    return {
        "base_url": config.url,
        "headers": headers,
        "follow_redirects": False,
        "verify": parts.scheme == "https",
        "trust_env": config.proxied and parts.hostname not in _LOOPBACK,
    }


def _checked_url(text: str) -> str:
    url = text.strip().rstrip("/")
    try:
        parts = urlsplit(url)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port or 1) > 0
    except ValueError:
        usable = False
    if not usable:
        raise InvalidArgument(
            f"{text!r} is not the URL of a Bay server; give one such as {DEFAULT_URL} (BAY_URL, base_url or "
            "--url)"
        )
    return url


def _checked_key(text: str) -> str | None:
    key = text.strip()
    if not (key.isascii() and (key.isprintable())) or " " in key:
        raise InvalidArgument("the API key has invalid characters; check BAY_API_KEY")
    return key or None
