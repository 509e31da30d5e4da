"""The broker: a program in a sandbox uses a key that it never sees, with real clients, and hostile ones."""

import json
import os
import signal
import time
from collections.abc import Generator
from pathlib import Path

import pytest
from lab import Box, Json, Lab, allow, allowlist, eventually, lab
from tls_site import TlsSite, tls_site
from world import OTHER, World

pytestmark = [pytest.mark.host, pytest.mark.long]

API, PLAIN, FAKE = "api.example.com", "plain.example.com", "fake.example.com"
ADDRESS, FAKE_ADDRESS = "93.184.216.77", "93.184.216.78"
VALUE = "xyzzy-plugh-3.14159"


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("tls")


@pytest.fixture(scope="module")
def site(earth: World, files: Path) -> Generator[TlsSite]:
    """One server for two names: a program reaches one of them with a key, the other one as it is."""
    zone = earth.resolver.zone
    zone |= {(API, "A"): [ADDRESS], (PLAIN, "A"): [ADDRESS], (FAKE, "A"): [FAKE_ADDRESS]}
    with tls_site(earth.internet, ADDRESS, [API, PLAIN], files) as made:
        yield made


@pytest.fixture(scope="module")
def bay(earth: World, root: Path, cache: Path, site: TlsSite) -> Generator[Lab]:
    """A Bay whose brokers trust the test's authority; nothing in a sandbox does."""
    with lab(earth, root, cache, BAY_NETWORK_BROKER_TRUST=json.dumps([str(site.trust)])) as made:
        made.ask("PUT", "/v1/secrets/KEY", json={"value": VALUE})
        yield made


def inject(domain: str = API, key: str = "KEY", **more: object) -> Json:
    header = {"header": "Authorization", "secret": key, "format": "Bearer {}"}
    return allow(domain=domain, inject=header, **more)


POLICY = allowlist(inject(), allow(domain=PLAIN))


@pytest.fixture(scope="module")
def shared(bay: Lab) -> Generator[Box]:
    with bay.box(POLICY) as made:
        yield made


@pytest.fixture
def box(shared: Box, site: TlsSite) -> Box:
    """A sandbox whose requests to API get the key."""
    site.came.clear()
    return shared


def curl(box: Box, *arguments: str, ok: bool = True) -> str:
    done = box.run("curl", "-sS", "--max-time", "15", *arguments)
    assert (done["exit_code"] == 0) == ok, done
    return done["stdout"] if ok else done["stderr"]


def test_curl_uses_a_key_that_it_never_sees(box: Box, site: TlsSite) -> None:
    assert curl(box, f"https://{API}/path?q=1") == "hello\n"
    assert site.values("authorization") == [f"Bearer {VALUE}"]
    assert site.came[0][0] == "GET /path?q=1 HTTP/1.1"


def test_python_and_node_do_as_well(box: Box, site: TlsSite) -> None:
    script = f"import urllib.request as r; print(r.urlopen('https://{API}/py').read().decode(), end='')"
    assert box.python(script) == "hello\n"
    code = f"fetch('https://{API}/js').then(r => r.text()).then(t => process.stdout.write(t))"
    done = box.run("node", "-e", code)
    assert (done["exit_code"], done["stdout"]) == (0, "hello\n"), done
    assert site.values("authorization") == [f"Bearer {VALUE}"] * 2


def test_what_the_program_says_itself_is_replaced(box: Box, site: TlsSite) -> None:
    own = (
        "-H",
        "authorization: Bearer mine",
        "-H",
        "AUTHORIZATION: other",
        "-H",
        "Connection: authorization, close",
    )
    assert curl(box, *own, f"https://{API}/") == "hello\n"
    assert site.values("authorization") == [f"Bearer {VALUE}"]


