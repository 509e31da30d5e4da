"""Rate limits of a sandbox's DNS queries: queries a second, and bytes of names that it chooses.

A name under a wildcard rule is a message to the domain's name server, so such names pay for the bytes they
carry below the rule's own, at each upstream query. Names that people gave pay for their letters; long ones
that look random pay eightfold. A tunnel through names cannot be closed while they are answered: the limit
keeps it slow.
"""

from collections.abc import Callable

from bay.network.dns.limits import DnsLimits

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


class Bucket:
    """A token bucket: `burst` at once, refilled with `rate` a second."""

    def __init__(self, rate: float, burst: float, now: Callable[[], float]) -> None:
        self._rate, self._burst, self._now = rate, burst, now
        self._left, self._at = burst, now()

    def take(self, cost: float) -> bool:
        """Pay `cost`, if there is so much."""
        self._refill()
        if self._left < cost:
            return False
        self._left -= cost
        return True

    def charge(self, cost: float) -> None:
        """Charge `cost` in any case; the balance may go negative, by at most a burst."""
        self._refill()
        self._left = max(self._left - cost, -self._burst)

    def _refill(self) -> None:
        now = self._now()
        self._left = min(self._burst, self._left + (now - self._at) * self._rate)
        self._at = now


class Budget:
    """One sandbox's account."""

    def __init__(self, limits: DnsLimits, now: Callable[[], float]) -> None:
        self._limits = limits
        self._questions = Bucket(limits.questions_per_s, limits.questions_at_once, now)
        self._refusals = Bucket(limits.questions_per_s, limits.refusals_at_once, now)
        self._letters = Bucket(limits.letters_per_s, limits.letters_at_once, now)

    def question(self, *, held: bool = False) -> bool:
        """Whether one more question may be answered; `held` when its answer is at hand."""
        return self._questions.take(self._limits.held_cost if held else 1)

    def refusal(self) -> bool:
        """Whether a query over the rate is still answered REFUSED."""
        return self._refusals.take(1)

    def asked_upstream(self) -> None:
        """Pay for a question that an answer made necessary, such as that for an alias."""
        self._questions.charge(1)

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
    """Whether `letters`, in lower case, are many and not those of words.

    The labels of a name are judged as one.
    """
    if len(letters) < _RANDOM_BYTES:
        return False
    common = sum(letters[at : at + 2] in _COMMON for at in range(len(letters) - 1))
    return common < _RANDOM_SHARE * (len(letters) - 1)
