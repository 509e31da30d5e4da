"""The resolver of one sandbox: a cached answer is sent at once, else each name and type has one task."""

import asyncio
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Any

import dns.exception
import dns.name
import dns.rdatatype
import dns.reversename
import structlog

from bay.errors import HostError
from bay.network import domains
from bay.network.dns import wire
from bay.network.dns.cache import CachedAnswer, Key, Pin
from bay.network.dns.limits import Budget
from bay.network.dns.log import QueryLog
from bay.network.dns.names import ADDRESSES, ForwarderContext, SandboxNames, UpstreamQuestion
from bay.network.dns.resolution import Loop
from bay.network.dns.upstream import NoAnswer
from bay.network.dns.wire import Question
from bay.network.policy import CompiledPolicy, NameVerdict
from bay.network.reserved_ranges import Address

log = structlog.get_logger("bay.network.dns")

_HINTS = (wire.SVCB, wire.HTTPS)
"""Answered with nothing: they carry addresses past the records that open them."""
_OTHERS = (wire.TXT, wire.MX, wire.SRV, wire.NS, wire.SOA, wire.PTR, wire.CAA, wire.CNAME)
_KINDS = frozenset((*ADDRESSES, *_HINTS, *_OTHERS))
_REVERSE = (".in-addr.arpa", ".ip6.arpa")
_LOOPBACK = {wire.A: (bytes([127, 0, 0, 1]),), wire.AAAA: (bytes(15) + b"\1",)}
_LOOPBACK_TTL_S = 3600
BROKER = "127.0.0.54"
"""Where the broker listens in a sandbox."""
_BROKER_TTL_S = 30
_FLOOD = "*"
"""Stands for all names past the rate: a flood of them would push everything else out of the log."""

_REFUSING = frozenset(("policy", "private_answer", "rate", "entropy", "type"))
_ERRORS = {
    "policy": (wire.BLOCKED, "the sandbox's network policy does not allow this name"),
    "private_answer": (wire.BLOCKED, "this name leads to addresses that no sandbox reaches"),
    "rate": (wire.OTHER_ERROR, "the sandbox asks too many questions"),
    "entropy": (wire.BLOCKED, "the sandbox sends too much in names"),
    "type": (wire.BLOCKED, "sandboxes are given no records of this type"),
    "upstream": (wire.NO_AUTHORITY, "no resolver answered"),
    "loop": (wire.OTHER_ERROR, "the aliases of this name have no end"),
}

Deliver = Callable[[bytes | None], None]
"""Takes the reply to a question; None when there is none."""


@dataclass(frozen=True, slots=True)
class _Asker:
    """The client of a question, and the size limit of its reply."""

    question: Question
    room: int
    deliver: Deliver


@dataclass(frozen=True, slots=True)
class NameLookup:
    """The addresses of a name. Without any, `reason` is one of `models.RefusedName`, or None for a name that
    has none.
    """

    addresses: tuple[Address, ...]
    reason: str | None = None


