"""What goes wrong on purpose: a Ship is killed now and then, and Bay itself in the first half of a soak."""

import os
import random
import signal
import sqlite3
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field

from examples.own_server import OwnServer

from bench.host import View, takes_signals
from bench.soak.journal import Journal

SHIP_EVERY_S = 20.0


@dataclass(slots=True)
class Chaos:
    """`up` is held while Bay is down, so that whoever needs a running Bay holds it too."""

    server: OwnServer
    journal: Journal
    up: threading.Lock = field(default_factory=threading.Lock)

    def kill_ships(self, stop: threading.Event) -> None:
        """Kill the first process of some session every `SHIP_EVERY_S`."""
        while not stop.wait(SHIP_EVERY_S):
            with self.up:
                self._kill_a_ship()

    def kill_bay(self, every_s: float, during_s: float, stop: threading.Event) -> None:
        """`kill -9` of Bay and a start, `every_s` after the last, for `during_s`."""
        end = time.monotonic() + during_s
        while not stop.wait(every_s) and time.monotonic() < end:
            with self.up:
                over = self.journal.outage()
                self.server.kill()
                self.server.start()
                over()
                self.journal.count("Bay killed")

    def _kill_a_ship(self) -> None:
        found = sorted(View(self.server.folder).processes().items(), reverse=True)
        first = {session: pid for pid, session in found}
        awake = sorted(session for session, pid in first.items() if takes_signals(pid))
        if not awake:
            return
        session = random.choice(awake)  # noqa: S311  no secret
        if (sandbox := self._sandbox_of(session)) is None:
            return
        self.journal.strike(sandbox)
        with suppress(ProcessLookupError):
            os.kill(first[session], signal.SIGKILL)
        self.journal.count("Ship killed")

    def _sandbox_of(self, session: str) -> str | None:
        database = sqlite3.connect(f"file:{self.server.folder}/data/bay.db?mode=ro", uri=True, timeout=10)
        try:
            row = database.execute("SELECT sandbox_id FROM sessions WHERE id = ?", (session,)).fetchone()
        finally:
            database.close()
        return str(row[0]) if row else None
