"""The network manager sets up, changes and removes the networks of one Bay's sandboxes in the host's kernel.

The order is the guarantee: a sandbox's chains are in nftables before its device exists, and are removed after
it. A Bay that is killed at any line leaves a sandbox that reaches no more than its policy allows. A change of
policy is one transaction. One thread, made in the host's network namespace, does it all, as callers may have
left that namespace (the threads that start a container have).
"""

import asyncio
import errno
import socket
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import TypeVar

import structlog

from bay.errors import DriverUnavailable
from bay.linux import namespaces, nftables, sysctls
from bay.linux.nftables import Nft
from bay.linux.threads import uninterrupted
from bay.models import NetworkPolicy, NetworkState
from bay.network import sentry_link
from bay.network.admissions import Admissions, Begin
from bay.network.broker.supervisor import Brokers
from bay.network.conntrack import Conntrack, TrackedConnection
from bay.network.counters import ConnectionCounts, counters
from bay.network.dns.forwarder import Forwarder
from bay.network.dns.names import Opener
from bay.network.dns.sandbox_resolver import BROKER
from bay.network.nft_script import SHARED, Name, NftScript, TableContents
from bay.network.policy import compile_policy
from bay.network.port_classes import PROTOCOLS, class_of
from bay.network.refusals import Refusals
from bay.network.reserved_ranges import Address, is_reserved
from bay.network.reserved_ranges import Network as Addresses
from bay.network.ruleset import (
    GUARD,
    Element,
    Generation,
    clearing,
    counter_of,
    debt_of,
    generation_of,
    guard,
    slot_counters,
    table_of,
)
from bay.network.ruleset_monitor import RulesetMonitor
from bay.network.slots import NetworkSlot, number_of
from bay.network.veth import Traffic, VethLinks

T = TypeVar("T")

log = structlog.get_logger("bay.network")

_REASONS = {
    "allow": "default",
    "deny": "default",
    "reserved": "reserved",
    "flood": "flood",
    "protocol": "protocol",
}

RESOLVER = "127.0.0.53"
"""Where programs in a sandbox ask for names: an address of its own loopback, at which Bay listens."""

GRACE_S = 2
"""How long an address stays open after its name's time: a program's clock begins when it has the answer."""

MAX_OPEN_ADDRESSES = 8192
"""How many addresses of names a sandbox has open at a time; the least recently answered names make room.

Twice the forwarder's cache, so that the addresses of every cached answer are open.
"""


@dataclass(slots=True)
class _SlotState:
    """The manager's record of a sandbox with a network, which the one thread writes."""

    generation: Generation
    elements: dict[tuple[str, Address], Element] = field(default_factory=dict[tuple[str, Address], Element])
    names: dict[str, dict[Address, float]] = field(default_factory=dict[str, dict[Address, float]])
    """Until when each address of a name is open; the most recently answered name is the last."""
    open: int = 0
    """How many addresses are in `names`."""


@dataclass(frozen=True, slots=True)
class _Change:
    """A policy to write."""

    state: _SlotState
    whole: bool
    """With the chains of its sandbox under any policy."""
    owes: bool
    """Connections of the sandbox stand that it has not judged yet."""


