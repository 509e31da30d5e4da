"""The canaries of egress: pods of each class try the places that their class must not reach.

A connect that fails proves nothing by itself: nothing may listen there. So a pod without any class tries the
same places meanwhile, and one of them is a pod that listens for this. A class is enforced when its pods do
not reach that pod, which the other one reached, nor any other such place.
"""

import asyncio
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

from bay.drivers.host_check import HostCheck
from bay.drivers.kubernetes import egress
from bay.drivers.kubernetes.canaries.trial_pods import CanaryEnd, TrialPods
from bay.drivers.kubernetes.egress import EgressSettings
from bay.drivers.kubernetes.kube import NETWORK_POLICY, POD, AlreadyExists, Json, as_dict
from bay.drivers.kubernetes.pod import SHIP_PORT, EgressClass
from bay.errors import SandboxNotReady
from bay.models import NetworkPolicy

PLACES: Mapping[str, str] = {
    "peer": "another pod",
    "metadata": "the metadata address 169.254.169.254",
    "api": "the API server's address in the cluster",
    "dns": "the cluster's DNS",
    "bay": "this host",
    "ship": "Ship's port of another pod",
}
"""The places that no sandbox may reach, in words."""
_PORT = 8080
_SETTLE_S, _STEADY_S = 10.0, 3.0
"""So long a plug-in has to apply a policy to a new pod, and so long it then has to hold."""
_RESOLVER = "resolver-"
_PROXY = "proxy"


@dataclass(frozen=True, slots=True, kw_only=True)
class EgressTrial:
    """The outcome of each place, as `inside.outcome` words it: for a pod without a class, and for one of each
    class. `after_ms`: when a class began to hold, from the first attempt on.
    """

    free: Mapping[str, str]
    held: Mapping[EgressClass, Mapping[str, str]]
    after_ms: Mapping[EgressClass, int] = field(default_factory=dict["EgressClass", int])


async def classes_hold(pods: TrialPods, settings: EgressSettings) -> list[HostCheck]:
    """Whether the cluster holds pods to the egress classes, compared with the setting that says so. Makes the
    classes where no Bay has made them yet; they stay, as those of a Bay do.
    """
    for one in settings.classes:
        with suppress(AlreadyExists):
            await pods.kube.create(NETWORK_POLICY, egress.manifest(pods.settings, settings, one))
    return judged(await _tried(pods, settings), claimed=settings.enforced)


async def _tried(pods: TrialPods, settings: EgressSettings) -> EgressTrial:
    peer, ship = await asyncio.gather(
        _listener(pods, "peer", _PORT, None), _listener(pods, "guarded", SHIP_PORT, "none")
    )
    async with _listening_for(peer) as bay:
        targets: list[Json] = [
            {"name": "peer", "host": peer, "port": _PORT},
            {"name": "ship", "host": ship, "port": SHIP_PORT},
            {"name": "metadata", "host": "169.254.169.254", "port": 80},
            {"name": "api", "host": "api", "port": 0},
            {"name": "dns", "host": "dns", "port": 53, "udp": True},
            {"name": "bay", "host": bay[0], "port": bay[1]},
        ]
        resolvers = [
            {"name": f"{_RESOLVER}{one}", "host": one, "port": 53, "udp": True}
            for one in settings.dns_servers
        ]
        expected = {"peer": True, "ship": False}
        blocked = {str(target["name"]): False for target in targets}
        more: Mapping[EgressClass, list[Json]] = {
            "none": [],
            "open": resolvers,
            "proxy": await _proxy_target(settings),
        }
        free, *held = await asyncio.gather(
            _outcomes(pods, "free", None, targets, expected, _SETTLE_S),
            *(
                _outcomes(pods, one, one, [*targets, *more[one]], blocked, _SETTLE_S)
                for one in settings.classes
            ),
        )
    found = dict(zip(settings.classes, held, strict=True))
    return EgressTrial(
        free=free[0],
        held={one: outcomes for one, (outcomes, _) in found.items()},
        after_ms={one: after_ms for one, (_, after_ms) in found.items()},
    )


async def _proxy_target(settings: EgressSettings) -> list[Json]:
    """Bay's egress proxy, where there is one and its name has an address."""
    with suppress(SandboxNotReady):
        if place := await egress.proxy_of(settings, NetworkPolicy(mode="allowlist")):
            host, _, port = place.rpartition(":")
            return [{"name": _PROXY, "host": host.strip("[]"), "port": int(port)}]
    return []


async def _listener(pods: TrialPods, what: str, port: int, mode: EgressClass | None) -> str:
    """The address of a pod that listens."""
    task = {"do": "listen", "port": port}
    return await pods.address(await pods.create(POD, pods.program(what, task, mode=mode)))


async def _outcomes(
    pods: TrialPods,
    what: str,
    mode: EgressClass | None,
    targets: Sequence[Json],
    expected: Mapping[str, bool],
    settle_s: float,
) -> tuple[dict[str, str], int]:
    """The outcomes of a pod's attempts, and when they became so. Raises SandboxNotReady."""
    task: Json = {
        "do": "reach",
        "targets": list(targets),
        "expected": dict(expected),
        "settle_s": settle_s,
        "steady_s": _STEADY_S,
    }
    end: CanaryEnd = await pods.ended(await pods.create(POD, pods.program(what, task, mode=mode)))
    if end.told is None:
        raise SandboxNotReady(f"the pod that tried the network told nothing: {end.reason}")
    return {name: str(word) for name, word in as_dict(end.told.get("outcomes")).items()}, int(
        end.told["after_ms"]
    )


