r"""Words of a Dockerfile: quotes, escapes and variables, as Docker's own shell-like reader has them.

`$name`, `${name}`, `${name:-word}`, `${name-word}`, `${name:+word}`, `${name+word}`, `${name:?word}` and
`${name?word}`; in 'single quotes' nothing is replaced, and \ (or `) takes the next character as it is. Rules:
https://docs.docker.com/reference/dockerfile/#environment-replacement and
https://github.com/moby/buildkit/blob/master/frontend/dockerfile/shell/lex.go
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from bay.errors import InvalidArgument

LONGEST = 128 << 10
"""Characters of what one word may become: no variable or argument may be longer on Linux (MAX_ARG_STRLEN)."""

_DEEPEST = 50
_SPECIAL = "@*#?-$!"
_PATTERNS = "#%/"


def expand(text: str, values: Mapping[str, str], escape: str = "\\") -> str:
    """The text with its variables replaced and its quotes gone. Raises InvalidArgument."""
    return "".join(piece for piece, _ in _Word(text, values, escape).pieces())


def expand_words(text: str, values: Mapping[str, str], escape: str = "\\") -> list[str]:
    """The same, and split at blanks: those that a variable brings count, those in quotes do not."""
    words: list[list[str]] = []
    is_between = True
    for piece, is_raw in _Word(text, values, escape).pieces():
        if not is_raw and piece.isspace():
            is_between = True
        elif is_between:
            words.append([piece])
            is_between = False
        else:
            words[-1].append(piece)
    return ["".join(pieces) for pieces in words]


def expand_body(text: str, values: Mapping[str, str], escape: str = "\\") -> str:
    """A heredoc's text with its variables replaced; quotes are text there."""
    return "".join(piece for piece, _ in _Word(text, values, escape, has_quotes=False).pieces())


def strip_quotes(text: str) -> str:
    """The text without quotes and escapes; variables stay."""
    reader = _Word(text, {}, "\\", keeps_variables=True)
    return "".join(piece for piece, _ in reader.pieces())


def split_raw(text: str) -> list[str]:
    """Splits at blanks outside of quotes, and keeps quotes, escapes and variables."""
    return split_assignments(text, "\\")


def split_assignments(text: str, escape: str) -> list[str]:
    """Splits `a=1 b="x y"` at blanks outside of quotes; quotes and escapes stay in the words."""
    words: list[str] = []
    word, quote, at = "", "", 0
    while at < len(text):
        char = text[at]
        if char == escape and quote != "'":
            word += text[at : at + 2] if at + 1 < len(text) else ""
            at += 2
            continue
        if not quote and char.isspace():
            words += [word] if word else []
            word = ""
        else:
            quote = _quote_after(quote, char)
            word += char
        at += 1
    return words + ([word] if word else [])


def first_word(text: str, escape: str) -> str:
    """The first of these words, of a text that does not begin with a blank."""
    quote, at = "", 0
    while at < len(text) and (quote or not text[at].isspace()):
        if text[at] == escape and quote != "'":
            at += 2
        else:
            quote = _quote_after(quote, text[at])
            at += 1
    return text[:at]


def _quote_after(quote: str, char: str) -> str:
    if quote:
        return "" if char == quote else quote
    return char if char in "'\"" else ""


