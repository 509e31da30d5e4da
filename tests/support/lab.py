"""A real Bay in the world of `world`: sandboxes on one side, servers on the other, and what passes between
them.
"""

import json
import subprocess
import tempfile
import time
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
from examples import host_view
from serving import KEY, Server, serving
from world import RESOLVER, World

Json = dict[str, Any]
Way = tuple[str, str, int]
"""Where to, by which protocol, to which port (of ICMP 0)."""

WAIT_S = 20.0
PROBES = Path(__file__).with_name("probes.py").read_text()
BY = ("tcp", "udp", "icmp")


def ways(*places: str, port: int = 80) -> list[Way]:
    """Every way to each of `places`."""
    return [(place, by, 0 if by == "icmp" else port) for place in places for by in BY]


def allow(**rule: Any) -> Json:
    """A rule that allows."""
    return {"action": "allow", **rule}


def deny(**rule: Any) -> Json:
    """A rule that denies."""
    return {"action": "deny", **rule}


def allowlist(*rules: Json) -> Json:
    """A policy that refuses what no rule allows."""
    return {"mode": "allowlist", "rules": list(rules)}


def open_but(*rules: Json) -> Json:
    """A policy that allows what no rule denies."""
    return {"mode": "open", "rules": list(rules)}


NONE: Json = {"mode": "none"}


@dataclass(slots=True)
class Box:
    """One sandbox."""

    lab: "Lab"
    id: str

    def path(self, rest: str = "") -> str:
        return f"/v1/sandboxes/{self.id}{rest}"

    def run(self, *argv: str, user: str = "ship", wait: float = WAIT_S) -> Json:
        """How a program ended."""
        body = {"argv": argv, "user": user}
        made = self.lab.ask("POST", self.path("/execs"), params={"wait": wait}, json=body)
        assert made["state"] == "exited", made
        return made

    def begin(self, *argv: str) -> str:
        """The id of an exec that goes on."""
        return self.lab.ask("POST", self.path("/execs"), json={"argv": argv})["id"]

    def python(self, script: str, *arguments: str, user: str = "ship", wait: float = WAIT_S) -> str:
        """What a script prints that must end well."""
        done = self.run("python3", "-c", script, *arguments, user=user, wait=wait)
        assert done["exit_code"] == 0, done["stderr"]
        return done["stdout"]

    def tries(self, found: Sequence[Way], *, wait_s: float = 1.5, user: str = "ship") -> dict[Way, str]:
        """What became of each way out."""
        said = self.python(PROBES, json.dumps(found), str(wait_s), user=user, wait=60)
        return dict(zip(found, json.loads(said), strict=True))

    def reaches(self, found: Sequence[Way]) -> None:
        """Every one of these passes."""
        said = self.tries(found, wait_s=8)
        assert {way: word for way, word in said.items() if word != "open"} == {}

    def reaches_none_of(self, found: Sequence[Way], *, user: str = "ship", also: Iterable[str] = ()) -> None:
        """None of these passes, and of none did a packet arrive anywhere; `also` are addresses that names
        stand for.
        """
        before = self.lab.world.seen()
        said = self.tries(found, wait_s=0.4, user=user)
        assert [way for way, word in said.items() if word == "open"] == []
        came = self.lab.world.seen()
        places = {place.removeprefix("::ffff:") for place, _, _ in found} | set(also)
        services = {(by, port) for _, by, port in found}
        assert [one for one in came if one not in before and one[0] in places and one[1:] in services] == []

    def set_policy(self, policy: Json | None) -> Json:
        """Hold it to another policy."""
        if policy is None:
            return self.lab.ask("DELETE", self.path("/network-policy"))
        return self.lab.ask("PUT", self.path("/network-policy"), json=policy)

    def network(self) -> Json:
        """What its network did."""
        return self.lab.ask("GET", self.path("/network"))

    def look(self) -> Json:
        return self.lab.ask("GET", self.path())

    def act(self, verb: str, **body: Any) -> Json:
        """`stop`, `start`, `pause` and the like."""
        wait = {"wait": WAIT_S} if verb in ("start", "resume") else {}
        return self.lab.ask("POST", self.path(f"/{verb}"), params=wait, json=body or None)

    def delete(self) -> None:
        self.lab.ask("DELETE", self.path())


