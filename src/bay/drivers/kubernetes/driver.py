"""The driver `kubernetes`: a session is a pod, with a name that is fixed before the pod is made.

Only the API server's answers and its watch say what is there, and only a kubelet says that containers ended
(see `session_state`). The pod's finalizer keeps its object until then, whoever deletes it. Ship is reached at
the pod's address, over TLS that is pinned.
"""

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine
from contextlib import AsyncExitStack, suppress
from dataclasses import replace
from typing import Any, Literal

from bay.backoff import Backoff
from bay.drivers.base import (
    Capabilities,
    Endpoint,
    Exited,
    Gone,
    Handle,
    NamedImages,
    Observed,
    Owned,
    Paused,
    Running,
    SessionSpec,
    SessionTokens,
    SessionUsage,
    ShipSilent,
)
from bay.drivers.bootstrap import bootstrap, introduce
from bay.drivers.health import check_health
from bay.drivers.kubernetes import carriers, egress, named_images, pod, session_state
from bay.drivers.kubernetes.carriers import CarrierPods
from bay.drivers.kubernetes.egress import EgressSettings
from bay.drivers.kubernetes.gone_nodes import GoneNodes
from bay.drivers.kubernetes.kube import (
    CLAIM,
    EVENT,
    NETWORK_POLICY,
    NODE,
    POD,
    VOLUME_SNAPSHOT,
    AlreadyExists,
    Json,
    Kube,
    KubeAccess,
    KubeConflict,
    KubeRefused,
    as_dict,
)
from bay.drivers.kubernetes.late_creates import LateCreates
from bay.drivers.kubernetes.pauses import ShipPauses
from bay.drivers.kubernetes.pod import PodSettings, PodTimeouts
from bay.drivers.kubernetes.pod_watch import PodState, PodWatch, pod_state
from bay.drivers.kubernetes.session_state import NodeSilent, NodeState, is_over, is_released
from bay.drivers.kubernetes.start_failures import obstacle, why_not
from bay.drivers.ship_settings import ship_settings
from bay.errors import DriverUnavailable, SandboxNotReady
from ship_protocol import bootstrap_token

_VERBS = {
    POD: ("create", "get", "list", "watch", "patch", "delete"),
    CLAIM: ("create", "get", "list", "patch", "delete"),
    NETWORK_POLICY: ("create", "get", "patch"),
    NODE: ("get",),
    EVENT: ("list",),
}
"""All that this driver asks of the API server, and its cargos."""
_VERBS_OF_SNAPSHOTS = {VOLUME_SNAPSHOT: ("create", "get", "list", "delete")}
"""The same where checkpoints are snapshots."""

_CONNECTS = Backoff(first_s=0.02, longest_s=0.5)
_HELLO_S = 5.0
_NOTE_S = 2.0
_OVER = 1000
_ASK_AGAIN_S = 2.0
"""The end of a pod is judged by its node as well, and no watch tells of a change of that."""
_VANISH_S = 60.0
_ASK_SHIP_AGAIN_S = 0.5


