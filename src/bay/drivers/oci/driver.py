"""The `oci` driver: its steps, in order. The modules beside this one do each of them."""

import asyncio
import os
import platform
import signal
from collections.abc import (
    AsyncGenerator,
    AsyncIterator,
    Awaitable,
    Callable,
    Mapping,
    Sequence,
)
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import structlog

from bay.drivers.base import (
    Capabilities,
    Endpoint,
    Exited,
    Gone,
    Handle,
    Hibernated,
    MemoryLost,
    MountedVolume,
    Observed,
    Owned,
    Paused,
    Running,
    SecretValues,
    SessionSample,
    SessionSpec,
    SessionUsage,
)
from bay.drivers.health import check_health
from bay.drivers.oci import (
    cgroup_limits,
    cgroup_samples,
    cgroup_usage,
    cgroups,
    closure,
    hibernation,
    host_image,
    layers,
    netns,
    runsc,
    seccomp,
)
from bay.drivers.oci import hostname as oci_hostname
from bay.drivers.oci.criu import Criu, CriuFailed, criu_version
from bay.drivers.oci.durable_memory import make_durable
from bay.drivers.oci.idrange import ID_RANGES, IDS_DIR, IdRanges
from bay.drivers.oci.kept_memory import KeptMemory, rights_of
from bay.drivers.oci.launch import (
    Launched,
    LaunchRequest,
    NetworkAttachment,
    SavedMemory,
    host_errors,
    launch,
    seal_socket_dir,
    told,
    wait_unlocked,
)
from bay.drivers.oci.layout import Layout, SessionPlaces, is_session_id
from bay.drivers.oci.memory_image import (
    ImageDirectory,
    ImageUnusable,
    fingerprint,
)
from bay.drivers.oci.memory_trial import try_memory
from bay.drivers.oci.probe import FIXES_OF_MEMORY, layer_names, requirements
from bay.drivers.oci.rootfs import Bind, Layer, Rootfs, prepare_writable
from bay.drivers.oci.runc import ANSWER_S, Runc, reads_mappings, runtime_version
from bay.drivers.oci.savers import CriuSaver, SavedSession, Saver, SentrySaver
from bay.drivers.oci.sealed_copy import SealedCopy
from bay.drivers.oci.session_memory import SessionMemory, unusable
from bay.drivers.oci.spec import CLOSURE, SOCKET_DIR
from bay.drivers.oci.userns import limit
from bay.drivers.oci.zygote import Zygote
from bay.drivers.quiet import adopt
from bay.drivers.start_output import StartOutput
from bay.errors import BayError, CapabilityNotSupported, DriverUnavailable, SandboxNotReady
from bay.linux import mounts, remove_tree
from bay.linux.directories import nearest_directory
from bay.linux.overlays import LayerNames
from bay.linux.processes import boot_id, closing_fd, ends_within, open_process, send_signal
from bay.linux.readiness import wait_readable
from bay.linux.threads import in_new_thread, opened_in_thread
from bay.models import NetworkPolicy, NetworkState, Resources
from bay.network.firewalls import FIX, dropping
from bay.network.manager import NetworkManager
from bay.network.slots import NetworkSlot
from bay.network.veth import Traffic
from bay.places import directory_of

log = structlog.get_logger("bay.drivers.oci")

T = TypeVar("T")

_NO_NETWORK = NetworkState(
    mode="none", enforced=True, counters=(), refused=(), received_bytes=0, sent_bytes=0
)

_READY_S = 15.0
_LOST_HALFWAY = "Bay ended while the sandbox's processes were made again; its memory is used once only"
_KILL_S = 20.0
_UNLOCK_MARGIN_S = 10.0


@dataclass(frozen=True, slots=True)
class _Shared:
    """The parts that `open` made for all sessions."""

    closure: Path
    skeleton: Path
    boot: str
    tell_mapping: bool
    names: LayerNames