@dataclass(slots=True)
class _Word:
    """Reads one text from its beginning to its end."""

    text: str
    values: Mapping[str, str]
    escape: str
    has_quotes: bool = True
    keeps_variables: bool = False
    at: int = 0
    made: int = 0
    depth: int = 0

    def pieces(self, until: str = "") -> list[tuple[str, bool]]:
        """The meaning of the text up to `until`, in pieces; each says if its blanks are part of a word."""
        found: list[tuple[str, bool]] = []
        while (char := self._peek()) and char != until:
            found += self._one(char)
        if until and not self._take():
            raise InvalidArgument(f"a {until} is missing in {_short(self.text)}")
        return found

    def _one(self, char: str) -> list[tuple[str, bool]]:
        if char == "$":
            return [(one, False) for one in self._count(self._variable())]
        if self.has_quotes and char in "'\"":
            return [(self._count(self._single() if char == "'" else self._double()), True)]
        if self._take() == self.escape:
            return [(self._take(), True)]
        return [(self._count(char), False)]

    def _count(self, made: str) -> str:
        self.made += len(made)
        if self.made > LONGEST:
            raise InvalidArgument(f"it becomes longer than {LONGEST >> 10} KiB, the limit; make it shorter")
        return made

    def _peek(self) -> str:
        return self.text[self.at : self.at + 1]

    def _take(self) -> str:
        self.at += 1
        return self.text[self.at - 1 : self.at]

    def _single(self) -> str:
        end = self.text.find("'", self.at + 1)
        if end < 0:
            raise InvalidArgument(f"a ' has no second one in {_short(self.text)}")
        start, self.at = self.at + 1, end + 1
        return self.text[start:end]

    def _double(self) -> str:
        self._take()
        found: list[str] = []
        while (char := self._peek()) != '"':
            if not char:
                raise InvalidArgument(f'a " has no second one in {_short(self.text)}')
            found.append(self._variable() if char == "$" else self._in_double())
        self._take()
        return "".join(found)

    def _in_double(self) -> str:
        """One character, or an escaped one: only the quote, $ and the escape itself can be escaped there."""
        char = self._take()
        if char != self.escape:
            return char
        after = self._peek()
        return self._take() if after and after in f'"${self.escape}' else char if after else ""

    def _variable(self) -> str:
        start = self.at
        self._take()
        if self._peek() == "{":
            self._take()
            found = self._in_braces()
        else:
            name = self._name()
            found = self.values.get(name, "") if name else "$"
        return self.text[start : self.at] if self.keeps_variables else found

    def _in_braces(self) -> str:
        if (first := self._peek()) in ("", "{", "}", ":"):
            raise InvalidArgument(
                _missing(self.text) if not first else f"{_short(self.text)} names no variable"
            )
        name = self._name()
        operator = self._take()
        if operator == "}" and name:
            return self.values.get(name, "")
        counts_empty = operator == ":"
        operator = self._take() if counts_empty else operator
        if not operator:
            raise InvalidArgument(_missing(self.text))
        meaning = _OPERATORS.get(operator)
        if meaning is None or not name:
            raise InvalidArgument(_unknown_operator(operator, self.text))
        return meaning(name, self._operand(), self._value(name, counts_empty))

    def _operand(self) -> str:
        self.depth += 1
        if self.depth > _DEEPEST:
            raise InvalidArgument(f"more than {_DEEPEST} variables lie in each other in {_short(self.text)}")
        found = "".join(piece for piece, _ in self.pieces(until="}"))
        self.depth -= 1
        return found

    def _value(self, name: str, counts_empty: bool) -> str | None:
        """The variable's value, or None where it counts as unset."""
        value = self.values.get(name)
        return None if counts_empty and not value else value

    def _name(self) -> str:
        start = self.at
        first = self._peek()
        if first and first in _SPECIAL:
            return self._take()
        is_part = str.isdigit if first.isdigit() else _is_of_name
        while (char := self._peek()) and is_part(char):
            self.at += 1
        return self.text[start : self.at]


def _is_of_name(char: str) -> bool:
    return char.isalnum() or char == "_"


def _default(_name: str, word: str, value: str | None) -> str:
    return word if value is None else value


def _alternative(_name: str, word: str, value: str | None) -> str:
    return "" if value is None else word


def _required(name: str, word: str, value: str | None) -> str:
    if value is None:
        raise InvalidArgument(f"{name}: {word or 'it must be set and not be empty; give it a value'}")
    return value


_OPERATORS: dict[str, Callable[[str, str, str | None], str]] = {
    "-": _default,
    "+": _alternative,
    "?": _required,
}


def _unknown_operator(operator: str, text: str) -> str:
    if operator in _PATTERNS:
        return f"patterns are not supported in {_short(text)}; cut the value in a RUN step"
    return f"{_short(text)} has {operator!r} behind the name of a variable; use :- or :+ or }}"


def _missing(text: str) -> str:
    return f"a }} is missing in {_short(text)}"


def _short(text: str) -> str:
    return repr(text if len(text) <= 80 else f"{text[:77]}...")
