"""Network policies, ports, URLs and services on the command line, against a stand-in server."""

import json
import os
import subprocess
from pathlib import Path
from typing import Any, Protocol
from urllib.request import Request, urlopen

import pytest

from bay.cli.commands.ssh import command_line

KEY = "bay_standin"
Done = subprocess.CompletedProcess[bytes]


class Cli(Protocol):
    """What tests/cli/conftest.py gives."""

    @property
    def url(self) -> str: ...
    def __call__(self, *arguments: str, stdin: bytes = b"", **settings: str) -> Done: ...


@pytest.fixture
def name(bay: Cli) -> str:
    """A sandbox that exists."""
    body = json.dumps({"name": f"box-{os.urandom(6).hex()}"}).encode()
    headers = {"Authorization": f"Bearer {KEY}"}
    with urlopen(Request(bay.url + "/v1/sandboxes", body, headers), timeout=10) as answer:  # noqa: S310
        return json.load(answer)["name"]


def lines(done: Done) -> list[str]:
    assert (done.returncode, done.stderr) == (0, b"")
    return done.stdout.decode().splitlines()


def objects(done: Done) -> list[dict[str, Any]]:
    return [json.loads(line) for line in lines(done)]


def refused(done: Done) -> str:
    """The one line with which it was refused."""
    assert (done.returncode, done.stdout) == (2, b"")
    [line] = done.stderr.decode().splitlines()
    return line


def policy_of(bay: Cli, name: str) -> dict[str, Any]:
    return objects(bay("net", "show", name, "--json"))[0]["policy"]


def bare(rules: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{field: value for field, value in rule.items() if value is not None} for rule in rules]


# net


def test_net_show_has_a_line_for_each_rule_and_for_what_no_rule_decided(bay: Cli, name: str) -> None:
    lines(bay("net", "mode", name, "allowlist"))
    lines(bay("net", "allow", name, "*.example.com", "10.1.0.0/16", "--port", "443", "--port", "8000-8100"))
    lines(bay("net", "deny", name, "evil.example.com", "--protocol", "tcp"))
    shown = [" ".join(line.split()) for line in lines(bay("net", "show", name))]
    assert shown[:4] == ["mode: allowlist", "enforced: yes", "received: 4.9K", "sent: 70B"]
    assert shown[4:9] == [
        "RULE ACTION TARGET PROTOCOL PORTS ALLOWED REFUSED NAMES REFUSED NAMES",
        "0 allow *.example.com any 443 8000-8100 0 0 0 0",
        "1 allow 10.1.0.0/16 any 443 8000-8100 0 0 0 0",
        "2 deny evil.example.com tcp any 0 0 0 0",
        "- - reserved - - 0 4 0 1",
    ]
    assert shown[9:] == [
        "LAST COUNT TYPE NAME REASON RULE",
        "2030-01-01T00:00:02Z 3 A evil.example policy 1",
    ]


def test_net_allow_tells_a_network_from_a_name(bay: Cli, name: str) -> None:
    lines(bay("net", "mode", name, "allowlist"))
    targets = ["example.com", "*", "1.2.3.4", "2001:db8::/32", "::1", "10.0.0.1/8"]
    [policy] = objects(bay("net", "allow", name, *targets, "--json"))
    expected: list[dict[str, Any]] = [
        {"domain": "example.com"},
        {"domain": "*"},
        {"cidr": "1.2.3.4/32"},
        {"cidr": "2001:db8::/32"},
        {"cidr": "::1/128"},
        {"cidr": "10.0.0.1/8"},  # Bay says what is wrong with it
    ]
    assert bare(policy["rules"]) == [{"action": "allow", **rule} for rule in expected]


@pytest.mark.parametrize("target", ["https://example.com", "10.0.0.0/33", "example.com:443"])
def test_net_allow_refuses_what_is_neither(bay: Cli, name: str, target: str) -> None:
    assert "is neither a domain, an address nor a network" in refused(bay("net", "allow", name, target))


@pytest.mark.parametrize("mode", ["open", "none"])
def test_net_allow_says_when_it_opens_nothing(bay: Cli, name: str, mode: str) -> None:
    lines(bay("net", "mode", name, mode))
    done = bay("net", "allow", name, "example.com")
    assert done.returncode == 0
    assert f"bay net mode {name} allowlist".encode() in done.stderr


def test_net_remove_takes_rules_by_their_number(bay: Cli, name: str) -> None:
    lines(bay("net", "deny", name, "a.example", "b.example", "c.example"))
    assert "there is no rule 3" in refused(bay("net", "remove", name, "0", "3"))
    [policy] = objects(bay("net", "remove", name, "2", "0", "--json"))
    assert [rule["domain"] for rule in policy["rules"]] == ["b.example"]


