"""Servers by name: which one is called and with which key, what `bay context` writes, and files that `bay`
does not obey.
"""

import json
import os
import shlex
import stat
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
import real_bay
from cli_runner import BIN, Cli, Done
from test_cli_words import complete

import bay as sdk


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "config" / "bay" / "bay.toml"


@pytest.fixture
def alone(bay: Cli, tmp_path: Path) -> Cli:
    """`bay` whose environment names no server; nor is there one on this machine."""
    nothing = {"BAY_URL": "", "BAY_API_KEY": "", "BAY_DATA_DIR": str(tmp_path / "none")}
    return replace(bay, settings=nothing | {"XDG_CONFIG_HOME": str(tmp_path / "config")})


@pytest.fixture
def key_file(tmp_path: Path) -> Path:
    path = tmp_path / "key"
    path.write_text(real_bay.KEY + "\n")
    path.chmod(0o600)
    return path


def good(done: Done) -> str:
    assert done.returncode == 0, done.stderr
    return done.stdout.decode()


def refused(done: Done) -> str:
    assert (done.returncode, done.stdout, done.stderr.count(b"\n")) == (2, b"", 1)
    return done.stderr.decode()


def test_contexts_are_added_chosen_and_removed(alone: Cli, file: Path) -> None:
    assert good(alone("context", "ls")) == "USED  NAME  URL  KEY\n"
    good(alone("context", "add", "one", "http://127.0.0.1:1/"))
    good(alone("context", "add", "two", "http://127.0.0.1:2", "--api-key-command", "pass show 'the key'"))
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert good(alone("context", "ls")).splitlines()[1:] == [
        "*     one   http://127.0.0.1:1  -",
        "-     two   http://127.0.0.1:2  pass show 'the key'",
    ]
    assert "two" in alone("context", "use", "two").stderr.decode()
    assert json.loads(good(alone("context", "show", "--json")))["url"] == "http://127.0.0.1:2"
    assert json.loads(good(alone("context", "rm", "two", "--json"))) == {"current": None, "contexts": ["one"]}
    assert json.loads(good(alone("context", "show", "--json")))["url_from"] == "the default"
    good(alone("context", "use", "one"))
    good(alone("context", "use", "--clear"))
    assert "name a context" in refused(alone("context", "use"))
    assert "context rm one" in refused(alone("context", "add", "one", "http://x"))
    assert "letters" in refused(alone("context", "add", "a.b", "http://x"))
    assert "not the URL" in refused(alone("context", "add", "three", "x:1"))


def test_a_change_keeps_comments_and_order(alone: Cli, file: Path) -> None:
    file.parent.mkdir(parents=True)
    file.write_text(
        '# Mine.\ncurrent = "one" # today\n\n# The first.\n[contexts.one]\nurl = "http://x"\n'
        '\n# The second.\n[contexts."two"]\nurl = "http://y"\n'
    )
    good(alone("context", "use", "two"))
    good(alone("context", "add", "three", "http://z"))
    good(alone("context", "rm", "one"))
    assert file.read_text() == (
        'current = "two"\n\n# Mine.\n\n# The first.\n'
        '\n# The second.\n[contexts."two"]\nurl = "http://y"\n\n[contexts.three]\nurl = "http://z"\n'
    )


def test_a_file_that_it_cannot_edit_stays_as_it_is(alone: Cli, file: Path) -> None:
    file.parent.mkdir(parents=True)
    text = 'contexts = {one = {url = "http://x"}, two = {url = "http://y"}}\n'
    file.write_text(text)
    assert "edit it by hand" in refused(alone("context", "rm", "one"))
    assert [file.read_text(), list(file.parent.iterdir())] == [text, [file]]
    good(alone("context", "use", "two"))


def test_a_full_disk_leaves_the_file_as_it_was(alone: Cli, tmp_path: Path) -> None:
    given = tmp_path / "bay.toml"
    given.symlink_to("/dev/full")
    done = alone("context", "add", "one", "http://x", BAY_CONFIG=str(given))
    assert "not a regular file" in refused(done)


