"""What a network costs: to make and remove, in the way of packets beside a bridge as Docker's, for a name,
and for a change of policy.
"""

import asyncio
import json
import os
import time
from collections.abc import Callable
from pathlib import Path

from examples.own_server import OwnServer, own_server

from bay.client import Box, Client
from bay.linux import namespaces
from bay.models import NetworkPolicy, NetworkRule
from bay.network.manager import NetworkManager
from bay.network.slots import NetworkSlot
from bench.base import Bench, create_and_run, ms
from bench.figures import Figure, Ratio, Result
from bench.host import View
from bench.network_world import ECHO, SINK, SITE, attach_to_bridge, site
from bench.pools import POOLED, drain, wait_full
from bench.raw import Raw

SETUPS, STARTS, NAMES, CHANGES, PINGS, FLOWS, FLOW_S = 200, 20, 500, 20, 2000, 5, 2.0
RULES = 1000

CONFIG = f"""
network = "{{network}}"
dns_servers = ["{SITE}"]
[profiles.python-default]
cpus = 2
[profiles.{POOLED}]
pool_size = 2
"""


def network(bench: Bench) -> list[Result]:
    """In a network namespace of its own, which stands for the host."""
    return namespaces.inside_new(lambda: _measured(bench))


def _measured(bench: Bench) -> list[Result]:
    with site():
        return [*_setups(bench), *_with_servers(bench)]


def _setups(bench: Bench) -> list[Result]:
    """What the driver does for each sandbox, without the sandbox."""
    made: list[float] = []
    removed: list[float] = []
    host = NetworkManager(instance="ffff")
    wait = host._wait  # pyright: ignore[reportPrivateUsage]
    runner = asyncio.Runner()  # one event loop from its open to its close
    runner.run(host.open())
    fd = namespaces.inside_new(lambda: os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC))
    policy = NetworkPolicy(mode="open")
    for number in range(1, bench.count(SETUPS) + 1):
        slot = NetworkSlot(number, f"sess-{number}")
        made.append(ms(lambda slot=slot: (host.admit(slot, policy), host.connect(slot, fd))))
        removed.append(ms(lambda slot=slot: wait(lambda: host._remove(slot))))  # pyright: ignore[reportPrivateUsage]
    os.close(fd)
    runner.run(host.aclose())
    runner.close()
    return [Figure("network made", "ms", tuple(made)), Figure("network removed", "ms", tuple(removed))]


def _with_servers(bench: Bench) -> list[Result]:
    with (
        own_server("bay-bench-", CONFIG.format(network="auto")) as auto,
        own_server("bay-bench-", CONFIG.format(network="off")) as off,
    ):
        found = _starts(bench, auto, off)
        with auto.client() as client:
            found += [*_names(bench, client), *_paths(bench, auto, client), *_changes(bench, client)]
        for server in (auto, off):
            drain(server)
        return found


def _starts(bench: Bench, auto: OwnServer, off: OwnServer) -> list[Result]:
    taken: dict[tuple[str, str], list[float]] = {}
    with auto.client() as one, off.client() as other, Raw(auto) as raw, Raw(off) as other_raw:
        for _ in range(bench.count(STARTS)):
            for client, of_pool, name in ((one, raw, "with a network"), (other, other_raw, "network off")):
                for profile, how in ((None, "cold"), (POOLED, "pooled")):
                    wait_full(of_pool)
                    box, took = _timed(lambda client=client, profile=profile: create_and_run(client, profile))
                    taken.setdefault((how, name), []).append(took)
                    taken.setdefault((f"delete, {how}", name), []).append(ms(box.delete))
    figures = {key: Figure(f"{key[0]}, {key[1]}", "ms", tuple(samples)) for key, samples in taken.items()}
    return [
        *figures.values(),
        *(Ratio(figures[how, "with a network"], figures[how, "network off"]) for how in ("cold", "pooled")),
    ]


def _timed(make: Callable[[], Box]) -> tuple[Box, float]:
    began = time.perf_counter()
    box = make()
    return box, (time.perf_counter() - began) * 1000


ASK = """if True:
    import json, socket, struct, sys, time
    taken = []
    with socket.socket(type=socket.SOCK_DGRAM) as sock:
        sock.connect(("127.0.0.53", 53))
        for number in range(int(sys.argv[1])):
            name = sys.argv[2] % number if "%" in sys.argv[2] else sys.argv[2]
            question = struct.pack("!HHHHHH", number, 0x100, 1, 0, 0, 0)
            question += b"".join(bytes([len(one)]) + one.encode() for one in name.split(".")) + b"\\0" + struct.pack("!HH", 1, 1)
            began = time.perf_counter()
            sock.send(question)
            answer = sock.recv(4096)
            taken.append((time.perf_counter() - began) * 1000)
            assert answer[3] & 15 == 0, answer
            time.sleep(0.012)
    print(json.dumps(taken))
"""


