"""What the kernel is told of sandboxes' networks, and what is left of it: namespaces of the test's own, no
sandbox in them.
"""

import asyncio
import os
import re
import socket
import subprocess
import sys
import threading
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from server_harness import eventually, until

from bay.drivers.oci import netns
from bay.errors import DriverUnavailable
from bay.linux import namespaces, sysctls
from bay.linux.nftables import Nft
from bay.models import HeaderInjection, NetworkPolicy, NetworkRule
from bay.network.broker.supervisor import Brokers
from bay.network.conntrack import Conntrack
from bay.network.dns.forwarder import Forwarder
from bay.network.firewalls import dropping
from bay.network.manager import NetworkManager
from bay.network.refusals import REASONS
from bay.network.ruleset import policy_chain, slot_chains
from bay.network.slots import NetworkSlot

pytestmark = [
    pytest.mark.host,
    pytest.mark.anyio,
    pytest.mark.skipif(os.geteuid() != 0, reason="networks need root"),
]

INSTANCE = "0a0b"
SEAT = NetworkSlot(7, "ses-a")
OPEN = NetworkPolicy()
LIST = NetworkPolicy(mode="allowlist", rules=(NetworkRule(action="allow", cidr="9.9.9.9/32", ports=(53,)),))


@pytest.fixture
def inside() -> Generator[int, None, None]:
    """A network namespace with loopback alone."""

    def made() -> int:
        netns.set_up_loopback()
        return os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)

    descriptor = namespaces.inside_new(made)
    yield descriptor
    os.close(descriptor)


@asynccontextmanager
async def opened() -> AsyncGenerator[NetworkManager, None]:
    network = NetworkManager(instance=INSTANCE)
    await network.open()
    try:
        yield network
    finally:
        await network.aclose()