def test_the_key_comes_from_a_file_a_command_or_the_configuration(
    alone: Cli, key_file: Path, file: Path
) -> None:
    good(alone("context", "add", "file", alone.url, "--api-key-file", str(key_file)))
    good(alone("context", "add", "command", alone.url, "--api-key-command", f"cat '{key_file}'"))
    good(
        alone(
            "context", "add", "inline", alone.url, "--api-key-file", "-", stdin=f"{real_bay.KEY}\n".encode()
        )
    )
    for name in ("file", "command", "inline"):
        good(alone("--context", name, "ls"))
        good(alone("ls", BAY_CONTEXT=name))
        assert real_bay.KEY not in good(alone("context", "show", name))
    assert real_bay.KEY not in good(alone("context", "ls", "--json"))
    key_file.chmod(0o640)
    assert "chmod 600" in refused(alone("ls"))
    key_file.unlink()
    assert f"no key file {key_file}" in refused(alone("ls"))
    assert alone("--context", "command", "ls").returncode == 1
    file.chmod(0o644)
    assert "holds a key" in refused(alone("--context", "inline", "ls"))


def test_the_command_for_the_key_leaves_stdin_alone_and_is_not_run_by_completion(
    alone: Cli, name: str, key_file: Path, tmp_path: Path
) -> None:
    script = f"cat >&2; touch {tmp_path}/asked; cat {key_file}"
    good(alone("context", "add", "here", alone.url, "--api-key-command", shlex.join(["sh", "-c", script])))
    assert complete(alone, "bay", "exec", name[:-1]) == []
    assert not (tmp_path / "asked").exists()
    command = [str(BIN), "exec", "-i", name, "cat"]
    done = subprocess.run(
        command, input=b"all of it", capture_output=True, timeout=60, check=False, env=alone.environment
    )
    assert (done.returncode, done.stdout) == (0, b"all of it")
    assert (tmp_path / "asked").exists()


def test_an_option_decides_before_the_environment_and_that_before_a_context(
    alone: Cli, key_file: Path
) -> None:
    good(alone("context", "add", "here", alone.url, "--api-key-file", str(key_file)))
    good(alone("context", "add", "nowhere", "http://127.0.0.1:1"))
    cases: list[tuple[list[str], dict[str, str], str, str | None]] = [
        ([], {}, "the context here", str(key_file)),
        ([], {"BAY_CONTEXT": "nowhere"}, "the context nowhere", None),
        ([], {"BAY_CONTEXT": "nowhere", "BAY_API_KEY": "k"}, "the context nowhere", "BAY_API_KEY"),
        ([], {"BAY_API_KEY": "k"}, "the context here", "BAY_API_KEY"),
        ([], {"BAY_URL": "http://127.0.0.1:2"}, "BAY_URL", None),
        ([], {"BAY_URL": "http://127.0.0.1:2", "BAY_CONTEXT": "here"}, "BAY_URL", None),
        (
            ["--context", "here"],
            {"BAY_URL": "http://x", "BAY_API_KEY": "k"},
            "the context here",
            str(key_file),
        ),
        (["--context", "here", "--api-key", "k"], {}, "the context here", "--api-key"),
        (["--url", "http://127.0.0.1:2"], {"BAY_API_KEY": "k"}, "--url", "BAY_API_KEY"),
        (["--url", "http://127.0.0.1:2"], {}, "--url", None),
    ]
    for options, environment, url_from, key_from in cases:
        chosen = replace(alone, settings=alone.settings | environment)
        shown = json.loads(good(chosen(*options, "context", "show", "--json")))
        assert (shown["url_from"], shown["key_from"]) == (url_from, key_from), (options, environment)
    assert "not both" in refused(alone("--context", "here", "--url", "http://x", "ls"))
    assert "did you mean here?" in refused(alone("--context", "her", "ls"))
    assert "decides before" in alone("context", "ls", BAY_URL="http://x").stderr.decode()


