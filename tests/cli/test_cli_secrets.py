"""`bay secret` and `--secret` against a real Bay: a value comes from stdin or a prompt."""

import io
import json
import sys

import pytest
import typer

from bay.cli.main import main

VALUE = "xyzzy-plugh"


@pytest.fixture(autouse=True)
def caller(served: tuple[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    """The command line calls that Bay."""
    monkeypatch.setenv("BAY_URL", served[0])
    monkeypatch.setenv("BAY_API_KEY", served[1])


def feed(monkeypatch: pytest.MonkeyPatch, data: bytes) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))


def test_a_value_comes_from_standard_input_without_its_last_newline(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    feed(monkeypatch, f"{VALUE}\n".encode())
    assert main(["secret", "set", "TOKEN"]) == 0
    feed(monkeypatch, b"two\n\n")
    assert main(["secret", "set", "OTHER", "--json"]) == 0
    assert main(["secret", "ls", "--json"]) == 0
    said = capfd.readouterr()
    assert VALUE not in said.out + said.err
    assert [json.loads(line)["name"] for line in said.out.splitlines()] == ["OTHER", "OTHER", "TOKEN"]
    command = ["--secret", "TOKEN", "--secret", "OTHER=ELSE", "sh", "-c", 'printf "%s.%s." "$TOKEN" "$ELSE"']
    assert main(["run", *command]) == 0
    assert capfd.readouterr().out == f"{VALUE}.two\n."


def test_a_value_is_asked_for_on_a_terminal_and_not_echoed(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    asked: list[tuple[str, bool]] = []

    def prompt(text: str, *, hide_input: bool, err: bool) -> str:
        asked.append((text, hide_input and err))
        return VALUE

    feed(monkeypatch, b"")
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True)
    monkeypatch.setattr(typer, "prompt", prompt)
    assert main(["secret", "set", "ASKED"]) == 0
    assert asked == [("Value of ASKED", True)]
    assert main(["run", "--secret", "ASKED", "sh", "-c", "echo $ASKED"]) == 0
    assert capfd.readouterr().out == f"{VALUE}\n"


def test_create_names_secrets_and_rm_removes_them(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    feed(monkeypatch, b"x")
    assert main(["secret", "set", "GIVEN"]) == 0
    assert main(["create", "--secret", "GIVEN=PLACE", "--json"]) == 0
    made = json.loads(capfd.readouterr().out)
    assert made["secrets"] == [{"name": "GIVEN", "env": "PLACE", "file": None}]
    assert main(["rm", made["id"]]) == 0
    assert main(["secret", "rm", "GIVEN"]) == 0
    assert main(["secret", "rm", "GIVEN"]) != 0
    assert main(["create", "--secret", "GIVEN"]) != 0
    assert "there is no secret GIVEN" in capfd.readouterr().err


@pytest.mark.parametrize("given", ["=X", "="])
def test_a_secret_without_a_name_is_a_usage_error(given: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["create", "--secret", given]) == 2
    assert "--secret takes" in capfd.readouterr().err


def test_a_value_is_no_argument(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["secret", "set", "TOKEN", VALUE]) == 2
    assert VALUE not in capfd.readouterr().out


def test_bytes_that_are_no_text_are_refused(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    feed(monkeypatch, b"\xff\xfe")
    assert main(["secret", "set", "TOKEN"]) == 2
    assert "not UTF-8" in capfd.readouterr().err