def test_the_value_is_nowhere_in_the_sandbox(box: Box, bay: Lab) -> None:
    curl(box, f"https://{API}/", "-v", "--trace-ascii", "/tmp/trace")
    search = (
        "import os, stat\n"
        f"value = {VALUE[:9]!r}.encode() + {VALUE[9:]!r}.encode()\n"
        "found = []\n"
        "for base in ('/proc', '/workspace', '/tmp', '/run', '/etc', '/dev/shm', '/home', '/root', '/var'):\n"
        "    for root, _, names in os.walk(base):\n"
        "        for name in names:\n"
        "            path = os.path.join(root, name)\n"
        "            if name in ('kmsg', 'mem', 'pagemap', 'trace_pipe'): continue\n"
        "            try:\n"
        "                if not stat.S_ISREG(os.stat(path).st_mode): continue\n"
        "                data = os.open(path, os.O_RDONLY | os.O_NONBLOCK)\n"
        "            except OSError: continue\n"
        "            try:\n"
        "                while piece := os.read(data, 1 << 20):\n"
        "                    if value in piece: found.append(path); break\n"
        "            except OSError: pass\n"
        "            finally: os.close(data)\n"
        "print([one for one in found if not one.startswith(f'/proc/{os.getpid()}')])\n"
    )
    assert box.python(search, user="root", wait=60) == "[]\n"
    assert VALUE not in bay.log()
    for path in ("", "/network", "/network-policy", "/execs", "/events"):
        assert VALUE not in bay.call("GET", box.path(path)).text


def test_another_name_at_the_same_address_is_untouched(box: Box, site: TlsSite) -> None:
    assert box.python(f"import socket; print(socket.gethostbyname('{PLAIN}'))") == f"{ADDRESS}\n"
    assert curl(box, "-k", f"https://{PLAIN}/") == "hello\n"
    assert "authorization" not in {name.lower() for name, _ in site.came[0][1]}
    assert "certificate" in curl(box, f"https://{PLAIN}/", ok=False)


def test_bodies_and_answers_pass_in_pieces(box: Box, site: TlsSite) -> None:
    upload = f"head -c 20000000 /dev/zero | curl -sS --max-time 60 -T - https://{API}/chunked"
    assert box.run("sh", "-c", upload, wait=60)["stdout"] == "20000000"
    sized = f"head -c 3000000 /dev/zero > big; curl -sS --max-time 30 --data-binary @big https://{API}/sized"
    assert box.run("sh", "-c", sized, wait=60)["stdout"] == "3000000"
    script = (
        "import time, json, urllib.request as r\n"
        f"answer = r.urlopen('https://{API}/stream')\n"
        "print([time.time() - json.loads(line)[1] < 0.35 for line in answer])"
    )
    assert box.python(script) == "[True, True, True]\n"
    assert len(site.came) == 3


def test_a_connection_has_many_requests_and_each_gets_the_header(box: Box, site: TlsSite) -> None:
    script = (
        "import http.client, ssl\n"
        f"c = http.client.HTTPSConnection('{API}', context=ssl.create_default_context())\n"
        "for n in range(5):\n"
        "    c.request('POST' if n % 2 else 'GET', f'/{n}', b'x' * n if n % 2 else None)\n"
        "    a = c.getresponse(); a.read(); print(a.status, a.getheader('alt-svc'), end=' ')\n"
    )
    assert box.python(script) == "200 None " * 5
    assert site.values("authorization") == [f"Bearer {VALUE}"] * 5


def test_a_websocket_passes(box: Box, site: TlsSite) -> None:
    script = (
        "import socket, ssl\n"
        f"s = ssl.create_default_context().wrap_socket(socket.create_connection(('{API}', 443)), server_hostname='{API}')\n"
        f"s.sendall(b'GET /ws HTTP/1.1\\r\\nHost: {API}\\r\\nUpgrade: websocket\\r\\nConnection: Upgrade\\r\\n\\r\\n')\n"
        "head = b''\n"
        "while b'\\r\\n\\r\\n' not in head: head += s.recv(1)\n"
        "s.sendall(b'abc'); print(head.split()[1].decode(), s.recv(3).decode())\n"
    )
    assert box.python(script) == "101 ABC\n"
    assert site.values("authorization") == [f"Bearer {VALUE}"]