def test_the_key_of_a_context_goes_only_to_its_server(
    alone: Cli, key_file: Path, thief: tuple[str, list[str | None]]
) -> None:
    url, seen = thief
    good(alone("context", "add", "here", alone.url, "--api-key-file", str(key_file)))
    alone("--url", url, "ls")
    alone("ls", BAY_URL=url)
    assert (len(seen) > 1, [key for key in seen if key]) == (True, [])


def test_an_error_names_the_context(alone: Cli, key_file: Path) -> None:
    good(alone("context", "add", "gone", "http://127.0.0.1:1"))
    good(alone("context", "add", "here", alone.url, "--api-key-file", str(key_file)))
    assert b"calls the context gone" in alone("ls").stderr
    key_file.write_text("bay_wrong\n")
    assert f"its key comes from {key_file}" in refused(alone("--context", "here", "ls"))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("current = 1", "a text in quotes"),
        ('current = "x"', "no context 'x'"),
        ("curent = 1", "did you mean current?"),
        ('[contexts.a]\nulr = "http://x"', "setting contexts.a.ulr; did you mean url?"),
        ("[contexts.a]\n", "contexts.a.url is missing"),
        ("contexts = 1", "must be a table"),
        ("[contexts]\na = 1", "contexts.a must be a table"),
        ('[contexts.a]\nurl = "http://x"\napi_key_command = "pass"', "must be a list"),
        ('[contexts.a]\nurl = "http://x"\napi_key = "k"\napi_key_file = "f"', "more than one key"),
        ("[contexts", "not valid TOML"),
        ("\udcff", "not UTF-8"),
    ],
)
def test_a_file_with_a_mistake_is_refused(alone: Cli, file: Path, text: str, said: str) -> None:
    file.parent.mkdir(parents=True)
    file.write_text(text, errors="surrogateescape")
    assert said in refused(alone("ls"))


def test_a_file_of_others_is_not_obeyed(alone: Cli, file: Path, tmp_path: Path) -> None:
    good(alone("context", "add", "one", "http://127.0.0.1:1"))
    file.chmod(0o602)
    assert "other users may write" in refused(alone("ls"))
    file.chmod(0o600)
    if os.geteuid() == 0:
        os.chown(file, 12345, 12345)
        assert "belongs to another user" in refused(alone("ls"))
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    assert "not a regular file" in refused(alone("ls", BAY_CONFIG=str(pipe)))
    assert "no file" in refused(alone("ls", BAY_CONFIG=str(tmp_path / "typo")))


def test_a_given_url_and_key_do_without_the_file(bay: Cli, tmp_path: Path) -> None:
    assert bay("ls", BAY_CONFIG=str(tmp_path / "typo")).returncode == 0


def test_ssh_config_leads_to_the_context(alone: Cli, name: str, key_file: Path) -> None:
    good(alone("context", "add", "here", alone.url, "--api-key-file", str(key_file)))
    assert "bay --context here ssh-proxy" in good(alone("ssh-config", name))


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_knows_contexts(alone: Cli, shell: str) -> None:
    good(alone("context", "add", "build", "http://127.0.0.1:1"))
    good(alone("context", "add", "test", "http://127.0.0.1:1"))
    for words in (["bay", "context", "use", "bu"], ["bay", "--context", "bu"]):
        offered = " ".join(complete(alone, *words, shell=shell))
        assert ("build" in offered, "test" in offered) == (True, False)


def test_the_sdk_is_told_explicitly(alone: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    good(alone("context", "add", "one", "http://127.0.0.1:1"))
    monkeypatch.setenv("XDG_CONFIG_HOME", alone.settings["XDG_CONFIG_HOME"])
    monkeypatch.delenv("BAY_URL", raising=False)
    with sdk.Client() as client:
        assert client.base_url == "http://127.0.0.1:8700"