def test_net_set_takes_what_net_show_gives(bay: Cli, name: str, tmp_path: Path) -> None:
    rules = [{"action": "allow", "domain": "example.com", "ports": [443]}]
    source = tmp_path / "policy.json"
    source.write_text(json.dumps({"mode": "allowlist", "rules": rules}))
    lines(bay("net", "set", name, str(source)))
    policy = policy_of(bay, name)
    assert (policy["mode"], bare(policy["rules"])) == ("allowlist", rules)
    lines(bay("net", "reset", name))
    assert policy_of(bay, name) == {"mode": "open", "rules": []}
    lines(bay("net", "set", name, "-", stdin=json.dumps(policy).encode()))
    assert policy_of(bay, name) == policy


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "-"),
        ("[]", "the policy is not an object"),
        ('{"rules": []}', "mode must be one of"),
        ('{"mode": "closed"}', "mode must be one of"),
        ('{"mode": "open", "rule": []}', "an unknown field 'rule'"),
        ('{"mode": "open", "rules": "*"}', "rules of the policy is not a list"),
        ('{"mode": "open", "rules": ["*"]}', "rule 0 is not an object"),
        (
            '{"mode": "open", "rules": [{"action": "deny", "domains": "*"}]}',
            "rule 0 has an unknown field 'domains'",
        ),
        ('{"mode": "open", "rules": [{"action": "deny", "ports": "443"}]}', "ports of rule 0 is not a list"),
        ('{"mode": "open", "rules": [{"domain": "*"}]}', "action"),
        ('{"mode": "open", "rules": [{"action": "deny"}]}', "rules[0] has to have a domain or a cidr"),
    ],
)
def test_net_set_refuses_a_policy_with_a_slip_in_it(bay: Cli, name: str, text: str, words: str) -> None:
    before = policy_of(bay, name)
    assert words in refused(bay("net", "set", name, "-", stdin=text.encode()))
    assert policy_of(bay, name) == before


def test_net_log_shows_the_names_that_were_refused(bay: Cli, name: str) -> None:
    assert lines(bay("net", "log", name))[1].split() == [
        "2030-01-01T00:00:02Z",
        "3",
        "A",
        "evil.example",
        "policy",
        "1",
    ]
    assert [one["name"] for one in objects(bay("net", "log", name, "--json"))] == ["evil.example"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("mode", "shut"), "mode must be one of none, allowlist, open"),
        (("allow", "*", "--protocol", "sctp"), "--protocol takes"),
    ],
)
def test_net_refuses_words_that_it_has_not(
    bay: Cli, name: str, arguments: tuple[str, ...], words: str
) -> None:
    command, *rest = arguments
    assert words in refused(bay("net", command, name, *rest))


# ports and url


def test_ports_shows_what_listens_and_what_is_public_but_does_not(bay: Cli, name: str) -> None:
    heads, listening, silent = lines(bay("ports", name, "--public", "8000", "--public", "9000"))
    assert heads.split() == ["PORT", "ADDRESSES", "PID", "PROCESS", "ACCESS", "URL"]
    url = f"http://8000-{name}.localhost:8700/"
    assert listening.split() == ["8000", "127.0.0.1", "::1", "7", "python3", "public", url]
    assert silent.split() == ["9000", "-", "-", "-", "public", "-"]
    [port] = objects(bay("ports", name, "--private", "8000", "--private", "9000", "--json"))
    assert (port["port"], port["access"]) == (8000, "owner")
    assert len(lines(bay("ports", name))) == 2


def test_url_prints_where_a_browser_goes(bay: Cli, name: str) -> None:
    assert lines(bay("url", name, "8000")) == [f"http://8000-{name}.localhost:8700/"]
    assert objects(bay("url", name, "8000", "--json")) == [{"url": f"http://8000-{name}.localhost:8700/"}]
    assert f"has no URL of its own yet; name a port (bay url {name} PORT)" in refused(bay("url", name))
    assert "nothing listens on port 9000" in refused(bay("url", name, "9000"))
    lines(bay("update", name, "--url-port", "8000"))
    assert lines(bay("url", name)) == [f"http://{name}.localhost:8700/"]
    lines(bay("update", name, "--url-port", "none"))
    assert "name a port" in refused(bay("url", name, "--once")) or "name one" in refused(
        bay("url", name, "--once")
    )


