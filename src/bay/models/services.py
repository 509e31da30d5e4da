"""Managed services: commands that start with a sandbox and are restarted."""

from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal

ServiceState = Literal["stopped", "waiting", "running", "backoff", "failed", "exited"]
"""`waiting` for its needs, `backoff` before a restart, `failed` too often, `exited` without a restart."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceHealth:
    """A health check of a service: a TCP connection to `port`, or with `path` a GET that answers 200 to 399;
    or else the command `argv`, run as the service is, that exits with 0.

    `interval_s` seconds apart, `timeout_s` each; `retries` failures in a row make it unhealthy.
    """

    port: int | None = None
    path: str | None = None
    argv: tuple[str, ...] | None = None
    interval_s: float = 5.0
    timeout_s: float = 2.0
    retries: int = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceSpec:
    """The definition of a service: a command that starts with every session, after the services in `needs`.

    `restart`: `always`, `on-failure` (exit code other than 0, or a signal) or `never`. `http_port` is where
    it serves HTTP.
    """

    name: str
    argv: tuple[str, ...]
    env: dict[str, str] = field(default_factory=dict[str, str])
    cwd: str | None = None
    user: str | None = None
    needs: tuple[str, ...] = ()
    http_port: int | None = None
    restart: Literal["always", "on-failure", "never"] = "always"
    health: ServiceHealth | None = None
    enabled: bool = True
    """Whether it is started with the session; `stop` turns that off and `start` on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Service(ServiceSpec):
    """A service and how it is, `stopped` without a session. `healthy` None: unknown, or nothing to ask by."""

    state: ServiceState = "stopped"
    pid: int | None = None
    restarts: int = 0
    exit_code: int | None = None
    signal: int | None = None
    healthy: bool | None = None
    message: str | None = None
    started_at: datetime | None = None
    next_start_at: datetime | None = None
    output_bytes: int = 0
    first_offset: int = 0
