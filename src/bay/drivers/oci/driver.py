"""The `oci` driver: its steps, in order. The modules beside this one do each of them."""

import asyncio
import os
import platform
import signal
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import structlog

from bay.drivers.base import (
    Capabilities,
    Endpoint,
    Exited,
    Gone,
    Handle,
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
    host_image,
    layers,
    netns,
    seccomp,
)
from bay.drivers.oci import hostname as oci_hostname
from bay.drivers.oci.idrange import ID_RANGES, IDS_DIR, IdRanges
from bay.drivers.oci.launch import (
    Launched,
    LaunchRequest,
    NetworkAttachment,
    host_errors,
    launch,
    seal_socket_dir,
    wait_unlocked,
)
from bay.drivers.oci.layout import Layout, SessionPlaces, is_session_id
from bay.drivers.oci.probe import layer_names, requirements
from bay.drivers.oci.rootfs import Bind, Layer, Rootfs, prepare_writable
from bay.drivers.oci.runc import ANSWER_S, Runc, reads_mappings, runc_version
from bay.drivers.oci.sealed_copy import SealedCopy
from bay.drivers.oci.spec import CLOSURE, SOCKET_DIR
from bay.drivers.oci.zygote import Zygote
from bay.drivers.start_output import StartOutput
from bay.errors import CapabilityNotSupported, DriverUnavailable, SandboxNotReady
from bay.linux import mounts, remove_tree
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

_NO_NETWORK = NetworkState(
    mode="none", enforced=True, counters=(), refused=(), received_bytes=0, sent_bytes=0
)