RAW = (
    "import socket, ssl, sys\n"
    "name, text, times = sys.argv[1], sys.argv[2].encode().decode('unicode_escape').encode('latin-1'), 1\n"
    "c = ssl.create_default_context(); c.check_hostname = False; c.verify_mode = ssl.CERT_NONE\n"
    "if len(sys.argv) > 3: c.set_alpn_protocols(sys.argv[3].split(','))\n"
    f"t = socket.create_connection(('{API}', 443)); t.settimeout(15)\n"
    "try:\n"
    "    s = c.wrap_socket(t, server_hostname=name or None)\n"
    "    s.sendall(text)\n"
    "    data = b''\n"
    "    while piece := s.recv(65536): data += piece\n"
    "    print(data.split(b'\\r\\n')[0].decode(), s.selected_alpn_protocol())\n"
    "except ssl.SSLError as error: print('refused', error.reason)\n"
    "except OSError as error: print('cut', error)\n"
)


@pytest.mark.parametrize(
    ("request_text", "status"),
    [
        (f"GET / HTTP/1.1\\r\\nHost: {PLAIN}\\r\\n\\r\\n", 421),
        (f"GET / HTTP/1.1\\r\\nHost: {API}\\r\\nHost: {PLAIN}\\r\\n\\r\\n", 400),
        ("GET / HTTP/1.1\\r\\n\\r\\n", 400),
        ("GET / HTTP/1.0\\r\\n\\r\\n", 421),
        (f"GET / HTTP/1.1\\r\\nHost: {API}:444\\r\\n\\r\\n", 421),
        (f"GET / HTTP/1.1\\r\\nHost: {API}@{PLAIN}\\r\\n\\r\\n", 421),
        (f"GET https://{PLAIN}/ HTTP/1.1\\r\\nHost: {API}\\r\\n\\r\\n", 400),
        (f"CONNECT {PLAIN}:443 HTTP/1.1\\r\\nHost: {API}\\r\\n\\r\\n", 405),
        (f"TRACE / HTTP/1.1\\r\\nHost: {API}\\r\\n\\r\\n", 405),
        (f"POST / HTTP/1.1\\r\\nHost: {API}\\r\\nContent-Length: 4\\r\\nTransfer-Encoding: chunked\\r\\n\\r\\n0\\r\\n\\r\\nGET", 400),
        (f"POST / HTTP/1.1\\r\\nHost: {API}\\r\\nContent-Length: 4\\r\\nContent-Length: 5\\r\\n\\r\\nabcd", 400),
        (f"POST / HTTP/1.1\\r\\nHost: {API}\\r\\nTransfer-Encoding: chunked, identity\\r\\n\\r\\n", 501),
        (f"GET / HTTP/1.1\\r\\nHost: {API}\\r\\nBad Header: x\\r\\n\\r\\n", 400),
        (f"GET / HTTP/1.1\\r\\nHost: {API}\\r\\nX: \\x00\\r\\n\\r\\n", 400),
        ("PRI * HTTP/2.0\\r\\n\\r\\nSM\\r\\n\\r\\n", 400),
    ],
)  # fmt: skip
def test_a_request_that_could_mean_two_things_goes_nowhere(
    box: Box, site: TlsSite, request_text: str, status: int
) -> None:
    assert box.python(RAW, API, request_text).split()[1] == str(status)
    assert site.came == []


def test_fronting_and_missing_names_are_refused_in_the_handshake(bay: Lab, box: Box, site: TlsSite) -> None:
    good = f"GET / HTTP/1.1\\r\\nHost: {API}\\r\\nConnection: close\\r\\n\\r\\n"
    assert box.python(RAW, PLAIN, good).startswith("refused")
    assert box.python(RAW, "", good).startswith("refused")
    assert box.python(RAW, "x" * 60 + ".example", good).startswith("refused")
    assert box.python(RAW, API.upper(), good).startswith("HTTP/1.1 200")
    assert site.values("host") == [API]
    seen = {(one["domain"], one["reason"]) for one in box.network()["broker"]}
    assert {(PLAIN, "other_host"), ("*", "other_host")} <= seen
    assert 'bay_network_broker_refusals_total{reason="other_host"}' in bay.call("GET", "/metrics").text


