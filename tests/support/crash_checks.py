"""What a Bay that was killed still owes its callers and its host, asked of the one that took over."""

import asyncio
import contextlib
import sqlite3
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path

import crash_host
from crash_case import CALL_S, Facts, Json, Place, Run, running, until
from crash_operations import (
    APPEND,
    ASK_COUNTER,
    CONTENT,
    EXTENSION,
    FILE,
    KEY,
    OPERATIONS,
    TICKS,
    Operation,
)
from crash_points import Points

from bay.cargo.pool import device_at

_ENDS_S = 5.0
_COLD = {"cold": None, "hibernated": "hibernated", "warm": "paused", "running": "running"}


@dataclass(slots=True)
class Verdict:
    """What is wrong, in words; all empty is what is promised."""

    lost: list[str] = field(default_factory=list[str])
    leaked: list[str] = field(default_factory=list[str])
    doubled: list[str] = field(default_factory=list[str])
    recovered_s: float = 0
    """From the start of the next Bay until every row was as it should be."""

    @property
    def faults(self) -> list[str]:
        """All that is wrong, each with its kind."""
        return [
            f"{kind}: {what}"
            for kind, found in (("lost", self.lost), ("leaked", self.leaked), ("doubled", self.doubled))
            for what in found
        ]


async def judge(place: Place, name: str) -> Verdict:
    """Take over as the next Bay, look at everything, remove everything, and look again."""
    operation = OPERATIONS[name]
    verdict = Verdict()
    half_used = bool(crash_host.unusable_memories(place))
    begun = time.monotonic()
    async with running(place, Points(), pool=operation.pool) as run:
        await _settle(run, verdict)
        verdict.recovered_s = time.monotonic() - begun
        checks = _Checks(run, operation, verdict, half_used=half_used)
        await checks.all()
        await checks.delete_all()
        await _empty_the_trash(place)
    if operation.pool:
        async with running(place, Points(), pool=0) as run:
            await _settle(run, verdict)
            await _empty_the_trash(place)
    verdict.leaked += [f"in the end: {one}" for one in await _lasting(lambda: crash_host.remains(place))]
    return verdict


async def _lasting(find: Callable[[], list[str]]) -> list[str]:
    """What is still found after a while."""
    found: list[str] = []

    def is_gone() -> bool:
        found[:] = find()
        return not found

    await until(is_gone, _ENDS_S)
    return found


async def _empty_the_trash(place: Place) -> None:
    """Files are thrown away at once and removed by and by, while Bay runs."""
    await until(lambda: not crash_host.unfinished(place), _ENDS_S)


async def _settle(run: Run, verdict: Verdict) -> None:
    try:
        await run.settle()
    except TimeoutError:
        verdict.lost.append(f"it never settles: {await run.rows()}")


class _Known:
    """What the callers know, by sandbox."""

    def __init__(self, facts: Facts) -> None:
        self._facts = facts.all()

    def of(self, kind: str, sandbox: str | None = None) -> list[Json]:
        """The facts of a kind, in order, of one sandbox or of all."""
        return [
            fact
            for fact in self._facts
            if fact["kind"] == kind and (sandbox is None or fact["sandbox"] == sandbox)
        ]

    def sandboxes(self) -> list[str]:
        return [fact["sandbox"] for fact in self.of("sandbox")]

    def may_be_gone(self, sandbox: str) -> bool:
        return bool(self.of("asked to delete", sandbox))

    def computes(self, sandbox: str) -> set[str]:
        """What its `compute` may be; empty when nothing was promised."""
        told = [f for f in self._facts if f["sandbox"] == sandbox and f["kind"].endswith("compute")]
        answered = [i for i, fact in enumerate(told) if fact["kind"] == "compute"]
        return {fact["compute"] for fact in told[answered[-1] :]} if answered else set()

    def was_being_woken(self, sandbox: str) -> bool:
        """Whether the last that was asked for it is to run, without an answer."""
        told = [f for f in self._facts if f["sandbox"] == sandbox and f["kind"].endswith("compute")]
        return told[-1]["kind"] == "asked for compute" and told[-1]["compute"] == "running"

    def was_beginning_with_memory(self, sandbox: str) -> bool:
        """Whether a session of it may have begun with memory, and not ended that: it was woken, a checkpoint
        was restored, or it is a fork.
        """
        is_fork = not self.of("counts", sandbox)
        return is_fork or bool(self.of("asked to restore", sandbox)) or self.was_being_woken(sandbox)

    def was_always_running(self, sandbox: str) -> bool:
        told = [
            f["compute"] for f in self._facts if f["sandbox"] == sandbox and f["kind"].endswith("compute")
        ]
        return bool(told) and set(told) == {"running"}


