"""Fetches images from registries, archives and the stores of other tools into an OCI layout, by skopeo.

skopeo is one program for every source; it verifies digests and fetches layers in parallel. It trusts what it
reads more than Bay does, so it runs in a cage (`fetch_cage.py`), its network is held to a policy, and Bay
looks at the manifest before a layer is fetched: platform, number and sizes of layers, layers from elsewhere.
Rejected: a client of our own, of one kind of source; umoci and podman, which work as root on the host.
"""

import asyncio
import contextlib
import errno
import os
import secrets
import time
from collections.abc import AsyncGenerator, Callable, Collection, Generator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import structlog

from bay.backoff import Backoff
from bay.drivers.oci.idrange import IdRanges
from bay.drivers.oci.userns import IDS
from bay.errors import DriverUnavailable, ImageInvalid, ImagePlatform, StorageFull
from bay.images import fetch_cage, oci_layout
from bay.images.config import LONGEST, ImageConfig
from bay.images.fetch_cage import FetchCage, FetchCagePlan
from bay.images.oci_layout import ImageManifest, LayoutLimits, ManifestSummary
from bay.images.references import Reference
from bay.images.registries import (
    Credentials,
    Registries,
    RegistryAccess,
    auth_file,
    hosts_file,
    spoken_host,
    ways,
)
from bay.images.relay import RegistryRelay
from bay.images.skopeo import SkopeoEnd, SkopeoRun
from bay.images.skopeo_words import failure, is_out_of_room, passed_limit
from bay.images.spool_watch import SpoolLimits, SpoolUse
from bay.linux.processes import kill_and_wait, owned_by
from bay.linux.threads import in_new_thread, uninterrupted
from bay.models import NetworkPolicy
from bay.network.manager import NetworkManager
from bay.network.slots import NetworkSlot
from bay.units import MIB

log = structlog.get_logger("bay.images")

_ATTEMPTS = 4
_BACKOFF = Backoff(1.0, 15.0)
_AT_ONCE = 8
_SLACK = 4 * MIB
"""Bytes in a spool beside the layers: manifest, config, index."""
_POLICY = b'{"default":[{"type":"insecureAcceptAnything"}]}'
_KILL_S = 20.0
_SCRATCH = "scratch"
"""Where skopeo unpacks an archive of a layout, in the spool."""
_CA = "/registry/ca.crt"
_AUTH = "/auth.json"
_COMMON = (
    *("--policy", "/policy.json", "--tmpdir", f"{fetch_cage.SPOOL}/{_SCRATCH}"),
    *("--override-os", "linux", "--override-arch", oci_layout.architecture()),
)
_MISSING = (
    "this host lacks skopeo, with which Bay fetches and reads images: install it (Debian: apt install skopeo)"
)


@dataclass(frozen=True, slots=True)
class ArchiveFile:
    """An archive of one image: a tar of an OCI layout, or of `docker save`, compressed or not."""

    path: Path


@dataclass(frozen=True, slots=True)
class LayoutDirectory:
    """A directory with an OCI layout of one image. For the operator alone: it is a path of the host."""

    path: Path


ImageOrigin = Reference | ArchiveFile | LayoutDirectory


@dataclass(frozen=True, slots=True)
class FetchProgress:
    """How far a fetch is: of layers as they are transferred. Totals are None where they are not known."""

    bytes_done: int
    bytes_total: int | None
    layers_done: int
    layers_total: int | None


OnFetch = Callable[[FetchProgress], None]


def _quiet(_progress: FetchProgress) -> None:
    pass


def _unseen(_use: SpoolUse) -> None:
    pass


@dataclass(frozen=True, slots=True, kw_only=True)
class FetchLimits:
    """Bounds on one fetch; seconds, and bytes of all layers as they are transferred."""

    stall_s: float = 60.0
    timeout_s: float = 1800.0
    max_bytes: int = 20_480 * MIB


@dataclass(frozen=True, slots=True)
class _CagedFetch:
    """A cage with all that belongs to it, and the image for which it is there."""

    cage: FetchCage
    spool: Path | None
    what: str
    quoted: tuple[str, ...]
    """Parts of the reference, which skopeo repeats in its errors."""
    way: tuple[str, ...]
    """Options for the way to a registry; none for an archive."""
    is_remote: bool
    deadline: float


