"""HTTP without the SDK, on one connection that is kept: what the server takes, and not its client."""

import json
import time
from collections.abc import Mapping
from http.client import HTTPConnection
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit

from examples.own_server import OwnServer

from bay.errors import error_from_wire

STALE_S = 3.0


class Raw:
    """A connection to a server, with its key. Not for two threads at once."""

    def __init__(self, server: OwnServer) -> None:
        parts = urlsplit(server.url)
        self._connection = HTTPConnection(parts.hostname or "", parts.port, timeout=120)
        self._used = 0.0
        self._headers = {"Authorization": f"Bearer {server.api_key}", "Content-Type": "application/json"}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._connection.close()

    def call(self, method: str, path: str, body: Mapping[str, object] | None = None) -> Any:
        """The decoded answer, None when it is empty.

        Raises BayError as the SDK does, and OSError or HTTPException when the connection breaks.
        """
        self._begin_anew_when_stale()
        content = None if body is None else json.dumps(body).encode()
        self._connection.request(method, path, body=content, headers=self._headers)
        response = self._connection.getresponse()
        answer = response.read()
        if response.status >= 300:
            raise error_from_wire(response.status, json.loads(answer))
        return json.loads(answer) if answer else None

    def _begin_anew_when_stale(self) -> None:
        # The server closes a connection on which nothing came for 5 s; a request may cross that on its way.
        if time.monotonic() - self._used > STALE_S:
            self._connection.close()
        self._used = time.monotonic()

    def run_true(self, sandbox_id: str) -> None:
        """Run `true` in a sandbox to its end."""
        path = f"/v1/sandboxes/{sandbox_id}/execs?wait=60"
        done = self.call("POST", path, {"argv": ["true"], "timeout_s": 60})
        assert done["exit_code"] == 0, done

    def create_and_run(self, profile: str) -> str:
        """The id of a new sandbox that has answered `true`."""
        made = self.call("POST", "/v1/sandboxes", {"profile": profile})
        self.run_true(made["id"])
        return made["id"]