class OciDriver:
    """Runs sessions as containers of runc on this host. Needs root, and no daemon. See `Driver`.

    `root` has the data that survives a reboot, `run_dir` the rest, and `layers` (in `root` unless given) the
    sessions' layers outside of their workspaces: on btrfs with quotas each has a limit. They belong to this
    Bay alone. `cache` (`root` unless given) may be shared by Bays, as `ids_dir` is by every Bay on the host.
    `runc_timeout_s` is how long runc may take to start a container before it is killed; the same of gVisor's
    `runsc_binary`, without which there is no isolation `gvisor`. Without `fork_ships`, and on a host that
    cannot, runc starts each session's Ship, and not a zygote. With `criu`, a program, the memory of sessions
    that are `savable` can be saved, by it and in gVisor, as far as a trial of each at `open` succeeds.
    """

    name = "oci"

    def __init__(
        self,
        *,
        root: Path,
        run_dir: Path,
        cache: Path | None = None,
        layers: Path | None = None,
        runc: str = "runc",
        runc_timeout_s: float = ANSWER_S,
        runsc_binary: str | None = None,
        instance: str | None = None,
        ids_dir: Path = IDS_DIR,
        id_range_start: int = 1_879_048_192,
        id_range_count: int = ID_RANGES,
        parallel_starts: int | None = None,
        network: NetworkManager | None = None,
        network_off: bool = False,
        seccomp_profile: Callable[[str], dict[str, Any]] = seccomp.profile,
        fork_ships: bool = True,
        criu: str | None = None,
    ) -> None:
        self.capabilities = Capabilities(
            isolation=("container",),
            pause="freezer",
            images=("host",),
            other_images="layers",
            persist=("workspace", "machine"),
            secret_files=True,
            volumes=True,
        )
        self._network = network
        self._network_off = network_off
        self._layout = Layout(root, run_dir, cache or root, layers or root / "sessions")
        self._runc = Runc(runc, SealedCopy(runc), self._layout.runc_root, runc_timeout_s)
        self._runsc = None if runsc_binary is None else runsc.Runsc(runsc_binary, runc_timeout_s)
        self._ids = IdRanges(ids_dir, id_range_start, id_range_count)
        self._cgroup = f"/bay/{instance or run_dir.name}"
        # Starting is work for the processor: more at once than this only makes each one slower.
        self._starting = asyncio.Semaphore(parallel_starts or 2 * (os.cpu_count() or 1))
        self._seccomp = seccomp_profile(platform.machine())
        self._shared: _Shared | None = None
        self._fork_ships = fork_ships
        self._zygote: Zygote | None = None
        self._criu = Criu(criu or "criu", run_dir / "criu")
        self._tries_memory = criu is not None
        savers: dict[str, Saver] = {"container": CriuSaver(self._criu)}
        if self._runsc is not None:
            savers[runsc.ISOLATION] = SentrySaver(self._runsc)
        self._memory = SessionMemory(savers)
        self.memory_problems: dict[str, str] = {}
        """Why the trial of an isolation has failed."""

    async def open(self) -> None:
        """Check the host (see `probe`) and make what all sessions share (about 2 s the first time)."""
        self._shared = shared = await in_new_thread(self._make_shared)
        await self._open_network()
        if self._runsc is not None:
            self.capabilities = await in_new_thread(
                lambda binary=self._runsc.binary: self._try_gvisor(binary)
            )
        if self._fork_ships and self._zygote is None:
            self._zygote = await in_new_thread(lambda: self._open_zygote(shared))
        if self._tries_memory:
            for isolation in self._memory.savers:
                await self._try_memory(isolation)

    async def aclose(self) -> None:
        """Remove empty control groups and directories of sessions, which keep running, held as they are."""
        if self._network is not None:
            await self._network.aclose()
        if self._zygote is not None:
            await in_new_thread(self._zygote.close)
            self._zygote = None
        await remove_tree.remove(self._criu.cache)
        await in_new_thread(self._tidy)
        self._runc.copy.close()

    async def start(self, spec: SessionSpec, handle: Handle | None) -> AsyncGenerator[Handle, None]:
        """The steps are `claimed`, `launched` and `ready`."""
        shared = self._check(spec)
        places, image = self._layout.session(spec.session_id), self._image(spec.session_id)
        is_valid = await in_new_thread(lambda: image.is_valid)
        was_taken = await in_new_thread(lambda: image.was_taken)
        begins = spec.memory if not (was_taken or is_valid) else None
        if (is_valid or begins) and not await self._lives(spec.session_id, handle):
            if begins:
                await self._lay_down(spec, begins, handle)
            async with aclosing(self._go_on(spec, shared, image)) as handles:
                async for one in handles:
                    yield one
            return
        is_from_memory = handle is not None and "closure" in handle.data
        if handle is not None and is_from_memory and not was_taken:  # the image goes last: all else was done
            handle = await self._finished(handle)
        if handle is not None and (ready := await self._still_ready(spec, handle)):
            await in_new_thread(image.remove)
            yield ready
            return
        if was_taken or is_from_memory:
            raise MemoryLost(_LOST_HALFWAY)
        if await in_new_thread(places.exist):
            await self.destroy(Handle(driver=self.name, session_id=spec.session_id))
        id_base = await in_new_thread(lambda: self._claim(spec, places))
        data = {"step": "claimed", "id_base": id_base, "rights": rights_of(spec, self._seccomp)}
        claimed = Handle(driver=self.name, session_id=spec.session_id, data=data)
        yield claimed
        order = self._order(spec, places, await self._with_skeleton(spec, shared), id_base)
        with StartOutput() as output:
            launched = await self._launch(order, output)
            started = {"pid": launched.pid, "started": launched.started, "boot": shared.boot}
            if order.zygote is not None and order.runsc is None:
                started["forked"] = 1  # no restore could map what its memory is made of
            yield replace(claimed, data={**claimed.data, **started, "step": "launched"})
            if order.line is not None:
                await self._serve_names(order.line, launched)
            await output.wait_ready(spec.session_id, _READY_S)
        peer = await self._seal(order, launched)
        endpoint = Endpoint(socket_path=str(places.socket), peer_uid=id_base, peer_pid=peer)
        await check_health(endpoint, spec.token)
        yield replace(claimed, data={**claimed.data, **started, "step": "ready"}, endpoint=endpoint)

    async def observe(self, handle: Handle) -> Observed:
        """Read from /proc and the control group; nothing is run."""
        return await in_new_thread(lambda: self._observe(handle))

    async def wait(self, handle: Handle) -> Exited | Gone:
        """The exit code is not known: the process is no child of Bay's."""
        if (pidfd := await opened_in_thread(lambda: self._open_init(handle))) is not None:
            with closing_fd(pidfd):
                await wait_readable(pidfd)
        seen = await self.observe(handle)
        return seen if isinstance(seen, Gone) else Exited(None)

    async def pause(self, handle: Handle) -> None:
        with told(f"session {handle.session_id} cannot be paused"):
            await in_new_thread(lambda: cgroups.freeze(self._cgroup_of(handle.session_id)))

    async def resume(self, handle: Handle) -> None:
        if await self._undo_save(handle):
            return
        with told(f"session {handle.session_id} cannot be resumed"):
            await in_new_thread(lambda: cgroups.thaw(self._cgroup_of(handle.session_id)))

    async def hibernate(self, handle: Handle, token: str) -> int:
        """By a saver of its isolation. Its control groups, network and id range are given back."""
        async with self._saved_session(handle) as session:
            await self.resume(handle)
            try:
                async with self._memory.saving(session, token, end=True) as save:
                    await save.stand_still()
                    size = await save.write()
            finally:
                await self.pause(handle)
        await self._clear_run(handle, frozen=True)
        return size

    async def save_memory(
        self, handle: Handle, token: str, checkpoint_id: str, copy_files: Callable[[], Awaitable[None]]
    ) -> int:
        """By a saver, which leaves the processes as they are. Connections to Ship wait in Bay meanwhile; in
        gVisor they end.
        """
        await self.remove_memory(checkpoint_id)
        kept, places = KeptMemory.of(self._layout, checkpoint_id), self._layout.session(handle.session_id)
        if isinstance(await self.observe(handle), Hibernated):
            await copy_files()
            await _on_host(lambda: kept.share(places))
            return await _on_host(kept.size)
        async with self._saved_session(handle) as session:
            was_frozen = await in_new_thread(lambda: cgroups.is_frozen(session.cgroup))
            await self.resume(handle)
            try:
                async with self._memory.saving(session, token) as save:
                    await save.stand_still()
                    await copy_files()
                    await save.write()
                    await _on_host(lambda: kept.take(places))
            finally:
                if was_frozen:
                    await self.pause(handle)
        return await _on_host(kept.size)

    async def remove_memory(self, checkpoint_id: str) -> None:
        with told(f"the memory of checkpoint {checkpoint_id} cannot be removed"):
            await in_new_thread(KeptMemory.of(self._layout, checkpoint_id).remove)

    async def check_memory(self, checkpoint_id: str) -> None:
        image = KeptMemory.of(self._layout, checkpoint_id).image
        await in_new_thread(lambda: self._memory.read(image))

    async def list_memories(self) -> set[str]:
        return await in_new_thread(self._layout.checkpoint_ids)

    async def make_durable(self, directories: Sequence[Path]) -> set[str]:
        with told("the memory of sandboxes cannot be made to outlive a restart of the host"):
            return await in_new_thread(
                lambda: make_durable(self._layout, self._memory.hosts, directories, self._hibernates)
            )

    async def resize(self, handle: Handle, resources: Resources) -> None:
        """`/tmp` and `/dev/shm` stay as large as they began: half of the memory then."""
        with told(f"session {handle.session_id} cannot be given other sizes"):
            await in_new_thread(lambda: cgroup_limits.change(self._cgroup_of(handle.session_id), resources))

    async def resources(self, handle: Handle) -> Resources | None:
        return await in_new_thread(lambda: cgroup_limits.read(self._cgroup_of(handle.session_id)))

    async def usage(self, handle: Handle) -> SessionUsage | None:
        """Read from the control group, which counts what the session's kernel memory takes as well."""
        return await in_new_thread(lambda: cgroup_usage.read(self._cgroup_of(handle.session_id)))

    async def samples(self, handles: Sequence[Handle]) -> Mapping[str, SessionSample]:
        """By the files of control groups in one thread, and one list of all links of the host."""
        ids = [handle.session_id for handle in handles]
        read = await in_new_thread(lambda: cgroup_samples.read_all(self._cgroup, ids))
        if self._network is None or not self._network.is_open:
            return read
        traffic = await self._network.traffic()
        numbers = {handle.session_id: self._range_of(handle) for handle in handles}
        links = {name: traffic.get(number + 1) for name, number in numbers.items() if number is not None}
        return {name: _with_traffic(sample, links.get(name)) for name, sample in read.items()}

    async def stop(self, handle: Handle, grace_s: float) -> None:
        """A paused session is resumed, so that it receives the signal."""
        if (pidfd := await opened_in_thread(lambda: self._open_init(handle))) is None:
            return
        with closing_fd(pidfd):
            await self.resume(handle)
            await in_new_thread(lambda: self._ask_to_end(handle, pidfd))
            try:
                async with asyncio.timeout(grace_s):
                    await wait_readable(pidfd)
            except TimeoutError:
                send_signal(pidfd, signal.SIGKILL)
                await _wait_killed(pidfd, handle.session_id)

    async def destroy(self, handle: Handle) -> None:
        """Waits for a start of the same session that a killed Bay left under way.

        runc is not asked, so a session can be removed where runc is broken, hangs or is no longer there.
        `runc delete` would kill by control group and remove the groups, as is done here; remove its directory
        of state, which holds nothing that outlives the container; and run hooks, of which Bay's specification
        has none. Its mounts were in the container's namespace and went with its last process.
        """
        places = self._layout.session(handle.session_id)
        await in_new_thread(self._image(handle.session_id).forget)
        await self._clear_run(handle)
        with told(f"the layers of session {handle.session_id} cannot be removed"):
            await in_new_thread(lambda: layers.destroy(places.data))
        half_made = self._image(handle.session_id).half_made
        await remove_tree.remove(places.data, places.former, places.memory, half_made)

    async def _clear_run(self, handle: Handle, *, frozen: bool = False) -> None:
        """End its processes, and remove all of it but what is on disk."""
        places, cgroup = self._layout.session(handle.session_id), self._cgroup_of(handle.session_id)
        await in_new_thread(lambda: self._end_processes(handle, places, cgroup, frozen=frozen))
        await self._unplug(handle)  # before the id range is free, whose number is that of the slot
        await remove_tree.remove(places.run, self._runc.state(handle.session_id))
        await in_new_thread(lambda: self._ids.release(places.run))

    async def set_network(self, handle: Handle, policy: NetworkPolicy) -> None:
        if self._network is None:
            if policy.mode != "none":
                raise DriverUnavailable(f"this host cannot enforce network mode {policy.mode}")
            return
        slot = await in_new_thread(lambda: self._slot(handle))
        if (namespace := await opened_in_thread(lambda: self._open_namespace(handle))) is None:
            return
        with closing_fd(namespace):
            if slot is None:
                raise DriverUnavailable(
                    f"session {handle.session_id} has lost its claim on an id range, which identifies its "
                    "network; stop the sandbox and start it again"
                )
            await self._network.set_policy(slot, policy, namespace)

    async def set_hostname(self, handle: Handle, hostname: str) -> None:
        places = self._layout.session(handle.session_id)
        if self._runsc is not None and await in_new_thread(places.sandbox_state.exists):
            # A sentry that is frozen answers nobody: it has the name at the next start.
            if not await in_new_thread(lambda: cgroups.is_frozen(self._cgroup_of(handle.session_id))):
                await self._rename_in_gvisor(self._runsc, handle, hostname)
            return
        id_base = handle.data.get("id_base")
        if (pidfd := await opened_in_thread(lambda: self._open_init(handle))) is None or id_base is None:
            return
        with closing_fd(pidfd), told(f"session {handle.session_id} cannot be given its name"):
            await in_new_thread(lambda: oci_hostname.rename(pidfd, hostname, int(id_base)))

    async def _rename_in_gvisor(self, sentry: runsc.Runsc, handle: Handle, hostname: str) -> None:
        state = self._layout.session(handle.session_id).sandbox_state
        with told(f"session {handle.session_id} cannot be given its name"):
            await in_new_thread(lambda: sentry.rename(handle.session_id, state, hostname))

    async def network_state(self, handle: Handle) -> NetworkState:
        slot = await in_new_thread(lambda: self._slot(handle)) if self._network else None
        return await self._network.state(slot) if self._network and slot else _NO_NETWORK

    async def refused_packets(self) -> Mapping[str, int]:
        if self._network is None or not self._network.is_open:
            return {}
        return await self._network.refused_packets()

    def use_secrets(self, values: SecretValues) -> None:
        if self._network is not None and self._network.brokers is not None:
            self._network.brokers.values = values

    async def broker_certificate(self, handle: Handle) -> str | None:
        if self._network is None or self._network.brokers is None:
            return None
        slot = await in_new_thread(lambda: self._slot(handle))
        return None if slot is None else await self._network.brokers.certificate(slot)

    async def list_owned(self) -> AsyncIterator[Owned]:
        """By directories, runc's state, control groups and id claims: any one of them is enough.
        There is nothing else: sockets are in the directories, mounts in namespaces that ended with their
        processes, and the helper of a user namespace ends when the pipe from its Bay breaks.
        """
        for session_id, sandbox_id in await in_new_thread(self._owned):
            yield Owned(session_id, sandbox_id, Handle(driver=self.name, session_id=session_id))

    async def _open_network(self) -> None:
        if self._network is None:
            return
        if self._network_off and not await in_new_thread(self._network.is_left):
            self._network = None
            return
        if problems := await in_new_thread(self._network.probe):
            await self._do_without(problems)
            return
        await self._network.open()
        if firewalls := await in_new_thread(dropping):
            log.warning("network.forwarding_dropped", by=firewalls, fix=FIX)
        if not self._network_off:  # else it is there to remove the networks of earlier sessions
            self.capabilities = replace(self.capabilities, network=("none", "allowlist", "open"), broker=True)

    async def _do_without(self, problems: list[str]) -> None:
        """Go on without networks. Raises DriverUnavailable where sessions have one, out of control."""
        if self._network is not None and await in_new_thread(self._network.is_left):
            raise DriverUnavailable(
                "earlier sandboxes have networks that keep their last rules and cannot be managed any more: "
                f"{'; '.join(problems)}. Fix that, or end their processes first"
            )
        log.warning("network.unavailable", problems=problems)
        self._network = None

    async def _unplug(self, handle: Handle) -> None:
        if self._network is not None:
            for slot in await in_new_thread(lambda: self._slots_to_clear(handle)):
                await self._network.remove(slot)

    async def _serve_names(self, line: NetworkAttachment, launched: Launched) -> None:
        namespace = await opened_in_thread(lambda: netns.descriptor_of(launched.pid, launched.started))
        if namespace is None:
            raise SandboxNotReady("Ship ended before it was ready")
        with closing_fd(namespace):
            await line.network.serve_names(line.slot, namespace)

    def _open_namespace(self, handle: Handle) -> int | None:
        init = self._init(handle)
        return None if init is None else netns.descriptor_of(*init)

    def _slot(self, handle: Handle) -> NetworkSlot | None:
        """The session's network slot: the number of its id range, unique among this host's live sessions."""
        return next(iter(self._slots(handle)), None)

    def _slots(self, handle: Handle) -> list[NetworkSlot]:
        places = self._layout.session(handle.session_id)
        numbers = self._ids.numbers(places.run, self._range_of(handle))
        in_gvisor = places.sandbox_state.exists()
        return [NetworkSlot(number + 1, handle.session_id, sentry=in_gvisor) for number in numbers]

    def _range_of(self, handle: Handle) -> int | None:
        """The number of the session's id range as its handle has it; only its claim proves it."""
        id_base = handle.data.get("id_base")
        return None if id_base is None else self._ids.number_of(int(id_base))

    def _slots_to_clear(self, handle: Handle) -> list[NetworkSlot]:
        """Its own; where its claim is lost, all that no session of this Bay claims."""
        if self._network is None:
            return []
        if slots := self._slots(handle):
            return slots
        owned = self._network.owned()  # before the claims: whoever has one of these has its claim by now
        holders = self._ids.holders().items()  # also fetches of images, which are no sessions
        live = {number + 1 for number, path in holders if path.is_relative_to(self._layout.run_dir)}
        return [NetworkSlot(number, handle.session_id) for number in sorted(owned - live)]

    def _claims(self) -> dict[int, str]:
        """The id ranges of this Bay's sessions, each with its session's id."""
        own = self._layout.run_dir / "sessions"
        return {number: path.name for number, path in self._ids.holders().items() if path.parent == own}

    def _tidy(self) -> None:
        cgroups.remove_if_empty(self._cgroup)
        self._layout.remove_if_empty()

    def _make_shared(self) -> _Shared:
        nearest = nearest_directory(self._layout.layers)
        unmet = [one for one in requirements(self._runc.binary, nearest) if not one.ok]
        for one in unmet:
            if one.risk:
                log.warning("host.risk", check=one.name, found=one.found, fix=one.fix)
        if missing := [one for one in unmet if one.required]:
            raise DriverUnavailable("; ".join(f"{one.name}: {one.found} ({one.fix})" for one in missing))
        with host_errors():
            self._layout.make()
            if self._layout.trial.exists():
                remove_tree.remove_now(self._layout.trial)
            skeleton = host_image.build(self._layout.images)
            tell_mapping = not reads_mappings(runtime_version(self._runc.binary))
            names = layer_names(nearest)
            return _Shared(closure.build(self._layout.closures), skeleton, boot_id(), tell_mapping, names)

    def _try_gvisor(self, binary: str) -> Capabilities:
        """The capabilities with gVisor, as far as it works here in a trial; the rest is refused."""
        offered, able = self.capabilities, ("container", runsc.ISOLATION)
        if self._network is not None:
            try:
                runsc.trial_with_network(binary, self._ids.start)
            except OSError as error:
                log.warning("gvisor.without_network", reason=str(error), effect="no network in `gvisor`")
            else:
                return replace(offered, isolation=able)
        try:
            runsc.trial(binary, self._ids.start)
        except OSError as error:
            log.warning("gvisor.unavailable", reason=str(error), effect="no isolation `gvisor`")
            return offered
        return replace(offered, isolation=able, without_network=(runsc.ISOLATION,))

    def _open_zygote(self, shared: _Shared) -> Zygote | None:
        try:
            zygote = Zygote(shared.closure, self._layout.stage, platform.machine(), self._seccomp)
        except (OSError, AttributeError) as error:  # no libseccomp, or one that lacks a function
            return _without_zygote(error)
        try:
            zygote.open(self._ids.start)
        except (DriverUnavailable, SandboxNotReady, OSError) as error:
            zygote.close()
            return _without_zygote(error)
        return zygote

    async def _with_skeleton(self, spec: SessionSpec, shared: _Shared) -> _Shared:
        """The same with the skeleton that has the session's user, where that has another name."""
        if spec.root is not None or spec.user == host_image.USER:
            return shared
        return replace(shared, skeleton=await in_new_thread(lambda: self._skeleton(spec.user)))

    def _skeleton(self, user: str) -> Path:
        with host_errors():
            return host_image.build(self._layout.images, user=user)

    def _check(self, spec: SessionSpec) -> _Shared:
        offered = self.capabilities
        images = offered.images if spec.root is None else (spec.image,)
        wanted = (("image", spec.image, images), ("isolation", spec.isolation, offered.isolation))
        for kind, name, available in wanted:
            if name not in available:
                raise CapabilityNotSupported(f"there is no {kind} {name!r}", details={"available": available})
        modes = offered.of(spec.isolation).network
        if spec.isolation in offered.without_network and spec.network.mode not in modes:
            problem = (
                f"isolation {spec.isolation} has no network on this host; give mode none, or see `bay doctor`"
            )
            raise CapabilityNotSupported(problem, details={"available": modes})
        for place in (spec.workspace, *(volume.source for volume in spec.volumes)):
            directory_of(place)
        if self._shared is None:
            raise DriverUnavailable("the oci driver is not open")
        return self._shared

    def _do_without_memory(self, isolation: str, reason: str) -> None:
        self._memory.hosts.pop(isolation, None)
        self.memory_problems[isolation] = reason
        effect, fix = "sandboxes of it cannot hibernate", FIXES_OF_MEMORY[isolation]
        log.warning("memory.unavailable", isolation=isolation, reason=reason, effect=effect, fix=fix)

    def _image(self, session_id: str) -> ImageDirectory:
        return ImageDirectory(self._layout.session(session_id).memory)

    async def _lives(self, session_id: str, handle: Handle | None) -> bool:
        """Whether a process of the session is there; then its image, if there is one, shows the past."""
        seen = await self.observe(handle or Handle(driver=self.name, session_id=session_id))
        return isinstance(seen, Running | Paused)

    async def _undo_save(self, handle: Handle) -> bool:
        """Have a session that lives go on as before a save that a killed Bay left under way; whether there
        was one.
        """
        places, image = self._layout.session(handle.session_id), self._image(handle.session_id)
        if not await in_new_thread(lambda: places.saving.exists() or image.path.exists()):
            return False
        if (pidfd := await opened_in_thread(lambda: self._open_init(handle))) is None:
            return False
        with closing_fd(pidfd), told(f"session {handle.session_id} cannot be resumed"):
            return await self._memory.undo(await in_new_thread(lambda: self._as_saved(handle, pidfd)))

    @asynccontextmanager
    async def _saved_session(self, handle: Handle) -> AsyncGenerator[SavedSession]:
        pidfd = await opened_in_thread(lambda: self._open_init(handle))
        if pidfd is None or handle.endpoint is None:
            raise DriverUnavailable(f"session {handle.session_id} has ended, so it has no memory to save")
        with closing_fd(pidfd):
            yield await in_new_thread(lambda: self._as_saved(handle, pidfd))

    def _as_saved(self, handle: Handle, pidfd: int) -> SavedSession:
        places, seen = self._layout.session(handle.session_id), self._observe(handle)
        if not isinstance(seen, Running | Paused) or "id_base" not in handle.data:
            raise DriverUnavailable(f"session {handle.session_id} has ended, so it has no memory to save")
        return SavedSession(
            session_id=handle.session_id,
            isolation=_isolation_of(places),
            pid=(self._init(handle) or (0, 0))[0],
            pidfd=pidfd,
            id_base=int(handle.data["id_base"]),
            cgroup=self._cgroup_of(handle.session_id),
            places=places,
            endpoint=seen.endpoint,
            closure=str(handle.data.get("closure", self._shared.closure.name if self._shared else "")),
            rights=str(handle.data.get("rights", "")),
            is_forked="forked" in handle.data,
        )

    async def _lay_down(self, spec: SessionSpec, checkpoint_id: str, handle: Handle | None) -> None:
        """Give a session that has not begun the memory and the layers of a checkpoint."""
        if handle is not None and handle.data.get("step") != "claimed":
            raise MemoryLost("Bay ended right after the sandbox's processes were made again")
        kept, places = KeptMemory.of(self._layout, checkpoint_id), self._layout.session(spec.session_id)
        if not await in_new_thread(lambda: kept.image.is_valid):
            raise MemoryLost(f"the memory of checkpoint {checkpoint_id} is not on this host")
        await self.destroy(Handle(driver=self.name, session_id=spec.session_id))
        await _on_host(lambda: kept.lay_down(places, spec.sandbox_id, spec.layer_bytes))

    async def _go_on(
        self, spec: SessionSpec, shared: _Shared, image: ImageDirectory
    ) -> AsyncGenerator[Handle, None]:
        """Start a session from its memory, with the steps of `start`; MemoryLost when that fails."""
        if spec.isolation not in self._memory.hosts:
            raise DriverUnavailable(
                "this host cannot use the memory of sandboxes at present; see `bay doctor`"
            )
        in_gvisor = spec.isolation == runsc.ISOLATION
        places = self._layout.session(spec.session_id)
        bare = Handle(driver=self.name, session_id=spec.session_id)
        await self._clear_run(bare)
        rights, closures = rights_of(spec, self._seccomp), self._layout.closures
        manifest = await in_new_thread(lambda: self._memory.read_for(spec, image, rights, closures))
        id_base = await in_new_thread(lambda: self._claim(spec, places, again=True))
        data: dict[str, str | int] = {"step": "claimed", "id_base": id_base, "closure": manifest.closure}
        data["rights"] = manifest.rights
        claimed = replace(bare, data=data)
        yield claimed
        memory = SavedMemory(
            image=image,
            criu=None if in_gvisor else self._criu,
            external=frozenset(manifest.external.values()),
            clocks=manifest.clocks,
            files=manifest.files,
        )
        shared = await self._with_skeleton(spec, replace(shared, closure=closures / manifest.closure))
        order = self._order(spec, places, shared, id_base, memory)
        with StartOutput() as output:
            try:
                launched = await self._launch(order, output)
            except ImageUnusable as error:
                raise unusable(error) from error
            except CriuFailed as error:
                raise hibernation.loss(error) from error
            except BayError as error:
                if not await in_new_thread(lambda: image.is_valid):
                    raise MemoryLost(error.message) from error
                raise  # nothing has run, and it may go better the next time
            started = {"pid": launched.pid, "started": launched.started, "boot": shared.boot}
            restored = replace(claimed, data={**data, **started, "step": "launched"})
            yield restored
            try:
                if order.line is not None:
                    await self._serve_names(order.line, launched)
                if order.runsc is None:
                    await self._settle_restored(launched, spec.hostname, id_base)
                await in_new_thread(lambda: cgroups.thaw(order.cgroup))
                if order.runsc is not None:
                    await self._have_listen(order, order.runsc, launched, output)
                ready = await self._finished(restored)
                if ready.endpoint is None:
                    raise SandboxNotReady("they ended as soon as they were made again")
                if spec.token != manifest.token:
                    await adopt(ready.endpoint, manifest.token, spec.token)
                    if order.runsc is not None:
                        await self._rename_in_gvisor(order.runsc, ready, spec.hostname)
                await check_health(ready.endpoint, spec.token)
            except BayError as error:
                raise MemoryLost(f"the sandbox's processes did not go on: {error.message}") from error
        await in_new_thread(image.remove)
        yield ready

    async def _have_listen(
        self, order: LaunchRequest, sentry: runsc.Runsc, launched: Launched, output: StartOutput
    ) -> None:
        """Have a Ship that was restored in gVisor listen."""
        session_id, state = order.spec.session_id, order.places.sandbox_state
        await in_new_thread(lambda: sentry.signal(session_id, state, signal.SIGUSR1))
        await output.wait_ready(session_id, _READY_S)
        await self._seal(order, launched)

    async def _finished(self, restored: Handle) -> Handle:
        """The step `ready` of a start from memory whose `launched` this is; the same without processes."""
        seen = await self.observe(restored)
        if "pid" not in restored.data or not isinstance(seen, Running | Paused):
            return restored
        endpoint = replace(seen.endpoint, peer_uid=int(restored.data["id_base"]))
        return replace(restored, data={**restored.data, "step": "ready"}, endpoint=endpoint)

    async def _settle_restored(self, launched: Launched, hostname: str, id_base: int) -> None:
        """As `_seal`, and what else a restore has not brought back: the namespace's limits, the name."""
        pidfd = await opened_in_thread(lambda: open_process(launched.pid, launched.started))
        if pidfd is None:
            raise MemoryLost("the sandbox's processes ended as soon as they were made again")
        with closing_fd(pidfd), told("the sandbox's processes cannot be settled"):
            await in_new_thread(lambda: limit(launched.pid))
            await in_new_thread(lambda: seal_socket_dir(pidfd))
            await in_new_thread(lambda: oci_hostname.rename(pidfd, hostname, id_base))

    async def _try_memory(self, isolation: str) -> None:
        """Save and restore a session once. Where that fails, none of this isolation can hibernate, and the
        log says why.
        """
        if isolation not in self.capabilities.isolation:
            return
        try:
            program = await in_new_thread(lambda: self._saving_program(isolation))
        except OSError as error:
            self._do_without_memory(isolation, str(error))
            return
        self._memory.hosts[isolation] = await in_new_thread(lambda: fingerprint(isolation, program))
        try:
            await try_memory(self, isolation, self._layout.trial)
        except (BayError, OSError) as error:
            self._do_without_memory(isolation, str(error))
        else:
            able = (*self.capabilities.memory, isolation)
            self.capabilities = replace(self.capabilities, memory=able)

    def _saving_program(self, isolation: str) -> str:
        """The program that saves memory of that isolation, and its version. Raises OSError."""
        if isolation == runsc.ISOLATION and self._runsc is not None:
            return self._runsc.version()
        if (version := criu_version(self._criu.binary)) is None:
            raise FileNotFoundError(f"{self._criu.binary} does not run")
        return f"CRIU {version}"

    async def _still_ready(self, spec: SessionSpec, handle: Handle) -> Handle | None:
        if handle.endpoint is None:  # it may not be settled: it stays frozen if it is
            return None
        await self.resume(handle)
        if not isinstance(await self.observe(handle), Running):
            return None
        try:
            await check_health(handle.endpoint, spec.token)
        except SandboxNotReady:
            return None
        return handle

    def _claim(self, spec: SessionSpec, places: SessionPlaces, *, again: bool = False) -> int:
        with host_errors():
            if again:
                places.make_run(spec.sandbox_id)
            else:
                places.make(spec.sandbox_id, spec.layer_bytes)
            return self._ids.claim(places.run)

    def _order(
        self,
        spec: SessionSpec,
        places: SessionPlaces,
        shared: _Shared,
        id_base: int,
        memory: SavedMemory | None = None,
    ) -> LaunchRequest:
        return LaunchRequest(
            spec=spec,
            places=places,
            stage=self._layout.stage,
            rootfs=_rootfs(spec, places, shared, kept=memory is not None),
            cgroup=self._cgroup_of(spec.session_id),
            id_base=id_base,
            runc=self._runc,
            tell_mapping=shared.tell_mapping,
            seccomp=self._seccomp,
            # A fork maps files of the zygote's mounts, which no restore has.
            zygote=None if spec.savable else self._zygote,
            line=self._line(spec, id_base),
            runsc=self._runsc if spec.isolation == runsc.ISOLATION else None,
            memory=memory,
        )

    def _line(self, spec: SessionSpec, id_base: int) -> NetworkAttachment | None:
        in_gvisor = spec.isolation == runsc.ISOLATION
        if self._network is None or spec.isolation in self.capabilities.without_network:
            return None
        if spec.network.mode == "none" and not in_gvisor:  # to gVisor no device is added later
            return None
        slot = NetworkSlot(self._ids.number_of(id_base) + 1, spec.session_id, sentry=in_gvisor)
        return NetworkAttachment(self._network, slot, spec.network)

    async def _launch(self, order: LaunchRequest, output: StartOutput) -> Launched:
        async with self._starting:
            launched = await in_new_thread(lambda: _prepare_and_launch(order, output))
        output.close_writer()
        return launched

    async def _seal(self, order: LaunchRequest, launched: Launched) -> int:
        """The process that listens at Ship's socket."""
        if order.runsc is not None:
            return await in_new_thread(lambda: _seal_gvisor(order.cgroup))
        pidfd = await opened_in_thread(lambda: open_process(launched.pid, launched.started))
        if pidfd is None:
            raise SandboxNotReady("Ship ended right after it was ready")
        with closing_fd(pidfd):
            await in_new_thread(lambda: _settle_inside(pidfd, order.spec.hostname, order.id_base))
        return launched.pid

    def _ask_to_end(self, handle: Handle, pidfd: int) -> None:
        places = self._layout.session(handle.session_id)
        if places.sandbox_state.exists() and self._runsc is not None:
            self._runsc.signal(handle.session_id, places.sandbox_state, signal.SIGTERM)
        else:
            send_signal(pidfd, signal.SIGTERM)

    def _end_processes(
        self, handle: Handle, places: SessionPlaces, cgroup: str, *, frozen: bool = False
    ) -> None:
        """Kill all processes and remove the control groups; a first process outside of them is killed too."""
        if places.lock.exists():
            wait_unlocked(places.lock, self._runc.timeout_s + _UNLOCK_MARGIN_S)
        kill = cgroups.kill_frozen if frozen else cgroups.kill
        if not (kill(cgroup) and self._kill_init(handle)):
            raise DriverUnavailable(f"processes of session {places.session_id} in {cgroup} survive SIGKILL")
        with told(f"the control group {cgroup} cannot be removed"):
            cgroups.remove(cgroup)

    def _kill_init(self, handle: Handle) -> bool:
        if (pidfd := self._open_init(handle)) is None:
            return True
        with closing_fd(pidfd):
            send_signal(pidfd, signal.SIGKILL)
            return ends_within(pidfd, _KILL_S)

    def _observe(self, handle: Handle) -> Observed:
        places = self._layout.session(handle.session_id)
        init = self._init(handle)
        pidfd = None if init is None else open_process(*init)
        if init is None or pidfd is None:
            if (size := self._image(handle.session_id).size()) is not None:
                return Hibernated(size)
            return Exited(None) if init is not None and places.run.exists() else Gone()
        os.close(pidfd)
        cgroup = self._cgroup_of(handle.session_id)
        endpoint = handle.endpoint or Endpoint(
            socket_path=str(places.socket),
            peer_pid=runsc.gofer_of(cgroups.processes(cgroup)) if places.sandbox_state.exists() else init[0],
        )
        is_frozen = cgroups.is_frozen(cgroup)
        return Paused(endpoint) if is_frozen else Running(endpoint)

    def _hibernates(self, session_id: str) -> bool:
        bare = Handle(driver=self.name, session_id=session_id)
        return isinstance(self._observe(bare), Hibernated)

    def _open_init(self, handle: Handle) -> int | None:
        init = self._init(handle)
        return None if init is None else open_process(*init)

    def _init(self, handle: Handle) -> tuple[int, int] | None:
        data = handle.data
        if data.get("boot") == boot_id():
            return int(data["pid"]), int(data["started"])
        return self._layout.session(handle.session_id).first_process()

    def _cgroup_of(self, session_id: str) -> str:
        return f"{self._cgroup}/{session_id}"

    def _owned(self) -> list[tuple[str, str | None]]:
        found = {*self._layout.session_ids(), *cgroups.children(self._cgroup), *self._claims().values()}
        sessions = sorted(filter(is_session_id, found))
        return [(session_id, self._layout.session(session_id).sandbox_id()) for session_id in sessions]


