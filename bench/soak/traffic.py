"""The traffic: customers, each with a few sandboxes and a mind of its own, who check every
answer they get.
"""

import math
import random
import secrets
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from examples.own_server import OwnServer

from bay.client import Box, Client
from bay.client._results import RunResult
from bay.errors import Conflict
from bay.ids import new_id
from bay.models import Sandbox
from bench.pools import BARE, POOLED
from bench.raw import Raw
from bench.soak.journal import Journal, Late, Lost, Wrong

TTLS_S, LONGEST_S = (15, 60, 120), 20.0
BOXES, KEPT_FILES, LARGEST_FILE, THINK_S = 3, 8, 256 << 10, 0.3
IDLE_S, WARM_S = 3, 6
PROFILE = f"idle_timeout = {IDLE_S}\nwarm_timeout = {WARM_S}\nmemory_mb = 256\n"
CONFIG = f"stop_grace = 1\nexpired_retention = 5\n[profiles.{BARE}]\n{PROFILE}[profiles.{POOLED}]\n{PROFILE}pool_size = 2\n"


@dataclass(slots=True)
class Mine:
    """A sandbox of a customer, and what must be in its files."""

    box: Box
    files: dict[str, bytes] = field(default_factory=dict[str, bytes])
    busy_until: float = 0.0


@dataclass(frozen=True, slots=True)
class Order:
    """A create that may have to be sent again."""

    profile: str
    ttl_s: int
    key: str


