"""Network policies, ports, URLs and services on the command line, against a real Bay with the
`fake` driver.
"""

import json
import os
import re
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import fault_proxy
import pytest
from cli_runner import Cli, Done

import bay as sdk
from bay.cli.commands.ssh import command_line

REFUSED = {
    "name": "evil.example", "type": "A", "reason": "policy", "rule": 1, "count": 3,
    "first_at": "2030-01-01T00:00:00Z", "last_at": "2030-01-01T00:00:02Z",
}  # fmt: skip
SERVE = "import socket; s = socket.create_server(('127.0.0.1', 0)); print(s.getsockname()[1], flush=True); s.accept()"


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


def test_net_show_has_a_line_for_each_rule_and_for_what_no_rule_decided(
    bay: Cli, proxy: fault_proxy.Proxy, name: str
) -> None:
    lines(bay("net", "mode", name, "allowlist"))
    lines(bay("net", "allow", name, "*.example.com", "93.184.0.0/16", "--port", "443", "--port", "8000-8100"))
    lines(bay("net", "deny", name, "evil.example.com", "--protocol", "tcp"))
    shown = [
        " ".join(line.split()) for line in lines(counted(bay, proxy, name, rules=3)("net", "show", name))
    ]
    assert shown[:4] == ["mode: allowlist", "enforced: yes", "received: 4.9K", "sent: 70B"]
    assert shown[4:9] == [
        "RULE ACTION TARGET PROTOCOL PORTS ALLOWED REFUSED NAMES REFUSED NAMES",
        "0 allow *.example.com any 443 8000-8100 0 0 0 0",
        "1 allow 93.184.0.0/16 any 443 8000-8100 0 0 0 0",
        "2 deny evil.example.com tcp any 0 0 0 0",
        "- - reserved - - 0 4 0 1",
    ]
    assert shown[9:] == [
        "LAST COUNT TYPE NAME REASON RULE",
        "2030-01-01T00:00:02Z 3 A evil.example policy 1",
    ]


def counted(bay: Cli, proxy: fault_proxy.Proxy, name: str, rules: int) -> Cli:
    """Through a proxy that has counted: the `fake` driver holds nothing back."""
    none = {"allowed_connections": 0, "refused_connections": 0, "allowed_names": 0, "refused_names": 0}
    counters = [{"rule": number, "reason": None, **none} for number in range(rules)]
    [sandbox] = objects(bay("get", name, "--json"))
    proxy.answers[f"/v1/sandboxes/{sandbox['id']}/network"] = {
        "mode": "allowlist", "enforced": True, "received_bytes": 5000, "sent_bytes": 70, "refused": [REFUSED],
        "counters": [
            *counters, {"rule": None, "reason": "reserved", **none, "refused_connections": 4, "refused_names": 1}
        ],
    }  # fmt: skip
    return Cli(proxy.url)


def test_net_allow_tells_a_network_from_a_name(bay: Cli, name: str) -> None:
    lines(bay("net", "mode", name, "allowlist"))
    targets = ["example.com", "*", "1.2.3.4", "2a00::/32", "2a00::1"]
    [policy] = objects(bay("net", "allow", name, *targets, "--json"))
    expected: list[dict[str, Any]] = [
        {"domain": "example.com"},
        {"domain": "*"},
        {"cidr": "1.2.3.4/32"},
        {"cidr": "2a00::/32"},
        {"cidr": "2a00::1/128"},
    ]
    assert bare(policy["rules"]) == [{"action": "allow", **rule} for rule in expected]
    assert "1.2.3.4/8" in refused(bay("net", "allow", name, "1.2.3.4/8"))  # Bay says what is wrong with it


@pytest.mark.parametrize("target", ["https://example.com", "10.0.0.0/33", "example.com:443"])
def test_net_allow_refuses_what_is_neither(bay: Cli, name: str, target: str) -> None:
    assert "is neither a domain, an address nor a network" in refused(bay("net", "allow", name, target))


def test_net_allow_says_when_it_opens_nothing(bay: Cli, name: str) -> None:
    lines(bay("net", "mode", name, "open"))
    done = bay("net", "allow", name, "example.com")
    assert done.returncode == 0
    assert f"bay net mode {name} allowlist".encode() in done.stderr
    lines(bay("net", "reset", name))
    lines(bay("net", "mode", name, "none"))
    assert "use allowlist or open" in refused(bay("net", "allow", name, "example.com"))


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
        (
            '{"mode": "open", "rules": [{"action": "allow", "inject": {"head": "A"}}]}',
            "inject of rule 0 has an unknown field 'head'",
        ),
        ('{"mode": "open", "rules": [{"domain": "*"}]}', "action"),
        ('{"mode": "open", "rules": [{"action": "deny"}]}', "rule 0: give either `domain` or `cidr`"),
    ],
)
def test_net_set_refuses_a_policy_with_a_slip_in_it(bay: Cli, name: str, text: str, words: str) -> None:
    before = policy_of(bay, name)
    assert words in refused(bay("net", "set", name, "-", stdin=text.encode()))
    assert policy_of(bay, name) == before