def _with_traffic(sample: SessionSample, traffic: Traffic | None) -> SessionSample:
    """A session without a link has no network, and so no bytes."""
    received, sent = (traffic.received_bytes, traffic.sent_bytes) if traffic else (0, 0)
    return replace(sample, received_bytes=received, sent_bytes=sent)


async def _wait_killed(pidfd: int, session_id: str) -> None:
    try:
        async with asyncio.timeout(_KILL_S):
            await wait_readable(pidfd)
    except TimeoutError:
        raise DriverUnavailable(f"session {session_id} did not end within {_KILL_S:g} s of SIGKILL") from None


def _rootfs(spec: SessionSpec, places: SessionPlaces, shared: _Shared, *, kept: bool) -> Rootfs:
    private = mounts.NOSUID | mounts.NODEV
    return Rootfs(
        layers=tuple(replace(one, kept=kept) for one in _layers(spec, spec.machine or places.data, shared)),
        binds=(
            Bind("/workspace", directory_of(spec.workspace), private, idmapped=True),
            Bind(CLOSURE, shared.closure, private | mounts.RDONLY, own_inodes=True),
            Bind(SOCKET_DIR, places.socket_dir, private | mounts.NOEXEC),
            *(_volume(volume, private) for volume in spec.volumes),
        ),
        names=shared.names,
    )


