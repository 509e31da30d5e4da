"""The cargo service: the files of sandboxes, and cargos that callers keep apart from any."""

from dataclasses import dataclass

from bay.cargo.base import CargoStore, SizeLimits, checkpoint_store
from bay.clock import Clock
from bay.errors import BayError, Conflict, InvalidArgument, NotFound
from bay.ids import new_id
from bay.models import Cargo, Profile, from_wire, to_wire
from bay.server.cargos.usage import charged
from bay.server.checkpoints.requests import CheckpointRequests
from bay.server.checkpoints.storage_steps import StorageSteps
from bay.server.sessions.quotas import Quotas
from bay.server.sessions.sizes import most_of
from bay.server.sessions.waker import Waker
from bay.server.web import idempotency
from bay.server.web.auth import Caller
from bay.store import audit, cargos, events, sandboxes
from bay.store.connection import StoreConnection
from bay.store.engine import Store
from bay.store.records import CargoRecord, Page, SandboxRecord
from bay.units import MIB


@dataclass(eq=False, kw_only=True)
class Cargos:
    """The service behind `/v1/cargos`."""

    store: Store
    waker: Waker
    cargo: CargoStore
    storage_steps: StorageSteps
    snapshots: CheckpointRequests
    quotas: Quotas
    profiles: dict[str, Profile]
    most_mb: int
    clock: Clock

    async def create(
        self,
        caller: Caller,
        size_limit_mb: int | None,
        from_checkpoint: str | None,
        idempotency_key: str | None,
    ) -> Cargo:
        """An external cargo, empty or with the files of a checkpoint; no limit stands for the most there is.
        Raises StorageFull, NotFound, InvalidArgument, QuotaExceeded, and CapabilityNotSupported for a
        checkpoint where the cargo backend has none.
        """
        if from_checkpoint is not None:
            checkpoint_store(self.cargo)
        body = {"size_limit_mb": size_limit_mb, "from_checkpoint": from_checkpoint}
        request = idempotency.request(caller, idempotency_key, "POST /v1/cargos", body)
        async with self.store.write() as db:
            if request is not None and (claim := await request.earlier(db)) is not None:
                return from_wire(Cargo, claim.answer)
            await self.quotas.admit_cargo(db, caller)
            if from_checkpoint is not None:
                await self.snapshots.usable(db, caller, from_checkpoint)
            limit = _within(size_limit_mb, self.most_mb)
            record = self._record(caller.owner, limit, origin_id=from_checkpoint)
            await cargos.add(db, _row(record))
            if request is not None:
                answer = to_wire(self._view(record, (), None))
                await request.claim(db, record.id, answer, self.clock())
        audit.about(record.id)
        try:
            await self.storage_steps.make_cargo(record.id)
        except BayError:
            async with self.store.write() as db:
                await cargos.change(db, record.id, deleted_at=self.clock())
                if request is not None:
                    await request.withdraw(db)
            raise
        return await self._shown(record, ())

    async def page(self, caller: Caller, *, managed: bool, after: int, limit: int) -> Page[Cargo]:
        """Part of the caller's cargos, oldest first."""
        async with self.store.read() as db:
            found = await cargos.page(db, caller.owner, managed=managed, after=after, limit=limit)
            users = await cargos.users(db, [record.id for record in found.items])
        items = [await self._shown(record, users.get(record.id, ())) for record in found.items]
        return Page(items=tuple(items), next_cursor=found.next_cursor)

    async def get(self, caller: Caller, cargo_id: str) -> Cargo:
        """One cargo."""
        async with self.store.read() as db:
            record = await self._find(db, caller, cargo_id)
            users = await cargos.users(db, [record.id])
        return await self._shown(record, users.get(record.id, ()))

    async def update(self, caller: Caller, cargo_id: str, size_limit_mb: int | None) -> Cargo:
        """Change how much it may hold; None is the most by its sandbox's profile or setting `max_cargo_mb`.
        Below what it holds, nothing more can be written until enough is deleted. Raises Conflict where the
        cargo backend cannot do it.
        """
        await self._check_limit(caller, cargo_id, size_limit_mb)
        async with self.store.write() as db:
            record = await self._find(db, caller, cargo_id)
            sandbox_id = record.managed_by_sandbox_id
            sandbox = await sandboxes.get(db, sandbox_id) if sandbox_id else None
            wanted = _within(size_limit_mb, self._most_of(record, sandbox))
            await cargos.change(db, record.id, size_limit_mb=wanted)
            if sandbox is not None:
                await sandboxes.change(db, sandbox.id, disk_mb=self._own_size(sandbox, wanted))
        await self.storage_steps.make_cargo(record.id)
        return await self.get(caller, cargo_id)

    async def _check_limit(self, caller: Caller, cargo_id: str, size_limit_mb: int | None) -> None:
        """Raises Conflict for a limit that the cargo cannot have, before a row says that it is to have it."""
        if not isinstance(self.cargo, SizeLimits):
            return
        async with self.store.read() as db:
            record = await self._find(db, caller, cargo_id)
            sandbox_id = record.managed_by_sandbox_id
            sandbox = await sandboxes.get(db, sandbox_id) if sandbox_id else None
        wanted = _within(size_limit_mb, self._most_of(record, sandbox))
        await self.cargo.check_limit(record.id, None if wanted is None else wanted * MIB)

    def _most_of(self, record: CargoRecord, sandbox: SandboxRecord | None) -> int | None:
        if record.managed_by_sandbox_id is None:
            return self.most_mb
        profile = self.profiles.get(sandbox.profile) if sandbox else None
        return most_of(profile).disk_mb if profile else record.size_limit_mb

    def _own_size(self, sandbox: SandboxRecord, limit_mb: int | None) -> int | None:
        """The `disk_mb` of a sandbox whose cargo has that limit; None is its profile's."""
        profile = self.profiles.get(sandbox.profile)
        return None if profile and profile.disk_mb == limit_mb else limit_mb

    async def delete(self, caller: Caller, cargo_id: str) -> None:
        """Remove an external cargo; also when it already is. Raises Conflict while a sandbox has it."""
        async with self.store.write() as db:
            record = await cargos.find_any(db, caller.owner, cargo_id)
            if record is None:
                raise NotFound(f"there is no cargo {cargo_id}")
            if record.deleted_at is not None:
                return
            await _check_free(db, record)
            await cargos.change(db, record.id, deleted_at=self.clock())
        audit.about(record.id)
        self.storage_steps.discard()  # the checkpoint that it was to be made of may be free now
        await self.cargo.remove(record.id)

    async def move(self, caller: Caller, cargo_id: str, ref: str) -> Cargo:
        """Have the sandbox `ref` use this cargo in place of its own, which becomes an external one.
        A sandbox whose managed cargo is taken gets a new one. Raises Conflict while either has compute.
        """
        target = await self.waker.find(caller, ref)
        self.waker.refuse_expired(target)
        async with self.store.write() as db:
            record = await self._find(db, caller, cargo_id)
            target = await sandboxes.get(db, target.id) or target
            if target.cargo_id != record.id:
                await self._move(db, record, target)
        audit.about(cargo_id)
        return await self.get(caller, cargo_id)

    async def _move(self, db: StoreConnection, record: CargoRecord, target: SandboxRecord) -> None:
        giver_id = record.managed_by_sandbox_id
        giver = await sandboxes.get(db, giver_id) if giver_id else None
        if target.target == "deleted" or target.deleted_at is not None:
            raise NotFound(f"there is no sandbox {target.id}; it was deleted")
        _check_cold([target] if giver is None else [giver, target])
        if record.id in target.cargos:
            raise Conflict(f"cargo {record.id} is a volume of {target.id}; it cannot be its workspace too")
        replaced = await cargos.get(db, target.cargo_id)
        await sandboxes.change(db, target.id, cargo_id=record.id, checkpoint_id=None)
        await events.add(db, target, "sandbox.updated", self.clock(), fields=["cargo_id"])
        if replaced.managed_by_sandbox_id == target.id:
            await cargos.change(db, replaced.id, managed_by_sandbox_id=None)
        if giver is None:
            return
        await cargos.change(db, record.id, managed_by_sandbox_id=target.id)
        fresh = self._record(record.owner, record.size_limit_mb, giver_id=giver.id)
        await cargos.add(db, _row(fresh))
        await sandboxes.change(db, giver.id, cargo_id=fresh.id, checkpoint_id=None)
        await events.add(db, giver, "sandbox.updated", self.clock(), fields=["cargo_id"])

    async def _find(self, db: StoreConnection, caller: Caller, cargo_id: str) -> CargoRecord:
        record = await cargos.find(db, caller.owner, cargo_id)
        if record is None:
            raise NotFound(f"there is no cargo {cargo_id}")
        return record

    async def _shown(self, record: CargoRecord, sandbox_ids: tuple[str, ...]) -> Cargo:
        # A list must not fail because one cargo is not there yet.
        return self._view(record, sandbox_ids, await charged(self.cargo, record.id))

    def _record(
        self,
        owner: str,
        size_limit_mb: int | None,
        *,
        giver_id: str | None = None,
        origin_id: str | None = None,
    ) -> CargoRecord:
        now = self.clock()
        return CargoRecord(
            id=new_id("ws"), owner=owner, managed_by_sandbox_id=giver_id, backend=self.cargo.name,
            size_limit_mb=size_limit_mb, origin_id=origin_id, created_at=now, last_accessed_at=now, deleted_at=None,
        )  # fmt: skip

    def _view(self, record: CargoRecord, sandbox_ids: tuple[str, ...], charged: int | None) -> Cargo:
        owner = record.managed_by_sandbox_id
        enforced = isinstance(self.cargo, SizeLimits) and self.cargo.enforced
        return Cargo(
            id=record.id, managed=owner is not None, managed_by_sandbox_id=owner, backend=record.backend,
            size_limit_mb=record.size_limit_mb, created_at=record.created_at, last_accessed_at=record.last_accessed_at,
            size_limit_enforced=enforced, used_bytes=record.used_bytes, used_inodes=record.used_inodes,
            charged_bytes=charged, measured_at=record.measured_at, sandbox_ids=sandbox_ids,
        )  # fmt: skip