def test_net_inject_adds_a_rule_and_show_names_the_secret_without_its_value(bay: Cli, name: str) -> None:
    lines(bay("secret", "set", "INJECTED", stdin=b"xyzzy-plugh"))
    lines(bay("net", "mode", name, "allowlist"))
    arguments = ("--header", "Authorization", "--secret", "INJECTED", "--format", "Bearer {}")
    [policy] = objects(bay("net", "inject", name, "api.example.com", *arguments, "--json"))
    inject = {"header": "Authorization", "secret": "INJECTED", "format": "Bearer {}"}
    assert bare(policy["rules"]) == [
        {"action": "allow", "domain": "api.example.com", "ports": [443], "protocol": "tcp", "inject": inject}
    ]
    shown = "\n".join(lines(bay("net", "show", name)))
    assert "api.example.com +Authorization (INJECTED)" in shown
    assert "xyzzy" not in shown
    lines(bay("net", "set", name, "-", stdin=json.dumps(policy).encode()))
    assert bare(policy_of(bay, name)["rules"]) == bare(policy["rules"])
    missing = bay("net", "inject", name, "api.example.com", "--header", "A", "--secret", "NEVER")
    assert "there is no secret NEVER" in refused(missing)


def test_net_log_shows_the_names_that_were_refused(bay: Cli, proxy: fault_proxy.Proxy, name: str) -> None:
    through = counted(bay, proxy, name, rules=2)
    assert lines(through("net", "log", name))[1].split() == [
        "2030-01-01T00:00:02Z",
        "3",
        "A",
        "evil.example",
        "policy",
        "1",
    ]
    assert [one["name"] for one in objects(through("net", "log", name, "--json"))] == ["evil.example"]


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


@pytest.fixture
def port(served: tuple[str, str], name: str) -> int:
    """A port of the sandbox where something listens."""
    with sdk.Client(*served) as client:
        proc = client.sandboxes.get(name).spawn(["python3", "-c", SERVE])
        return int(next(iter(proc.output())).data)


def below_localhost(bay: Cli, host: str) -> str:
    return f"http://{host}.localhost:{urlsplit(bay.url).port}/"


def test_ports_shows_what_listens_and_what_is_public_but_does_not(bay: Cli, name: str, port: int) -> None:
    heads, *rows = lines(bay("ports", name, "--public", str(port), "--public", "9"))
    assert heads.split() == ["PORT", "ADDRESSES", "PID", "PROCESS", "ACCESS", "URL"]
    number, address, pid, process, access, url = rows[0].split()
    assert (number, address, process[:6], access) == (str(port), "127.0.0.1", "python", "public")
    assert (int(pid) > 0, url) == (True, below_localhost(bay, f"{port}-{name}"))
    assert rows[1].split() == ["9", "-", "-", "-", "public", "-"]
    [found] = objects(bay("ports", name, "--private", str(port), "--private", "9", "--json"))
    assert (found["port"], found["access"]) == (port, "owner")
    assert len(lines(bay("ports", name))) == 2


def test_url_prints_where_a_browser_goes(bay: Cli, name: str, port: int) -> None:
    url = below_localhost(bay, f"{port}-{name}")
    assert lines(bay("url", name, str(port))) == [url]
    assert objects(bay("url", name, str(port), "--json")) == [{"url": url}]
    assert f"has no URL of its own yet; name a port (bay url {name} PORT)" in refused(bay("url", name))
    assert "nothing listens on port 9" in refused(bay("url", name, "9"))
    lines(bay("update", name, "--url-port", "8000"))
    assert lines(bay("url", name)) == [below_localhost(bay, name)]
    lines(bay("update", name, "--url-port", "none"))
    assert "name a port" in refused(bay("url", name, "--once"))


def test_url_makes_links(bay: Cli, name: str) -> None:
    done = bay("url", name, "9000", "--once")
    assert done.stdout.decode().startswith(below_localhost(bay, f"9000-{name}") + ".bay/open?token=")
    assert re.fullmatch(rb"bay: good once, until [-\dT:.]+Z\n", done.stderr)
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
    lines(bay("services", "put", name, "db", "--disabled", "--", "sleep", "0"))
    [made] = objects(
        bay(*put, "--health", "8000/ok", "--restart", "on-failure", "--json", "--", "sh", "-c", "echo $A")
    )
    assert (made["argv"], made["env"], made["needs"]) == (["sh", "-c", "echo $A"], {"A": "1"}, ["db"])
    assert (made["health"]["port"], made["health"]["path"], made["restart"]) == (8000, "/ok", "on-failure")
    heads, db, web = lines(bay("services", "ls", name))
    assert heads.split()[:4] == ["NAME", "STATE", "HEALTHY", "PID"]
    assert " ".join(web.split()) == "web waiting - - 0 db 8000 sh -c 'echo $A' waits for db"
    assert db.split()[:3] == ["db", "stopped", "(off)"]
    assert "--health takes PORT" in refused(
        bay("services", "put", name, "x", "--health", "http", "--", "true")
    )


def test_services_are_started_stopped_and_removed(bay: Cli, name: str) -> None:
    lines(bay("services", "put", name, "web", "--", "sleep", "600"))
    assert [one["state"] for one in objects(bay("services", "stop", name, "web", "--json"))] == ["stopped"]
    assert [one["state"] for one in objects(bay("services", "start", name, "web", "--json"))] == ["running"]
    assert [one["restarts"] for one in objects(bay("services", "restart", name, "web", "--json"))] == [1]
    assert objects(bay("services", "rm", name, "web", "--json")) == [{"service": "web", "deleted": True}]
    assert "there is no service web" in refused(bay("services", "start", name, "web"))


def test_services_logs_go_where_they_were_printed(bay: Cli, name: str) -> None:
    lines(
        bay("services", "put", name, "web", "--restart", "never", "--", "sh", "-c", "echo out; echo err >&2")
    )
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
    assert lines(bay("url", name)) == [below_localhost(bay, name)]
    shown = [" ".join(line.split()) for line in lines(bay("get", name))]
    assert {"network: none", f"url: {below_localhost(bay, name)}"} <= set(shown)
    assert "mode must be one of" in refused(bay("create", "--network", "closed"))