def said(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def left() -> list[str]:
    """What of this Bay the kernel has."""
    devices = [line.split()[0] for line in said("ip", "-br", "link").splitlines()]
    lines = [*said("nft", "list", "ruleset").splitlines(), *devices, *said("ip", "rule").splitlines()]
    words = (INSTANCE, f"{SEAT.mark:#x}")
    return [line for line in lines if any(word in line for word in words)]


async def sit(network: NetworkManager, descriptor: int, policy: NetworkPolicy = OPEN) -> None:
    network.admit(SEAT, policy)
    network.connect(SEAT, descriptor)
    # The kernel drops what is sent into a link that has only just got its other end.
    path = f"/proc/{os.getpid()}/fd/{descriptor}"
    await until(lambda: "qdisc noop" not in said("nsenter", f"--net={path}", "ip", "link", "show", "eth0"))


async def test_this_host_lacks_nothing() -> None:
    assert NetworkManager(instance=INSTANCE).probe() == []


async def test_a_removed_network_leaves_nothing_behind(inside: int) -> None:
    async with opened() as network:
        before = left()
        await sit(network, inside, LIST)
        assert network.owned() == {SEAT.number}
        await network.remove(SEAT)
        assert network.owned() == set()
        assert left() == before
        await network.remove(SEAT)


async def test_the_last_bay_without_sandboxes_leaves_nothing_shared_either() -> None:
    async with opened():
        assert left()
    assert left() == []
    assert "20001" not in said("ip", "rule")


async def test_one_look_has_the_traffic_of_every_link_of_this_bay_and_of_no_other(inside: int) -> None:
    other = NetworkManager(instance="0a0c")
    await other.open()
    try:
        async with opened() as network:
            assert await network.traffic() == {}
            await sit(network, inside)
            before = (await network.traffic())[SEAT.number]
            namespaces.inside(inside, _send)
            after = (await network.traffic())[SEAT.number]
            assert after.sent_bytes - before.sent_bytes >= 3 * 1000
            assert after.received_bytes < after.sent_bytes  # the host may say that nobody is there
            state = await network.state(SEAT)
            assert (state.sent_bytes, state.received_bytes) == (after.sent_bytes, after.received_bytes)
            assert await other.traffic() == {}
            await network.remove(SEAT)
            assert await network.traffic() == {}
    finally:
        await other.aclose()


def _send(address: str = "9.9.9.9") -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        for _ in range(3):
            sock.sendto(b"x" * 1000, (address, 53))


SHUT = NetworkPolicy(rules=(NetworkRule(action="deny", cidr="9.9.9.9/32"),))


async def refused(network: NetworkManager, **packets: int) -> None:
    """Return once so many packets were refused: the kernel judges them a moment after they are sent."""
    expected = {**dict.fromkeys(REASONS, 0), **packets}

    async def counted() -> bool:
        return await network.refused_packets() == expected

    await eventually(counted)
    assert await network.refused_packets() == expected  # and no more


async def test_refused_packets_are_counted_by_reason_and_outlive_their_sandbox(inside: int) -> None:
    async with opened() as network:
        await refused(network)
        await sit(network, inside, SHUT)
        namespaces.inside(inside, lambda: _send("9.9.9.9"))
        namespaces.inside(inside, lambda: _send("10.0.0.9"))
        await refused(network, rule=3, reserved=3)
        await network.set_policy(SEAT, LIST, inside)
        namespaces.inside(inside, lambda: _send("9.9.9.8"))
        await refused(network, rule=3, reserved=3, default=3)
        assert sum(one.refused_connections for one in (await network.state(SEAT)).counters) == 6
        await network.remove(SEAT)
        await refused(network, rule=3, reserved=3, default=3)


async def test_the_next_bay_counts_refused_packets_from_its_begin_on(inside: int) -> None:
    async with opened() as network:
        await sit(network, inside, SHUT)
        namespaces.inside(inside, lambda: _send("9.9.9.9"))
        await refused(network, rule=3)
    async with opened() as network:
        await refused(network)
        await network.set_policy(SEAT, SHUT, inside)
        namespaces.inside(inside, lambda: _send("9.9.9.9"))
        await refused(network, rule=3)
        await network.remove(SEAT)


async def test_a_deleted_table_takes_no_refused_packet_away(inside: int) -> None:
    async with opened() as network:
        await sit(network, inside, SHUT)
        namespaces.inside(inside, lambda: _send("9.9.9.9"))
        await refused(network, rule=3)
        said("nft", "delete", "table", "inet", f"bay_{INSTANCE}")
        await refused(network, rule=3)
        await until(lambda: f"{SEAT.key}_judge" in said("nft", "list", "ruleset"))
        namespaces.inside(inside, lambda: _send("9.9.9.9"))
        await refused(network, rule=6)
        await network.remove(SEAT)


async def test_a_sandbox_of_a_bay_that_counted_none_for_all_is_taken_over(inside: int) -> None:
    async with opened() as network:
        await sit(network, inside, SHUT)
        whole = ruleset()
    table = f"bay_{INSTANCE}"
    old = re.sub(r'counter name "refused_\w+" ', "", said("nft", "list", "table", "inet", table))
    said("nft", f"delete table inet {table}; {old}")
    assert ruleset() != whole
    async with opened() as network:
        await network.set_policy(SEAT, SHUT, inside)
        assert ruleset() == whole
        await network.remove(SEAT)
    assert left() == []


async def test_networks_stand_without_bay_and_are_found_by_the_next(inside: int) -> None:
    async with opened() as network:
        await sit(network, inside, LIST)
        whole = left()
    assert left() == whole
    async with opened() as network:
        assert network.owned() == {SEAT.number}
        await network.set_policy(SEAT, LIST, inside)
        assert (await network.state(SEAT)).mode == "allowlist"
        await network.remove(SEAT)
    assert left() == []


async def test_a_policy_holds_where_its_broker_cannot_be(inside: int, tmp_path: Path) -> None:
    directory = tmp_path / "brokers"
    directory.touch()  # no authority can be kept in it
    inject = HeaderInjection(header="X-Key", secret="KEY", format="{}")
    rule = NetworkRule(action="allow", domain="api.example.com", ports=(443,), protocol="tcp", inject=inject)
    network = NetworkManager(
        instance=INSTANCE,
        names=lambda opener, public: Forwarder(resolvers=["192.0.2.1"], opener=opener, is_reachable=public),
        brokers=Brokers(directory=directory),
    )
    await network.open()
    try:
        await asyncio.to_thread(network.admit, SEAT, OPEN)
        await asyncio.to_thread(network.connect, SEAT, inside)
        await network.serve_names(SEAT, inside)
        before = said("nft", "list", "chain", "inet", f"bay_{INSTANCE}", policy_chain(SEAT))
        with pytest.raises(OSError, match="brokers"):
            await network.set_policy(SEAT, NetworkPolicy(mode="allowlist", rules=(rule,)), inside)
        after = said("nft", "list", "chain", "inet", f"bay_{INSTANCE}", policy_chain(SEAT))
        assert "goto" in after
        assert after != before
        directory.unlink()
        await network.remove(SEAT)
    finally:
        await network.aclose()
    assert left() == []


async def test_a_half_made_network_is_removed_whole() -> None:
    async with opened() as network:
        network.admit(SEAT, LIST)
        await network.remove(SEAT)
    assert left() == []


async def test_a_start_that_comes_while_bay_ends_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    network = NetworkManager(instance=INSTANCE)
    await network.open()
    ending, starting, go_on = threading.Event(), threading.Event(), threading.Event()

    def close(self: Conntrack) -> None:
        ending.set()
        go_on.wait(10)
        closed(self)

    closed = Conntrack.close
    monkeypatch.setattr(Conntrack, "close", close)
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(network.aclose())
        await asyncio.to_thread(ending.wait, 10)
        start = tasks.create_task(asyncio.to_thread(refused_start, network, starting))
        assert await asyncio.to_thread(starting.wait, 10)
        go_on.set()
    assert start.result()
    assert left() == []


def refused_start(network: NetworkManager, starting: threading.Event) -> bool:
    starting.set()
    try:
        network.admit(SEAT, LIST)
    except DriverUnavailable:
        return True
    return False


async def test_a_device_that_somebody_removed_is_made_again(inside: int) -> None:
    async with opened() as network:
        await sit(network, inside)
        said("ip", "link", "delete", f"bay{INSTANCE}-0007")
        await network.set_policy(SEAT, OPEN, inside)
        assert f"bay{INSTANCE}-0007" in said("ip", "-o", "link")
        await network.remove(SEAT)


async def test_rules_that_somebody_flushed_are_made_again_at_once(inside: int) -> None:
    async with opened() as network:
        await sit(network, inside, LIST)
        whole = ruleset()
        for delete in (("flush", "ruleset"), ("delete", "table", "inet", f"bay_{INSTANCE}")):
            said("nft", *delete)
            await until(lambda: ruleset() == whole)
        assert network.owned() == {SEAT.number}
        await network.remove(SEAT)


async def test_sandboxes_that_begin_together_share_a_transaction(monkeypatch: pytest.MonkeyPatch) -> None:
    seats = [NetworkSlot(number, f"ses-{number}") for number in range(1, 5)]
    async with opened() as network:
        scripts = counted_scripts(monkeypatch)
        assert await admitted_together(network, seats) == [None] * len(seats)
        assert [sum(seat.key in script for seat in seats) for script in scripts] == [len(seats)]
        assert network.owned() == {seat.number for seat in seats}
        for seat in seats:
            await network.remove(seat)
    assert left() == []


async def test_one_that_is_refused_refuses_none_that_begins_with_it() -> None:
    seats = [NetworkSlot(number, f"ses-{number}") for number in range(1, 5)]
    async with opened() as network:
        taken = f'inet bay_{INSTANCE} enter {{ "bay{INSTANCE}-0003" : accept }}'
        said("nft", f"add element {taken}")
        errors = await admitted_together(network, seats)
        assert [type(error) for error in errors] == [
            DriverUnavailable if seat.number == 3 else type(None) for seat in seats
        ]
        assert "s0003" not in "".join(ruleset())
        assert network.owned() - {3} == {1, 2, 4}
        said("nft", f"delete element {taken}")
        for seat in seats:
            await network.remove(seat)
    assert left() == []


async def admitted_together(network: NetworkManager, seats: list[NetworkSlot]) -> list[BaseException | None]:
    """Admit `seats` from a thread each, all while the manager has something else to do; why they failed."""
    busy, go_on = threading.Event(), threading.Event()

    def keep_busy(_: NetworkManager) -> set[int]:
        busy.set()
        go_on.wait(10)
        return set()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(NetworkManager, "_owned", keep_busy)
        asked = asyncio.create_task(asyncio.to_thread(network.owned))
        await asyncio.to_thread(busy.wait, 10)
    admissions = [asyncio.create_task(asyncio.to_thread(network.admit, seat, LIST)) for seat in seats]
    try:
        await until(lambda: waiting_in(network) == len(seats))
    finally:
        go_on.set()
    await asked
    return list(await asyncio.gather(*admissions, return_exceptions=True))


def waiting_in(network: NetworkManager) -> int:
    return len(network._admissions._waiting)


def counted_scripts(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    scripts: list[str] = []
    run = Nft.run

    def noted(self: Nft, commands: str) -> str:
        scripts.append(commands)
        return run(self, commands)

    monkeypatch.setattr(Nft, "run", noted)
    return scripts


async def test_a_change_of_one_sandbox_goes_through_no_map_of_all() -> None:
    """The kernel follows every way at each change: a map behind each sandbox's chain makes a square of it."""
    chains = slot_chains(SEAT, ipv6=True)
    assert not any("vmap" in rule for rules in chains.values() for rule in rules)


async def test_a_sandbox_of_a_bay_whose_policies_were_in_a_map_is_taken_over(inside: int) -> None:
    async with opened() as network:
        await sit(network, inside, LIST)
        whole = ruleset()
    table = f"inet bay_{INSTANCE}"
    generation = next(line.split()[1] for line in whole if line.split()[:1] == ["goto"] and "_g" in line)
    said(
        "nft",
        f"flush chain {table} s0007_judge; delete chain {table} s0007_policy; "
        f"add rule {table} s0007_judge iifname vmap @policies; add rule {table} s0007_judge drop; "
        f'add element {table} policies {{ "bay{INSTANCE}-0007" : goto {generation} }}',
    )
    async with opened() as network:
        await network.set_policy(SEAT, OPEN, inside)
        await network.set_policy(SEAT, LIST, inside)
        assert ruleset() == whole
        await network.remove(SEAT)
    assert left() == []


def ruleset() -> list[str]:
    return sorted(said("nft", "list", "ruleset").splitlines())


async def test_mode_none_takes_the_device_away_and_another_brings_it_back(inside: int) -> None:
    async with opened() as network:
        await sit(network, inside)
        await network.set_policy(SEAT, NetworkPolicy(mode="none"), inside)
        assert network.owned() == set()
        await network.set_policy(SEAT, LIST, inside)
        assert network.owned() == {SEAT.number}
        await network.remove(SEAT)


async def test_rules_of_routing_are_none_that_systemd_networkd_takes_away(inside: int) -> None:
    async with opened() as network:
        await sit(network, inside)
        rules = [line for line in said("ip", "-d", "rule").splitlines() if line.startswith("2000")]
        assert len(rules) >= 5
        assert all(line.rstrip().endswith("proto kernel") for line in rules)
        await network.remove(SEAT)


async def test_a_firewall_that_drops_what_it_forwards_is_named_until_it_knows_of_sandboxes() -> None:
    assert dropping() == []
    said(
        "nft",
        "add table ip theirs; add chain ip theirs FORWARD { type filter hook forward priority 0; policy drop; }",
    )
    try:
        assert dropping() == ["the chain FORWARD of table ip theirs"]
        said("nft", 'add rule ip theirs FORWARD iifname "bay*" accept')
        assert dropping() == []
    finally:
        said("nft", "delete table ip theirs")


async def test_a_host_that_forwarded_nothing_is_guarded_again_after_its_rules_were_flushed() -> None:
    sysctls.write("ipv4/ip_forward", "0")
    for number in ("first", "next"):
        async with opened():
            assert "bay_guard" in said("nft", "list", "tables"), number
        said("nft", "flush", "ruleset")


async def test_a_host_that_forwarded_already_is_left_as_it_is() -> None:
    said("ip", "rule", "del", "priority", "20005")
    async with opened():
        assert "bay_guard" not in said("nft", "list", "tables")


THREADS = """
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

from bay.linux.namespaces import inside_new
from bay.linux.nftables import Nft

TABLE = '''table inet own {
  chain came {
    type filter hook prerouting priority -500; policy accept;
    iif lo accept
    meta l4proto { tcp, udp } accept
  }
}
'''

def work():
    for _ in range(100):
        with closing(Nft()) as nft:
            nft.run(TABLE)
            assert "own" in str(nft.ask("list ruleset"))
            nft.run("delete table inet own")
    return "done"

with ThreadPoolExecutor(4) as pool:
    print(*pool.map(inside_new, [work] * 4))
"""


def test_threads_of_a_process_use_nftables_at_the_same_time() -> None:
    """The library has tables of the process, and says so nowhere: without turns it aborts, or says that
    `lo` does not exist.
    """
    done = subprocess.run([sys.executable, "-c", THREADS], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout, done.stderr) == (0, "done done done done\n", "")


CROWDED = """
import os
import resource

from bay.errors import DriverUnavailable
from bay.linux.nftables import Nft

resource.setrlimit(resource.RLIMIT_NOFILE, (2000, 2000))
early = Nft()
taken = [os.dup(0) for _ in range(1100)]
print(early.run("list tables"))
try:
    Nft()
except DriverUnavailable as error:
    print(error.message)
"""


def test_a_process_with_many_descriptors_is_told_and_not_ended() -> None:
    """The library's select() would abort it. A Bay of a thousand sandboxes opened it before them."""
    done = subprocess.run([sys.executable, "-c", CROWDED], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    assert "descriptors open, and libnftables works only below 1024" in done.stdout
