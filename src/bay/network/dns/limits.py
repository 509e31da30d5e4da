"""The limits of a sandbox's DNS, and its budget: queries a second, and bytes of names that it chooses.

A name under a wildcard rule is a message to the domain's name server, so it pays for the bytes below the
rule's own at each upstream query, long ones that look random eightfold: tunnels are slowed, not closed.
"""

from collections.abc import Callable
from dataclasses import dataclass

from bay.token_bucket import TokenBucket

RANDOM_FACTOR = 8
_RANDOM_BYTES = 20
_RANDOM_SHARE = 0.35

# The pairs of letters that fill English words and the names of hosts. Of the pairs in such names they are
# more than half, of those in random letters a seventh, of those in hexadecimal or Base32 hardly any. Entropy
# by counting letters cannot tell them apart: sixteen equally frequent digits have less of it than a sentence.
_PAIRS = """
ab ac ad ag ai al am an ap ar as at ay be bl bo br bu ca cd ce ch ck cl co ct da de di do ds ea ec ed ee el em
en er es et ev ff fi fo fr ge gi go gr ha he hi ho ic id ie if ig il im in io ir is it iv ke la le li ll lo ly
ma me mi mo mp na nd ne ng nl no ns nt ol om on oo op or ot ou ow pa pe pi pl po pr ra re ri ro rs rt ry sa se
sh si so ss st su ta te th ti to tr ts tt ty ub ud ui ul un up ur us ut ve vi wa we wo
"""
_COMMON = frozenset(_PAIRS.split())


@dataclass(frozen=True, slots=True, kw_only=True)
class DnsLimits:
    """The bounds of one forwarder; those of a sandbox count for each by itself. Times are seconds."""

    questions_per_s: float = 100
    questions_at_once: float = 400
    held_cost: float = 0.1
    """The cost of a cached answer, in questions: it takes Bay some microseconds and no upstream query."""
    refusals_at_once: float = 200
    """Questions over the rate that are answered REFUSED at `questions_per_s`; further ones are dropped."""
    pause_s: float = 0.05
    """How long a socket is left unread once its questions are dropped: the kernel drops for less than Bay."""
    received_per_question: int = 1024
    """Bytes from upstream that cost one question, so that a long answer is no cheap way to keep Bay busy."""

    letters_per_s: float = 64
    letters_at_once: float = 8192
    """Bytes that names under wildcard rules may carry out."""

    in_flight: int = 64
    connections: int = 16
    datagrams: int = 32
    """How many are read before others have their turn."""
    query_bytes: int = 4096
    """No longer question is read: one name and its options need no 400, though RFC 1035 allows 65,535."""
    idle_s: float = 10
    """How long a connection may be silent, or take for one question or to accept an answer."""

    addresses_per_name: int = 256
    addresses: int = 4096
    names_per_address: int = 16
    held_answers: int = 2048
    held_bytes: int = 512 * 1024
    refused_names: int = 200

    ttl_min_s: int = 5
    ttl_max_s: int = 3600
    failure_s: int = 1
    """How long a failure to resolve is cached (RFC 9520, section 3.2: at least a second)."""
    grace_s: int = 30
    """An address stays open for so much longer than its TTL: a program connects after it has resolved."""

    answer_s: float = 5
    tries_s: tuple[float, ...] = (1.0, 2.0)
    """How long each resolver is waited for, in the first round and in the second."""
    down_s: float = 10
    """How long a resolver that did not answer is asked last."""
    exchanges: int = 512
    """Questions to resolvers at one time, of all sandboxes together: each has a socket."""
    lies: int = 32
    """Datagrams on one socket that are no answer to its question, before it is given up."""
    aliases: int = 8
    records: int = 512
    """Records of one upstream answer that are looked at."""


class Budget:
    """One sandbox's token buckets."""

    def __init__(self, limits: DnsLimits, now: Callable[[], float]) -> None:
        self._limits = limits
        self._questions = TokenBucket(limits.questions_per_s, limits.questions_at_once, now)
        self._refusals = TokenBucket(limits.questions_per_s, limits.refusals_at_once, now)
        self._letters = TokenBucket(limits.letters_per_s, limits.letters_at_once, now)

    def question(self, *, held: bool = False) -> bool:
        """Whether one more question may be answered; `held` when its answer is at hand."""
        return self._questions.take(self._limits.held_cost if held else 1)

    def refusal(self) -> bool:
        """Whether a query over the rate is still answered REFUSED."""
        return self._refusals.take(1)

    def received(self, size: int) -> None:
        """Pay for `size` bytes from upstream."""
        self._questions.charge(size / self._limits.received_per_question)

    def carry(self, text: str) -> bool:
        """Whether a name may leave that carries `text`."""
        return self._letters.take(weight(text)) if text else True


def weight(carried: str) -> int:
    """The cost in letters of `carried`, the part of a name that the sandbox chose."""
    letters = carried.replace(".", "")
    return len(letters) * (RANDOM_FACTOR if looks_random(letters) else 1)


def looks_random(letters: str) -> bool:
    """Whether `letters`, in lower case and of all labels, are many and not those of words."""
    if len(letters) < _RANDOM_BYTES:
        return False
    common = sum(letters[at : at + 2] in _COMMON for at in range(len(letters) - 1))
    return common < _RANDOM_SHARE * (len(letters) - 1)