@asynccontextmanager
async def _listening_for(peer: str) -> AsyncGenerator[tuple[str, int]]:
    """An address of this host, from which it reaches that pod, and a port at which it listens meanwhile; an
    empty one where it has no way to pods.
    """
    try:
        host = await _own_address(peer)
        server = await asyncio.start_server(lambda _, writer: writer.close(), host, 0)
    except OSError:
        yield "", 0
        return
    async with server:
        yield host, int(server.sockets[0].getsockname()[1])


async def _own_address(peer: str) -> str:
    loop = asyncio.get_running_loop()
    transport, _ = await loop.create_datagram_endpoint(asyncio.DatagramProtocol, remote_addr=(peer, _PORT))
    try:
        return str(transport.get_extra_info("sockname")[0])
    finally:
        transport.close()


def judged(trial: EgressTrial, *, claimed: bool) -> list[HostCheck]:
    """The rows for the outcomes. `claimed`: whether the settings say that the cluster enforces policies."""
    rows = [_of_class(mode, trial, claimed=claimed) for mode in trial.held]
    rows.append(_of_ingress(trial, claimed=claimed))
    if "proxy" in trial.held:
        rows.append(_of_proxy(trial))
    return [*rows, _of_resolvers(trial)] if claimed else rows


def _of_proxy(trial: EgressTrial) -> HostCheck:
    """Not required: `bay serve` may not run yet."""
    outcome = trial.held["proxy"].get(_PROXY, "its name has no address")
    is_reached = outcome == "connected"
    found = f"a pod of class proxy {'reaches' if is_reached else f'does not reach ({outcome})'} Bay's egress proxy"
    fix = (
        "start Bay, and see to the Service of egress_proxy and what NetworkPolicies of Bay's namespace admit"
    )
    return HostCheck("proxy", is_reached, False, found, fix)


def _of_class(mode: EgressClass, trial: EgressTrial, *, claimed: bool) -> HostCheck:
    name, held = f"egress-{mode}", trial.held[mode]
    places = [place for place in PLACES if place != "ship"]
    reached = [place for place in places if held.get(place) == "connected"]
    proven = [place for place in places if place not in reached and trial.free.get(place) == "connected"]
    if "peer" not in proven and "peer" not in reached:
        outcome = trial.free.get("peer")
        found = f"cannot tell: a pod without a class does not reach another one either ({outcome})"
        return HostCheck(
            name, False, claimed, found, "see to the pod network of the cluster, and try again", risk=True
        )
    nobody = [place for place in places if place not in reached and place not in proven]
    silent = f"; nobody answers at {_in_words(nobody)}" if nobody else ""
    if reached:
        word = "in part" if proven else "unenforced"
        blocked = f", and not {_in_words(proven)}" if proven else ""
        found = f"{word}: a pod of class {mode} reaches {_in_words(reached)}{blocked}{silent}"
        return HostCheck(name, False, claimed, found, _fix(claimed=claimed), risk=True)
    after_s = trial.after_ms.get(mode, 0) / 1000
    late = f", {after_s:.1f} s after it began" if after_s > 0 else ""
    found = f"enforced: a pod of class {mode} does not reach {_in_words(proven)}{late}{silent}"
    if claimed:
        return HostCheck(name, True, True, found, "-")
    return HostCheck(name, False, False, found, "set network_enforced = true, once all rows of egress say so")


def _of_ingress(trial: EgressTrial, *, claimed: bool) -> HostCheck:
    reached = trial.free.get("ship") == "connected"
    if not reached and trial.free.get("peer") != "connected":
        fix = "see to the pod network of the cluster, and try again"
        return HostCheck("ingress", False, claimed, "cannot tell: no pod reaches another one", fix, risk=True)
    found = f"a pod that is none of Bay's {'reaches' if reached else 'does not reach'} {PLACES['ship']}"
    return HostCheck("ingress", not reached, claimed, found, _fix(claimed=claimed), risk=True)


def _of_resolvers(trial: EgressTrial) -> HostCheck:
    tried = {
        name.removeprefix(_RESOLVER): word
        for name, word in trial.held["open"].items()
        if name.startswith(_RESOLVER)
    }
    said = ", ".join(f"{name} {'answers' if word == 'connected' else word}" for name, word in tried.items())
    is_any = "connected" in tried.values()
    fix = "set dns_servers to resolvers that pods reach; until then no name is found in a sandbox"
    return HostCheck("resolvers", is_any, False, f"of class open: {said}", fix)


def _fix(*, claimed: bool) -> str:
    if claimed:
        return "set network_enforced = false, or use a network plug-in that enforces NetworkPolicies"
    return "use a network plug-in that enforces NetworkPolicies, then set network_enforced = true"


def _in_words(places: Sequence[str]) -> str:
    words = [PLACES[place] for place in places]
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"
