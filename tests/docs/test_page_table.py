"""The table of the documentation's blocks has no row that nothing needs, and each row says the truth."""

import ast
from collections.abc import Iterator, Mapping

import pytest
from page_blocks import ROOT, Block, all_blocks, blocks_in, blocks_of
from page_follow import row_of
from page_rows import READ, NotRun, ReadBy, Row, Run, RunBy, World
from page_session import commands_of, shows
from page_worlds import WORLDS

pytestmark = pytest.mark.pure


@pytest.mark.parametrize("block", all_blocks(), ids=lambda block: block.where)
def test_each_block_has_a_program_or_a_row(block: Block) -> None:
    assert row_of(WORLDS.get(block.page, World()), block)


def test_each_row_is_of_one_block_of_its_page() -> None:
    found = {
        (page, row.begins): sum(block.text.startswith(row.begins) for block in blocks_of(page))
        for page, world in WORLDS.items()
        for row in world.rows
    }
    assert {where: number for where, number in found.items() if number != 1} == {}


def test_each_world_and_each_row_changes_something() -> None:
    assert [page for page, world in WORLDS.items() if world == World()] == []
    assert [(page, row) for page, row in rows() if row == Run(row.begins)] == []
    plain = [
        (page, row)
        for page, world in WORLDS.items()
        for row in world.rows
        if isinstance(row, ReadBy) and READ.get(block_of(page, row).language) == row.consumer
    ]
    assert plain == []


def test_each_language_of_a_world_has_a_block_without_a_row() -> None:
    for page, world in WORLDS.items():
        taken = [row_of(world, block) for block in blocks_of(page)]
        assert [row for row in world.languages.values() if row not in taken] == [], page


def test_each_line_and_each_word_of_a_row_is_in_its_block() -> None:
    absent = [
        (page, name)
        for page, row in rows()
        for lines in lines_of(row)
        for name in lines
        if not any(line.startswith(name) for line in typed(block_of(page, row)).splitlines())
    ]
    absent += [
        (page, word)
        for page, row in rows()
        for word in getattr(row, "words", {})
        if word not in block_of(page, row).text
    ]
    assert absent == []


def test_each_word_of_a_world_is_on_its_page() -> None:
    said = {page: "".join(block.text for block in blocks_of(page)) for page in WORLDS}
    assert [
        (page, word) for page, world in WORLDS.items() for word in world.words if word not in said[page]
    ] == []


def test_each_test_that_is_named_is_there() -> None:
    named = {
        row.test
        for world in WORLDS.values()
        for row in (*world.rows, *world.languages.values())
        if isinstance(row, RunBy)
    }
    assert named
    assert [name for name in named if not is_there(name)] == []


def test_each_thing_that_is_not_run_has_a_fact() -> None:
    facts = [row.fact for _, row in rows() if isinstance(row, NotRun)]
    facts += [fact for _, row in rows() for fact in getattr(row, "without", {}).values()]
    assert facts
    assert [fact for fact in facts if len(fact.split()) < 5] == []


def test_a_block_in_no_language_or_an_unknown_one_needs_a_row() -> None:
    for language in ("", "ruby"):
        with pytest.raises(AssertionError, match="nothing runs"):
            row_of(World(), Block("new.md", 1, language, "puts 1\n"))


def test_a_new_block_of_a_known_language_is_run() -> None:
    assert row_of(World(), Block("new.md", 1, "sh", "false\n")) == Run("")
    assert row_of(World(), Block("new.md", 1, "toml", "x = 1\n")) == ReadBy("", "settings")


def test_blocks_are_found_in_lists_and_by_both_fences() -> None:
    page = "- a list\n\n  ```sh\n  one\n    two\n  ```\n\n~~~python title='x'\n```\n~~~\n"
    assert blocks_in("p.md", page) == [
        Block("p.md", 3, "sh", "one\n  two\n"), Block("p.md", 8, "python", "```\n"),
    ]  # fmt: skip


def test_a_fence_that_is_not_closed_is_an_error() -> None:
    with pytest.raises(AssertionError, match=r"p\.md:2: this fence is never closed"):
        blocks_in("p.md", "text\n```sh\nrm x\n")


def test_a_console_has_commands_and_the_output_that_they_show() -> None:
    console = "$ echo 'one\ntwo'\none\ntwo\n# apt \\\n  update\n$ true\n"
    assert commands_of(console) == ("echo 'one\ntwo'\napt \\\n  update\ntrue\n", ["one", "two"])


def test_output_is_compared_in_its_order_and_by_the_line() -> None:
    assert shows("id: 17  x\nend\n", "id: … x", "end") is None
    assert shows("end\nid: 17\n", "id:", "end") == "end"
    assert shows("id: 1\nx\n", "id:…x") == "id:…x"


def rows() -> Iterator[tuple[str, Row]]:
    for page, world in WORLDS.items():
        for row in world.rows:
            yield page, row


def block_of(page: str, row: Row) -> Block:
    return next(block for block in blocks_of(page) if block.text.startswith(row.begins))


def typed(block: Block) -> str:
    return commands_of(block.text)[0] if block.language == "console" else block.text


def lines_of(row: Row) -> list[Mapping[str, object]]:
    return [getattr(row, name, {}) for name in ("without", "above", "typed")]


def is_there(test: str) -> bool:
    file, _, name = test.partition("::")
    if not (ROOT / file).is_file():
        return False
    nodes = ast.parse((ROOT / file).read_text(encoding="utf-8")).body
    return name in {node.name for node in nodes if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}