class NetworkManager:
    """Gives sandboxes a network and holds them to their policies. Every method raises DriverUnavailable.
    `instance`: four hex digits that no other Bay on this host has; `private`: networks that rules may allow
    beside public ones; `names` makes the DNS forwarder, else no name is answered; `now`: a clock in seconds.
    """

    def __init__(
        self,
        *,
        instance: str,
        ipv6: bool = False,
        private: Sequence[Addresses] = (),
        names: Callable[[Opener, Callable[[Address], bool]], Forwarder] | None = None,
        brokers: Brokers | None = None,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._instance = instance
        self._ipv6 = ipv6
        self._versions = (4, 6) if ipv6 else (4,)
        self._private = tuple(private)
        self._now = now
        self._names = names(self._open_name, self.is_public) if names else None
        self.brokers = brokers if self._names else None
        if self._names and brokers:
            brokers.addresses = self._names.addresses
        self._worker: ThreadPoolExecutor | None = None
        self._keeping: asyncio.Task[None] | None = None
        self._deleted = asyncio.Event()
        self._policies: dict[int, NetworkPolicy] = {}
        self._listening: set[int] = set()
        self._states: dict[int, _SlotState] = {}
        self._contents = TableContents()
        self._admissions = Admissions(lambda begun: _told(lambda: self._admit(begun)))

    def probe(self) -> list[str]:
        """The reasons why this host cannot give sandboxes a network, if any. Blocks, about 50 ms."""
        if not nftables.is_installed():
            return [f"{nftables.LIBRARY} is missing; install libnftables1"]
        names = ", ".join(sysctls.unwritable(ipv6=self._ipv6))
        if names:
            return [f"{names} cannot be set: run Bay as root on the host, or set it to 1 yourself"]
        try:
            namespaces.inside_new(self._rehearse)
        except (OSError, DriverUnavailable) as error:
            return [f"the kernel does not do what a network needs, or Bay may not ask it to: {error}"]
        return []

    def _rehearse(self) -> None:
        """Run every step once, in a network namespace of its own."""
        trial = NetworkManager(instance=self._instance, ipv6=self._ipv6, private=self._private)
        trial._set_up()
        try:
            trial._admit([(NetworkSlot(1, "rehearsal"), NetworkPolicy())])
            trial._remove(NetworkSlot(1, "rehearsal"))
        finally:
            trial._tear_down()

    def is_left(self) -> bool:
        """Whether an earlier Bay of this instance left sandboxes with a device. Callable before `open`."""
        return any(number_of(self._instance, name) for name in sysctls.devices())

    @property
    def is_open(self) -> bool:
        """Whether it is between `open` and `aclose`."""
        return self._worker is not None

    async def open(self) -> None:
        """Make shared tables and devices; list sandboxes of an earlier Bay of this instance. Idempotent.
        Called in the host's network namespace. A host that forwarded nothing forwards for sandboxes alone.
        """
        if self._worker is not None:
            return
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="bay-network")
        await self._do(self._set_up)
        self._keeping = asyncio.create_task(self._keep())
        asyncio.get_running_loop().add_reader(self._watch.fileno(), self._hear)

    async def aclose(self) -> None:
        """Close netlink: networks stand, without names, until `open`; with none left, shared parts go too."""
        if self.brokers:
            await self.brokers.aclose()
        if self._names:
            await self._names.aclose()
        self._listening.clear()
        if self._keeping is not None:
            asyncio.get_running_loop().remove_reader(self._watch.fileno())
            self._keeping.cancel()
            await asyncio.wait([self._keeping])
            self._keeping = None
        await self._do(self._tear_down)
        if self._worker is not None:
            self._worker.shutdown(wait=False)
            self._worker = None

    def is_public(self, address: Address) -> bool:
        """Whether an answer may name `address` under any rules; others are for policies that allow them."""
        return not is_reserved(address) and (address.version == 4 or self._ipv6)

    def admit(self, slot: NetworkSlot, policy: NetworkPolicy) -> None:
        """Load the chains of `slot` into the kernel, before it has a device. Blocks; from any thread."""
        self._admissions.add((slot, policy), self._submit)

    def offer(self) -> None:
        """Make the device that a sentry of gVisor's will take, in the calling thread's namespace. Blocks."""
        _told(lambda: sentry_link.offer(ipv6=self._ipv6))

    def attend(self) -> None:
        """Answer the sentry in the calling thread's namespace, which has taken that device. Blocks."""
        _told(lambda: sentry_link.attend(ipv6=self._ipv6))

    def connect(self, slot: NetworkSlot, netns_fd: int) -> None:
        """After `admit`, (re)link the namespace `netns_fd` to the host, unless `none`. Blocks; any thread."""
        if self._policies[slot.number].mode != "none":
            self._wait(lambda: self._links.connect(slot, netns_fd))

    async def serve_names(self, slot: NetworkSlot, netns_fd: int) -> None:
        """Serve DNS inside the namespace behind `netns_fd`, after `admit`, before a program runs there."""
        names, number = self._names, slot.number
        if names is None or self._policies[number].mode == "none" or number in self._listening:
            return
        udp, tcp = await self._name_sockets_in(netns_fd)
        self._listening.add(number)
        broker = sentry_link.BROKER if slot.sentry else BROKER
        await names.listen(number, udp, tcp, self._states[number].generation.plan, broker)
        if self.brokers:
            await self.brokers.serve(slot, netns_fd, self._policies[number])

    async def _name_sockets_in(self, netns_fd: int) -> tuple[socket.socket, socket.socket]:
        made: list[socket.socket] = []
        try:
            await self._do(lambda: made.extend(namespaces.inside(netns_fd, _name_sockets)))
        except asyncio.CancelledError:
            for one in made:
                one.close()
            raise
        udp, tcp = made
        return udp, tcp

    async def set_policy(self, slot: NetworkSlot, policy: NetworkPolicy, netns_fd: int) -> None:
        """Enforce `policy` on a running sandbox, in one step, and make missing parts of its network.
        It takes over a sandbox of an earlier Bay of this instance, too. Connections that `policy` does not
        allow have ended when this returns. `netns_fd` is the sandbox's namespace.
        """
        names = self._names.names_of(slot.number) if self._names else {}
        if policy.mode == "none":
            await self._stop_names(slot)
        await self._do(lambda: self._set_policy(slot, policy, netns_fd, names))
        if self._names and slot.number in self._listening:
            try:
                if self.brokers:
                    await self.brokers.serve(slot, netns_fd, policy)  # before a name leads there
            finally:  # it holds whether there is a broker or not
                self._names.set_plan(slot.number, self._states[slot.number].generation.plan)
        await self.serve_names(slot, netns_fd)

    async def state(self, slot: NetworkSlot) -> NetworkState:
        """A sandbox's network with its traffic and counters; counters at zero are left out."""
        policy = self._policies.get(slot.number, NetworkPolicy(mode="none"))
        connections, traffic = await self._do(lambda: self._counted(slot))
        return NetworkState(
            mode=policy.mode,
            enforced=True,
            counters=counters(connections, self._names.counts(slot.number) if self._names else {}),
            refused=self._names.refused(slot.number) if self._names else (),
            received_bytes=traffic.received_bytes,
            sent_bytes=traffic.sent_bytes,
            broker=self.brokers.refused(slot) if self.brokers else (),
        )

    async def traffic(self) -> dict[int, Traffic]:
        """The traffic of all sandboxes with a network, by the numbers of their slots."""
        return await self._do(lambda: self._links.traffic_of_all())

    async def refused_packets(self) -> dict[str, int]:
        """The packets of all sandboxes that were refused since `open`, by `refusals.REASONS`."""
        return await self._do(lambda: self._refusals.sums())

    async def remove(self, slot: NetworkSlot) -> None:
        """Remove a sandbox's network, also half of it; nothing there is fine."""
        await self._stop_names(slot)
        if self.brokers:
            await self.brokers.stop(slot)
        await self._do(lambda: self._remove(slot))

    def owned(self) -> set[int]:
        """The numbers of the slots of which the kernel has something. Blocks; callable from any thread."""
        return self._wait(self._owned)

    def _hear(self) -> None:
        if self._watch.hear():
            self._deleted.set()

    async def _keep(self) -> None:
        """Restore the tables whenever another program has deleted them."""
        while True:
            await self._deleted.wait()
            self._deleted.clear()
            try:
                await self._do(self._restore)
            except DriverUnavailable as error:
                log.error("network.not_restored", error=error.message)

    async def _stop_names(self, slot: NetworkSlot) -> None:
        if self._names and slot.number in self._listening:
            self._listening.discard(slot.number)
            if self.brokers:
                await self.brokers.serve(slot, 0, NetworkPolicy(mode="none"))
            await self._names.stop(slot.number)

    async def _open_name(self, key: int, name: str, addresses: Sequence[Address], ttl_s: int) -> None:
        # The policy may have changed since: `_open` judges the name again, in the thread that changes it.
        await self._do(lambda: self._open(key, name, addresses, ttl_s))

    async def _do(self, work: Callable[[], T]) -> T:
        """The result of `work`, done in the one thread. Cancelled, it waits for the end, never far."""
        return await uninterrupted(asyncio.wrap_future(self._submit(work)))

    def _wait(self, work: Callable[[], T]) -> T:
        return self._submit(work).result()

    def _submit(self, work: Callable[[], T]) -> Future[T]:
        if self._worker is None:
            raise DriverUnavailable("the network manager is not open")
        return self._worker.submit(lambda: _told(work))

    # The methods below run in the one thread.

    def _set_up(self) -> None:
        self._nft, self._conntrack = Nft(), Conntrack()
        self._links = VethLinks(self._instance, ipv6=self._ipv6)
        self._read_table()
        for version in self._versions:
            sysctls.reflect_marks(version)
            self._turn_on_forwarding(version)
        self._links.open()
        table = table_of(self._instance).split()[1]
        self._watch = RulesetMonitor((table, GUARD))
        self._refusals = Refusals(table)

    def _restore(self) -> None:
        """Make the missing parts again, and leave the others as they are."""
        for version in self._versions:
            self._turn_on_forwarding(version)
        self._read_table()
        gone = [one for one in self._states.values() if not self._is_in_table(one.generation)]
        for state in gone:
            state.elements = {}
            self._transact(lambda script, one=state: self._write(script, one, whole=True, owes=False))
        if gone:
            log.warning("network.ruleset_deleted_by_others", sandboxes=len(gone))

    def _is_in_table(self, generation: Generation) -> bool:
        return ("chain", generation.name) in self._contents.of(generation.slot.key)

    def _turn_on_forwarding(self, version: int) -> None:
        """Turn forwarding on, for sandboxes alone if it was off; noted first, as rulesets are flushed."""
        if not sysctls.forwards(version):
            self._links.note_forwarding(version)
        if self._links.is_forwarding_noted(version):
            self._nft.run(guard(version))
        sysctls.forward(version)

    def _tear_down(self) -> None:
        if not self._owned():
            self._nft.run(clearing(self._instance))
            self._links.remove_shared()
        self._watch.close()
        self._refusals.close()
        self._nft.close()
        self._conntrack.close()
        self._links.close()

    def _read_table(self) -> None:
        script = NftScript(self._instance)
        script.add_base()
        self._nft.run(str(script))
        self._contents = TableContents()
        self._contents.add(self._listed())
        for name in SHARED:
            self._contents.add(self._sharers(name))

    def _listed(self) -> Iterable[Name]:
        for found in self._nft.ask(f"list table {table_of(self._instance)}"):
            for kind in ("chain", "map", "set", "counter"):
                if (one := found.get(kind)) and one["name"].startswith("s") and "_" in one["name"]:
                    yield kind, one["name"]

    def _sharers(self, name: str) -> Iterable[Name]:
        kind = "set" if name == "seats" else "map"
        found = self._nft.ask(f"list {kind} {table_of(self._instance)} {name}", elements=True)
        for element in next(one[kind] for one in found if kind in one).get("elem", ()):
            number = element >> 16 if name == "seats" else number_of(self._instance, element[0])
            if number:
                yield name, NetworkSlot(number, "").key

    def _transact(self, build: Callable[[NftScript], None]) -> None:
        """Commit the commands of `build`; where the table is not as recorded, all is made anew, once."""
        try:
            self._run(build)
        except DriverUnavailable as error:
            log.warning("network.ruleset_changed_by_others", error=error.message)
            self._read_table()
            self._run(build)

    def _run(self, build: Callable[[NftScript], None]) -> None:
        script = NftScript(self._instance)
        build(script)
        if script:
            self._nft.run(str(script))
            self._contents.apply(script)

    def _admit(self, begun: Iterable[Begin]) -> None:
        changes: list[_Change] = []
        for slot, policy in begun:
            self._policies[slot.number] = policy
            if policy.mode != "none" and (change := self._planned(slot, policy, lives=False)):
                changes.append(change)
        self._commit(changes)

    def _change(self, slot: NetworkSlot, policy: NetworkPolicy, *, lives: bool) -> None:
        """Hold new connections to `policy`; where `slot` `lives`, note that established ones are unjudged."""
        if change := self._planned(slot, policy, lives=lives):
            self._commit([change])

    def _planned(self, slot: NetworkSlot, policy: NetworkPolicy, *, lives: bool) -> _Change | None:
        before = self._states.get(slot.number)
        if before is not None and before.generation.policy == policy and self._stands(before.generation):
            return None
        state = self._new_state(slot, policy)
        again = self._is_in_table(state.generation)
        if before is not None:
            self._carry_over(before, state, again=again)
        elif again:
            state.elements = self._elements_in_kernel(state.generation)
        return _Change(state, whole=before is None, owes=lives and not again)

    def _commit(self, changes: Sequence[_Change]) -> None:
        def write(script: NftScript) -> None:
            for one in changes:
                self._write(script, one.state, whole=one.whole, owes=one.owes)

        self._transact(write)
        for one in changes:
            self._states[one.state.generation.slot.number] = one.state

    def _stands(self, generation: Generation) -> bool:
        try:
            self._nft.run(f"list chain {table_of(self._instance)} {generation.name}")
        except DriverUnavailable:
            self._read_table()
            return False
        return True

    def _new_state(self, slot: NetworkSlot, policy: NetworkPolicy) -> _SlotState:
        plan = compile_policy(policy, self._private)
        name = generation_of(slot, policy, ipv6=self._ipv6, private=self._private)
        return _SlotState(Generation(slot, policy, plan, name))

    def _carry_over(self, before: _SlotState, after: _SlotState, *, again: bool) -> None:
        """Keep the addresses of names open that `after` answers as well, for the rest of their time."""
        now = self._now()
        if again:
            after.elements = before.elements
        for name, addresses in before.names.items():
            left = {one: until for one, until in addresses.items() if until > now}
            if left and after.generation.plan.name(name).answered:
                after.names[name] = left
                after.open += len(left)

    def _write(self, script: NftScript, state: _SlotState, *, whole: bool, owes: bool) -> None:
        slot, generation = state.generation.slot, state.generation
        there = self._contents.of(slot.key)
        if whole or ("enter", slot.key) not in there:
            script.add_slot(slot, ipv6=self._ipv6)
        script.add_generation(generation)
        if owes:
            script.add_debt(slot)
        self._reopen(script, state)
        script.switch(generation, self._contents)
        kept = {
            *slot_counters(slot),
            debt_of(slot),
            *(counter_of(slot, rule) for rule in state.generation.policy.rules),
        }
        script.delete([name for name in there - script.added if _is_past(name, generation, kept)])

    def _reopen(self, script: NftScript, state: _SlotState) -> None:
        now = self._now()
        elements = [
            element
            for name, addresses in state.names.items()
            for address, until in addresses.items()
            for element in state.generation.elements_of(name, [address], max(1, round(until - now)))
        ]
        script.open(elements, state.elements)
        state.elements |= {(one.map, one.address): one for one in elements}

    def _elements_in_kernel(self, generation: Generation) -> dict[tuple[str, Address], Element]:
        """The elements that an earlier Bay opened. Their timeouts run on; their names are not known."""
        found: dict[tuple[str, Address], Element] = {}
        for name in generation.name_maps():
            listed = self._nft.ask(f"list map {table_of(self._instance)} {name}", elements=True)
            for key, counter in next(one["map"] for one in listed if "map" in one).get("elem", ()):
                address = ip_address(key["elem"]["val"])
                found[name, address] = Element(name, address, counter, key["elem"]["timeout"])
        return found

    def _set_policy(
        self,
        slot: NetworkSlot,
        policy: NetworkPolicy,
        netns_fd: int,
        names: Mapping[Address, Collection[str]],
    ) -> None:
        if policy.mode == "none":
            self._remove(slot)
            self._policies[slot.number] = policy
            return
        known = slot.number in self._states
        self._change(slot, policy, lives=True)
        self._policies[slot.number] = policy
        if not self._links.is_whole(slot, netns_fd):
            self._links.connect(slot, netns_fd)
        elif not known:
            self._links.repair(slot)
        debt = ("counter", debt_of(slot))
        # Also when a try before this one, or a Bay before this one, got no further.
        if debt in self._contents.of(slot.key):
            self._cut(slot, names)
            self._transact(lambda script: script.delete([debt]))

    def _cut(self, slot: NetworkSlot, names: Mapping[Address, Collection[str]]) -> None:
        state = self._states[slot.number]
        plan = state.generation.plan

        def may_live(one: TrackedConnection) -> bool:
            decision = plan.decide(one.address, one.protocol, one.port, names.get(one.address, ()))
            allowed = decision.allowed or (decision.reason == "default" and _is_open(state, one))
            return allowed and (self._ipv6 or one.address.version == 4)

        if count := self._conntrack.cut(slot, may_live):
            log.info("network.connections_cut", session=slot.session_id, count=count)

    def _open(self, key: int, name: str, addresses: Sequence[Address], ttl_s: int) -> None:
        state = self._states.get(key)
        if state is None or not state.generation.plan.name(name).answered:
            raise DriverUnavailable(f"{name} is not answered: the policy has changed")
        public = [one for one in addresses if not is_reserved(one)]
        now = self._now()
        until = now + ttl_s + GRACE_S
        elements = state.generation.elements_of(name, public, ttl_s + GRACE_S)
        if state.open + len(public) > MAX_OPEN_ADDRESSES:
            self._make_room(state, now)
        self._transact(lambda script: script.open(elements, state.elements))
        state.elements |= {(one.map, one.address): one for one in elements}
        known = state.names.pop(name, {})
        state.names[name] = known | dict.fromkeys(public, until)
        state.open += len(state.names[name]) - len(known)

    def _make_room(self, state: _SlotState, now: float) -> None:
        """Close expired and least recently answered addresses, down to half the limit: slow, so rare."""
        names: dict[str, dict[Address, float]] = {}
        count = 0
        for name, addresses in reversed(state.names.items()):
            left = {one: until for one, until in addresses.items() if until > now}
            if count + len(left) > MAX_OPEN_ADDRESSES // 2:
                break
            if left:
                names[name] = left
                count += len(left)
        held = {address for addresses in names.values() for address in addresses}
        gone = [one for one in state.elements.values() if one.address not in held]
        self._transact(lambda script: script.close(gone))
        for one in gone:
            del state.elements[one.map, one.address]
        state.names, state.open = dict(reversed(names.items())), count

    def _remove(self, slot: NetworkSlot) -> None:
        if slot.number not in self._policies:  # another Bay may have begun it, after the table was read
            self._read_table()
        self._states.pop(slot.number, None)
        self._policies.pop(slot.number, None)
        self._links.remove(slot)
        self._transact(lambda script: self._write_removal(script, slot))
        self._conntrack.flush(slot)

    def _write_removal(self, script: NftScript, slot: NetworkSlot) -> None:
        script.forget(slot, self._contents)
        script.delete([name for name in self._contents.of(slot.key) if name[0] not in SHARED])

    def _owned(self) -> set[int]:
        return self._links.numbers() | {int(key[1:], 16) for key in self._contents.slots()}

    def _counted(self, slot: NetworkSlot) -> tuple[ConnectionCounts, Traffic]:
        state = self._states.get(slot.number)
        if state is None:
            return {}, Traffic(0, 0)
        # The first of equal rules comes last here, so it is the one with the counter.
        indexed = reversed(list(enumerate(state.generation.policy.rules)))
        rules = {counter_of(slot, rule): index for index, rule in indexed}
        found: ConnectionCounts = {}
        for name, packets in self._counter_values(slot):
            if name in rules:
                allows = state.generation.policy.rules[rules[name]].action == "allow"
                found[rules[name], None] = (packets, 0) if allows else (0, packets)
            elif (reason := name.removeprefix(f"{slot.key}_")) in _REASONS:
                allowed, refused = found.get((None, _REASONS[reason]), (0, 0))
                more = (packets, 0) if reason == "allow" else (0, packets)
                found[None, _REASONS[reason]] = allowed + more[0], refused + more[1]
        return found, self._links.traffic(slot)

    def _counter_values(self, slot: NetworkSlot) -> Iterable[tuple[str, int]]:
        for one in self._nft.ask(f"list counters table {table_of(self._instance)}"):
            if (counter := one.get("counter")) and counter["name"].startswith(f"{slot.key}_"):
                yield counter["name"], counter["packets"]