class KubernetesDriver:
    """Runs sessions as pods of one namespace. `is_alone`: no other Bay has the installation. `snapshots`: its
    cargos take such of volumes. `clock` is in seconds.
    """

    name = "kubernetes"

    def __init__(
        self,
        *,
        access: KubeAccess,
        pods: PodSettings,
        network: EgressSettings,
        timeouts: PodTimeouts | None = None,
        is_alone: bool = True,
        snapshots: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._access = access
        self._pods = pods
        self._network = network
        self._timeouts = timeouts or PodTimeouts()
        self._snapshots = snapshots
        self._clock = clock
        self._open = AsyncExitStack()
        self._kube: Kube | None = None
        self._watch: PodWatch | None = None
        self._nodes: GoneNodes | None = None
        self._pauses = ShipPauses()
        self._late = LateCreates(self._remove)
        self._over: dict[str, tuple[float, str]] = {}
        """Since when each pod was seen to be over, by its uid, and since when its node was Ready then."""
        self.carriers = CarrierPods(self, is_alone=is_alone)
        self.capabilities = Capabilities(
            isolation=tuple(pods.isolations),
            pause="processes",
            images=(pod.OWN_IMAGE,),
            other_images=NamedImages(admitted=pods.admitted),
            volumes=True,
            secret_files=True,
            shared=True,
            **network.capabilities,
        )

    @property
    def kube(self) -> Kube:
        """The API server, which the cargos are kept by as well. Raises DriverUnavailable before `open`."""
        if self._kube is None:
            raise DriverUnavailable("driver kubernetes is not open; start Bay again")
        return self._kube

    async def open(self) -> None:
        """Connect, check that all verbs are allowed, make the egress classes, and watch the pods."""
        async with AsyncExitStack() as stack:
            self._kube = await Kube.connect(self._access)
            stack.push_async_callback(self._close)
            await self._check_verbs()
            for one in self._network.classes:
                await self._make_class(egress.manifest(self._pods, self._network, one))
            self._watch = PodWatch(self.kube, labels=pod.selector(self._pods))
            watching = asyncio.create_task(self._watch.run())
            stack.push_async_callback(_cancelled, watching)
            stack.push_async_callback(self._late.aclose)
            await self._watch.synced()
            self._nodes = GoneNodes(self.kube, self._watch, every_s=self._timeouts.settled_s)
            stack.push_async_callback(_cancelled, asyncio.create_task(self._nodes.run()))
            self._open = stack.pop_all()

    async def aclose(self) -> None:
        """Sessions keep running."""
        await self._open.aclose()

    async def start(self, spec: SessionSpec, handle: Handle | None) -> AsyncGenerator[Handle, None]:
        """The steps are `created`, `introduced` and `ready`. The certificate is in a handle before Ship
        is given its settings, since from then on Ship introduces itself to nobody.
        """
        manifest, proxy = self._manifest(spec), await egress.proxy_of(self._network, spec.network)
        self._late.forget(pod.pod_name(spec.session_id))
        if handle is not None and (ready := await self._still_ready(spec, handle)):
            yield ready
            return
        uid = await self._adopted(spec, manifest) if handle is not None else None
        uid = uid or await self._create(spec, manifest)
        created = Handle(
            driver=self.name,
            session_id=spec.session_id,
            data={"step": "created", "uid": uid},
            network=None if proxy else spec.network.mode,
            proxy=proxy,
        )
        known = _introduced_in(handle, uid)
        if known is None:
            yield created
            known = await self._introduced(spec, uid)
        introduced = replace(created, data={"step": "introduced", "uid": uid, **known})
        yield introduced
        endpoint = Endpoint(address=known["address"], certificate=known["certificate"])
        settings = _settings_of(spec, writes_down=self._snapshots)
        await bootstrap(endpoint, bootstrap_token(spec.token), settings)
        await check_health(endpoint, spec.token)
        await self._note_certificate(spec.session_id, known["certificate"])
        image = await named_images.told(self._watching, spec, uid)
        yield replace(introduced, data={**introduced.data, "step": "ready"}, endpoint=endpoint, image=image)

    async def observe(self, handle: Handle) -> Observed:
        """Asked of the API server each time, which knows more than a watch that may lag, and of Ship. Of a
        node that is silent it knows nothing.
        """
        seen = await self._look(handle)
        if isinstance(seen, Running) and await self._pauses.is_on(handle.session_id, seen.endpoint):
            return Paused(seen.endpoint)
        return seen

    def use_tokens(self, tokens: SessionTokens) -> None:
        """Ship is asked with them."""
        self._pauses.tokens = tokens

    async def pause(self, handle: Handle) -> None:
        """By Ship, which stops the programs; what they have in memory stays there."""
        await self._change(handle, "pause")

    async def resume(self, handle: Handle) -> None:
        """By Ship."""
        await self._change(handle, "resume")

    async def usage(self, handle: Handle) -> SessionUsage | None:
        """By Ship, to which the container shows its own control group."""
        endpoint = handle.endpoint or await self._endpoint(handle)
        if endpoint is None:
            return None
        try:
            return await self._pauses.usage(handle.session_id, endpoint)
        except ShipSilent:
            if isinstance(await self._look(handle), Running):
                raise
            return None

    async def _change(self, handle: Handle, step: Literal["pause", "resume"]) -> None:
        """Ask Ship first, since it knows better than the API server whether it lives, and is nearer. One that
        does not answer may be about to be reported as ended.
        """
        endpoint = handle.endpoint or await self._endpoint(handle)
        late_at = asyncio.get_running_loop().time() + self._timeouts.silent_s
        while endpoint is not None:
            watched = self._watching.get(pod.pod_name(handle.session_id))
            try:
                await self._pauses.change(handle.session_id, endpoint, step)
            except ShipSilent:
                if not isinstance(await self._look(handle), Running):
                    return
                if asyncio.get_running_loop().time() > late_at:
                    raise
            else:
                return
            await self._changed(pod.pod_name(handle.session_id), watched, _ASK_SHIP_AGAIN_S)

    async def _endpoint(self, handle: Handle) -> Endpoint | None:
        seen = await self._look(handle)
        return seen.endpoint if isinstance(seen, Running) else None

    async def _look(self, handle: Handle) -> Running | Exited | Gone:
        """Its state, and `Running` for one that is paused."""
        found = await self._find(handle)
        if found is None:
            return Gone()
        if (end := await self._ended(found)) is not None:
            return end
        if not found.ready and found.node is not None and not (node := await self._node(found.node)).is_ready:
            raise session_state.unknown(found, node, "it is not ready")
        endpoint = handle.endpoint or _endpoint_of(found)
        return Gone() if endpoint is None else Running(endpoint)

    def running(self, handle: Handle) -> Running | None:
        """By the watch alone."""
        state = self._watching.get(pod.pod_name(handle.session_id))
        is_known = state is not None and state.ready and not self._may_have_ended(state)
        if handle.endpoint is None or not is_known or not self._watching.is_current:
            return None
        return Running(handle.endpoint)

    async def wait(self, handle: Handle) -> Exited | Gone:
        """By the watch: the API server is asked for a pod of which the watch tells that it may have ended,
        and then once in a while, as long as nothing is known for sure.
        """
        name = pod.pod_name(handle.session_id)
        while True:
            state = self._watching.get(name)
            if state is not None and state.all_terminated:  # for good, so a watch that lags is as sure
                return session_state.exited(state)
            is_sure = state is not None and not self._may_have_ended(state)
            if not is_sure:
                with suppress(DriverUnavailable):
                    seen = await self._look(handle)
                    if isinstance(seen, Exited | Gone):
                        return seen
            await self._changed(name, state, None if is_sure else self._timeouts.settled_s)

    async def stop(self, handle: Handle, grace_s: float) -> None:
        """Kubernetes ends the container with TERM, and after `grace_s`, a second at least, with KILL."""
        found = await self._find(handle)
        if found is None:
            return
        await self._delete(found, grace_s)
        await self._wait_ended(found, self._timeouts.end_s + grace_s)

    async def destroy(self, handle: Handle) -> None:
        """Lets go of the pod's object once its containers have ended. Raises DriverUnavailable before."""
        await self._remove(handle.session_id)
        self._late.look_out(self._watching, pod.pod_name(handle.session_id), handle.session_id)

    async def _remove(self, session_id: str) -> None:
        found = await self._find(Handle(driver=self.name, session_id=session_id))
        if found is None:
            return
        await self._delete(found, 0)
        await self._wait_ended(found, self._timeouts.end_s)
        await self._release(found)

    async def list_owned(self) -> AsyncIterator[Owned]:
        """By the metadata of pods, a third of their bytes; the watch tells which of them have ended."""
        async for found in self.kube.list(POD, labels=pod.selector(self._pods), metadata_only=True):
            state = pod_state(found)
            session_id = state.annotations.get(pod.SESSION)
            watched = self._watching.get(state.name) or state
            is_used = state.labels.get(pod.ROLE) == carriers.ROLE and not self.carriers.is_orphan(watched)
            if session_id and not is_released(state) and not is_used:
                handle = Handle(driver=self.name, session_id=session_id)
                yield Owned(session_id, state.annotations.get(pod.SANDBOX), handle)

    def pods(self) -> list[PodState]:
        """The pods of this installation, as the watch has them."""
        return self._watching.all()

    @property
    def _watching(self) -> PodWatch:
        if self._watch is None:
            raise DriverUnavailable("driver kubernetes is not open; start Bay again")
        return self._watch

    @property
    def _gone_nodes(self) -> GoneNodes:
        if self._nodes is None:
            raise DriverUnavailable("driver kubernetes is not open; start Bay again")
        return self._nodes

    async def _close(self) -> None:
        if self._kube is not None:
            await self._kube.aclose()

    async def _check_verbs(self) -> None:
        if missing := await missing_verbs(self.kube, snapshots=self._snapshots):
            raise DriverUnavailable(
                f"Bay may not {', '.join(missing)} in namespace {self.kube.namespace}; give its account a role that "
                "allows it, see docs/kubernetes.md"
            )

    async def _make_class(self, manifest: Json) -> None:
        """Make an egress class, or bring the one of an earlier Bay up to date."""
        name = manifest["metadata"]["name"]
        try:
            await self.kube.create(NETWORK_POLICY, manifest)
        except AlreadyExists:
            self._check_ours(await self.kube.get(NETWORK_POLICY, name) or {})
            await self.kube.patch(NETWORK_POLICY, name, {"spec": manifest["spec"]})

    def _manifest(self, spec: SessionSpec) -> dict[str, Any]:
        """Raises DriverUnavailable for a spec that no pod can hold."""
        if spec.machine is not None:
            raise DriverUnavailable(
                "driver kubernetes keeps /workspace alone; use a profile with persist workspace"
            )
        if spec.isolation not in self._pods.isolations:
            raise DriverUnavailable(
                f"isolation {spec.isolation} is no longer configured; restore [kubernetes.isolations.{spec.isolation}]"
            )
        is_ruled = bool(spec.network.rules) and not self.capabilities.network_rules
        if spec.network.mode not in self.capabilities.network or is_ruled:
            raise DriverUnavailable(
                f"this cluster does not hold pods to network mode {spec.network.mode}, so no session starts that is "
                "promised it; use mode open, or a network plug-in that enforces policies"
            )
        built = pod.build(spec, self._pods, egress.resolver(self._network, spec.network))
        return carriers.manifest(built) if carriers.is_carrier(spec.session_id) else built

    async def _still_ready(self, spec: SessionSpec, handle: Handle) -> Handle | None:
        """The handle of a session that runs and answers."""
        if handle.endpoint is None:
            return None
        seen = await self._look(handle)
        if not isinstance(seen, Running):
            return None
        await check_health(handle.endpoint, spec.token)
        return handle

    async def _adopted(self, spec: SessionSpec, manifest: Json) -> str | None:
        """The uid of the pod of an earlier attempt that may go on; one that may not is removed."""
        name = pod.pod_name(spec.session_id)
        found = await self.kube.get(POD, name)
        if found is None:
            return None
        self._check_ours(found)
        state = pod_state(found)
        is_same = state.annotations.get(pod.SPEC_HASH) == manifest["metadata"]["annotations"][pod.SPEC_HASH]
        if is_same and not state.deleting and await self._ended(state) is None:
            return state.uid
        await self.destroy(Handle(driver=self.name, session_id=spec.session_id))
        await self._vanished(state)
        return None

    async def _create(self, spec: SessionSpec, manifest: Json) -> str:
        """Make the pod, or take over the one of an earlier attempt; its uid."""
        for _ in range(3):
            try:
                made = await _finished(self._post(pod.pod_name(spec.session_id), manifest))
            except AlreadyExists:
                if (uid := await self._adopted(spec, manifest)) is not None:
                    return uid
            except KubeRefused as error:
                raise SandboxNotReady(f"the cluster refused the pod: {error}") from error
            else:
                return str(made["metadata"]["uid"])
        name = pod.pod_name(spec.session_id)
        raise DriverUnavailable(
            f"pod {name} is made and removed again by somebody else; see `kubectl get events`"
        )

    async def _post(self, name: str, manifest: Json) -> Json:
        try:
            return await self.kube.create(POD, manifest)
        except KubeRefused:
            raise
        except DriverUnavailable:
            self._late.note(name)
            raise

    def _check_ours(self, found: Json) -> None:
        metadata = as_dict(found.get("metadata"))
        owner = as_dict(metadata.get("labels")).get(pod.INSTALL)
        if owner != self._pods.install:
            raise DriverUnavailable(
                f"there is a {found.get('kind', 'pod')} {metadata.get('name')} that this Bay did not make (its label "
                f"{pod.INSTALL} is {owner}); remove it"
            )

    async def _introduced(self, spec: SessionSpec, uid: str) -> dict[str, str]:
        """The `address` of Ship and its `certificate`, once Ship has proven that it is the pod's. Raises
        SandboxNotReady with the reason why it does not.
        """
        name, token = pod.pod_name(spec.session_id), bootstrap_token(spec.token)
        loop = asyncio.get_running_loop()
        late_at = loop.time() + self._timeouts.start_s
        failures, silence = 0, "it has not answered yet"
        while True:
            is_late = loop.time() > late_at
            state = self._watching.get(name)
            if state is not None and state.uid == uid:
                await self._check_can_start(state, spec.image, is_late=is_late)
                # Ship's own answer is the probe: the API server says Running half a second later.
                if (address := _address_of(state)) is not None and not state.deleting:
                    try:
                        return {"address": address, "certificate": await introduce(address, token, _HELLO_S)}
                    except SandboxNotReady as error:
                        silence = error.message
                    failures += 1
                    if is_late and pod.CONTAINER in state.running:
                        raise SandboxNotReady(
                            f"pod {name} runs, and Bay does not reach Ship in it ({silence}); see to it that the pods of "
                            "Bay have the labels of docs/kubernetes.md, or give network_clients"
                        )
            elif is_late:
                await self._check_there(name, uid)
            pause_s = _CONNECTS.pause(failures) if failures else late_at - loop.time()
            await self._changed(name, state, _ASK_AGAIN_S if is_late else max(0.1, pause_s))

    async def _check_there(self, name: str, uid: str) -> None:
        """Raises SandboxNotReady for a pod that is not there any more, of which the watch said nothing."""
        found = await self.kube.get(POD, name)
        if found is None or pod_state(found).uid != uid:
            raise SandboxNotReady(f"pod {name} was removed by somebody else before Ship answered")

    async def _note_certificate(self, session_id: str, certificate: str) -> None:
        """Write it on the pod, for people; nothing that works depends on it."""
        noted = {"metadata": {"annotations": {pod.CERTIFICATE: certificate}}}
        with suppress(DriverUnavailable, TimeoutError):
            async with asyncio.timeout(_NOTE_S):
                await self.kube.patch(POD, pod.pod_name(session_id), noted)

    async def _check_can_start(self, state: PodState, image: str, *, is_late: bool) -> None:
        """Raises SandboxNotReady for a pod that will not run, with Kubernetes' own reason; and ImageNotFound,
        ImageDenied or ImagePlatform for an image that a caller has named, where a registry said so.
        """
        is_done = is_over(state) or state.all_terminated or is_late
        for one in state.waiting:
            if one.container == pod.CONTAINER and image != pod.OWN_IMAGE:
                await named_images.check(self.kube, state, one, image)
        end = await self._ended(state) if is_done else None
        if (reason := why_not(state, end, is_late=is_late)) is not None:
            raise SandboxNotReady(reason)
        if is_late and state.ip is None and (told := await obstacle(self.kube, state.uid)):
            raise SandboxNotReady(f"pod {state.name} does not start: {told}")

    async def _find(self, handle: Handle) -> PodState | None:
        found = await self.kube.get(POD, pod.pod_name(handle.session_id))
        if found is None:
            return None
        self._check_ours(found)
        state = pod_state(found)
        return None if is_released(state) else state

    async def _ended(self, state: PodState) -> Exited | None:
        """How it ended; None while it runs. Raises DriverUnavailable when nobody knows."""
        node = await self._node(state.node) if state.node is not None and not state.all_terminated else None
        watched_s = self._watched_s(state, node) if is_over(state) else 0.0
        return session_state.ended(state, node, watched_s, self._timeouts.settled_s)

    def _watched_s(self, state: PodState, node: NodeState | None) -> float:
        """For how long the pod was seen to be over, by this Bay, while its node stayed Ready."""
        if node is None or not node.is_ready:
            self._over.pop(state.uid, None)
            return 0.0
        now = self._clock()
        if len(self._over) > _OVER:  # others may have seen to their pods
            there = {one.uid for one in self._watching.all()}
            self._over = {uid: seen for uid, seen in self._over.items() if uid in there}
        since, ready_since = self._over.get(state.uid, (now, node.ready_since))
        if ready_since != node.ready_since:
            since = now
        self._over[state.uid] = since, node.ready_since
        return now - since

    async def _node(self, name: str) -> NodeState:
        return session_state.node_state(name, await self.kube.get(NODE, name))

    async def _delete(self, state: PodState, grace_s: float) -> None:
        """Have it end. Never by force (0 s): the object would go before the processes."""
        if not state.deleting:
            await self.kube.delete(POD, state.name, uid=state.uid, grace_s=max(1, round(grace_s)))

    async def _wait_ended(self, before: PodState, limit_s: float) -> None:
        """Return once its containers have ended. Raises DriverUnavailable when nobody tells so in time."""
        handle = Handle(driver=self.name, session_id=before.annotations.get(pod.SESSION, before.name[4:]))
        unsure: DriverUnavailable | None = None
        try:
            async with asyncio.timeout(limit_s):
                while True:
                    watched = self._watching.get(before.name)
                    if any(one and one.uid == before.uid and one.all_terminated for one in (before, watched)):
                        return
                    state = await self._find(handle)
                    if state is None or state.uid != before.uid:
                        return
                    try:
                        if await self._ended(state) is not None:
                            return
                    except NodeSilent:
                        raise  # to wait here for a node would hold up others
                    except DriverUnavailable as error:
                        unsure = error
                    await self._changed(before.name, watched, _ASK_AGAIN_S)
        except TimeoutError as error:
            raise unsure or DriverUnavailable(f"pod {before.name} did not end in {limit_s:g} s") from error

    async def _release(self, state: PodState) -> None:
        """Take off the finalizer, which lets the object go."""
        try:
            await self._take_off(state)
        except KubeConflict:  # the finalizers are others by now
            present = await self.kube.get(POD, state.name)
            if present is not None and pod_state(present).uid == state.uid:
                await self._take_off(pod_state(present))
        self._over.pop(state.uid, None)

    async def _take_off(self, state: PodState) -> None:
        """Raises KubeConflict when the object has other finalizers than `state`, or is another one."""
        if pod.FENCE in state.finalizers:
            path = f"/metadata/finalizers/{state.finalizers.index(pod.FENCE)}"
            same = {"op": "test", "path": "/metadata/uid", "value": state.uid}
            steps = [same, {"op": "test", "path": path, "value": pod.FENCE}, {"op": "remove", "path": path}]
            await self.kube.patch(POD, state.name, steps)

    async def _vanished(self, state: PodState) -> None:
        """Return once the object of a released pod has gone, which a kubelet takes its time for. Raises
        DriverUnavailable.
        """
        try:
            async with asyncio.timeout(_VANISH_S):
                watched = self._watching.get(state.name)
                while watched is not None and watched.uid == state.uid:
                    watched = await self._watching.changed(state.name, watched)
        except TimeoutError as error:
            raise DriverUnavailable(
                f"the former pod {state.name} has ended, and its node keeps the object; Bay tries again"
            ) from error

    async def _changed(self, name: str, seen: PodState | None, limit_s: float | None) -> None:
        """Return once the watch tells of a change of that pod, or at the limit."""
        with suppress(TimeoutError):
            async with asyncio.timeout(limit_s):
                await self._watching.changed(name, seen)

    def _may_have_ended(self, state: PodState) -> bool:
        return is_over(state) or state.all_terminated or state.node in self._gone_nodes


async def missing_verbs(kube: Kube, *, snapshots: bool = False) -> list[str]:
    """All that this driver does and the account of `kube` may not, such as `create pods`."""
    asked = {**_VERBS, **(_VERBS_OF_SNAPSHOTS if snapshots else {})}
    return [
        f"{verb} {kind.plural}"
        for kind, verbs in asked.items()
        for verb in verbs
        if not await kube.may(verb, kind)
    ]


def _introduced_in(handle: Handle | None, uid: str) -> dict[str, str] | None:
    """The address and certificate of that very pod, as an earlier attempt saved them."""
    if handle is None or handle.data.get("uid") != uid or "certificate" not in handle.data:
        return None
    return {name: str(handle.data[name]) for name in ("address", "certificate")}


def _address_of(state: PodState) -> str | None:
    if state.ip is None:
        return None
    return f"[{state.ip}]:{pod.SHIP_PORT}" if ":" in state.ip else f"{state.ip}:{pod.SHIP_PORT}"


def _endpoint_of(state: PodState) -> Endpoint | None:
    """Where Ship answers, as the pod's object says."""
    address, certificate = _address_of(state), state.annotations.get(pod.CERTIFICATE)
    return Endpoint(address=address, certificate=certificate) if address and certificate else None


def _settings_of(spec: SessionSpec, *, writes_down: bool) -> dict[str, str]:
    """Ship's settings in a pod, where nobody can make an account, and where Ship has no other identity."""
    told = dict(ship_settings(spec))
    told.pop("SHIP_MAKE_ACCOUNT", None)
    return {**told, "SHIP_UID": "1000", "SHIP_GID": "1000", "SHIP_ALLOW_ROOT": "0", "SHIP_SWITCH": "0",
            **({"SHIP_SYNC": "1"} if writes_down else {})}  # fmt: skip


async def _finished(call: Coroutine[None, None, Json]) -> Json:
    """The result of a call that goes on when this one is cancelled, which ends after it: what the API server
    makes in a lost call would come after a removal that saw nothing.
    """
    task = asyncio.create_task(call)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        while not task.done():  # also when it is cancelled again
            with suppress(asyncio.CancelledError):
                await asyncio.wait([task])
        raise


async def _cancelled(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.wait([task])