@dataclass(slots=True)
class Lab:
    """A Bay as a process of its own in a world."""

    world: World
    root: Path
    server: Server
    client: httpx.Client
    extra: dict[str, str] = field(default_factory=dict[str, str])

    def call(self, method: str, path: str, **options: Any) -> httpx.Response:
        """An answer, whatever it says."""
        return self.client.request(method, path, **options)

    def ask(self, method: str, path: str, **options: Any) -> Any:
        """An answer that must be good."""
        answer = self.call(method, path, **options)
        assert answer.is_success, f"{method} {path}: {answer.status_code} {answer.text}\n{self.log()[-2000:]}"
        return answer.json() if answer.content else {}

    def create(self, policy: Json | None = None, **body: Any) -> Box:
        """A sandbox that runs."""
        wish = {**body, **({"network_policy": policy} if policy else {})}
        made = self.ask("POST", "/v1/sandboxes", params={"wait": WAIT_S}, json=wish)
        assert made["status"] == "ready", made
        return Box(self, made["id"])

    @contextmanager
    def box(self, policy: Json | None = None, **body: Any) -> Generator[Box]:
        """One that is gone afterwards."""
        made = self.create(policy, **body)
        try:
            yield made
        finally:
            made.delete()

    def log(self) -> str:
        """What Bay wrote."""
        return (self.root / "log").read_text()


@contextmanager
def short_directory() -> Generator[Path]:
    """Short, because a socket's path may be 107 bytes at most, and one that containers may pass; none of
    those is left there.
    """
    with tempfile.TemporaryDirectory(prefix="bay-n-", dir="/tmp") as name:
        path = Path(name)
        path.chmod(0o711)
        try:
            yield path
        finally:
            left = host_view.remove_containers(path) + host_view.unmount_below(path)
        assert left == []


@contextmanager
def lab(world: World, root: Path, cache: Path, **extra: str) -> Generator[Lab]:
    """A Bay below `root`, which a later one may take over; ended at the end when it still runs."""
    given = {
        "BAY_DRIVER": "oci",
        "BAY_CACHE_DIR": str(cache),
        "BAY_CARGO_BACKEND": "directory",
        "BAY_DNS_SERVERS": json.dumps([RESOLVER]),
        "BAY_NETWORK_IPV6": "true",
        "BAY_MEMORY_RESERVE_MB": "0",
        **extra,
    }
    with serving(root, **given) as server, server.client() as client:
        client.timeout = httpx.Timeout(WAIT_S * 3)
        yield Lab(world, root, server, client)
        if server.process.poll() is None:
            assert server.end() == 0


def eventually(
    true: Callable[[], bool], what: str, seconds: float = WAIT_S, instead: Callable[[], object] = str
) -> None:
    """Return once `true` holds, which nobody tells us of. `instead` says how things are if it does not."""
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, f"{what}: not within {seconds:g} s; {instead()}"
        time.sleep(0.02)


def host_network() -> dict[str, list[str]]:
    """What Bays have made of this host's network: devices, rules, routes and nftables."""
    return {
        "devices": [line.split(":")[1].strip() for line in _said("ip", "-o", "link") if ": bay" in line],
        "rules": [line for v in ("-4", "-6") for line in _said("ip", v, "rule") if line.split(":")[0] not in ("0", "32766", "32767")],
        "routes": [line for v in ("-4", "-6") for line in _said("ip", v, "route", "show", "table", "all") if "bay" in line],
        "tables": _said("nft", "list", "tables"),
        "objects": [line.strip(" \t{") for line in _said("nft", "-t", "list", "ruleset") if line.startswith("\t") and line.endswith("{") and line[1] != "\t"],
    }  # fmt: skip


def _said(*command: str) -> list[str]:
    return subprocess.run(command, capture_output=True, text=True, timeout=20, check=True).stdout.splitlines()


def of_sandboxes() -> list[str]:
    """What there is of sandboxes on this host's network: devices, rules, chains, maps, sets and counters."""
    found = host_network()
    objects = [one for one in found["objects"] if one.split()[1].startswith("s0")]
    devices = [one for one in found["devices"] if not one.split("@")[0].endswith(("-0000", "-ffff"))]
    return [*objects, *devices, *(one for one in found["rules"] if one.startswith("20003"))]


__all__ = [
    "KEY",
    "NONE",
    "Box",
    "Lab",
    "allow",
    "allowlist",
    "deny",
    "eventually",
    "host_network",
    "lab",
    "of_sandboxes",
    "open_but",
    "short_directory",
    "ways",
]
