"""The modes of a terminal that a program sets and that a repaint must set again."""

SECOND_SCREEN = ("?47", "?1047", "?1049")
AUTOWRAP: str = "?7"
ORIGIN: str = "?6"
INSERT: str = "4"
NEWLINE: str = "20"
VISIBLE: str = "?25"
KEYPAD: str = "?66"

_ON_AT_FIRST: frozenset[str] = frozenset((AUTOWRAP, VISIBLE))
# Of each of these at most one is on: which mouse events are reported, and how.
_ONE_OF = (
    frozenset(("?9", "?1000", "?1001", "?1002", "?1003")),
    frozenset(("?1005", "?1006", "?1015", "?1016")),
)
# ?1 cursor keys for applications, ?5 reverse video, ?12 blinking cursor, ?1004 focus events, ?2004 bracketed
# paste.
KNOWN: frozenset[str] = frozenset(
    (
        *_ON_AT_FIRST,
        ORIGIN,
        INSERT,
        NEWLINE,
        KEYPAD,
        "?1",
        "?5",
        "?12",
        "?1004",
        "?2004",
        *_ONE_OF[0],
        *_ONE_OF[1],
    )
)


class TerminalModes:
    """Which of the known modes are on; a private one has a question mark before its number."""

    def __init__(self) -> None:
        self.on = set(_ON_AT_FIRST)

    def switch(self, mode: str, on: bool) -> None:
        """Set or reset a mode; an unknown one is passed over."""
        for group in _ONE_OF:
            if mode in group:
                self.on -= group
        if mode in KNOWN:
            self.on.add(mode) if on else self.on.discard(mode)

    def escapes(self) -> str:
        """The sequences that bring a fresh terminal to these modes."""
        changed = sorted(self.on ^ _ON_AT_FIRST)
        return "".join(f"\x1b[{mode}{'h' if mode in self.on else 'l'}" for mode in changed)
