"""Sandboxes that wait for their chains share a transaction: most of its cost is not theirs.

libnftables reads the names of all sets before each transaction, and the kernel follows every way through the
chains at its end, however few it adds. One that is refused is tried again without the others, so each hears
of its own error alone.
"""

from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field

from bay.models import NetworkPolicy
from bay.network.slots import NetworkSlot

_AT_ONCE = 32  # the kernel compares each set of a transaction with all before it

Begin = tuple[NetworkSlot, NetworkPolicy]


@dataclass(frozen=True, slots=True)
class _Waiting:
    begin: Begin
    done: Future[None] = field(default_factory=Future[None])


class Admissions:
    """Gathers sandboxes from any thread for `admit`, which is called in one thread alone, and is all or
    nothing.
    """

    def __init__(self, admit: Callable[[Sequence[Begin]], None]) -> None:
        self._admit = admit
        self._waiting: deque[_Waiting] = deque()

    def add(self, begin: Begin, submit: Callable[[Callable[[], None]], Future[None]]) -> None:
        """Return when it is admitted; raise why it is not. `submit` gives work to the one thread. Blocks."""
        one = _Waiting(begin)
        self._waiting.append(one)
        try:
            submit(self._admit_first)  # which another's turn may leave without work
        except BaseException:
            with suppress(ValueError):
                self._waiting.remove(one)
            raise
        one.done.result()

    def _admit_first(self) -> None:
        together = self._first()
        if len(together) < 2 or not self._are_admitted(together):
            for one in together:
                self._admit_alone(one)

    def _first(self) -> list[_Waiting]:
        """The first that wait. A slot is once among them; what is left has turns of its own."""
        found: dict[int, _Waiting] = {}
        while self._waiting and len(found) < _AT_ONCE and self._waiting[0].begin[0].number not in found:
            one = self._waiting.popleft()
            found[one.begin[0].number] = one
        return list(found.values())

    def _are_admitted(self, together: Sequence[_Waiting]) -> bool:
        try:
            self._admit([one.begin for one in together])
        except Exception:  # noqa: BLE001 - each is told of its own
            return False
        for one in together:
            one.done.set_result(None)
        return True

    def _admit_alone(self, one: _Waiting) -> None:
        try:
            self._admit([one.begin])
        except BaseException as error:  # noqa: BLE001 - carried to the caller, whatever it is
            one.done.set_exception(error)
        else:
            one.done.set_result(None)