def _is_past(name: Name, generation: Generation, counters: Collection[str]) -> bool:
    """Whether an object is of another generation; `counters` of rules that are in this one as well go on."""
    kind, text = name
    key = generation.slot.key
    if kind == "counter":
        return text.startswith(f"{key}_") and text not in counters
    of_policies = kind in ("chain", "map", "set") and text.startswith(f"{key}_g")
    return of_policies and not text.startswith(generation.name)


def _is_open(state: _SlotState, one: TrackedConnection) -> bool:
    """Whether a name has opened the connection's destination, though the name itself may be forgotten."""
    if one.protocol not in PROTOCOLS:
        return False
    index = class_of(state.generation.plan.services, one.protocol, one.port).index
    opened = state.generation.map_of(index, "allow", one.address.version, named=True)
    return (opened, one.address) in state.elements


def _name_sockets() -> tuple[socket.socket, socket.socket]:
    udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    tcp = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        tcp.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        for sock in (udp, tcp):
            sock.setblocking(False)
            sock.bind((RESOLVER, 53))
        tcp.listen(64)
    except OSError:
        udp.close()
        tcp.close()
        raise
    return udp, tcp


def _told(work: Callable[[], T]) -> T:
    try:
        return work()
    except OSError as error:
        if error.errno == errno.EPERM:
            refused = f"Bay may not change this host's network ({error}); run it as root"
            raise DriverUnavailable(refused) from error
        raise DriverUnavailable(f"the host refused a step of a sandbox's network: {error}") from error