class Customer:
    """One thread's worth of calls.

    `seed` decides which, so that a run can be had again, as far as time allows.
    """

    def __init__(self, server: OwnServer, journal: Journal, seed: int) -> None:
        self._server = server
        self._journal = journal
        self._random = random.Random(seed)  # noqa: S311  no secret
        self._mine: list[Mine] = []
        self._pending: Order | None = None
        self._client: Client

    def work(self, stop: threading.Event) -> None:
        """Call after call until told to stop."""
        with self._server.client() as self._client:
            while not stop.is_set():
                self._one_call()
                stop.wait(self._random.uniform(0, THINK_S))

    def _one_call(self) -> None:
        self._mine = [mine for mine in self._mine if not self._is_over(mine)]
        if not self._mine or (len(self._mine) < BOXES and self._random.random() < 0.2):
            return self._create()
        mine = self._random.choice(self._mine)
        calls = list(_CALLS)
        call = self._random.choices(calls, [_CALLS[name] for name in calls])[0]
        return getattr(self, f"_{call}")(mine)

    def _is_over(self, mine: Mine) -> bool:
        """Whether it has expired, and enough calls were made to see what that is like."""
        return self._journal.has_ended(mine.box.id) and self._random.random() < 0.5

    def _try(self, what: str, mine: Mine, act: Callable[[], object]) -> bool:
        def all_of_it() -> bool:
            act()
            return True

        return self._journal.attempt(what, mine.box.id, all_of_it) or False

    def _try_long(self, what: str, mine: Mine, act: Callable[[], object]) -> None:
        """The same for what leaves a command running when it is cut short, which keeps the sandbox from being
        idle.
        """
        mine.busy_until = time.monotonic() + LONGEST_S
        if self._try(what, mine, act):
            mine.busy_until = 0.0

    def _create(self) -> None:
        order = self._pending or Order(
            self._random.choice((BARE, POOLED)), self._random.choice(TTLS_S), new_id("key")
        )
        made = self._journal.attempt("create", "", lambda: self._order(order))
        # An answer that was lost is asked for again with the same key, which must give the same sandbox and
        # no second one.
        self._pending = None if made else order
        if made is None:
            return
        self._journal.will_end(made.id, _left_s(made.info))
        self._mine.append(mine := Mine(made))
        if self._random.random() < 0.3:
            again = "create again, same key"
            self._try(
                again, mine, lambda: _expect(self._order(order).id == made.id, "two sandboxes for one key")
            )

    def _order(self, order: Order) -> Box:
        return self._client.sandboxes.create(
            profile=order.profile, ttl=order.ttl_s, idempotency_key=order.key
        )

    def _run(self, mine: Mine) -> None:
        word = secrets.token_hex(8)
        self._try("run", mine, lambda: _expect_output(mine.box.run(["echo", word]), f"{word}\n", 0))

    def _fail(self, mine: Mine) -> None:
        self._try("run, exit 3", mine, lambda: _expect_output(mine.box.run("echo so; exit 3"), "so\n", 3))

    def _time_out(self, mine: Mine) -> None:
        def act() -> None:
            result = mine.box.run(["sleep", "60"], timeout_s=0.5)
            _expect(_seen(result).timed_out, "a command past its time limit did not time out")

        self._try("run, timed out", mine, act)

    def _shell(self, mine: Mine) -> None:
        def act() -> None:
            result = mine.box.shell("printf hello")
            if result.exit_code is None:
                raise Lost("shell command lost")
            _expect(result.output == "hello", "shell printed something else")

        self._try("shell", mine, act)

    def _follow(self, mine: Mine) -> None:
        def act() -> None:
            process = mine.box.spawn("for i in 1 2 3 4 5; do echo $i; sleep 0.2; done")
            printed = b"".join(chunk.data for chunk in process.output())
            _expect_output(process.wait(30), "1\n2\n3\n4\n5\n", 0)
            _expect(printed == b"1\n2\n3\n4\n5\n", "followed output has gaps")

        self._try_long("follow output", mine, act)

    def _leave_and_come_back(self, mine: Mine) -> None:
        def act() -> None:
            # Longer than the idle timeout: a sandbox with a command in it is not idle.
            process = mine.box.spawn(f"sleep {IDLE_S + 2}; echo done")
            time.sleep(IDLE_S + 1)
            _expect_output(mine.box.execs.get(process.id).wait(30), "done\n", 0)

        self._try_long("leave and come back", mine, act)

    def _kill(self, mine: Mine) -> None:
        def act() -> None:
            process = mine.box.spawn(["sleep", f"{LONGEST_S:g}"])
            _expect(process.kill().state in ("killed", "lost"), "a killed command still runs")

        self._try_long("kill", mine, act)

    def _write(self, mine: Mine) -> None:
        path = f"kept/{self._random.randrange(KEPT_FILES)}"
        data = self._random.randbytes(self._random.randrange(LARGEST_FILE))
        mine.files.pop(path, None)  # an attempt that fails leaves the old, the new, or none
        if self._try("write", mine, lambda: mine.box.files.write(path, data)):
            mine.files[path] = data

    def _read(self, mine: Mine) -> None:
        for path, data in list(mine.files.items()):
            self._try(
                "read",
                mine,
                lambda path=path, data=data: _expect(mine.box.files.read(path) == data, "a file changed"),
            )

    def _list_files(self, mine: Mine) -> None:
        self._try("list files", mine, lambda: mine.box.files.list())

    def _pause(self, mine: Mine) -> None:
        if self._try("pause", mine, lambda: self._pause_or_cold(mine)) and self._random.random() < 0.5:
            self._try("resume", mine, lambda: self._post(mine, "resume"))

    def _pause_or_cold(self, mine: Mine) -> None:
        try:
            self._post(mine, "pause")
        except Conflict as error:
            if error.code != Conflict.code:
                raise
            # Warming by now, when its start waited for others: there was nothing to freeze either.
            if (compute := mine.box.refresh().compute) not in ("cold", "warming"):
                raise Wrong(f"refused although compute is {compute}") from error

    def _rest(self, mine: Mine) -> None:
        """Leave it alone until it is frozen, or even cold; then it must answer as ever."""
        if mine.busy_until > time.monotonic():
            return
        time.sleep(self._random.choice((IDLE_S + 3, IDLE_S + WARM_S + 3)))
        self._try("look at an idle one", mine, lambda: self._expect_idle(mine))
        self._run(mine)
        self._read(mine)

    def _expect_idle(self, mine: Mine) -> None:
        info = mine.box.refresh()
        if info.compute in ("warming", "running"):
            raise Late(f"an idle sandbox is {info.compute}")

    def _stop(self, mine: Mine) -> None:
        if self._try("stop", mine, mine.box.stop) and self._random.random() < 0.5:
            self._try("start", mine, lambda: mine.box.start(wait=30))

    def _extend(self, mine: Mine) -> None:
        def act() -> None:
            self._journal.will_end(mine.box.id, _left_s(mine.box.extend_ttl(30)))

        self._try("extend ttl", mine, act)

    def _keepalive(self, mine: Mine) -> None:
        self._try("keepalive", mine, mine.box.keepalive)

    def _look(self, mine: Mine) -> None:
        self._try("get", mine, mine.box.refresh)
        self._try("list", mine, lambda: list(self._client.sandboxes.list(limit=5)))

    def _delete(self, mine: Mine) -> None:
        if self._try("delete", mine, mine.box.delete):
            self._mine.remove(mine)
            self._try("delete again", mine, mine.box.delete)

    def _post(self, mine: Mine, verb: str) -> None:
        with Raw(self._server) as raw:
            raw.call("POST", f"/v1/sandboxes/{mine.box.id}/{verb}")


_CALLS = {
    "run": 12, "fail": 3, "time_out": 2, "shell": 3, "follow": 3, "leave_and_come_back": 1, "kill": 2,
    "write": 5, "read": 3, "list_files": 2, "pause": 4, "rest": 1, "stop": 2, "extend": 1, "keepalive": 1,
    "look": 3, "delete": 2,
}  # fmt: skip
"""How often which call is made, relative to the others."""


def _left_s(info: Sandbox) -> float:
    """Seconds until it expires."""
    return info.expires_at.timestamp() - time.time() if info.expires_at else math.inf


def _expect(true: bool, kind: str) -> None:
    if not true:
        raise Wrong(kind)


def _seen(result: RunResult) -> RunResult:
    """`result`, if somebody saw how the command ended."""
    if result.exit_code is None and not result.timed_out:
        raise Lost(f"a command {result.outcome}")
    return result


def _expect_output(result: RunResult, stdout: str, exit_code: int) -> None:
    _seen(result)
    _expect(result.exit_code == exit_code, "a command exited with another code")
    _expect(result.stdout == stdout, "a command printed something else")