def test_a_second_request_for_another_host_on_the_connection_is_refused(box: Box, site: TlsSite) -> None:
    text = f"GET /1 HTTP/1.1\\r\\nHost: {API}\\r\\n\\r\\nGET /2 HTTP/1.1\\r\\nHost: {PLAIN}\\r\\n\\r\\n"
    script = RAW.replace(
        "print(data.split(b'\\r\\n')[0].decode()",
        "print(data.count(b'HTTP/1.1 200'), data.count(b'HTTP/1.1 421')",
    )
    assert box.python(script, API, text).split()[:2] == ["1", "1"]
    assert [line for line, _ in site.came] == ["GET /1 HTTP/1.1"]


def test_http_2_is_not_offered(box: Box) -> None:
    good = f"GET / HTTP/1.1\\r\\nHost: {API}\\r\\nConnection: close\\r\\n\\r\\n"
    assert box.python(RAW, API, good, "h2,http/1.1").split()[-1] == "http/1.1"
    assert box.python(RAW, API, good, "h2").split()[-1] == "None"


def test_a_client_that_pins_is_told_of_in_the_network_state(box: Box, site: TlsSite) -> None:
    content = site.trust.read_bytes()
    assert box.lab.call(
        "PUT", box.path("/files/content"), params={"path": "own.pem"}, content=content
    ).is_success
    assert "certificate" in curl(box, "--cacert", "own.pem", f"https://{API}/", ok=False)
    reasons = {(one["domain"], one["reason"]) for one in box.network()["broker"]}
    assert (API, "pinned") in reasons
    pin = "sha256//" + "A" * 43 + "="
    assert "pin" in curl(box, "--pinnedpubkey", pin, f"https://{API}/", ok=False)

    def is_told() -> bool:
        return (API, "unused") in {(one["domain"], one["reason"]) for one in box.network()["broker"]}

    eventually(is_told, "the connection without a request")


def test_a_host_that_ends_in_the_middle_is_an_error_and_no_answer(box: Box) -> None:
    done = curl(box, "-w", "%{http_code}", f"https://{API}/dies")
    assert done.endswith("502")


def test_slow_clients_hold_nobody_up(box: Box) -> None:
    script = (
        "import socket, ssl, time, urllib.request as r\n"
        f"idle = [socket.create_connection(('{API}', 443)) for _ in range(60)]\n"
        "c = ssl.create_default_context()\n"
        f"slow = [c.wrap_socket(socket.create_connection(('{API}', 443)), server_hostname='{API}') for _ in range(20)]\n"
        "for one in slow: one.sendall(b'GET / HTTP/1.1\\r\\nX')\n"
        "began = time.time()\n"
        f"print(r.urlopen('https://{API}/').read().decode().strip(), time.time() - began < 5)\n"
    )
    assert box.python(script, wait=60) == "hello True\n"


def test_another_sandbox_has_no_part_in_it(bay: Lab, box: Box, site: TlsSite) -> None:
    with bay.box(allowlist(allow(domain=API))) as other:
        assert other.python(f"import socket; print(socket.gethostbyname('{API}'))") == f"{ADDRESS}\n"
        assert curl(other, "-k", f"https://{API}/") == "hello\n"
        assert site.values("authorization") == []
        assert "SSL_CERT_FILE" not in other.run("env")["stdout"]
        script = "import socket\ntry: socket.create_connection(('127.0.0.54', 443))\nexcept OSError as e: print(e.errno)"
        assert other.python(script) == "111\n"
    with bay.box(POLICY) as third:  # which has an authority of its own
        theirs = box.run("cat", "/dev/shm/bay-ca.pem")["stdout"]
        assert third.run("cat", "/dev/shm/bay-ca.pem")["stdout"] != theirs