class Fetcher:
    """Fetches images for one Bay, as many at once as its callers want, eight at most; more wait.

    `run_dir` is its own and does not outlive a boot. `online`: whether a fetch may use the network, beyond
    the registries that have addresses; it does so under the policy of `network`, if that is open.
    """

    def __init__(
        self,
        *,
        run_dir: Path,
        ids: IdRanges,
        network: NetworkManager | None,
        online: bool = True,
        registries: Registries | None = None,
        limits: FetchLimits | None = None,
        backoff: Backoff = _BACKOFF,
    ) -> None:
        self._directory = run_dir / "fetches"
        self._ids = ids
        self._network = network
        self._online = online
        self._registries = registries or Registries()
        self._limits = limits or FetchLimits()
        self._backoff = backoff
        self._at_once = asyncio.Semaphore(_AT_ONCE)

    async def open(self) -> None:
        """Remove what the fetches of a killed Bay left: processes, networks, claims. After the driver's
        `open`, which opens the network. Raises DriverUnavailable.
        """
        for number, directory in await in_new_thread(self._left):
            await in_new_thread(partial(_end_processes, self._ids.first_of(number)))
            await self._give_back(directory, number)

    async def resolve(self, reference: Reference, credentials: Credentials | None = None) -> str:
        """The digest that the reference's tag names now, or its own. Raises like `fetch`."""
        if reference.digest is not None:
            return reference.digest
        async with self._caged(reference, credentials=credentials) as fetch:
            return oci_layout.digest_of(await self._manifest(fetch, reference))

    async def fetch(
        self,
        origin: ImageOrigin,
        spool: Path,
        *,
        credentials: Credentials | None = None,
        held: Collection[str] = (),
        on_progress: OnFetch = _quiet,
        max_bytes: int | None = None,
    ) -> ImageManifest:
        """Fetch an image for this host's platform into the empty directory `spool`, as an OCI layout.

        A registry's layers whose digests are `held` are left out. The result is checked, but for the content
        of layers. Cancelled or failed, it leaves parts in `spool`, for the caller to remove, and nothing
        else; its temporary failures have been tried again by then. Raises ImageNotFound, ImageDenied,
        ImageInvalid, ImagePlatform, ImageTooLarge, RegistryUnavailable, StorageFull or DriverUnavailable.
        """
        limits = replace(
            self._limits, max_bytes=min(max_bytes or self._limits.max_bytes, self._limits.max_bytes)
        )
        async with self._caged(origin, spool=spool, credentials=credentials) as fetch:
            if isinstance(origin, Reference):
                digest = await self._fetch_remote(fetch, origin, spool, limits, held, on_progress)
            else:
                digest = await self._fetch_local(fetch, origin, limits, on_progress)
        left_out = frozenset(held) if isinstance(origin, Reference) else frozenset[str]()
        bounds = LayoutLimits(max_image_bytes=limits.max_bytes, held=left_out)
        image = await in_new_thread(lambda: oci_layout.read_image(spool, bounds))
        if digest is not None and image.digest != digest:
            raise ImageInvalid(f"{fetch.what}: the registry gave another image than the one asked for")
        return image

    async def _fetch_remote(
        self,
        fetch: _CagedFetch,
        reference: Reference,
        spool: Path,
        limits: FetchLimits,
        held: Collection[str],
        on_progress: OnFetch,
    ) -> str:
        """All that can be known before a layer comes is looked at first. Gives the manifest's digest."""
        manifest = await self._summary(fetch, reference)
        oci_layout.check_size(manifest, limits.max_bytes)
        pinned = reference.pinned(manifest.digest)
        config = await self._inspect(fetch, ["--config", "--raw", *fetch.way], pinned)
        if oci_layout.digest_of(config) != manifest.config.digest:
            raise ImageInvalid(f"{fetch.what}: the registry gave a config that is not what its digest says")
        oci_layout.check_platform(ImageConfig.from_json(config))
        sizes = {one.digest: one.size for one in manifest.layers}
        kept = sizes.keys() & set(held)
        await in_new_thread(partial(_stand_in, spool, kept))
        told = _told_of(
            {digest: size for digest, size in sizes.items() if digest not in kept}, kept, on_progress
        )
        told(SpoolUse())
        source = ["--preserve-digests", *(f"--src-{one[2:]}" for one in fetch.way), _transport(pinned)]
        await self._copy(fetch, source, limits.max_bytes + _SLACK, told)
        return manifest.digest

    async def _fetch_local(
        self,
        fetch: _CagedFetch,
        origin: ArchiveFile | LayoutDirectory,
        limits: FetchLimits,
        on_progress: OnFetch,
    ) -> None:
        """The transport is tried and not guessed: only skopeo, in its cage, looks into an archive."""
        told = _told_of(None, (), on_progress)
        most = 2 * limits.max_bytes + _SLACK  # the archive of a layout is unpacked first
        transport = f"oci:{fetch_cage.SOURCE}"
        if isinstance(origin, ArchiveFile):
            as_docker = f"docker-archive:{fetch_cage.SOURCE}"
            end = await self._run(fetch, ["inspect", "--raw", as_docker], most, told)
            is_docker = end.code == 0 or is_out_of_room(end)
            transport = as_docker if is_docker else f"oci-archive:{fetch_cage.SOURCE}"
        try:
            await self._copy(fetch, ["--preserve-digests", transport], most, told)
        except ImagePlatform:
            oci_layout.choose(await self._told_run(fetch, ["inspect", "--raw", transport], most, told))
            raise

    async def _summary(self, fetch: _CagedFetch, reference: Reference) -> ManifestSummary:
        data = await self._manifest(fetch, reference)
        if oci_layout.is_index(data):
            data = await self._manifest(fetch, reference.pinned(oci_layout.choose(data)))
        return oci_layout.summary(data)

    async def _manifest(self, fetch: _CagedFetch, reference: Reference) -> bytes:
        data = await self._inspect(fetch, ["--raw", *fetch.way], reference)
        if reference.digest not in (None, oci_layout.digest_of(data)):
            raise ImageInvalid(f"{fetch.what}: the registry gave a manifest that is not what its digest says")
        return data

    async def _inspect(self, fetch: _CagedFetch, options: Sequence[str], reference: Reference) -> bytes:
        data = await self._told_run(fetch, ["inspect", *options, _transport(reference)], _SLACK, _unseen)
        if len(data) > LONGEST:
            raise ImageInvalid(
                f"{fetch.what}: its manifest or config has more than {LONGEST} bytes, the limit"
            )
        return data

    async def _copy(
        self, fetch: _CagedFetch, source: Sequence[str], most: int, told: Callable[[SpoolUse], None]
    ) -> None:
        await self._told_run(fetch, ["copy", "--quiet", *source, f"oci:{fetch_cage.SPOOL}:image"], most, told)

    async def _told_run(
        self, fetch: _CagedFetch, arguments: Sequence[str], most: int, told: Callable[[SpoolUse], None]
    ) -> bytes:
        """The output of a run that ended well; temporary failures of a registry are tried again."""
        failures = 0
        while True:
            end = await self._run(fetch, arguments, most, told)
            if end.code == 0:
                return end.out
            failures += 1
            error, may_mend = failure(fetch.what, fetch.quoted, end, remote=fetch.is_remote)
            if not may_mend or failures == _ATTEMPTS or time.monotonic() > fetch.deadline:
                raise error
            if fetch.spool is not None:
                await in_new_thread(partial(_clear_parts, fetch.spool))
            await asyncio.sleep(self._backoff.pause(failures))

    async def _run(
        self, fetch: _CagedFetch, arguments: Sequence[str], most: int, told: Callable[[SpoolUse], None]
    ) -> SkopeoEnd:
        """One run. Raises the error of a limit that it passed."""
        loop = asyncio.get_running_loop()
        limits = SpoolLimits(stall_s=self._limits.stall_s, deadline=fetch.deadline, max_bytes=most)
        run = SkopeoRun(
            cage=fetch.cage,
            arguments=[*_COMMON, *arguments],
            spool=fetch.spool,
            limits=limits,
            on_change=lambda use: _soon(loop, told, use),
        )
        end = await in_new_thread(run.run, run.stop)
        if end.passed is not None:
            raise passed_limit(fetch.what, end.passed, limits, remote=fetch.is_remote)
        return end

    @asynccontextmanager
    async def _caged(
        self, origin: ImageOrigin, *, spool: Path | None = None, credentials: Credentials | None = None
    ) -> AsyncGenerator[_CagedFetch]:
        """A cage for `origin`, with a way to its registry and no other; all of it is gone afterwards."""
        if not fetch_cage.is_installed():
            raise DriverUnavailable(_MISSING)
        access = self._registries.of(origin.host) if isinstance(origin, Reference) else None
        relayed = ways(access) if access is not None else ()
        online = self._network if access is not None and self._may_go_out(access) else None
        directory = self._directory / f"fetch-{secrets.token_hex(8)}"
        async with self._at_once, AsyncExitStack() as left:
            claimed: list[int] = []
            left.push_async_callback(self._give_back_for_sure, directory, claimed)
            await in_new_thread(lambda: claimed.append(self._claim(directory)))
            plan = await in_new_thread(
                partial(self._plan, directory, claimed[0], origin, access, spool, credentials)
            )
            slot = NetworkSlot(claimed[0] + 1, directory.name)
            made: list[FetchCage] = []
            left.callback(lambda: [one.close() for one in made])
            await in_new_thread(lambda: made.append(_make_cage(plan, slot, online)))
            if online is not None:
                await online.serve_names(slot, made[0].network)
            relay = RegistryRelay(relayed)
            left.push_async_callback(relay.aclose)
            await relay.open(made[0].network)
            yield _CagedFetch(
                cage=made[0],
                spool=spool,
                what=str(origin) if isinstance(origin, Reference) else "the archive",
                quoted=_quoted(origin) if isinstance(origin, Reference) else (),
                way=_way(access, credentials) if access is not None else (),
                is_remote=access is not None,
                deadline=time.monotonic() + self._limits.timeout_s,
            )

    def _may_go_out(self, access: RegistryAccess) -> bool:
        """Whether a fetch gets a network. Raises DriverUnavailable where it must have one and cannot."""
        may = self._online and self._network is not None and self._network.is_open
        if not may and not access.addresses:
            raise DriverUnavailable(
                "this host gives fetches no network (`network` is off, or the host cannot enforce policies: see "
                "`bay doctor`); upload the image, or have the operator give the registry's addresses"
            )
        return may

    def _claim(self, directory: Path) -> int:
        with host_errors():
            (directory / "stage").mkdir(parents=True)
            return self._ids.number_of(self._ids.claim(directory))

    def _plan(
        self,
        directory: Path,
        number: int,
        origin: ImageOrigin,
        access: RegistryAccess | None,
        spool: Path | None,
        credentials: Credentials | None,
    ) -> FetchCagePlan:
        """Say what the cage is made of, and prepare the spool."""
        with host_errors():
            files = {"/policy.json": _POLICY, "/etc/hosts": hosts_file(access).encode()}
            if access is not None and access.ca_file is not None:
                files[_CA] = _authority(access.host, access.ca_file)
            if spool is not None:
                spool.chmod(0o700)  # root's ids are skopeo's there, and with them set-uid files
                (spool / _SCRATCH).mkdir(exist_ok=True)
            return FetchCagePlan(
                stage=directory / "stage",
                user=self._ids.first_of(number),
                spool=spool,
                source=None if isinstance(origin, Reference) else origin.path,
                files=files,
                private={_AUTH: auth_file(access.host, credentials)} if access and credentials else {},
            )

    def _left(self) -> list[tuple[int, Path]]:
        """The fetches of this Bay that have a claim, each with its number."""
        holders = self._ids.holders().items()
        return [(number, path) for number, path in holders if path.parent == self._directory]

    async def _give_back_for_sure(self, directory: Path, claimed: list[int]) -> None:
        """As `_give_back`, also when cancelled; a failure is logged, and the next start tries again."""
        number = claimed[0] if claimed else None
        try:
            await uninterrupted(asyncio.ensure_future(self._give_back(directory, number)))
        except (DriverUnavailable, OSError) as error:
            log.error("images.fetch_not_cleared", fetch=directory.name, error=str(error))

    async def _give_back(self, directory: Path, number: int | None) -> None:
        """Remove the network of a fetch, and after that free its range, whose number is that of the slot."""
        if number is not None and self._network is not None and self._network.is_open:
            await self._network.remove(NetworkSlot(number + 1, directory.name))
        await in_new_thread(partial(self._forget, directory, number))

    def _forget(self, directory: Path, number: int | None) -> None:
        for path in (directory / "stage", directory):
            with contextlib.suppress(FileNotFoundError):
                path.rmdir()
        if number is not None:
            self._ids.release(directory)


