"""The canary of a start: a pod as Bay makes it, and the way from here to Ship in it."""

import asyncio
import secrets

from bay.drivers.bootstrap import introduce
from bay.drivers.host_check import HostCheck
from bay.drivers.kubernetes import pod
from bay.drivers.kubernetes.canaries.trial_pods import TrialPods
from bay.drivers.kubernetes.kube import POD, KubeRefused
from bay.errors import SandboxNotReady
from ship_protocol import bootstrap_token

_POLL_S = 0.1
_HELLO_S = 5.0
_UNREACHED_S = 15.0
"""So long Ship may be silent in a container that runs: it takes a third of a second."""
_REACH = (
    "run Bay in the cluster with the labels of docs/kubernetes.md, or give the networks that it comes from by "
    "network_clients"
)


async def ship_answers(pods: TrialPods, isolation: str = "container") -> list[HostCheck]:
    """Whether a pod starts, and whether Ship in it proves to this host that it is the pod's."""
    where = "" if isolation == "container" else f":{isolation}"
    token = secrets.token_hex(16)
    loop = asyncio.get_running_loop()
    began = loop.time()
    try:
        name = await pods.create(
            POD, pods.session(f"ship-{isolation}", token=token, mode="open", isolation=isolation)
        )
        address = await _address(pods, name, began)
    except (KubeRefused, SandboxNotReady) as error:
        fix = "mend that; until then no sandbox starts"
        return [HostCheck(f"pod{where}", False, True, error.message, fix)]
    image = f"{pods.settings.image}, with Ship of {pods.settings.ship_image}"
    starts = HostCheck(f"pod{where}", True, True, f"starts {image}", "-")
    try:
        await _introduced(pods, name, address, token)
    except SandboxNotReady as error:
        return [starts, HostCheck(f"ship{where}", False, True, error.message, _REACH)]
    took_ms = round((loop.time() - began) * 1000)
    found = f"answers this host {took_ms / 1000:.1f} s after the create of its pod"
    return [starts, HostCheck(f"ship{where}", True, True, found, "-", numbers={"start_ms": took_ms})]


async def _address(pods: TrialPods, name: str, began: float) -> str:
    """Where Ship will answer, as soon as the pod has an address: its container starts a moment later."""
    while True:
        state = await pods.seen(name)
        await pods.check_may_start(state, began)
        if state.ip is not None:
            return f"[{state.ip}]:{pod.SHIP_PORT}" if ":" in state.ip else f"{state.ip}:{pod.SHIP_PORT}"
        await pods.sleep(_POLL_S)


async def _introduced(pods: TrialPods, name: str, address: str, token: str) -> None:
    began = asyncio.get_running_loop().time()
    running_since: float | None = None
    while True:
        try:
            await introduce(address, bootstrap_token(token), _HELLO_S)
        except SandboxNotReady as error:
            silence = error.message
        else:
            return
        state, now = await pods.seen(name), asyncio.get_running_loop().time()
        await pods.check_may_start(state, began)
        if pod.CONTAINER in state.running:
            running_since = running_since or now
            if now - running_since > _UNREACHED_S:
                raise SandboxNotReady(f"pod {name} runs, and Ship in it is not reached from here ({silence})")
        await pods.sleep(_POLL_S)
