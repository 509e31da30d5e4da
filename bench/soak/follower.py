"""A reader of `GET /v1/events`, who must see every event once and in order, however often Bay is killed."""

import threading
from collections.abc import Iterator
from http.client import HTTPConnection, HTTPException, HTTPResponse
from urllib.parse import urlsplit

from examples.own_server import OwnServer

from bench.raw import Raw
from bench.soak.journal import Journal, Wrong

READ_S = 5.0
PAGE = 200
BEGINNING = "0"


class Follower:
    """Follows until told to stop, and goes on after the last event it has seen when the connection breaks."""

    def __init__(self, server: OwnServer, journal: Journal) -> None:
        self._server = server
        self._journal = journal
        self._seen: list[str] = []

    def work(self, stop: threading.Event) -> None:
        """Connect, read, connect again; in the end compare what was seen with what is stored."""
        while not stop.is_set():
            self._journal.attempt("events: follow", "", lambda: self._read(stop))
            stop.wait(0.5)
        self._journal.attempt("events: compare", "", self._compare)

    def _read(self, stop: threading.Event) -> None:
        connection = self._connect()
        try:
            response = connection.getresponse()
            if response.status != 200:
                raise Wrong(f"events answered {response.status}")
            for event in _events(response):
                self._seen.append(event)
                self._journal.count("events: read")
                if stop.is_set():
                    return
        except TimeoutError:
            return  # nothing happened for a while
        finally:
            connection.close()

    def _connect(self) -> HTTPConnection:
        parts = urlsplit(self._server.url)
        connection = HTTPConnection(parts.hostname or "", parts.port, timeout=READ_S)
        headers = {
            "Authorization": f"Bearer {self._server.api_key}",
            "Accept": "text/event-stream",
            "Last-Event-ID": self._seen[-1] if self._seen else BEGINNING,
        }
        connection.request("GET", "/v1/events", headers=headers)
        return connection

    def _compare(self) -> None:
        stored = list(self._stored())
        if self._seen != stored[: len(self._seen)]:
            missed = len(set(stored[: len(self._seen)]) - set(self._seen))
            raise Wrong(f"the followed events are not the stored ones: {missed} missed")

    def _stored(self) -> Iterator[str]:
        after: str | None = BEGINNING
        with Raw(self._server) as raw:
            while after is not None:
                page = raw.call("GET", f"/v1/events?limit={PAGE}&since={after}")
                yield from (event["id"] for event in page["items"])
                after = page["next_cursor"]


def _events(response: HTTPResponse) -> Iterator[str]:
    """The ids of the events as they come; a block without data is none (WHATWG HTML, section 9.2)."""
    event, has_data = "", False
    while line := response.readline():
        name, _, value = line.decode().rstrip("\r\n").partition(":")
        if name == "id":
            event = value.strip()
        elif name == "data":
            has_data = True
        elif not name and not value and has_data:
            yield event
            has_data = False
    raise HTTPException("the stream of events ended")