def test_a_changed_secret_reaches_requests_and_a_deleted_one_says_so(bay: Lab, site: TlsSite) -> None:
    bay.ask("PUT", "/v1/secrets/OWN", json={"value": "first"})
    with bay.box(allowlist(inject(key="OWN"))) as box:
        site.came.clear()
        curl(box, f"https://{API}/")
        bay.ask("PUT", "/v1/secrets/OWN", json={"value": "second"})

        def is_new() -> bool:
            curl(box, f"https://{API}/")
            return site.values("authorization")[-1] == "Bearer second"

        eventually(is_new, "the new value")
        bay.ask("DELETE", "/v1/secrets/OWN")
        eventually(lambda: "no secret OWN" in curl(box, f"https://{API}/"), "the deletion")
        assert {one["reason"] for one in box.network()["broker"]} == {"secret"}
        bay.ask("PUT", "/v1/secrets/OWN", json={"value": "two\nlines"})
        eventually(lambda: "not a value" in curl(box, f"https://{API}/"), "the bad value")


def test_a_change_of_policy_takes_effect(bay: Lab, site: TlsSite) -> None:
    with bay.box(allowlist(allow(domain=PLAIN))) as box:
        site.came.clear()
        assert "resolve" in curl(box, f"https://{API}/", ok=False)
        box.set_policy(POLICY)
        assert curl(box, f"https://{API}/") == "hello\n"
        assert site.values("authorization") == [f"Bearer {VALUE}"]
        box.set_policy(allowlist(allow(domain=API)))
        site.came.clear()
        eventually(
            lambda: box.run("curl", "-sk", "--max-time", "5", f"https://{API}/")["stdout"] == "hello\n",
            "the real host",
        )
        assert site.values("authorization") == []


def test_what_is_not_verified_gets_no_key(bay: Lab, earth: World, files: Path) -> None:
    with (
        tls_site(earth.internet, FAKE_ADDRESS, [FAKE], files, stem="fake") as fake,
        bay.box(allowlist(inject(FAKE))) as box,
    ):
        assert "is not to be trusted" in curl(box, f"https://{FAKE}/")
        assert fake.came == []
        assert {one["reason"] for one in box.network()["broker"]} == {"untrusted"}
    earth.resolver.zone[FAKE, "A"] = [ADDRESS]  # the right authority, another name
    with bay.box(allowlist(inject(FAKE))) as box:
        assert "is not to be trusted" in curl(box, f"https://{FAKE}/")
    earth.resolver.zone[FAKE, "A"] = ["10.20.0.5"]  # inward
    with bay.box(allowlist(inject(FAKE))) as box:
        assert "the policy allows" in curl(box, f"https://{FAKE}/")
    earth.resolver.zone[FAKE, "A"] = [FAKE_ADDRESS]


def test_a_deny_of_its_address_holds_for_the_broker(bay: Lab, site: TlsSite) -> None:
    denied = {"action": "deny", "cidr": f"{ADDRESS}/32"}
    with bay.box(allowlist(inject(), denied)) as box:
        site.came.clear()
        assert "could not be reached" in curl(box, f"https://{API}/")
        assert site.came == []


@pytest.mark.parametrize(
    ("rule", "told"),
    [
        ({"action": "deny"}, "for `allow` rules"),
        ({"domain": "*.example.com"}, "whole name"),
        ({"domain": None, "cidr": "1.2.3.4/32"}, "whole name"),
        ({"protocol": "udp"}, "tcp"),
        ({"ports": ["443-500"]}, "ports"),
        ({"ports": [1, 2, 3, 4, 5]}, "ports"),
        ({"inject": {"header": "Host", "secret": "KEY"}}, "cannot be added"),
        ({"inject": {"header": "A B", "secret": "KEY"}}, "not the name of a header"),
        ({"inject": {"header": "A", "secret": "KEY", "format": "x"}}, "format"),
        ({"inject": {"header": "A", "secret": "KEY", "format": "{}\r\nB: {}"}}, "format"),
        ({"inject": {"header": "A", "secret": "KEY", "format": "{}\nB: c"}}, "format"),
        ({"inject": {"header": "A", "secret": "NEVER"}}, "no secret NEVER"),
        ({"inject": {"header": "A", "secret": "KEY", "value": "x"}}, "value"),
    ],
)
def test_a_rule_that_cannot_be_is_refused(bay: Lab, rule: Json, told: str) -> None:
    body = {"network_policy": allowlist({**inject(), **rule})}
    answer = bay.call("POST", "/v1/sandboxes", json=body)
    assert answer.status_code in (404, 422), answer.text
    assert told in answer.json()["error"]["message"]


