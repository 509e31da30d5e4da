"""A Bay that the steps in a browser stop and start again, by `POST /stop` and `POST /start`."""

from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Thread

from serving import Server

Start = Callable[[int], AbstractContextManager[Server]]
"""A Bay that serves a port, or a free one with 0: it has the same data each time."""


class Restarting:
    """The Bay as it is now. `server` stays the same object, whose process is another after a restart."""

    def __init__(self, start: Start, stack: ExitStack) -> None:
        self._start = start
        self._stack = stack
        self.server = stack.enter_context(start(0))

    def stop(self) -> None:
        self.server.end()

    def start(self) -> None:
        if self.server.process.poll() is None:
            raise AssertionError("it runs already")
        self.server.process = self._stack.enter_context(self._start(self.server.port)).process


@contextmanager
def restarting(start: Start) -> Generator[Restarting]:
    with ExitStack() as stack:
        yield Restarting(start, stack)


@contextmanager
def control_of(bay: Restarting) -> Generator[str]:
    """The URL of those two acts."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            try:
                {"/stop": bay.stop, "/start": bay.start}[self.path]()
            except Exception as error:  # the steps say it, and fail
                self.send_error(500, str(error))
                raise
            self.send_response(204)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as listener:
        thread = Thread(target=listener.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{listener.server_port}"
        finally:
            listener.shutdown()
            thread.join()