def _volume(volume: MountedVolume, attributes: int) -> Bind:
    attributes |= mounts.RDONLY if volume.read_only else 0
    return Bind(volume.path, directory_of(volume.source), attributes, idmapped=True, made=True)


def _layers(spec: SessionSpec, writable: Path, shared: _Shared) -> tuple[Layer, ...]:
    lasting = spec.machine is not None
    if (root := spec.root) is not None:
        return (Layer("/", root.layers, writable / "root", lasting, foreign=True),)
    return (
        Layer("/", (shared.skeleton,), writable / "root", lasting),
        Layer("/usr", (shared.skeleton / "usr", host_image.USR), writable / "usr", lasting),
    )


def _settle_inside(pidfd: int, hostname: str, id_base: int) -> None:
    seal_socket_dir(pidfd)
    oci_hostname.write_down(hostname, id_base)


def _seal_gvisor(cgroup: str) -> int:
    gofer = runsc.gofer_of(cgroups.processes(cgroup))
    if gofer is None:
        raise SandboxNotReady("gVisor ended right after Ship was ready")
    with host_errors():
        runsc.seal_socket_dir(gofer)
    return gofer


def _prepare_and_launch(order: LaunchRequest, output: StartOutput) -> Launched:
    with host_errors():
        prepare_writable(order.rootfs)
        _give_workspace(order.spec)
        order.places.socket_dir.mkdir(mode=0o700)
        os.chown(order.places.socket_dir, order.id_base, order.id_base)
    return launch(order, output)


def _give_workspace(spec: SessionSpec) -> None:
    """Give the top directories of the workspace, and of volumes without a file, to whom an image's programs
    run as; what is in the workspace stays.
    """
    if (root := spec.root) is not None:
        writable = [directory_of(one.source) for one in spec.volumes if not one.read_only]
        fresh = (one for one in writable if not os.listdir(one))
        for directory in (directory_of(spec.workspace), *fresh):
            os.chown(directory, root.user.uid, root.user.gid, follow_symlinks=False)


async def _on_host(work: Callable[[], T]) -> T:
    """The result of blocking `work` on the host's files, whose errors are Bay's."""

    def told() -> T:
        with host_errors():
            return work()

    return await in_new_thread(told)


def _isolation_of(places: SessionPlaces) -> str:
    """The isolation of a session that lives. Blocks."""
    return runsc.ISOLATION if places.sandbox_state.exists() else "container"


def _without_zygote(error: Exception) -> None:
    log.warning("zygote.unavailable", reason=str(error), effect="sandboxes start more slowly")
