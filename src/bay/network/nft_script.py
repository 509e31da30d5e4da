"""Nftables transactions on the table of one Bay: the commands, and the contents of the table after them."""

from collections.abc import Collection, Iterable, Mapping, Sequence

from bay.network.reserved_ranges import Address
from bay.network.ruleset import (
    Element,
    Generation,
    base,
    debt_of,
    policy_chain,
    slot_chains,
    slot_counters,
    table_of,
)
from bay.network.slots import NetworkSlot, device_of

SHARED = ("enter", "judge", "policies", "leave", "seats")
"""The maps and the set in which a sandbox has an element."""


Name = tuple[str, str]
"""A kind (`chain`, `map`, `set`, `counter`) with a name, or one of SHARED with the key of a slot."""


class NftScript:
    """Commands of one transaction on a Bay's table, with the names they add and delete."""

    def __init__(self, instance: str) -> None:
        self._instance = instance
        self._table = table_of(instance)
        self._lines: list[str] = []
        self.added: set[Name] = set()
        self.deleted: set[Name] = set()

    def __str__(self) -> str:
        return "\n".join(self._lines)

    def __bool__(self) -> bool:
        return bool(self._lines)

    def add_base(self) -> None:
        """Add the chains and maps that all sandboxes share."""
        self._lines.append(base(self._instance))

    def add_slot(self, slot: NetworkSlot, *, ipv6: bool) -> None:
        """Add the counters and chains of a sandbox; existing chains are emptied and filled anew."""
        self._add_counters(slot_counters(slot))
        self._add_chains(slot_chains(slot, ipv6=ipv6))
        self._add_element("seats", slot, "")
        for name in ("enter", "judge", "leave"):
            self._add_element(name, slot, f" : goto {slot.key}_{name}")

    def add_generation(self, generation: Generation) -> None:
        """The chains and maps of a policy, which no packet meets before `switch`."""
        self._add_counters(sorted(generation.counters()))
        for name, (kind, elements) in generation.maps().items():
            what = "map" if " : " in kind else "set"
            self._add(what, name, f" {{ {kind} }}")
            if elements:
                self._lines.append(f"add element {self._table} {name} {{ {', '.join(elements)} }}")
        self._add_chains(generation.chains())

    def switch(self, generation: Generation, contents: "TableContents") -> None:
        """Send the new connections of a sandbox to `generation` and to no other."""
        self._forget("policies", generation.slot, contents)
        self._fill_chain(policy_chain(generation.slot), [f"goto {generation.name}"])

    def open(self, elements: Iterable[Element], known: Mapping[tuple[str, Address], Element]) -> None:
        """Add addresses of names to their maps; the timeout of a `known` element begins anew."""
        latest = {(one.map, one.address): one for one in elements}
        self._add_counters(sorted({one.counter for one in latest.values()}))
        for name in dict.fromkeys(one.map for one in latest.values()):
            wanted = [one for one in latest.values() if one.map == name]
            self._open(name, wanted, [known.get((name, one.address), one) for one in wanted])

    def _open(self, name: str, wanted: Sequence[Element], before: Sequence[Element]) -> None:
        # An element keeps its counter and, before Linux 6.12, its timeout: it has to be deleted and added
        # again. An element that has just expired cannot be deleted, so it is added first, as it was.
        self._lines.append(f"add element {self._table} {name} {{ {_listed(before)} }}")
        keys = ", ".join(str(one.address) for one in wanted)
        self._lines.append(f"delete element {self._table} {name} {{ {keys} }}")
        self._lines.append(f"add element {self._table} {name} {{ {_listed(wanted)} }}")

    def close(self, elements: Iterable[Element]) -> None:
        """Take addresses of names out of their maps; those whose time is over meanwhile included."""
        gone = list(elements)
        self._add_counters(sorted({one.counter for one in gone}))
        for name in dict.fromkeys(one.map for one in gone):
            there = [one for one in gone if one.map == name]
            self._lines.append(f"add element {self._table} {name} {{ {_listed(there)} }}")
            keys = ", ".join(str(one.address) for one in there)
            self._lines.append(f"delete element {self._table} {name} {{ {keys} }}")

    def add_debt(self, slot: NetworkSlot) -> None:
        """Note that connections stand that the policy has not judged yet."""
        self._add_counters([debt_of(slot)])

    def forget(self, slot: NetworkSlot, contents: "TableContents") -> None:
        """Take a sandbox out of all that leads to its chains."""
        for name in SHARED:
            self._forget(name, slot, contents)

    def delete(self, names: Collection[Name]) -> None:
        """Remove objects that nothing outside of them leads to."""
        self._lines += [f"flush chain {self._table} {name}" for kind, name in names if kind == "chain"]
        for what in ("chain", "map", "set", "counter"):
            self._lines += [f"delete {what} {self._table} {name}" for kind, name in names if kind == what]
        self.deleted |= set(names)

    def _add(self, what: str, name: str, rest: str = "") -> None:
        self._lines.append(f"add {what} {self._table} {name}{rest}")
        self.added.add((what, name))

    def _add_counters(self, names: Iterable[str]) -> None:
        for name in names:
            self._add("counter", name)

    def _add_chains(self, chains: Mapping[str, list[str]]) -> None:
        for name in chains:
            self._add("chain", name)
        for name, rules in chains.items():
            self._fill_chain(name, rules)

    def _fill_chain(self, name: str, rules: Iterable[str]) -> None:
        self._lines.append(f"flush chain {self._table} {name}")
        self._lines += [f"add rule {self._table} {name} {rule}" for rule in rules]

    def _add_element(self, name: str, slot: NetworkSlot, verdict: str) -> None:
        self._lines.append(f"add element {self._table} {name} {{ {self._own(name, slot)}{verdict} }}")
        self.added.add((name, slot.key))

    def _forget(self, name: str, slot: NetworkSlot, contents: "TableContents") -> None:
        if (name, slot.key) in contents.of(slot.key):
            self._lines.append(f"delete element {self._table} {name} {{ {self._own(name, slot)} }}")
            self.deleted.add((name, slot.key))

    def _own(self, name: str, slot: NetworkSlot) -> str:
        return f"{slot.mark:#x}" if name == "seats" else f'"{device_of(self._instance, slot.number)}"'


class TableContents:
    """The names in the table by the key of their slot, in memory, so that no change begins with a listing."""

    def __init__(self) -> None:
        self._names: dict[str, set[Name]] = {}

    def of(self, key: str) -> set[Name]:
        """The names of one sandbox."""
        return self._names.get(key, set())

    def slots(self) -> list[str]:
        """The keys of the sandboxes of which there is something."""
        return [key for key, names in self._names.items() if names]

    def add(self, names: Iterable[Name]) -> None:
        """Record names that are in the table."""
        for kind, name in names:
            self._names.setdefault(name.partition("_")[0], set()).add((kind, name))

    def apply(self, script: NftScript) -> None:
        """Record the names that `script` added and deleted."""
        for kind, name in script.deleted - script.added:
            self.of(name.partition("_")[0]).discard((kind, name))
        self.add(script.added)


def _listed(elements: Iterable[Element]) -> str:
    return ", ".join(f'{one.address} timeout {one.timeout_s}s : "{one.counter}"' for one in elements)