class SandboxResolver:
    """One sandbox's resolver, all on the event loop: code without an await is not interrupted."""

    def __init__(
        self, key: int, plan: CompiledPolicy, around: ForwarderContext, broker: str = BROKER
    ) -> None:
        self._key, self._around = key, around
        self._broker = {wire.A: (ip_address(broker).packed,)}
        self._budget = Budget(around.limits, around.now)
        self.log = QueryLog(around.limits.refused_names, around.clock, around.meters)
        self.names = SandboxNames(key, plan, self._budget, around)
        self._asking: dict[Key, list[_Asker]] = {}
        self._in_flight = 0
        self._lookups = asyncio.Semaphore(around.limits.in_flight)
        self._tasks = Tasks()

    async def aclose(self) -> None:
        """Cancel the pending questions, without a reply."""
        await self._tasks.aclose()

    def set_plan(self, plan: CompiledPolicy) -> None:
        """Judge by `plan` from now on, questions that are being asked included."""
        self.names.set_plan(plan)
        self.log.rules_changed()

    def receive(self, message: bytes, *, stream: bool, deliver: Deliver) -> bool:
        """Answer `message`, now or later, by one call of `deliver`; False: over the rate, and not refused."""
        try:
            question = wire.read_question(message)
        except wire.MalformedQuery as error:
            heard = self._budget.question() or self._budget.refusal()
            deliver(error.reply if heard else None)
            return heard
        room = wire.STREAM_BYTES if stream else question.datagram_bytes
        return self._answer(_Asker(question, room, deliver))

    def _answer(self, asker: _Asker) -> bool:
        pin = self.names.held(asker.question.key)
        is_open = pin is not None and pin.plan is self.names.plan and asker.question.qclass == wire.IN
        is_open = is_open and pin is not None and not self._is_brokered(asker.question, pin.text)
        if not self._budget.question(held=is_open):
            return self._flooded(asker)
        if pin is not None and is_open:
            self._tell(asker, pin)
        else:
            self._judge(asker)
        return True

    def _flooded(self, asker: _Asker) -> bool:
        heard = self._budget.refusal()
        self.log.refuse(_FLOOD, _FLOOD, "rate", None)
        self.log.count(None, allowed=False)
        refusal = wire.reply(asker.question, wire.REFUSED, error=_ERRORS["rate"])
        asker.deliver(refusal if heard else None)
        return heard

    def _judge(self, asker: _Asker) -> None:
        """Answer from the cache or the policy where that suffices, and query upstream for the rest."""
        question = asker.question
        text = wire.host_name(question.name)
        if text is None:
            self._refuse(asker, wire.printable(question.name), "policy", None)
        elif question.qclass != wire.IN:
            self._refuse(asker, text, "type", None)
        elif f".{text}".endswith(".localhost"):  # the sandbox itself (RFC 6761, section 6.3)
            self._say(asker, text, _fixed(question, _LOOPBACK), None, _LOOPBACK_TTL_S)
        else:
            self._judge_name(asker, text, self.names.plan.name(text))

    def _judge_name(self, asker: _Asker, text: str, verdict: NameVerdict) -> None:
        question = asker.question
        asked = UpstreamQuestion(text, question.name, question.type, verdict.rule)
        if (reason := self._objection(asked, verdict)) is not None:
            self._refuse(asker, text, reason, verdict.rule)
        elif self._is_brokered(question, text):
            self._say(asker, text, _fixed(question, self._broker), verdict.rule, _BROKER_TTL_S)
        elif question.type in _HINTS or (question.type == wire.AAAA and not self._around.ipv6):
            self._say(asker, text, CachedAnswer(), verdict.rule)
        elif not self._may_leave(asked, verdict):
            self._refuse(asker, text, "entropy", verdict.rule)
        else:
            self._ask(asked, asker)

    def _is_brokered(self, question: Question, text: str) -> bool:
        """Whether the question is for the address of a name that leads to the broker."""
        brokered = self.names.plan.brokered  # empty for most, whose answers need no other form of the name
        return bool(brokered) and question.type in ADDRESSES and domains.lookup_form(text) in brokered

    async def addresses(self, text: str) -> tuple[Address, ...]:
        """The addresses of a name, opened for the sandbox; none where the policy or upstream has none."""
        found: list[Address] = []
        for kind in ADDRESSES if self._around.ipv6 else (wire.A,):
            verdict = self.names.plan.name(text)
            asked = UpstreamQuestion(text, wire.name_of(text), kind, verdict.rule)
            if self._objection(asked, verdict) is None:
                found += (await self._settled(asked)).answer.addresses
        return tuple(found)

    async def lookup(self, text: str) -> NameLookup:
        """The addresses of a name for a sandbox that asks by other means than DNS: held to the policy, and
        counted and noted as its questions are.
        """
        verdict = self.names.plan.name(text)
        found: list[Address] = []
        reasons: list[str] = []
        for kind in ADDRESSES if self._around.ipv6 else (wire.A,):
            asked = UpstreamQuestion(text, wire.name_of(text), kind, verdict.rule)
            reason = self._objection(asked, verdict)
            if reason is None and not self._may_leave(asked, verdict):
                reason = "entropy"
            if reason is None:
                # Of connections that wait here for one name, the first asks, and the others find it cached.
                async with self._lookups:
                    answer = (await self._settled(asked)).answer
                found += answer.addresses
                reason = answer.reason
            reasons += [reason] if reason else []
        reason = reasons[0] if reasons and not found else None
        self.log.count(verdict.rule, allowed=reason not in _REFUSING)
        if reason is not None:
            self.log.refuse(text, "A", reason, verdict.rule)
        return NameLookup(tuple(found), reason)

    def _objection(self, asked: UpstreamQuestion, verdict: NameVerdict) -> str | None:
        if not verdict.answered or not self._is_public(asked.text):
            return "policy"
        return None if asked.type in _KINDS else "type"

    def _is_public(self, text: str) -> bool:
        """Whether `text` is no reverse name, or a reachable address's: others map the host's network."""
        if not f".{text}".endswith(_REVERSE):
            return True
        try:
            address = dns.reversename.to_address(dns.name.from_text(text))
            return self._around.is_reachable(ip_address(address))
        except (dns.exception.DNSException, ValueError):
            return False

    def _may_leave(self, asked: UpstreamQuestion, verdict: NameVerdict) -> bool:
        """Whether the budget has letters left: not for cached or pending names, nor in the mode `open`."""
        if verdict.rule is None or asked.key in self._asking or self.names.held(asked.key) is not None:
            return True
        return self._budget.carry(verdict.carried)

    def _ask(self, asked: UpstreamQuestion, asker: _Asker) -> None:
        """Answer `asker` once the response is there; query upstream unless the question is pending."""
        if self._in_flight >= self._around.limits.in_flight:
            self._say(asker, asked.text, CachedAnswer(rcode=wire.SERVFAIL, reason="rate"), asked.rule)
            return
        self._in_flight += 1
        if (others := self._asking.get(asked.key)) is not None:
            others.append(asker)
            return
        self._asking[asked.key] = [asker]
        self._tasks.start(self._settle(asked))

    async def _settle(self, asked: UpstreamQuestion) -> None:
        pin = await self._settled(asked)
        askers = self._asking.pop(asked.key)
        self._in_flight -= len(askers)
        for asker in askers:
            self._tell(asker, pin)

    async def _settled(self, asked: UpstreamQuestion) -> Pin:
        try:
            async with asyncio.timeout(self._around.limits.answer_s):
                return await self.names.settle(asked)
        except (NoAnswer, TimeoutError):
            return self.names.fail(asked, "upstream")
        except Loop:
            return self.names.fail(asked, "loop")
        except HostError as error:
            log.warning("dns.not_opened", key=self._key, name=asked.text, error=error.message)
            return self.names.fail(asked, "upstream")
        except Exception:
            # A question's edge, as a request has one: a defect costs an answer, and the others go on.
            log.exception("dns.failed", key=self._key, name=asked.text)
            return self.names.fail(asked, "upstream")

    def _refuse(self, asker: _Asker, text: str, reason: str, rule: int | None) -> None:
        self._say(asker, text, CachedAnswer(rcode=wire.REFUSED, reason=reason), rule)

    def _tell(self, asker: _Asker, pin: Pin) -> None:
        self._say(asker, pin.text, pin.answer, pin.rule, self.names.left(pin))

    def _say(self, asker: _Asker, text: str, answer: CachedAnswer, rule: int | None, ttl: int = 0) -> None:
        """Answer, and note it."""
        self.log.count(rule, allowed=answer.reason not in _REFUSING)
        error = None
        if answer.reason is not None:
            self.log.refuse(text, _kind(asker.question), answer.reason, rule)
            error = _ERRORS[answer.reason]
        asker.deliver(
            wire.reply(asker.question, answer.rcode, answer.records, ttl=ttl, room=asker.room, error=error)
        )


def _kind(question: Question) -> str:
    return dns.rdatatype.to_text(dns.rdatatype.RdataType.make(question.type))


def _fixed(question: Question, addresses: Mapping[int, tuple[bytes, ...]]) -> CachedAnswer:
    data = addresses.get(question.type, ())
    return CachedAnswer(records=wire.answer_records(question.name, (), question.type, data))


class Tasks:
    """A task group that is opened and closed, not entered. Its tasks handle their own errors."""

    def __init__(self) -> None:
        self._running: set[asyncio.Task[None]] = set()

    def start(self, work: Coroutine[Any, Any, None]) -> None:
        """Run `work` until it ends or this is closed."""
        task = asyncio.get_running_loop().create_task(work)
        self._running.add(task)
        task.add_done_callback(self._running.discard)

    def __len__(self) -> int:
        return len(self._running)

    async def aclose(self) -> None:
        """Cancel what runs, and wait until it has ended."""
        running = list(self._running)
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