def _names(bench: Bench, client: Client) -> list[Result]:
    policy = NetworkPolicy(mode="allowlist", rules=(NetworkRule(action="allow", domain="*.example.com"),))
    count = str(bench.count(NAMES))
    box = client.sandboxes.create(network_policy=policy)
    held = printed(box, ASK, count, "www.example.com")
    fresh = printed(box, ASK, count, "www%d.example.com")
    box.delete()
    return [
        Figure("DNS answer, held", "ms", held),
        Figure(
            "DNS answer, asked upstream and opened",
            "ms",
            fresh,
            "the resolver is a Python program on this machine",
        ),
    ]


def printed(box: Box, script: str, *arguments: str) -> tuple[float, ...]:
    """The numbers that a program in the sandbox prints."""
    done = box.run(["python3", "-c", script, *arguments], timeout_s=300, check=True)
    return tuple(json.loads(done.stdout))


FLOW = f"""if True:
    import json, socket, sys, time
    rates, piece = [], bytes({1 << 18})
    for _ in range(int(sys.argv[2])):
        with socket.create_connection((sys.argv[1], {SINK})) as sock:
            began, sent = time.perf_counter(), 0
            while (now := time.perf_counter()) < began + float(sys.argv[3]):
                sent += sock.send(piece)
            rates.append(sent / (now - began) / 1e6)
    print(json.dumps(rates))
"""
PING = f"""if True:
    import json, socket, sys, time
    taken = []
    with socket.create_connection((sys.argv[1], {ECHO})) as sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for _ in range(int(sys.argv[2])):
            began = time.perf_counter()
            sock.sendall(b"x")
            sock.recv(1)
            taken.append((time.perf_counter() - began) * 1e6)
    print(json.dumps(taken))
"""


def _paths(bench: Bench, server: OwnServer, client: Client) -> list[Result]:
    """The same programs in two containers of Bay's, one of which has the other kind of link."""
    mine = client.sandboxes.create(network_policy=NetworkPolicy(mode="open"))
    theirs = client.sandboxes.create(network_policy=NetworkPolicy(mode="none"))
    for box in (mine, theirs):
        box.run(["true"], check=True)
    attach_to_bridge(_namespace_of(server, theirs))
    flows: dict[str, list[float]] = {mine.id: [], theirs.id: []}
    pings: dict[str, list[float]] = {mine.id: [], theirs.id: []}
    for _ in range(bench.count(FLOWS)):
        for box in (mine, theirs):
            flows[box.id] += printed(box, FLOW, SITE, "1", str(FLOW_S * min(1, bench.scale * 2)))
            pings[box.id] += printed(box, PING, SITE, str(bench.count(PINGS)))
    out, bridge = (
        Figure(f"TCP out, {name}", "MB/s", tuple(flows[box.id]), note)
        for box, name, note in _named(mine, theirs)
    )
    there, other = (
        Figure(f"TCP there and back, {name}", "µs", tuple(pings[box.id]))
        for box, name, _ in _named(mine, theirs)
    )
    mine.delete()
    theirs.delete()
    return [out, bridge, Ratio(out, bridge), there, other, Ratio(there, other)]


def _named(mine: Box, theirs: Box) -> list[tuple[Box, str, str]]:
    return [
        (mine, "Bay", ""),
        (theirs, "bridge with NAT", "as Docker makes one: veth, bridge, masquerade, forward rules"),
    ]


def _namespace_of(server: OwnServer, box: Box) -> Path:
    run = next((server.folder / "run").glob("*/sessions"))
    session = next(one.parent.name for one in run.glob("*/owner.json") if box.id in one.read_text())
    pid = next(pid for pid, name in View(server.folder).processes().items() if name == session)
    return Path(f"/proc/{pid}/ns/net")


def _changes(bench: Bench, client: Client) -> list[Result]:
    rules = tuple(
        NetworkRule(action="allow", cidr=f"20.{number // 250}.{number % 250}.0/24", ports=(443,))
        for number in range(RULES)
    )
    box = client.sandboxes.create(network_policy=NetworkPolicy(mode="allowlist", rules=rules))
    box.run(["true"], check=True)
    taken = [
        ms(lambda number=number: box.network.set("allowlist", rules[: RULES - 1 - number % 2]))
        for number in range(bench.count(CHANGES))
    ]
    few = [
        ms(lambda number=number: box.network.set("allowlist", rules[: number % 2]))
        for number in range(bench.count(CHANGES))
    ]
    box.delete()
    return [
        Figure(f"live change of policy, {RULES} rules", "ms", tuple(taken), "the whole call, until it holds"),
        Figure("live change of policy, one rule", "ms", tuple(few)),
    ]
