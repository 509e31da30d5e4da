"""Counts requests as the edge sees them: by the template of the route, the method and the status."""

import time
from collections.abc import MutableMapping
from typing import Any

from prometheus_client import Counter, Histogram

from bay.meters import NO_ROUTE, OTHER, Meters, method_label, status_label
from ship_protocol import CloseCode

Scope = MutableMapping[str, Any]

TEMPLATE = "route_template"
"""The name in a request's state of the template of a route that the framework does not know of."""

_CLOSES = frozenset(map(int, CloseCode))


class RequestMeter:
    """Records one request at its end. A WebSocket that was accepted counts by the code of its close."""

    def __init__(self, meters: Meters) -> None:
        self._meters = meters
        # The lookup of a series by its labels is a third of what a request's records cost.
        self._series: dict[tuple[str, str, str], tuple[Counter, Histogram]] = {}

    def begin(self) -> float:
        """A request begins; what `end` is given."""
        self._meters.requests_in_flight.inc()
        return time.perf_counter()

    def end(
        self, scope: Scope, began: float, status: int | None, closed: int | None, error: str | None
    ) -> float:
        """It has ended; the seconds that it took. `error` is the code of Bay's error, if it had one."""
        took_s = time.perf_counter() - began
        meters, route = self._meters, route_of(scope)
        is_socket = scope["type"] == "websocket"
        method = "WEBSOCKET" if is_socket else method_label(scope["method"])
        code = _close(closed) if is_socket and status == 101 else status_label(status)
        meters.requests_in_flight.dec()
        series = self._series.get((route, method, code)) or self._begin_series(route, method, code)
        series[0].inc()
        series[1].observe(took_s)
        if error is not None:
            meters.errors.labels(error).inc()
        return took_s

    def _begin_series(self, route: str, method: str, code: str) -> tuple[Counter, Histogram]:
        meters = self._meters
        made = meters.requests.labels(route, method, code), meters.request_seconds.labels(route, method)
        self._series[route, method, code] = made
        return made


def route_of(scope: Scope) -> str:
    """The template of the request's route, or `none`."""
    template = scope["state"].get(TEMPLATE) or getattr(scope.get("route"), "path", None)
    return template if isinstance(template, str) else NO_ROUTE


def _close(code: int | None) -> str:
    """The code of a close as Bay knows it. An app or a client may send any."""
    if code is None:
        return str(int(CloseCode.ABNORMAL))
    return str(code) if code in _CLOSES else OTHER