def test_a_killed_broker_comes_back_and_clients_wait_for_it(box: Box, site: TlsSite) -> None:
    before = brokers(box.lab)
    assert before
    for pid in before:
        os.kill(pid, signal.SIGKILL)
    assert curl(box, f"https://{API}/") == "hello\n"
    assert brokers(box.lab).isdisjoint(before)
    assert site.values("authorization") == [f"Bearer {VALUE}"]


def brokers(bay: Lab) -> set[int]:
    """The processes of a Bay's brokers, its children; other Bays on this host have brokers, too."""
    found = set[int]()
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                command, stat = (entry / "cmdline").read_bytes(), (entry / "stat").read_text()
            except OSError:
                continue
            parent = int(stat.rpartition(")")[2].split()[1])
            if parent == bay.server.process.pid and b"bay.network.broker.process" in command:
                found.add(int(entry.name))
    return found


def test_a_broker_has_no_rights_and_no_files(box: Box) -> None:
    curl(box, f"https://{API}/")
    (pid,) = brokers(box.lab)
    status = dict(
        line.split(":\t", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines() if ":\t" in line
    )
    assert {status[name].strip() for name in ("CapInh", "CapPrm", "CapEff", "CapAmb")} == {"0" * 16}
    assert status["NoNewPrivs"].strip() == "1"
    assert "0" not in status["Uid"].split()
    assert list(Path(f"/proc/{pid}/root").iterdir()) == []
    assert status["Groups"].strip() == ""
    env = Path(f"/proc/{pid}/environ").read_bytes()
    assert VALUE.encode() not in env + Path(f"/proc/{pid}/cmdline").read_bytes()


def pid_of(box: Box, service: str) -> int:
    def running() -> list[int]:
        items = box.lab.ask("GET", box.path("/services"))["items"]
        return [one["pid"] for one in items if one["name"] == service and one["state"] == "running"]

    eventually(lambda: running() != [], f"{service} runs")
    return running()[0]


def test_a_restart_of_bay_keeps_it_working(
    earth: World, other_root: Path, cache: Path, site: TlsSite
) -> None:
    trust = json.dumps([str(site.trust)])
    with lab(earth, other_root, cache, BAY_NETWORK_BROKER_TRUST=trust) as first:
        first.ask("PUT", "/v1/secrets/KEY", json={"value": VALUE})
        made = first.create(POLICY)
        assert curl(made, f"https://{API}/") == "hello\n"
        first.ask("PUT", made.path("/services/web"), json={"argv": ["sleep", "600"]})
        before = pid_of(made, "web")
        first.server.process.kill()
        first.server.process.wait()
    with lab(earth, other_root, cache, BAY_NETWORK_BROKER_TRUST=trust) as second:
        box = Box(second, made.id)
        second.ask("PUT", box.path("/services/other"), json={"argv": ["sleep", "600"]})  # which tells all
        assert pid_of(box, "web") == before
        variables = box.python("import sys; print(open(sys.argv[1]).read())", f"/proc/{before}/environ")
        assert "SSL_CERT_FILE=" in variables
        began = time.monotonic()
        assert curl(box, "--retry", "10", "--retry-all-errors", f"https://{API}/") == "hello\n"
        assert time.monotonic() - began < 15
        assert site.values("authorization")[-1] == f"Bearer {VALUE}"
        box.delete()
        assert list((other_root / "run").rglob("brokers/*.pem")) == []


def test_a_name_leads_to_the_denied_site_no_more_than_before(box: Box) -> None:
    box.reaches_none_of([(OTHER, "tcp", 443)])
