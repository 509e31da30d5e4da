"""What Bay promises about sandboxes, in plain Python: written from the words of the API, not from Bay's code.

    compute   becomes                when
    cold      running                a call needs compute (start, resume, exec); failed when its host cannot
    running   warm                   pause; `idle_timeout` without activity or an exec that keeps it awake
    running   cold                   stop; its processes die (failed); in place of warm if `warm_timeout` is 0
    warm      running                a call needs compute
    warm      cold                   stop; `warm_timeout`; its processes die (failed)
    any       cold, `expired`             `expires_at`; removed once it was shown so for the retention
    any       gone                        delete

`status` is `expired` past `expires_at`; else `ready` with compute, and without `failed` or `idle`. A failure
is forgiven by the next start that works. A model knows settled states alone: whoever compares waits until Bay
is done.
"""

from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from itertools import permutations
from typing import Any, Literal

Json = dict[str, Any]
Compute = Literal["cold", "warm", "running"]
Reason = tuple[int, str, str]
"""Of a refusal: its status, its code, and of a quota what the limit is."""

EXPIRED: Reason = (409, "sandbox_expired", "")
CONFLICT: Reason = (409, "conflict", "")
INFINITE: Reason = (409, "sandbox_ttl_infinite", "")
MISSING: Reason = (404, "not_found", "")
INCAPABLE: Reason = (400, "capability_not_supported", "")
NOT_READY: Reason = (503, "session_not_ready", "")
BROKEN_OFF: Reason = (502, "ship_error", "")

CUT_SHORT: dict[str, set[Reason]] = {
    "exec": {NOT_READY, BROKEN_OFF, MISSING},
    "run": {NOT_READY, BROKEN_OFF, MISSING},
    "start": {MISSING},
    "pause": {CONFLICT},
}
"""How a call may end when another one takes the compute away, or needs it, while it is served."""


class Disagreement(AssertionError):
    """Bay did what the model does not allow."""


@dataclass(frozen=True, slots=True)
class Profile:
    """What a sandbox takes from its profile."""

    eager: bool = False
    runs_commands: bool = True
    idle_timeout: int | None = 100
    warm_timeout: int | None = 300


@dataclass(frozen=True, slots=True)
class Client:
    """Who calls: a key of an owner."""

    owner: str
    key: str


@dataclass(frozen=True, slots=True)
class Call:
    """One call. `ref` is the id or the name of the sandbox it is about."""

    verb: str
    by: Client
    ref: str = ""
    body: Json = field(default_factory=dict[str, Any])
    idempotency_key: str | None = None
    waits: bool = False

    @property
    def request(self) -> tuple[Any, ...]:
        """What makes it the same call again."""
        return (self.verb, self.ref, sorted(self.body.items(), key=str))


@dataclass(frozen=True, slots=True)
class Answer:
    """What came of it."""

    status: int
    body: Any = None

    @property
    def reason(self) -> Reason | None:
        """Why the call was refused; None when it was not."""
        if self.status < 400:
            return None
        error = self.body["error"]
        return (self.status, error["code"], quota_text(error["details"]) if self.status == 429 else "")


def quota_text(details: Json) -> str:
    """What a quota's refusal says of it, as one word."""
    return "{of} {quota} {used:g}/{limit:g}".format(**details)


@dataclass(slots=True)
class Box:
    """A sandbox as the model has it."""

    id: str
    seq: int
    by: Client
    profile: str
    created_at: datetime
    expires_at: datetime | None
    idle_timeout: int | None
    warm_timeout: int | None
    name: str | None
    labels: dict[str, str]
    compute: Compute = "cold"
    idle_at: datetime | None = None
    warm_at: datetime | None = None
    error: str | None = None
    running: dict[str, bool] = field(default_factory=dict[str, bool])
    """Ids of the execs that run, with whether each keeps the sandbox awake."""
    ran: set[str] = field(default_factory=set[str])
    """Ids of all execs."""
    gone: bool = False

    def cool(self, error: str | None = None) -> None:
        """Its compute ends, and all that runs in it."""
        self.compute, self.idle_at, self.warm_at = "cold", None, None
        self.error = error or self.error
        self.running = {}

    def is_expired(self, now: datetime) -> bool:
        """Whether it is past its time."""
        return self.expires_at is not None and self.expires_at <= now

    def view(self, now: datetime) -> Json:
        """What its owner must see."""
        status = "ready" if self.compute != "cold" else "failed" if self.error else "idle"
        return {
            "id": self.id,
            "name": self.name,
            "profile": self.profile,
            "labels": self.labels,
            "status": "expired" if self.is_expired(now) else status,
            "compute": self.compute,
            "created_at": self.created_at,
            "expires_at": self.expires_at,
            "idle_timeout": self.idle_timeout,
            "idle_expires_at": self.idle_at,
            "warm_timeout": self.warm_timeout,
            "warm_expires_at": self.warm_at,
            "error": self.error,
        }


