"""`bay history` on a real Bay with the `fake` driver."""

import json
from typing import Any

import bay as sdk


def test_history_shows_what_ran_newest_first(served: tuple[str, str], bay: Any) -> None:
    url, key = served
    cli = type(bay)(url, {"BAY_API_KEY": key})
    with sdk.Client(url, key) as client, client.sandbox(name="past") as box:
        good = box.shell("echo fine", tags="ci").execution_id
        bad = box.shell("printf '\\033[31m'; exit 3").execution_id
        long = box.shell("true " + "x" * 100).execution_id
        done = cli("history", "past")
        head, *rows = done.stdout.decode().splitlines()
        assert (done.returncode, head.split()) == (0, ["ID", "CREATED", "OK", "MS", "TAGS", "CODE"])
        assert [row.split()[0] for row in rows] == [long, bad, good]
        assert [row.split()[2] for row in rows] == ["yes", "no", "yes"]
        assert rows[0].endswith("xxx...")
        assert [row.split()[4:] for row in rows[2:]] == [["ci", "echo", "fine"]]
        failed = json.loads(cli("history", "past", "--failed", "--json").stdout)
        assert (failed["id"], failed["success"], failed["code"]) == (bad, False, "printf '\\033[31m'; exit 3")
        tagged = cli("history", "past", "--tags", "ci", "--limit", "1", "--json").stdout
        assert json.loads(tagged)["output"] == "fine\n"


def test_an_empty_history_says_where_other_commands_are(served: tuple[str, str], bay: Any) -> None:
    cli = type(bay)(served[0], {"BAY_API_KEY": served[1]})
    with sdk.Client(*served) as client, client.sandbox(name="quiet"):
        assert cli("exec", "quiet", "--", "true").returncode == 0
        done = cli("history", "quiet")
        assert (done.returncode, done.stdout) == (0, b"")
        assert b"bay execs" in done.stderr
        assert cli("history", "quiet", "--json").stderr == b""


def test_history_of_nothing_is_an_error(served: tuple[str, str], bay: Any) -> None:
    done = type(bay)(served[0], {"BAY_API_KEY": served[1]})("history", "nothing")
    assert (done.returncode, done.stdout) == (2, b"")
    assert b"there is no sandbox nothing" in done.stderr
