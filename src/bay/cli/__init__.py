"""The `bay` command: a client of the public API, and the door to `bay serve` and `bay doctor`."""

from bay.cli._app import app
from bay.cli._main import main

__all__ = ["app", "main"]