def seen(shown: Json) -> Json:
    """The same of what Bay shows: times as times, and of a failure its code."""
    times = ("created_at", "expires_at", "idle_expires_at", "warm_expires_at")
    read = {t: shown[t] and datetime.fromisoformat(shown[t]) for t in times}
    error = shown["error"]
    kept = ("id", "name", "profile", "labels", "status", "compute", "idle_timeout", "warm_timeout")
    return {**{k: shown[k] for k in kept}, **read, "error": error and error["code"]}


@dataclass(slots=True)
class _Claim:
    request: tuple[Any, ...]
    answer: Json


class Model:
    """All sandboxes of all owners. `limits` are quotas by key and by owner: `{"key k": {"sandboxes": 3}}`."""

    def __init__(
        self,
        profiles: dict[str, Profile],
        limits: dict[str, dict[str, int]],
        now: datetime,
        retention_s: int,
    ) -> None:
        self.profiles = profiles
        self.limits = limits
        self.now = now
        self.retention = timedelta(seconds=retention_s)
        self.boxes: dict[str, Box] = {}
        self.claims: dict[tuple[str, str], _Claim] = {}
        self.host_fails = False
        """Whether a start fails at present."""
        self._raced = False

    # Looking

    def find(self, owner: str, ref: str) -> Box | None:
        """The owner's sandbox of that id or name that is still there."""
        return next((b for b in self.of(owner) if ref in (b.id, b.name)), None)

    def of(self, owner: str) -> list[Box]:
        """The owner's sandboxes that are there, oldest first."""
        return [b for b in self.boxes.values() if b.by.owner == owner and not b.gone]

    def views(self, owner: str) -> list[Json]:
        """What the owner's list must show."""
        return [b.view(self.now) for b in self.of(owner)]

    # Hearing what came of a call

    def hear(self, call: Call, answer: Answer) -> None:
        """The call happened and got that answer. Raises Disagreement if it may not get it."""
        verbs: dict[str, Callable[[Call, Answer], None]] = {
            "create": self._create, "start": self._start, "resume": self._start, "pause": self._pause,
            "stop": self._stop, "delete": self._delete, "extend_ttl": self._extend, "keepalive": self._keepalive,
            "patch": self._patch, "exec": self._exec, "run": self._run, "kill": self._kill, "get": self._get,
        }  # fmt: skip
        verbs[call.verb](call, answer)

    def after_race(self, heard: list[tuple[Call, Answer]]) -> Iterator["Model"]:
        """What may be true after calls that came at once: any order, each whole or cut short by the other."""
        for order in permutations(heard):
            yield from self._one_after_another(list(order))

    def _one_after_another(self, heard: list[tuple[Call, Answer]]) -> Iterator["Model"]:
        if not heard:
            yield self
            return
        (call, answer), *rest = heard
        for hear in (Model.hear, Model._hear_cut_short, Model._hear_undone):
            branch = deepcopy(self)
            branch._raced = True
            try:
                hear(branch, call, answer)
            except Disagreement:
                continue
            branch._raced = False
            yield from branch._one_after_another(rest)

    def _hear_undone(self, call: Call, answer: Answer) -> None:
        """It was turned round before anything came of it."""
        refused = answer.reason in CUT_SHORT.get(call.verb, set())
        if not (refused or (call.verb in ("start", "resume") and answer.status == 200)):
            raise Disagreement(f"{call} cannot be undone with {answer}")

    def _hear_cut_short(self, call: Call, answer: Answer) -> None:
        """It woke the sandbox, and then its compute was taken away."""
        box = self.find(call.by.owner, call.ref)
        woke = call.verb != "pause" and answer.reason in CUT_SHORT.get(call.verb, set())
        if box is None or not woke:
            raise Disagreement(f"{call} cannot be cut short with {answer}")
        self._wake(box)

    # Calls

    def _create(self, call: Call, answer: Answer) -> None:
        owner, body, profile = call.by.owner, call.body, self.profiles[call.body["profile"]]
        if self._is_repeated(call, answer):
            return
        starts = profile.eager or call.waits
        reasons = self._shortages(call.by, {"sandboxes": 1, "running": int(starts)}, None)
        if body.get("name") and self.find(owner, body["name"]):
            reasons.add(CONFLICT)
        if self._is_refused(call, answer, reasons):
            return
        box = Box(
            id=answer.body["id"],
            seq=len(self.boxes),
            by=call.by,
            profile=body["profile"],
            created_at=self.now,
            expires_at=self._after(body.get("ttl") or None),
            idle_timeout=body.get("idle_timeout", profile.idle_timeout),
            warm_timeout=body.get("warm_timeout", profile.warm_timeout),
            name=body.get("name"),
            labels=body.get("labels", {}),
        )
        if box.id in self.boxes:
            raise Disagreement(f"{call} gave {box.id}, which was there already")
        self.boxes[box.id] = box
        self._claim(call, answer)
        self._begin(call, answer, box, starts=starts)

    def _begin(self, call: Call, answer: Answer, box: Box, *, starts: bool) -> None:
        from_pool = (answer.body["status"], answer.body["compute"]) == ("ready", "running")
        if from_pool and not call.waits:
            if box.profile != "pooled":
                raise Disagreement(f"{call} was ready at once: {answer}")
            self._run_now(box)
        elif starts:
            self._wake(box)
        if not call.waits and not from_pool:
            self._expect(call, (answer.body["status"], answer.body["compute"]), ("idle", "cold"))
        elif not self._raced:
            self._expect(call, seen(answer.body), box.view(self.now))

    def _start(self, call: Call, answer: Answer) -> None:
        box = self._found(call, answer)
        if box is None or self._is_refused(call, answer, self._cannot_wake(box)):
            return
        self._wake(box)
        if call.waits or call.verb == "resume":
            self._shows(call, answer, box)

    def _pause(self, call: Call, answer: Answer) -> None:
        box = self._found(call, answer)
        if box is None:
            return
        reasons = self._expiry(box) | ({CONFLICT} if box.compute == "cold" else set[Reason]())
        if self._is_refused(call, answer, reasons):
            return
        if box.compute == "running":
            self._freeze(box)
        self._shows(call, answer, box)

    def _stop(self, call: Call, answer: Answer) -> None:
        box = self._found(call, answer)
        if box is not None and not self._is_refused(call, answer, set()):
            self._expect(call, answer.body, {"status": "stopped"})
            box.cool()

    def _delete(self, call: Call, answer: Answer) -> None:
        known = self.boxes.get(call.ref)
        if known and known.by.owner == call.by.owner:
            self._expect(call, answer.status, 204)
            known.cool()
            known.gone = True
        elif (box := self._found(call, answer)) is not None:
            self._expect(call, answer.status, 204)
            box.cool()
            box.gone = True

    def _extend(self, call: Call, answer: Answer) -> None:
        box = self._found(call, answer)
        if box is None or self._is_repeated(call, answer):
            return
        reasons = self._expiry(box) or ({INFINITE} if box.expires_at is None else set[Reason]())
        if self._is_refused(call, answer, reasons):
            return
        assert box.expires_at is not None
        box.expires_at = max(box.expires_at, self.now) + timedelta(seconds=call.body["extend_by"])
        self._claim(call, answer)
        self._shows(call, answer, box)

    def _keepalive(self, call: Call, answer: Answer) -> None:
        box = self._found(call, answer)
        if box is None or self._is_refused(call, answer, self._expiry(box)):
            return
        self._expect(call, answer.body, {"status": "ok"})
        self._restart_clocks(box)

    def _patch(self, call: Call, answer: Answer) -> None:
        box = self._found(call, answer)
        if box is None:
            return
        other = self.find(box.by.owner, call.body["name"]) if call.body.get("name") else None
        taken = {CONFLICT} if other is not None and other is not box else set[Reason]()
        if self._is_refused(call, answer, self._expiry(box) | taken):
            return
        for name, value in call.body.items():
            setattr(box, name, value)
        if "idle_timeout" in call.body and box.compute == "running":
            box.idle_at = self._after(box.idle_timeout)
        if "warm_timeout" in call.body and box.compute == "warm":
            box.warm_at = self._after(box.warm_timeout)
        self._shows(call, answer, box)

    def _exec(self, call: Call, answer: Answer) -> None:
        if self._works(call, answer) and not self._raced:
            failed = call.body["command"] != "true"
            self._expect(call, (answer.body["success"], answer.body["exit_code"]), (not failed, 3 * failed))

    def _run(self, call: Call, answer: Answer) -> None:
        box = self._works(call, answer)
        if box is not None:
            self._expect(call, (answer.status, answer.body["state"]), (201, "running"))
            box.running[answer.body["id"]] = call.body["keep_alive"]
            box.ran.add(answer.body["id"])

    def _kill(self, call: Call, answer: Answer) -> None:
        box = self._works(call, answer)
        if box is not None:
            self._expect(call, (answer.status, answer.body["state"]), (200, "killed"))
            del box.running[call.body["exec"]]

    def _get(self, call: Call, answer: Answer) -> None:
        if (box := self._found(call, answer)) is not None:
            self._shows(call, answer, box)

    # What happens by itself

    def end_by_itself(self, sandbox_id: str) -> None:
        """Its processes died."""
        self.boxes[sandbox_id].cool("session_exited")

    def sweep(self) -> None:
        """Every limit whose time has come is enforced."""
        for box in self.boxes.values():
            if box.is_expired(self.now):
                box.cool()
                box.gone = box.gone or (box.expires_at or self.now) + self.retention <= self.now
            elif box.compute == "running" and box.idle_at is not None and box.idle_at <= self.now:
                self._idle_out(box)
            if box.compute == "warm" and box.warm_at is not None and box.warm_at <= self.now:
                box.cool()

    def _idle_out(self, box: Box) -> None:
        if any(box.running.values()):
            box.idle_at = self._after(box.idle_timeout)
        else:
            self._freeze(box)

    # Parts of rules

    def _works(self, call: Call, answer: Answer) -> Box | None:
        """The sandbox, woken for a call that needs it; None when it was refused, which may have an effect all
        the same.
        """
        box = self._found(call, answer)
        if box is None:
            return None
        reasons = self._cannot_wake(box)
        if not self.profiles[box.profile].runs_commands:
            reasons.add(INCAPABLE)
        fails = not reasons and box.compute == "cold" and self.host_fails
        if self._is_refused(call, answer, {NOT_READY} if fails else reasons):
            if fails:
                self._wake(box)
            return None
        self._wake(box)
        return box

    def _wake(self, box: Box) -> None:
        if box.compute == "cold" and self.host_fails:
            box.error = "driver_unavailable"
        else:
            self._run_now(box)

    def _run_now(self, box: Box) -> None:
        box.compute, box.error = "running", None
        self._restart_clocks(box)

    def _restart_clocks(self, box: Box) -> None:
        box.idle_at = self._after(box.idle_timeout) if box.compute == "running" else None
        box.warm_at = self._after(box.warm_timeout) if box.compute == "warm" else None

    def _freeze(self, box: Box) -> None:
        box.compute = "warm"
        self._restart_clocks(box)

    def _after(self, seconds: int | None) -> datetime | None:
        return None if seconds is None else self.now + timedelta(seconds=seconds)

    def _cannot_wake(self, box: Box) -> set[Reason]:
        more = {"running": int(box.compute != "running")}
        return self._expiry(box) | self._shortages(box.by, more, box)

    def _expiry(self, box: Box) -> set[Reason]:
        return {EXPIRED} if box.is_expired(self.now) else set()

    def _shortages(self, by: Client, more: dict[str, int], besides: Box | None) -> set[Reason]:
        """The quotas that so much more would pass."""
        found: set[Reason] = set()
        for of, counted in (
            ("key", [b for b in self.of(by.owner) if b.by == by]),
            ("owner", self.of(by.owner)),
        ):
            limits = self.limits.get(f"{of} {by.key if of == 'key' else by.owner}", {})
            present = [b for b in counted if b is not besides]
            used = {"sandboxes": len(present), "running": sum(b.compute == "running" for b in present)}
            for quota, limit in limits.items():
                if more.get(quota) and used[quota] + more[quota] > limit:
                    details = {"of": of, "quota": quota, "used": used[quota], "limit": limit}
                    found.add((429, "quota_exceeded", quota_text(details)))
        return found

    def _found(self, call: Call, answer: Answer) -> Box | None:
        box = self.find(call.by.owner, call.ref)
        if box is None:
            self._expect(call, answer.reason, MISSING)
        return box

    def _is_refused(self, call: Call, answer: Answer, reasons: set[Reason]) -> bool:
        """Whether it was; it must be if there are reasons, and for one of them."""
        if (answer.reason is None) != (not reasons) or (reasons and answer.reason not in reasons):
            raise Disagreement(f"{call} got {answer}; reasons to refuse it: {reasons or 'none'}")
        return bool(reasons)

    def _is_repeated(self, call: Call, answer: Answer) -> bool:
        """Whether its idempotency key was used before: for the same call, or wrongly."""
        claim = self.claims.get((call.by.owner, call.idempotency_key or ""))
        if claim is None:
            return False
        if claim.request == call.request:
            self._expect(call, answer.body, claim.answer)
        else:
            self._is_refused(call, answer, {CONFLICT})
        return True

    def _claim(self, call: Call, answer: Answer) -> None:
        if call.idempotency_key:
            self.claims[call.by.owner, call.idempotency_key] = _Claim(call.request, answer.body)

    def _shows(self, call: Call, answer: Answer, box: Box) -> None:
        if self._raced:
            return
        if answer.status != 200:
            raise Disagreement(f"{call} got {answer}")
        self._expect(call, seen(answer.body), box.view(self.now))

    def _expect(self, call: Call, got: object, expected: object) -> None:
        if got != expected:
            raise Disagreement(f"{call} gave {got}; expected {expected}")