def _within(wanted: int | None, most: int | None) -> int | None:
    """The limit that was asked for, or the most. Raises InvalidArgument beyond that."""
    if wanted is not None and most is not None and wanted > most:
        raise InvalidArgument(
            f"this cargo may hold {most} MiB at most; ask for less, or have the server's limit raised"
        )
    return most if wanted is None else wanted


def _row(record: CargoRecord) -> dict[str, object]:
    return {name: getattr(record, name) for name in CargoRecord.__slots__}


def _check_cold(found: list[SandboxRecord]) -> None:
    busy = [sandbox.id for sandbox in found if not _is_cold(sandbox)]
    if busy:
        raise Conflict(
            f"{', '.join(busy)} is running, or its files are being copied; a cargo can move only between "
            "cold sandboxes: stop it and try again",
            details={"active_sandbox_ids": busy},
        )


def _is_cold(sandbox: SandboxRecord) -> bool:
    """Whether nothing is, or is about to be, done with its files."""
    wanted = (sandbox.restore_id, sandbox.checkpoint_due, sandbox.session)
    return sandbox.target == "stopped" and wanted == (None, None, None)


async def _check_free(db: StoreConnection, record: CargoRecord) -> None:
    if (owner := record.managed_by_sandbox_id) is not None:
        raise Conflict(
            f"cargo {record.id} belongs to {owner} and is deleted with it; delete that sandbox, or move the "
            "cargo",
            details={"managed_by_sandbox_id": owner},
        )
    users = (await cargos.users(db, [record.id])).get(record.id, ())
    if users:
        raise Conflict(
            f"cargo {record.id} is the workspace or a volume of {', '.join(users)}; delete that sandbox, or give it "
            "another cargo",
            details={"active_sandbox_ids": list(users)},
        )