def _make_cage(plan: FetchCagePlan, slot: NetworkSlot, network: NetworkManager | None) -> FetchCage:
    """The policy is in place before the device, and that before the first process."""
    with host_errors():
        if network is not None:
            network.admit(slot, NetworkPolicy(mode="open"))
        made = fetch_cage.make(plan)
        try:
            if network is not None:
                network.connect(slot, made.network)
        except BaseException:
            made.close()
            raise
        return made


@contextlib.contextmanager
def host_errors() -> Generator[None]:
    """The kernel's errors as Bay's."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise StorageFull("the disk is full; free some space and try again") from error
        why = error.strerror or error
        raise DriverUnavailable(f"this host cannot fetch an image: {why}; see `bay doctor`") from error


def _authority(host: str, ca_file: Path) -> bytes:
    try:
        return ca_file.read_bytes()
    except OSError as error:
        raise DriverUnavailable(
            f"the `ca_file` of the registry {host} cannot be read: {error.strerror}; the operator mends it in "
            "BAY_REGISTRIES"
        ) from error


def _transport(reference: Reference) -> str:
    """For skopeo, which takes a tag or a digest and not both."""
    spoken = replace(reference, host=spoken_host(reference.host))
    return f"docker://{replace(spoken, tag=None) if spoken.digest else spoken}"


def _quoted(reference: Reference) -> tuple[str, ...]:
    spoken = replace(reference, host=spoken_host(reference.host))
    return (spoken.name, f"manifest {reference.tag} in", f"manifest {reference.digest} in")


def _way(access: RegistryAccess, credentials: Credentials | None) -> tuple[str, ...]:
    """Options of `inspect`; those of `copy` are the same, with `src-` before them."""
    trust = ("--tls-verify=false",) if access.insecure else ()
    ca = (f"--cert-dir={os.path.dirname(_CA)}",) if access.ca_file else ()
    return (*trust, *ca, f"--authfile={_AUTH}" if credentials else "--no-creds")


def _told_of(
    sizes: Mapping[str, int] | None, held: Collection[str], on_progress: OnFetch
) -> Callable[[SpoolUse], None]:
    """Tells of a spool as progress; without `sizes` the layers are not known yet."""

    def told(use: SpoolUse) -> None:
        if sizes is None:
            on_progress(FetchProgress(use.bytes, None, 0, None))
            return
        total = sum(sizes.values())
        whole = len(use.whole & sizes.keys())
        on_progress(FetchProgress(min(use.bytes, total), total, whole + len(held), len(sizes) + len(held)))

    return told


def _soon(loop: asyncio.AbstractEventLoop, told: Callable[[SpoolUse], None], use: SpoolUse) -> None:
    loop.call_soon_threadsafe(told, use)


def _stand_in(spool: Path, held: Collection[str]) -> None:
    """An empty file that has a blob's name makes skopeo leave that blob out. Only a skopeo that was
    broken into can have put something there already: a link, by which a file of this host would be made.
    """
    paths = [oci_layout.blob_path(spool, digest) for digest in held]
    try:
        for directory in (paths[0].parent.parent, paths[0].parent) if paths else ():
            directory.mkdir()
        for path in paths:
            path.touch(exist_ok=False)
    except FileExistsError as error:
        raise DriverUnavailable("the spool of a fetch was changed by something else; try again") from error


def _clear_parts(spool: Path) -> None:
    """Remove the blobs that a run left half written: each attempt begins them anew."""
    for path in spool.glob("oci-put-blob*"):
        path.unlink(missing_ok=True)


def _end_processes(id_base: int) -> None:
    if not kill_and_wait(owned_by(range(id_base, id_base + IDS)), _KILL_S):
        raise DriverUnavailable("processes of a fetch survive SIGKILL")