class _Checks:
    def __init__(self, run: Run, operation: Operation, verdict: Verdict, *, half_used: bool) -> None:
        self.run = run
        self.place = run.place
        self.operation = operation
        self.verdict = verdict
        self.half_used = half_used
        """Whether the killed Bay left an image that is good for nothing."""
        self.known = _Known(run.facts)

    async def all(self) -> None:
        """Every check, those that change nothing first."""
        await self._host()
        living = [sandbox for sandbox in self.known.sandboxes() if await self._is_there(sandbox)]
        for sandbox in living:
            await self._compute(sandbox)
            await self._execs(sandbox)
        if self.operation.creates and self.known.of("asked to create"):
            living = await self._create_again(living)
        if self.known.of("asked to fork"):
            living = await self._fork_again(living)
        await self._count(living)
        for sandbox in living:
            await self._works(sandbox)
            if self.operation.hibernates:
                await self._remembers(sandbox)
            await self._files(sandbox)
            await self._appended(sandbox)
            await self._expiry(sandbox)
            await self._checkpointed(sandbox)

    async def delete_all(self) -> None:
        """Remove every sandbox there is; what then remains has no owner."""
        for row in await self.run.rows():
            if row.pool is None:
                answer = await self.run.call("DELETE", f"/{row.id}")
                if answer.status_code != 204:
                    self.verdict.lost.append(f"{row.id} cannot be deleted: {answer.text}")

    async def _host(self) -> None:
        """Rows and host say the same."""
        sessions = {row.session.id: row.session for row in await self.run.rows() if row.session}
        phases = {session.id: session.phase for session in sessions.values()}
        live = set(phases)
        asleep = {session for session, phase in phases.items() if phase == "hibernated"}
        self.verdict.leaked += await _lasting(lambda: crash_host.strays(self.place, live, asleep))
        for kind, ids in crash_host.by_session(self.place).items():
            missing = crash_host.owners(kind, live, asleep) - ids
            self.verdict.lost += [f"{session} has no {kind}" for session in sorted(missing)]
        memories = crash_host.memories(self.place)
        self.verdict.lost += [
            f"memory_bytes of {session} is {row.memory_bytes}, on disk {memories.get(session)}"
            for session, row in sessions.items()
            if row.memory_bytes != memories.get(session)
        ]
        for session, phase in phases.items():
            # The row says so first, and the kernel freezes after that.
            if not await until(
                lambda s=session, p=phase: crash_host.is_frozen(self.place, s) == (p == "paused"), _ENDS_S
            ):
                self.verdict.lost.append(f"{session} is {phase} in its row and not on the host")
        for sandbox, count in crash_host.containers_of(self.place).items():
            if count > 1:
                self.verdict.doubled.append(f"{count} containers of {sandbox}")
        await self._cargos()

    async def _cargos(self) -> None:
        async with self.run.bay.store.read() as db:
            query = "SELECT id FROM cargos WHERE deleted_at IS NULL"
            rows = set((await db.exec_driver_sql(query)).scalars())
        self.verdict.leaked += [
            f"cargo {cargo} without a row" for cargo in crash_host.cargos(self.place) - rows
        ]
        self.verdict.leaked += [
            f"row of cargo {cargo} of no sandbox"
            for cargo in rows - {row.cargo_id for row in await self.run.rows()}
        ]

        await until(lambda: crash_host.checkpoints(self.place) == self._checkpoint_rows(), _ENDS_S)
        there, known = crash_host.checkpoints(self.place), self._checkpoint_rows()
        self.verdict.leaked += [f"checkpoint {one} without a row" for one in sorted(there - known)]
        self.verdict.lost += [f"files of checkpoint {one}" for one in sorted(known - there)]
        await self._kept_memories()

    async def _kept_memories(self) -> None:
        """Each checkpoint with memory has it whole, and `disk_mb` counts all of it."""
        await until(lambda: crash_host.checkpoint_memories(self.place) == set(self._memory_rows()), _ENDS_S)
        known, whole = self._memory_rows(), crash_host.whole_memories(self.place)
        there = crash_host.checkpoint_memories(self.place)
        self.verdict.leaked += [
            f"memory of checkpoint {one} without a row" for one in sorted(there - set(known))
        ]
        self.verdict.lost += [f"memory of checkpoint {one}" for one in sorted(set(known) - set(whole))]
        self.verdict.lost += [
            f"memory_bytes of checkpoint {one} is {counted}, its image has {whole[one]}"
            for one, counted in known.items()
            if one in whole and counted < whole[one]
        ]

    def _checkpoint_rows(self) -> set[str]:
        return {one for one, _, _ in self._kept_checkpoints()}

    def _memory_rows(self) -> dict[str, int]:
        """The bytes of each memory that is kept, by the rows."""
        return {one: size or 0 for one, kind, size in self._kept_checkpoints() if kind == "memory"}

    def _kept_checkpoints(self) -> list[tuple[str, str, int | None]]:
        with contextlib.closing(sqlite3.connect(self.place.data_dir / "bay.db")) as db:
            query = (
                "SELECT id, kind, memory_bytes FROM checkpoints WHERE deleted_at IS NULL AND state = 'ready'"
            )
            return list(db.execute(query))

    async def _is_there(self, sandbox: str) -> bool:
        answer = await self.run.call("GET", f"/{sandbox}")
        if answer.status_code == 200:
            if self.known.of("deleted", sandbox):
                self.verdict.lost.append(f"the deletion of {sandbox}, which was answered")
            return True
        if answer.status_code != 404 or not self.known.may_be_gone(sandbox):
            self.verdict.lost.append(f"{sandbox}: {answer.status_code} {answer.text}")
        return False

    async def _compute(self, sandbox: str) -> None:
        """The status is one that was promised, and what the host has."""
        seen = (await self.run.call("GET", f"/{sandbox}")).json()
        promised = self.known.computes(sandbox)
        if promised and seen["compute"] not in promised:
            self.verdict.lost.append(f"{sandbox} is {seen['compute']}, promised {sorted(promised)}")
        if seen["status"] not in ("ready", "idle"):
            self.verdict.lost.append(f"{sandbox} is {seen['status']}: {seen['error']}")
        rows = {row.id: row for row in await self.run.rows()}
        session = rows[sandbox].session
        if _COLD.get(seen["compute"], "?") != (session.phase if session else None):
            self.verdict.lost.append(f"{sandbox} shows {seen['compute']} and has {session}")

    async def _execs(self, sandbox: str) -> None:
        """An exec that was answered is there, and runs exactly when it says so."""
        rows = {row.id: row for row in await self.run.rows()}
        session = rows[sandbox].session
        for fact in self.known.of("exec", sandbox):
            answer = await self.run.call("GET", f"/{sandbox}/execs/{fact['id']}")
            if answer.status_code != 200:
                self.verdict.lost.append(f"exec {fact['id']}: {answer.text}")
            elif fact.get("lasting"):
                state = answer.json()["state"]
                runs = session is not None and crash_host.runs(self.place, session.id, "sleep 1000")
                is_asleep = session is not None and session.phase == "hibernated"
                if (runs or is_asleep) != (state == "running"):
                    self.verdict.lost.append(f"exec {fact['id']} is {state}; its process runs: {runs}")
                ends = self.known.of("asked to restore", sandbox)
                if not runs and not ends and self.known.was_always_running(sandbox):
                    self.verdict.lost.append(
                        f"exec {fact['id']}, which ran on in a sandbox that was never stopped"
                    )

    async def _create_again(self, living: list[str]) -> list[str]:
        """The same create with the same key gives what it gave, or what it would have."""
        answered = [fact["sandbox"] for fact in self.known.of("sandbox") if fact.get("key")]
        answer = await self.run.call("POST", "", key=KEY, json=self.operation.creates)
        if answer.status_code != 201:
            self.verdict.lost.append(f"the create again: {answer.text}")
            return living
        again: str = answer.json()["id"]
        if answered and again not in answered:
            self.verdict.doubled.append(f"one key gave {answered[0]} and {again}")
        return living if again in living else [*living, again]

    async def _count(self, living: list[str]) -> None:
        """There is no sandbox that nobody asked for."""
        rows = {row.id for row in await self.run.rows() if row.pool is None}
        self.verdict.doubled += [f"sandbox {one} that nobody knows" for one in sorted(rows - set(living))]

    async def _works(self, sandbox: str) -> None:
        answer = await self.run.call("POST", f"/{sandbox}/shell/exec", json={"command": "echo works"})
        if answer.status_code != 200 or answer.json()["output"] != "works\n":
            self.verdict.lost.append(f"{sandbox} runs no command: {answer.text}")
        if self.operation.creates.get("env"):
            await self._has_what_the_create_gave(sandbox)

    async def _has_what_the_create_gave(self, sandbox: str) -> None:
        """Environment and labels are the claim's, also when the sandbox waited in the pool before."""
        answer = await self.run.call("POST", f"/{sandbox}/shell/exec", json={"command": "echo $CLAIMED"})
        labels = (await self.run.call("GET", f"/{sandbox}")).json()["labels"]
        if answer.json().get("output") != "yes\n" or labels != self.operation.creates["labels"]:
            self.verdict.lost.append(f"what {sandbox} was created with: {answer.text} {labels}")

    async def _remembers(self, sandbox: str) -> None:
        """The program that counts in memory has gone on, once; or its memory is lost and the events say so.
        It is awake by now, and has nothing on disk.
        """
        await self._host()
        await self._execs(sandbox)
        values = [fact["value"] for fact in self.known.of("counts")]
        asked = await self.run.call("POST", f"/{sandbox}/shell/exec", json={"command": ASK_COUNTER})
        value = asked.json().get("output", "").strip()
        goes_on = value in values
        listed = (await self.run.call("GET", f"/{sandbox}/events", params={"limit": 100})).json()["items"]
        losses = [event for event in listed if event["type"] == "sandbox.memory_lost"]
        if not goes_on and not losses:
            self.verdict.lost.append(f"the memory of {sandbox}, and no event says so: {asked.text}")
        # A memory is used once, and nothing but a restore that was broken off costs it.
        if losses and not (self.half_used and self.known.was_beginning_with_memory(sandbox)):
            self.verdict.lost.append(f"the memory of {sandbox}: {losses}")
        content = await self._content(sandbox, TICKS)
        ticks = [line.split() for line in (content or "").splitlines()]
        numbers, written = [int(tick[1]) for tick in ticks], [tick[0] for tick in ticks]
        changes = [one for i, one in enumerate(written) if i == 0 or one != written[i - 1]]
        one_life = numbers == list(range(1, len(numbers) + 1)) and changes == values[: len(changes)]
        if not one_life or (goes_on and losses):
            self.verdict.doubled.append(f"what ran in {sandbox}: {losses} {ticks}")
        for fact in self.known.of("exec") if goes_on else ():  # those of the original are a fork's, too
            answer = await self.run.call("GET", f"/{sandbox}/execs/{fact['id']}")
            if answer.json().get("state") != "running":
                self.verdict.lost.append(f"exec {fact['id']} of {sandbox}, which goes on: {answer.text}")
        # Its files and its memory are of one moment.
        if (
            goes_on
            and len(values) > 1
            and (value == values[0]) != (await self._content(sandbox, FILE) == CONTENT)
        ):
            self.verdict.lost.append(
                f"files of {sandbox} beside memory of another moment: {value} of {values}"
            )

    async def _files(self, sandbox: str) -> None:
        written = {fact["path"]: {fact["content"]} for fact in self.known.of("file", sandbox)}
        for fact in self.known.of("asked to restore", sandbox):
            before = set[str]() if self.known.of("restored", sandbox) else written[fact["path"]]
            written[fact["path"]] = {fact["content"], *before}
        for path, right in written.items():
            if (content := await self._content(sandbox, path)) not in right:
                self.verdict.lost.append(f"file {path} of {sandbox}: {content}, not {right}")

    async def _content(self, sandbox: str, path: str) -> str | None:
        answer = await self.run.call("GET", f"/{sandbox}/filesystem/files", params={"path": path})
        return answer.json()["content"] if answer.status_code == 200 else None

    async def _checkpointed(self, sandbox: str) -> None:
        """One key made one checkpoint, and that can be put back."""
        asked = self.known.of("asked to checkpoint", sandbox)
        if not asked:
            return
        path = f"/{sandbox}/checkpoints"
        again = await self.run.call("POST", path, key=KEY, json=asked[0]["body"])
        if again.status_code != 201:
            self.verdict.lost.append(f"the checkpoint again: {again.text}")
            return
        listed = [item["id"] for item in (await self.run.call("GET", path)).json()["items"]]
        answered = [fact["id"] for fact in self.known.of("checkpointed", sandbox)]
        if listed != [again.json()["id"]] or (answered and answered != listed):
            self.verdict.doubled.append(f"one key made {listed}; it was answered {answered}")
        restored = await self.run.call("POST", f"{path}/{listed[0]}/restore")
        if restored.status_code != 200:
            self.verdict.lost.append(f"checkpoint {listed[0]} cannot be put back: {restored.text}")
        await self._files(sandbox)
        if self.operation.hibernates:
            await _settle(self.run, self.verdict)
            await self._remembers(sandbox)

    async def _fork_again(self, living: list[str]) -> list[str]:
        """The same fork with the same key gives what it gave, or what it would have."""
        (asked,) = self.known.of("asked to fork")
        source = asked["sandbox"]
        answer = await self.run.call("POST", f"/{source}/fork", key=KEY, json=asked["body"])
        if answer.status_code != 201:
            self.verdict.lost.append(f"the fork again: {answer.text}")
            return living
        again = [item["id"] for item in answer.json()["items"]]
        answered = [fact["id"] for fact in self.known.of("forked", source)]
        if answered and answered != again:
            self.verdict.doubled.append(f"one key gave {answered} and {again}")
        await _settle(self.run, self.verdict)
        return [*living, *(one for one in again if one not in living)]

    async def _appended(self, sandbox: str) -> None:
        """The command ran at most once, also when the call is made again; exactly once when it is said to
        have ended well.
        """
        if not self.known.of("asked to append", sandbox):
            return
        before = await self._lines(sandbox)
        again = await self.run.call(
            "POST", f"/{sandbox}/execs", key=KEY, params={"wait": CALL_S}, json=APPEND
        )
        if not again.is_success:
            self.verdict.lost.append(f"the exec again: {again.text}")
            return
        done, lines = again.json(), await self._lines(sandbox)
        answered = self.known.of("appended", sandbox)
        if max(before, lines) > 1 or (answered and answered[0]["id"] != done["id"]):
            self.verdict.doubled.append(f"the exec ran {lines} times; answers {answered} and {done}")
        if done["state"] == "running" or (lines == 0 and (answered or done["exit_code"] == 0)):
            self.verdict.lost.append(f"the exec ran {lines} times and is {done}")

    async def _lines(self, sandbox: str) -> int:
        count = {"command": "cat ran 2>/dev/null | wc -l"}
        answer = await self.run.call("POST", f"/{sandbox}/shell/exec", json=count)
        return int(answer.json()["output"])

    async def _expiry(self, sandbox: str) -> None:
        """It is what was answered, and a repeated call does not extend it twice."""
        created = [f["expires_at"] for f in self.known.of("sandbox", sandbox) if f["expires_at"]]
        if not created:
            return
        first = datetime.fromisoformat(created[0])
        longer = first + timedelta(seconds=EXTENSION)
        asked, answered = self.known.of("asked to extend", sandbox), self.known.of("extended", sandbox)
        self._compare(
            sandbox,
            await self._expires(sandbox),
            {longer} if answered else {first, longer} if asked else {first},
        )
        if asked:
            again = await self.run.call(
                "POST", f"/{sandbox}/extend_ttl", key=KEY, json={"extend_by": EXTENSION}
            )
            if not again.is_success:
                self.verdict.lost.append(f"the extension again: {again.text}")
            self._compare(sandbox, await self._expires(sandbox), {longer})

    async def _expires(self, sandbox: str) -> datetime:
        return datetime.fromisoformat((await self.run.call("GET", f"/{sandbox}")).json()["expires_at"])

    def _compare(self, sandbox: str, seen: datetime, right: set[datetime]) -> None:
        if seen not in right:
            kind = self.verdict.doubled if seen > max(right) else self.verdict.lost
            kind.append(f"{sandbox} expires at {seen}, not {sorted(right)}")


async def clean(place: Place) -> None:
    """Remove from the host whatever a case left; files stay, in a directory that nothing is mounted on."""
    if not crash_host.is_held(place):
        return
    driver = place.driver(fork_ships=False, criu=None)
    await driver.open()
    for owned in [owned async for owned in driver.list_owned()]:
        async with asyncio.timeout(_ENDS_S * 6):
            await driver.destroy(owned.handle)
    await driver.aclose()
    _unmount(place.data_dir / "cargo")


def _unmount(pool: Path) -> None:
    while device_at(pool):
        subprocess.run(["umount", "--lazy", str(pool)], check=True, timeout=_ENDS_S * 6)