_READY_S = 15.0
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
    `runc_timeout_s` is how long runc may take to start a container before it is killed. Without `fork_ships`,
    and on a host that cannot, runc starts each session's Ship, and not a zygote.
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
        instance: str | None = None,
        ids_dir: Path = IDS_DIR,
        id_range_start: int = 1_879_048_192,
        id_range_count: int = ID_RANGES,
        parallel_starts: int | None = None,
        network: NetworkManager | None = None,
        network_off: bool = False,
        seccomp_profile: Callable[[str], dict[str, Any]] = seccomp.profile,
        fork_ships: bool = True,
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
        self._ids = IdRanges(ids_dir, id_range_start, id_range_count)
        self._cgroup = f"/bay/{instance or run_dir.name}"
        # Starting is work for the processor: more at once than this only makes each one slower.
        self._starting = asyncio.Semaphore(parallel_starts or 2 * (os.cpu_count() or 1))
        self._seccomp = seccomp_profile(platform.machine())
        self._shared: _Shared | None = None
        self._fork_ships = fork_ships
        self._zygote: Zygote | None = None

    async def open(self) -> None:
        """Check the host (see `probe`) and make what all sessions share (about 2 s the first time)."""
        self._shared = shared = await in_new_thread(self._make_shared)
        await self._open_network()
        if self._fork_ships and self._zygote is None:
            self._zygote = await in_new_thread(lambda: self._open_zygote(shared))

    async def aclose(self) -> None:
        """Remove empty control groups and directories of sessions, which keep running, held as they are."""
        if self._network is not None:
            await self._network.aclose()
        if self._zygote is not None:
            await in_new_thread(self._zygote.close)
            self._zygote = None
        await in_new_thread(self._tidy)
        self._runc.copy.close()

    async def start(self, spec: SessionSpec, handle: Handle | None) -> AsyncGenerator[Handle, None]:
        """The steps are `claimed`, `launched` and `ready`."""
        shared = self._check(spec)
        if handle is not None and (ready := await self._still_ready(spec, handle)):
            yield ready
            return
        places = self._layout.session(spec.session_id)
        if await in_new_thread(places.exist):
            await self.destroy(Handle(driver=self.name, session_id=spec.session_id))
        id_base = await in_new_thread(lambda: self._claim(spec, places))
        data = {"step": "claimed", "id_base": id_base}
        claimed = Handle(driver=self.name, session_id=spec.session_id, data=data)
        yield claimed
        if spec.root is None and spec.user != host_image.USER:
            skeleton = await in_new_thread(lambda: self._skeleton(spec.user))
            shared = replace(shared, skeleton=skeleton)
        order = self._order(spec, places, shared, id_base)
        with StartOutput() as output:
            launched = await self._launch(order, output)
            started = {"pid": launched.pid, "started": launched.started, "boot": shared.boot}
            yield replace(claimed, data={**claimed.data, **started, "step": "launched"})
            if order.line is not None:
                await self._serve_names(order.line, launched)
            await output.wait_ready(spec.session_id, _READY_S)
        await self._seal(launched, spec.hostname, id_base)
        endpoint = Endpoint(socket_path=str(places.socket), peer_uid=id_base, peer_pid=launched.pid)
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
        with _told(f"session {handle.session_id} cannot be paused"):
            await in_new_thread(lambda: cgroups.freeze(self._cgroup_of(handle.session_id)))

    async def resume(self, handle: Handle) -> None:
        with _told(f"session {handle.session_id} cannot be resumed"):
            await in_new_thread(lambda: cgroups.thaw(self._cgroup_of(handle.session_id)))

    async def resize(self, handle: Handle, resources: Resources) -> None:
        """`/tmp` and `/dev/shm` stay as large as they began: half of the memory then."""
        with _told(f"session {handle.session_id} cannot be given other sizes"):
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
            send_signal(pidfd, signal.SIGTERM)
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
        cgroup = self._cgroup_of(handle.session_id)
        await in_new_thread(lambda: self._end_processes(handle, places, cgroup))
        await self._unplug(handle)  # before the id range is free, whose number is that of the slot
        with _told(f"the layers of session {handle.session_id} cannot be removed"):
            await in_new_thread(lambda: layers.destroy(places.data))
        await remove_tree.remove(places.data, places.former, places.run, self._runc.state(handle.session_id))
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
        id_base = handle.data.get("id_base")
        if (pidfd := await opened_in_thread(lambda: self._open_init(handle))) is None or id_base is None:
            return
        with closing_fd(pidfd), _told(f"session {handle.session_id} cannot be given its name"):
            await in_new_thread(lambda: oci_hostname.rename(pidfd, hostname, int(id_base)))

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
        run = self._layout.session(handle.session_id).run
        numbers = self._ids.numbers(run, self._range_of(handle))
        return [NetworkSlot(number + 1, handle.session_id) for number in numbers]

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
        place = self._layout.layers
        nearest = next(path for path in (place, *place.parents) if path.is_dir())
        unmet = [one for one in requirements(self._runc.binary, nearest) if not one.ok]
        for one in unmet:
            if one.risk:
                log.warning("host.risk", check=one.name, found=one.found, fix=one.fix)
        if missing := [one for one in unmet if one.required]:
            raise DriverUnavailable("; ".join(f"{one.name}: {one.found} ({one.fix})" for one in missing))
        with host_errors():
            self._layout.make()
            skeleton = host_image.build(self._layout.images)
            tell_mapping = not reads_mappings(runc_version(self._runc.binary))
            names = layer_names(nearest)
            return _Shared(closure.build(self._layout.closures), skeleton, boot_id(), tell_mapping, names)

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
        for place in (spec.workspace, *(volume.source for volume in spec.volumes)):
            directory_of(place)
        if self._shared is None:
            raise DriverUnavailable("the oci driver is not open")
        return self._shared

    async def _still_ready(self, spec: SessionSpec, handle: Handle) -> Handle | None:
        await self.resume(handle)
        seen = await self.observe(handle)
        if handle.endpoint is None or not isinstance(seen, Running):
            return None
        try:
            await check_health(handle.endpoint, spec.token)
        except SandboxNotReady:
            return None
        return handle

    def _claim(self, spec: SessionSpec, places: SessionPlaces) -> int:
        with host_errors():
            places.make(spec.sandbox_id, spec.layer_bytes)
            return self._ids.claim(places.run)

    def _order(
        self, spec: SessionSpec, places: SessionPlaces, shared: _Shared, id_base: int
    ) -> LaunchRequest:
        return LaunchRequest(
            spec=spec,
            places=places,
            stage=self._layout.stage,
            rootfs=_rootfs(spec, places, shared),
            cgroup=self._cgroup_of(spec.session_id),
            id_base=id_base,
            runc=self._runc,
            tell_mapping=shared.tell_mapping,
            seccomp=self._seccomp,
            zygote=self._zygote,
            line=self._line(spec, id_base),
        )

    def _line(self, spec: SessionSpec, id_base: int) -> NetworkAttachment | None:
        if self._network is None or spec.network.mode == "none":
            return None
        slot = NetworkSlot(self._ids.number_of(id_base) + 1, spec.session_id)
        return NetworkAttachment(self._network, slot, spec.network)

    async def _launch(self, order: LaunchRequest, output: StartOutput) -> Launched:
        async with self._starting:
            launched = await in_new_thread(lambda: _prepare_and_launch(order, output))
        output.close_writer()
        return launched

    async def _seal(self, launched: Launched, hostname: str, id_base: int) -> None:
        pidfd = await opened_in_thread(lambda: open_process(launched.pid, launched.started))
        if pidfd is None:
            raise SandboxNotReady("Ship ended right after it was ready")
        with closing_fd(pidfd):
            await in_new_thread(lambda: _settle_inside(pidfd, hostname, id_base))

    def _end_processes(self, handle: Handle, places: SessionPlaces, cgroup: str) -> None:
        """Kill all processes and remove the control groups; a first process outside of them is killed too."""
        if places.lock.exists():
            wait_unlocked(places.lock, self._runc.timeout_s + _UNLOCK_MARGIN_S)
        if not (cgroups.kill(cgroup) and self._kill_init(handle)):
            raise DriverUnavailable(f"processes of session {places.session_id} in {cgroup} survive SIGKILL")
        with _told(f"the control group {cgroup} cannot be removed"):
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
        if init is None:
            return Gone()
        if (pidfd := open_process(*init)) is None:
            return Exited(None) if places.run.exists() else Gone()
        os.close(pidfd)
        endpoint = handle.endpoint or Endpoint(socket_path=str(places.socket), peer_pid=init[0])
        is_frozen = cgroups.is_frozen(self._cgroup_of(handle.session_id))
        return Paused(endpoint) if is_frozen else Running(endpoint)

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


def _rootfs(spec: SessionSpec, places: SessionPlaces, shared: _Shared) -> Rootfs:
    private = mounts.NOSUID | mounts.NODEV
    return Rootfs(
        layers=_layers(spec, spec.machine or places.data, shared),
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


@contextmanager
def _told(what: str) -> Generator[None]:
    try:
        yield
    except OSError as error:
        raise DriverUnavailable(f"{what}: {error}") from error


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


def _without_zygote(error: Exception) -> None:
    log.warning("zygote.unavailable", reason=str(error), effect="sandboxes start more slowly")
