"""Follows a page of the documentation: does with each of its blocks what its language or its row says."""

import shlex
from collections.abc import Mapping

import page_reader
from page_blocks import Block, blocks_of
from page_rows import LANGUAGES, READ, Language, NotRun, ReadBy, Row, Run, RunBy, Serve, Shown, World
from page_session import Session, commands_of, is_whole, shows


def row_of(world: World, block: Block) -> Row:
    """How a block is treated: by its row, else by its language. Raises AssertionError when neither says."""
    rows = [row for row in world.rows if block.text.startswith(row.begins)]
    if rows:
        assert len(rows) == 1, f"{block.where}: more than one row"
        return rows[0]
    if block.language in world.languages:
        return world.languages[block.language]
    if block.language in READ:
        return ReadBy("", READ[block.language])
    assert block.language in LANGUAGES, f"{block.where}: nothing runs {block.language or 'no language'}"
    return Run("")


def follow(page: str, world: World, session: Session, words: Mapping[str, str]) -> None:
    """Do what the page says, block by block."""
    words = {**words, **world.words}
    try:
        if world.first:
            session.shell(spoken(world.first, words))
        said = ""
        for block in blocks_of(page):
            said = _follow(block, row_of(world, block), session, words, said)
    finally:
        if world.last:
            session.shell(spoken(world.last, words))


def _follow(block: Block, row: Row, session: Session, words: Mapping[str, str], said: str) -> str:
    """The output of the block, or that of the one before where this one has none."""
    match row:
        case Run():
            return _run(block, row, session, {**words, **row.words})
        case Serve():
            if row.first:
                session.shell(spoken(row.first, words))
            text = spoken(block.text, {**words, **row.words})
            return "".join(session.serve(line) for line in text.splitlines())
        case ReadBy():
            text = spoken(block.text, words)
            reading = page_reader.Reading(text, session.place, session.environment)
            page_reader.read(row.consumer, reading)
        case Shown():
            if row.first:
                said = session.shell(spoken(row.first, words))
            lines = spoken(_without(block.text, row.without), {**words, **row.words}).splitlines()
            missing = shows(said, *(line for line in lines if line))
            assert missing is None, f"{block.where}: the output has no {missing!r}\n{said}"
        case RunBy() | NotRun():
            pass
        case _:
            raise AssertionError(f"{block.where}: {row}")
    return said


def _run(block: Block, row: Run, session: Session, words: Mapping[str, str]) -> str:
    if row.first:
        session.shell(spoken(row.first, words))
    text, shown = commands_of(block.text) if block.language == "console" else (block.text, [])
    text = _without(text, row.without)
    if LANGUAGES[block.language] == "shell":
        text = "".join(f"{_edited(line, row)}\n" for line in text.splitlines())
    text = spoken(f"{row.before}\n{text}\n{row.after}\n", words)
    if row.inside:
        text = f"bay exec {row.inside} -- sh -euc {shlex.quote(text)}"
    try:
        said = _RUN[LANGUAGES[block.language]](session, text)
    except AssertionError as error:
        raise AssertionError(f"{block.where}: {error}") from error
    missing = shows(said, *shown, *row.says)
    assert missing is None, f"{block.where}: the output has no {missing!r}\n{said}"
    return said


_RUN = {
    "javascript": Session.run_javascript, "python": Session.run_python, "shell": Session.shell,
}  # fmt: skip


def _without(text: str, left_out: Mapping[str, str]) -> str:
    lines = text.splitlines()
    return "".join(f"{line}\n" for line in lines if not line.startswith(tuple(left_out)))


def _edited(line: str, row: Run) -> str:
    for begins, steps in row.typed.items():
        if line.startswith(begins):
            line = shlex.join(["at_terminal", line, *(word for step in steps for word in step)])
    if "&&" in line and is_whole(line):
        line = f"{{ {line}\n}} || exit 1"  # `set -e` minds no command before `&&`
    above = [put for begins, put in row.above.items() if line.startswith(begins)]
    return "\n".join([*above, line])


def spoken(text: str, words: Mapping[str, str]) -> str:
    """The text with the words of a reader. Later words may be in what earlier ones stand for."""
    for word, own in reversed(list(words.items())):
        text = text.replace(word, own)
    return text


__all__ = ["Language", "follow", "row_of", "spoken"]