def test_url_makes_links(bay: Cli, name: str) -> None:
    done = bay("url", name, "9000", "--once")
    assert done.stdout.startswith(f"http://9000-{name}.localhost:8700/.bay/open?token=".encode())
    assert done.stderr == b"bay: good once, until 2030-01-01T01:00:00Z\n"
    [link] = objects(bay("url", name, "9000", "--expires", "2h", "--json"))
    assert link["once"] is False
    lines(bay("update", name, "--url-port", "7000"))
    assert bay("url", name, "--once").stdout.startswith(f"http://7000-{name}.".encode())
    assert "--expires: it takes seconds or a time such as 10m" in refused(
        bay("url", name, "9000", "--expires", "soon")
    )


# services


def test_services_are_defined_and_shown(bay: Cli, name: str) -> None:
    put = ["services", "put", name, "web", "--env", "A=1", "--needs", "db", "--http-port", "8000"]
    [made] = objects(
        bay(*put, "--health", "8000/ok", "--restart", "on-failure", "--json", "--", "sh", "-c", "echo $A")
    )
    assert (made["argv"], made["env"], made["needs"]) == (["sh", "-c", "echo $A"], {"A": "1"}, ["db"])
    assert (made["health"]["port"], made["health"]["path"], made["restart"]) == (8000, "/ok", "on-failure")
    lines(bay("services", "put", name, "db", "--disabled", "--", "sleep", "0"))
    heads, web, db = lines(bay("services", "ls", name))
    assert heads.split()[:4] == ["NAME", "STATE", "HEALTHY", "PID"]
    assert web.split() == ["web", "running", "-", "9", "0", "db", "8000", "sh", "-c", "'echo", "$A'"]
    assert db.split()[:3] == ["db", "stopped", "(off)"]
    assert "--health takes PORT" in refused(
        bay("services", "put", name, "x", "--health", "http", "--", "true")
    )


def test_services_are_started_stopped_and_removed(bay: Cli, name: str) -> None:
    lines(bay("services", "put", name, "web", "--", "sleep", "0"))
    assert [one["state"] for one in objects(bay("services", "stop", name, "web", "--json"))] == ["stopped"]
    assert [one["state"] for one in objects(bay("services", "start", name, "web", "--json"))] == ["running"]
    assert [one["restarts"] for one in objects(bay("services", "restart", name, "web", "--json"))] == [1]
    assert objects(bay("services", "rm", name, "web", "--json")) == [{"service": "web", "deleted": True}]
    assert "there is no service web" in refused(bay("services", "start", name, "web"))


def test_services_logs_go_where_they_were_printed(bay: Cli, name: str) -> None:
    lines(bay("services", "put", name, "web", "--", "sh", "-c", "echo out; echo err >&2"))
    done = bay("services", "logs", name, "web", "--follow")
    assert (done.returncode, done.stdout, done.stderr) == (0, b"out\n", b"err\n")
    assert bay("services", "logs", name, "web", "--since", "8").stdout == b""


# ssh-config


def test_ssh_config_has_a_block_for_each_sandbox(bay: Cli, name: str) -> None:
    text = "\n".join(lines(bay("ssh-config", name, "--port", "2222")))
    assert text.startswith(f'Host bay-{name}\n    User "ship"\n    ProxyCommand ')
    assert f" --url {bay.url} ssh-proxy --port 2222 {name}\n" in text
    assert "HostKeyAlias sandbox-" in text
    everything = lines(bay("ssh-config"))
    assert everything.count(f"Host bay-{name}") == 1
    assert sum(line.startswith("Host ") for line in everything) >= 1


@pytest.mark.parametrize("user", ['x"y', "a\nb", ""])
def test_ssh_config_refuses_what_it_cannot_quote(bay: Cli, name: str, user: str) -> None:
    assert "--user takes the name of a user" in refused(bay("ssh-config", name, "--user", user))


def test_ssh_config_quotes_for_the_shell_and_doubles_what_ssh_would_replace() -> None:
    assert command_line(["bay", "--url", "http://h/%41'b"]) == """bay --url 'http://h/%%41'"'"'b'"""


# create


def test_create_says_what_its_network_reaches_and_where_its_url_leads(bay: Cli) -> None:
    name = f"box-{os.urandom(6).hex()}"
    lines(bay("create", "--name", name, "--network", "none", "--url-port", "8000"))
    assert policy_of(bay, name) == {"mode": "none", "rules": []}
    assert lines(bay("url", name)) == [f"http://{name}.localhost:8700/"]
    shown = [" ".join(line.split()) for line in lines(bay("get", name))]
    assert {"network: none", f"url: http://{name}.localhost:8700/"} <= set(shown)
    assert "mode must be one of" in refused(bay("create", "--network", "closed"))
