"""Network policies with rules in a cluster: pods that reach Bay's egress proxy and nothing else."""

import json
import secrets
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path

import pytest
from kube_cluster import NODE, WAIT_S, Cluster
from test_bay_on_kubernetes import bay_in, config, owned

from bay.models import NetworkPolicy, NetworkRule

pytestmark = pytest.mark.kubernetes

SITE = "93.184.216.34"
NAME, DENIED = "site.example.com", "other.example.org"
_WORLD = Path(__file__).parents[1] / "support" / "public_site.py"


def run(*command: str, text: str | None = None) -> str:
    return subprocess.run(command, input=text, check=True, capture_output=True, text=True, timeout=30).stdout


@contextmanager
def public_site(name: str) -> Generator[None]:
    """A host at a public address, beside the cluster: it serves HTTP, and names that all lead to it."""
    outside = f"v{name}"
    try:
        run("ip", "netns", "add", name)
        run("ip", "link", "add", outside, "type", "veth", "peer", "name", "eth0", "netns", name)
        run("ip", "address", "add", "93.184.216.1/24", "dev", outside)
        run("ip", "link", "set", outside, "up")
        for command in (("address", "add", f"{SITE}/24", "dev", "eth0"), ("link", "set", "eth0", "up")):
            run("ip", "-n", name, *command)
        run("ip", "-n", name, "route", "add", "default", "via", "93.184.216.1")
        command = ["ip", "netns", "exec", name, sys.executable, str(_WORLD), SITE]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as serving:
            try:
                assert serving.stdout is not None
                assert serving.stdout.readline() == "ready\n"
                yield
            finally:
                serving.kill()
    finally:
        subprocess.run(["ip", "netns", "delete", name], check=False, timeout=30)
        subprocess.run(["ip", "link", "delete", outside], check=False, timeout=30, stderr=subprocess.DEVNULL)


@contextmanager
def held_to(table: str, address: str, port: int) -> Generator[None]:
    """What a network plug-in does for a pod of the class `proxy` at that address."""
    run(
        "nft",
        "-f",
        "-",
        text=f"""table bridge {table} {{
        chain between {{ type filter hook forward priority 0; ip saddr {address} drop; }}
        chain to_node {{ type filter hook input priority 0;
            ip saddr {address} tcp dport != {port} tcp flags & (syn | ack) == syn drop; ip saddr {address} udp dport != 68 drop; }}
    }}""",
    )
    try:
        yield
    finally:
        run("nft", "delete", "table", "bridge", table)


def pod_of(cluster: Cluster, install: str) -> dict[str, str]:
    """The address and the class of the one pod."""
    [name] = owned(cluster, install, "pods")
    found = json.loads(cluster.kubectl("get", "pod", name, "-o", "json"))
    assert "Proxy-Authorization" not in json.dumps(found)
    assert "_PROXY" not in json.dumps(found)
    return {
        "address": found["status"]["podIP"],
        "class": found["metadata"]["labels"]["bay.dev/egress"],
    }


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("0.0.0.0", 0))  # noqa: S104 - as Bay will
        return int(probe.getsockname()[1])


def eventually(is_so: Callable[[], bool]) -> None:
    end = time.monotonic() + WAIT_S
    while not is_so():
        assert time.monotonic() < end
        time.sleep(0.1)


def rule(domain: str) -> NetworkRule:
    return NetworkRule(action="allow", domain=domain, ports=(80,))


def test_rules_by_name_hold_for_a_pod_and_change_while_it_runs(cluster: Cluster) -> None:
    install, port = f"test-{secrets.token_hex(4)}", free_port()
    addresses = cluster.get("node", NODE)["status"]["addresses"]
    [address] = [one["address"] for one in addresses if one["type"] == "InternalIP"]
    proxy = f'network_enforced = true\negress_proxy = "{address}:{port}"\negress_proxy_listen = "0.0.0.0:{port}"\n'
    text = config(cluster, install).replace("[profiles.p", f"{proxy}[profiles.p", 1)
    text = f'dns_servers = ["{SITE}"]\n{text}'
    name = f"s{secrets.token_hex(3)}"
    with public_site(name), bay_in(cluster, install, text) as bay, bay.client() as client:
        allowed = NetworkPolicy(mode="allowlist", rules=(rule("*.example.com"),))
        box = client.sandboxes.create(network_policy=allowed, wait=120)
        pod = pod_of(cluster, install)
        assert pod["class"] == "proxy"
        with held_to(name, pod["address"], port):
            get = f"wget -q -T 10 -O - http://{NAME}/hello"
            assert box.run(get).stdout == "hello from 93.184.216.34\n"
            program = f"import urllib.request as r; print(r.urlopen('http://{NAME}/hello').read())"
            assert "hello from" in box.python.run(program).stdout
            refused = box.run(f"wget -T 10 -O - http://{DENIED}/hello")
            assert refused.exit_code != 0
            assert "403" in refused.stderr
            assert box.run(f"unset http_proxy; wget -q -T 2 -O - http://{SITE}/hello").exit_code != 0
            assert box.run(f"nslookup {NAME}").exit_code != 0
            other = box.run(
                "http_proxy=$(echo $http_proxy | sed s/:[0-9a-f]*@/:0@/) " + get.replace("-q ", "")
            )
            assert "407" in other.stderr

            stream = box.spawn(f"wget -q -O /dev/null http://{NAME}/endless")
            eventually(lambda: box.network.state().received_bytes > 1 << 16)
            box.network.set(NetworkPolicy(mode="allowlist", rules=(rule(DENIED),)))
            stream.wait()
            assert box.run(get).exit_code != 0
            assert "hello from" in box.run(f"wget -q -T 10 -O - http://{DENIED}/hello").stdout
            state = box.network.state()
            assert state.proxied
            assert NAME in {one.name for one in state.refused}
            assert [one.allowed_connections for one in state.counters if one.rule == 0] == [1]

            bay.kill()
            bay.start()
            assert "hello from" in box.run(f"wget -q -T 10 -O - http://{DENIED}/hello").stdout
