"""The one place where the parts of the control plane meet. Nothing is built by importing a module."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import timedelta
from functools import partial
from typing import Any

from bay import __version__
from bay.cargo import backend_detection
from bay.cargo.base import CargoBackend, CopiesBySessions, KeptElsewhere
from bay.clock import Clock, ManualClock
from bay.drivers.base import AsksShip, Driver, HeaderBroker
from bay.ids import is_id_of, new_id
from bay.images.base import ImageLibrary
from bay.meters import Meters
from bay.models import Limits
from bay.server.backends import choose_cargo, cluster_resolvers, object_store_of, proxy_listener
from bay.server.browser.replays import Replays
from bay.server.browser.service import Browsers
from bay.server.browser.traces import Traces
from bay.server.builds.builder import Builder
from bay.server.builds.files import BuildFiles
from bay.server.builds.service import Builds
from bay.server.cargos.service import Cargos
from bay.server.cargos.usage import Usage
from bay.server.checkpoints import policy
from bay.server.checkpoints.bucket import CheckpointBucket
from bay.server.checkpoints.garbage import CheckpointGarbage
from bay.server.checkpoints.pushing import Pusher
from bay.server.checkpoints.remote import RemoteCheckpoints
from bay.server.checkpoints.requests import CheckpointRequests
from bay.server.checkpoints.service import Checkpoints
from bay.server.checkpoints.storage_steps import StorageSteps
from bay.server.compat.e2b.file_service import EnvdFiles
from bay.server.compat.e2b.interpreter import Interpreter
from bay.server.compat.e2b.process_service import EnvdProcesses
from bay.server.compat.e2b.sandbox_service import E2bSandboxes
from bay.server.compat.e2b.tokens import SandboxTokens
from bay.server.compat.e2b.watchers import EnvdWatchers
from bay.server.compat.mcp.messages import McpMessages
from bay.server.compat.sprites.exec_service import SpriteExecs
from bay.server.compat.sprites.files_service import SpriteFiles
from bay.server.compat.sprites.services_service import SpriteServices
from bay.server.console.service import Console
from bay.server.data_dir import BUILDS, KEY_FILE, PORTS_KEY_FILE, SECRETS_KEY_FILE, SPOOL
from bay.server.database import bind, identity, make_database
from bay.server.events.follow import EventNotifier
from bay.server.events.service import Events
from bay.server.events.webhook_delivery import Deliverer, Poster
from bay.server.events.webhooks import Webhooks
from bay.server.execs.attachments import Attachments
from bay.server.execs.history import History
from bay.server.execs.locator import ExecLocator
from bay.server.execs.processes import Processes
from bay.server.execs.results import ExecResults
from bay.server.execs.screen import Screens
from bay.server.execs.service import Execs
from bay.server.files.service import Files, SandboxFiles
from bay.server.files.ship_client import FileClient
from bay.server.images.logins import RegistryLogins
from bay.server.images.puller import Puller
from bay.server.images.requests import ImageRequests
from bay.server.images.service import Images
from bay.server.kernels.service import Kernels
from bay.server.kernels.ship_client import KernelClient
from bay.server.key_files import check_same
from bay.server.keys.service import ApiKeys, Audits
from bay.server.maintenance.capabilities import Abilities
from bay.server.maintenance.garbage_collection import Garbage
from bay.server.maintenance.host import HostView
from bay.server.maintenance.loop_lag import LoopLag
from bay.server.maintenance.metrics import Metrics
from bay.server.maintenance.planned_restart import PlannedRestart
from bay.server.maintenance.readiness import Readiness
from bay.server.maintenance.replicas import Replicas
from bay.server.maintenance.retention import Housekeeping, Retention
from bay.server.maintenance.settings_view import SettingsView
from bay.server.managed_services.service import SandboxServices
from bay.server.managed_services.ship_client import ServiceClient
from bay.server.managed_services.syncer import ServiceSyncer
from bay.server.networks.egress import ProxiedEgress
from bay.server.networks.service import Networks
from bay.server.ports.app_http import AppConnections
from bay.server.ports.events import PortListener
from bay.server.ports.gate import PortHosts
from bay.server.ports.host_index import PortSites
from bay.server.ports.links import PortTokens
from bay.server.ports.proxy import PortProxy
from bay.server.ports.service import Ports
from bay.server.ports.ship_client import PortClient
from bay.server.ports.tunnels import Tunnels
from bay.server.ports.watching import PortWatches
from bay.server.reconciler import boot_clock
from bay.server.reconciler.boot_clock import BootClock
from bay.server.reconciler.live_sessions import LiveSessions
from bay.server.reconciler.memory_pressure import Pressure
from bay.server.reconciler.orphans import Orphans
from bay.server.reconciler.reconciler import Reconciler
from bay.server.reconciler.start_slots import StartSlots
from bay.server.reconciler.starter import Starter
from bay.server.reconciler.sweep import Sweep
from bay.server.replicas.bus import Bus, SharedEvent
from bay.server.replicas.clock import DatabaseClock
from bay.server.replicas.leases import ReplicaLeases
from bay.server.samples.history import SampleHistory
from bay.server.samples.sampler import Sampler
from bay.server.sandboxes.pool import Pool
from bay.server.sandboxes.resizing import Resizing
from bay.server.sandboxes.service import Sandboxes
from bay.server.sandboxes.states import SandboxStates
from bay.server.sandboxes.usages import SandboxUsages
from bay.server.sandboxes.views import view_of
from bay.server.secrets.delivery import SecretDelivery
from bay.server.secrets.service import Secrets
from bay.server.secrets.vault import Vault
from bay.server.sessions.core import Core
from bay.server.sessions.feeds import SessionFeeds
from bay.server.sessions.memory import can_hibernate
from bay.server.sessions.notifier import Notifier
from bay.server.sessions.quotas import Quotas
from bay.server.sessions.rows import SandboxRows
from bay.server.sessions.waker import Holds, Waker
from bay.server.sessions.work_queue import WorkQueue
from bay.server.settings import Settings
from bay.server.ship.client import ShipClient
from bay.server.skills.payloads import SkillPayloads
from bay.server.skills.service import Skills
from bay.server.templates.freezing import TemplateFreezer
from bay.server.templates.maker import TemplateMaker
from bay.server.templates.service import Templates
from bay.server.web.audit import Auditor
from bay.server.web.auth import Keys
from bay.server.web.console_cookie import ConsoleCookies, ConsoleTokens
from bay.server.web.open_connections import OpenConnections
from bay.server.web.public_addresses import Addresses
from bay.server.web.sealing import Cursors, EventIds, Seals
from bay.server.web.upload_spool import Spool
from bay.store import sessions
from bay.store.deferred import DeferredWrites
from bay.store.engine import Store
from bay.store.postgres import PostgresDatabase
from bay.store.records import Keep
from bay.tracing import Tracing
from bay.units import GIB, MIB

_CHANGED, _WRITTEN = "changed", "written"
_LOOK_S = 1.0


class ControlPlane:
    """A control plane that is put together but not yet running."""

    def __init__(
        self,
        settings: Settings,
        driver: Driver,
        library: ImageLibrary,
        clock: Clock,
        available_memory: Callable[[], int],
        cargo: CargoBackend | None = None,
        meters: Meters | None = None,
        tracing: Tracing | None = None,
    ) -> None:
        """Without `cargo` the data directory's own backend keeps the files."""
        self.settings = settings
        self.meters = meters or Meters()
        self.tracing = tracing or Tracing()
        self.driver = driver
        self.database = make_database(settings)
        self.store = Store(self.database, self.meters)
        replica_id = new_id("replica")
        shared = self.database if isinstance(self.database, PostgresDatabase) and settings.replicas else None
        if shared is not None and not isinstance(clock, ManualClock):
            clock = DatabaseClock()
        self.clock = clock
        self.bus = Bus(self.store, shared, replica_id)
        self.leases = ReplicaLeases(
            self.store,
            shared,
            self.bus,
            replica_id=replica_id,
            version=__version__,
            clock=clock if isinstance(clock, DatabaseClock) else None,
        )
        self.keys = Keys(self.store, clock, self.bus)
        self._cargo_kind: backend_detection.Kind | None = None if cargo else choose_cargo(settings)
        self.cargo = cargo or _own_cargo(settings)
        self.ship = ShipClient(ring_bytes=_largest_ring(settings), meters=self.meters, tracing=self.tracing)
        self.kernels = KernelClient(self.ship)
        self.port_client = PortClient(self.ship)
        self.changes = Notifier(
            lambda key: self.bus.tell(_CHANGED, [key]), look_s=None if shared is None else _LOOK_S
        )
        self.deferred = DeferredWrites(self.store)
        self.holds = Holds(self.bus, self.deferred)
        self.connections = OpenConnections(self.keys)
        self.keys.on_forget = self.connections.look
        self.screens = Screens()
        self.profiles = {name: p.to_profile(name) for name, p in settings.profiles.items()}
        self.core = Core(
            store=self.store,
            deferred=self.deferred,
            driver=driver,
            cargo=self.cargo,
            images=library,
            profiles=self.profiles,
            clock=clock,
            meters=self.meters,
            tracing=self.tracing,
        )
        self.quotas = Quotas(
            of_key=self.keys.quotas,
            each_owner=settings.quotas.over(None) if settings.quotas else Limits(),
            owners={name: given.over(settings.quotas) for name, given in settings.owners.items()},
            profiles=self.profiles,
            clock=clock,
        )
        self.egress = _egress(settings, self.core, self.bus)
        self.hosts = PortHosts(settings.public_url, settings.host, settings.port)
        self.view = partial(view_of, self.core, self.hosts)
        self.discards = CheckpointGarbage(
            store=self.store,
            cargo=self.cargo,
            driver=driver,
            clock=clock,
            holds=self.holds,
            poked=SharedEvent(self.bus, "checkpoints"),
            is_alone=shared is None,
        )
        self.bucket = CheckpointBucket(object_store_of(settings))
        self.pusher = Pusher(
            store=self.store,
            cargo=self.cargo,
            bucket=self.bucket,
            notifier=self.changes,
            clock=clock,
            discard=self.discards.poke,
            poked=SharedEvent(self.bus, "pushes"),
        )
        self.storage_steps = StorageSteps(
            store=self.store,
            driver=driver,
            cargo=self.cargo,
            clock=clock,
            notifier=self.changes,
            discard=self.discards.poke,
            ship=self.ship,
        )
        self.vault = Vault()
        self.secrets = SecretDelivery(self.core, self.vault, FileClient(self.ship))
        if isinstance(driver, HeaderBroker):
            driver.use_secrets(self.secrets.of_session)
        if isinstance(driver, AsksShip):
            driver.use_tokens(self._token_of)
        self.service_client = ServiceClient(self.ship)
        self.service_syncer = ServiceSyncer(
            store=self.store,
            ship=self.service_client,
            profiles=self.profiles,
            bring_secrets=self.secrets.bring,
            notifier=self.changes,
            clock=clock,
            leases=self.leases,
            bus=self.bus,
        )
        port_listener = partial(PortListener, self.core, self.changes)
        self.feeds = SessionFeeds(
            ship=self.ship, listeners={"ports": port_listener, "services": self.service_syncer.listener}
        )
        queue = WorkQueue(self.leases.owns, lambda key: self.bus.tell(_CHANGED, [key]))
        orphans = Orphans(core=self.core, bus=self.bus)
        live = LiveSessions(driver, queue, self.feeds, self.service_syncer)
        self.starter = Starter(
            core=self.core,
            queue=queue,
            live=live,
            orphans=orphans,
            storage_steps=self.storage_steps,
            ship=self.ship,
            secrets=self.secrets,
            notifier=self.changes,
            slots=StartSlots(settings.start_concurrency),
            leases=self.leases,
            limit_s=settings.start_limit,
        )
        self.resizing = Resizing(self.core)
        self.reconciler = Reconciler(
            self.core,
            queue=queue,
            starter=self.starter,
            live=live,
            orphans=orphans,
            storage_steps=self.storage_steps,
            resizing=self.resizing,
            ship=self.ship,
            holds=self.holds,
            leases=self.leases,
            bus=self.bus,
            notifier=self.changes,
            places=2 * settings.start_concurrency,
            stop_grace_s=settings.stop_grace,
            retention=timedelta(seconds=settings.expired_retention),
        )
        self.image_requests = ImageRequests(allowed=settings.images_allow, quotas=self.quotas, clock=clock)
        self.pool = Pool(
            self.core,
            queue,
            notifier=self.changes,
            images=self.image_requests,
            quotas=self.quotas,
            max_age=timedelta(seconds=settings.pool_max_age),
            is_busy=lambda: self.starter.slots.urgent() > 0,
            leases=self.leases,
            bus=self.bus,
        )
        self.pressure = Pressure(
            core=self.core,
            queue=queue,
            pool=self.pool,
            holds=self.holds,
            leases=self.leases,
            reserve=settings.memory_reserve_mb * MIB,
            available=available_memory,
        )
        self.logins = RegistryLogins(store=self.store, driver=driver, vault=self.vault, clock=clock)
        self.puller = Puller(
            core=self.core,
            library=library,
            requests=self.image_requests,
            queue=queue,
            notifier=self.changes,
            credentials=self.logins.of_image,
            places=settings.image_pulls,
            keep=None if settings.images_keep_days is None else timedelta(days=settings.images_keep_days),
            poked=SharedEvent(self.bus, "images"),
            leases=self.leases,
            bus=self.bus,
        )
        self.outcomes = ExecResults(
            store=self.store, deferred=self.deferred, ship=self.ship, kernels=self.kernels, clock=clock
        )
        self.housekeeping = Housekeeping(self.core, self.outcomes, _retention(settings))
        self.rows = SandboxRows(self.store)
        self.waker = Waker(
            store=self.store,
            rows=self.rows,
            deferred=self.deferred,
            queue=self.reconciler.queue,
            holds=self.holds,
            settle_probe=self.reconciler.settle_probe,
            acted_on=self.reconciler.acted_on,
            changes=self.changes,
            bring_secrets=self.secrets.bring,
            quotas=self.quotas,
            profiles=self.profiles,
            clock=clock,
            start_timeout_s=settings.start_timeout,
            tracing=self.tracing,
            waits_for_copies=isinstance(self.cargo, CopiesBySessions),
        )
        self.sweep = Sweep(
            core=self.core,
            queue=queue,
            ship=self.ship,
            kernels=self.kernels,
            holds=self.holds,
            leases=self.leases,
            retention=timedelta(seconds=settings.expired_retention),
            chores=[
                partial(boot_clock.settle, clock, self.store),
                self.pressure.relieve,
                self.reconciler.look_after,
                partial(
                    policy.ask,
                    self.store,
                    clock,
                    self.waker.poke,
                    partial(can_hibernate, self.core),
                    self.quotas.admit_memory,
                ),
            ],
        )
        self.port_tokens = PortTokens(clock)
        self.sandbox_tokens = SandboxTokens()
        self.console_tokens = ConsoleTokens(clock)
        self.console_cookies = ConsoleCookies(self.console_tokens, self.keys, self.hosts.public_origin)
        self.port_sites = PortSites(core=self.core, rows=self.rows)
        self.port_proxy = PortProxy(
            waker=self.waker,
            to_apps=AppConnections(self.port_client),
            connections=self.connections,
            is_key=self.keys.is_chosen,
            wait_s=settings.port_wait,
            meters=self.meters,
        )
        self.snapshots = CheckpointRequests(
            store=self.store, waker=self.waker, discard=self.discards.poke, clock=clock
        )
        self.freezer = TemplateFreezer(core=self.core, notifier=self.changes, discard=self.discards.poke)
        self.template_maker = TemplateMaker(
            core=self.core,
            freezer=self.freezer,
            snapshots=self.snapshots,
            puller=self.puller,
            notifier=self.changes,
            poked=SharedEvent(self.bus, "templates"),
            leases=self.leases,
            bus=self.bus,
        )
        self.sandboxes = Sandboxes(
            core=self.core,
            waker=self.waker,
            snapshots=self.snapshots,
            pool=self.pool,
            quotas=self.quotas,
            images=self.image_requests,
            puller=self.puller,
            resizing=self.resizing,
            syncer=self.service_syncer,
            ship=self.ship,
            request_probe=self.reconciler.request_probe,
            view=self.view,
            private=settings.network_private,
        )
        self.locator = ExecLocator(store=self.store, deferred=self.deferred, waker=self.waker)
        self.execs = Execs(
            store=self.store,
            deferred=self.deferred,
            waker=self.waker,
            locator=self.locator,
            ship=self.ship,
            connections=self.connections,
            clock=clock,
        )
        self.sandbox_files = SandboxFiles(
            waker=self.waker, ship=FileClient(self.ship), connections=self.connections
        )
        self.envd_files = EnvdFiles(waker=self.waker, files=self.sandbox_files)
        self.envd_watchers = EnvdWatchers(files=self.envd_files)
        self.mcp_messages = McpMessages(hosts=self.hosts, connections=self.connections)
        self.images = Images(
            store=self.store,
            driver=driver,
            library=library,
            puller=self.puller,
            requests=self.image_requests,
            notifier=self.changes,
            quotas=self.quotas,
            clock=clock,
        )
        build_files = BuildFiles(settings.data_dir / BUILDS, self.changes, settings.max_context_mb * MIB)
        self.template_maker.builds = Builder(
            core=self.core,
            sandboxes=self.sandboxes,
            execs=self.execs,
            sandbox_files=self.sandbox_files,
            images=self.images,
            snapshots=self.snapshots,
            files=build_files,
            holds=self.holds,
            is_key=self.keys.is_valid,
            keep=timedelta(days=settings.build_cache_days),
            keep_bytes=settings.build_cache_mb * MIB,
        )
        self.templates = Templates(
            store=self.store,
            waker=self.waker,
            cargo=self.cargo,
            maker=self.template_maker,
            notifier=self.changes,
            quotas=self.quotas,
            profiles=self.profiles,
            seen_pool=self.pool.seen,
            empty_pool=self.pool.remove_of,
            clock=clock,
        )
        self.builds = Builds(
            store=self.store,
            templates=self.templates,
            files=build_files,
            notifier=self.changes,
            connections=self.connections,
        )
        self.feed = EventNotifier()
        self.store.on_change.append(lambda _changed: self.feed.wake())
        self.seals = Seals()
        self.event_ids = EventIds(self.seals)
        self.spool = Spool(settings.data_dir / SPOOL, settings.upload_spool_mb * MIB)
        self.addresses = Addresses(settings.webhook_allow, settings.webhook_ports)
        self.deliverer = Deliverer(
            store=self.store,
            feed=self.feed,
            ids=self.event_ids,
            poster=Poster(self.addresses),
            clock=clock,
            bus=self.bus,
        )
        self.auditor = Auditor(self.deferred, clock)
        self.loop_lag = LoopLag(self.meters)
        self.metrics = Metrics(
            core=self.core,
            queue=queue,
            reconciler=self.reconciler,
            pool=self.pool,
            leases=self.leases,
        )
        self.usage = Usage(store=self.store, deferred=self.deferred, cargo=self.cargo, clock=clock)
        self.sampler = Sampler(self.core, self.leases, self.bus)
        self.skill_payloads = SkillPayloads(
            store=self.store, clock=clock, max_bytes=settings.skills_max_mb * MIB
        )
        self.replicas = Replicas(
            store=self.store, leases=self.leases, url=lambda: self.hosts.own_url, clock=clock
        )
        self.host_view = HostView(
            store=self.store,
            driver=driver.name,
            cargo=self.cargo,
            pool=self.pool,
            meters=self.meters,
            leases=self.leases,
            memory_reserve=settings.memory_reserve_mb * MIB,
            clock=clock,
        )
        self._connect_replicas()
        self.new_key: str | None = None
        """The first admin key, when it was made by this start."""

    def _connect_replicas(self) -> None:
        """Have this replica hear what the others have changed, and do its share of the work."""
        self.leases.take, self.leases.rest = self.reconciler.take, self.reconciler.rest
        self.leases.drop, self.leases.recheck = self.reconciler.drop, self.reconciler.recheck
        self.store.on_change.append(lambda changed: self.bus.tell(_CHANGED, changed))
        self.bus.hear(_CHANGED, self._hear_changed)
        self.bus.answer(_WRITTEN, self._write_deferred)
        self.deferred.settle = partial(self.bus.all, _WRITTEN)
        self.bus.on_gap.append(self._hear_all)
        self.leases.on_beat.append(self.keys.recheck)

    def _hear_changed(self, keys: list[str]) -> None:
        for key in keys:
            self.changes.hear(key)
            if is_id_of("sandbox", key):
                self.reconciler.queue.put_here(key)
        self.feed.wake()

    async def _write_deferred(self, _item: str) -> bool:
        await self.deferred.flush()
        return True

    def _hear_all(self) -> None:
        self.changes.hear_all()
        self.feed.wake()
        self.leases.look_again()

    def services(self) -> dict[type, Any]:
        """The services that routes call, by class."""
        networks = Networks(
            store=self.store,
            waker=self.waker,
            driver=self.driver,
            profiles=self.profiles,
            private=self.settings.network_private,
            clock=self.clock,
            egress=self.egress,
        )
        attachments = Attachments(
            waker=self.waker,
            locator=self.locator,
            execs=self.execs,
            ship=self.ship,
            screens=self.screens,
            connections=self.connections,
        )
        port_watches = PortWatches(
            waker=self.waker,
            feeds=self.feeds,
            ship=self.port_client,
            connections=self.connections,
            leases=self.leases,
            bus=self.bus,
        )
        processes = Processes(waker=self.waker, ship=self.ship)
        file_client = FileClient(self.ship)
        files = Files(
            waker=self.waker,
            ship=file_client,
            spool=self.spool,
            max_text_bytes=self.settings.max_file_mb * MIB,
        )
        events = Events(
            store=self.store,
            keys=self.keys,
            feed=self.feed,
            connections=self.connections,
            ids=self.event_ids,
            clock=self.clock,
        )
        webhooks = Webhooks(
            store=self.store, addresses=self.addresses, on_change=self.deliverer.recheck, clock=self.clock
        )
        checkpoints = Checkpoints(
            core=self.core,
            store=self.store,
            waker=self.waker,
            snapshots=self.snapshots,
            cargo=self.cargo,
            holds=self.holds,
            quotas=self.quotas,
            discard=self.discards.poke,
            view=self.view,
            clock=self.clock,
        )
        remote_checkpoints = RemoteCheckpoints(
            store=self.store,
            waker=self.waker,
            cargo=self.cargo,
            snapshots=self.snapshots,
            checkpoints=checkpoints,
            bucket=self.bucket,
            pusher=self.pusher,
            notifier=self.changes,
            quotas=self.quotas,
            clock=self.clock,
        )
        services = SandboxServices(
            store=self.store,
            waker=self.waker,
            ship=self.service_client,
            syncer=self.service_syncer,
            connections=self.connections,
            profiles=self.profiles,
        )
        cargos = Cargos(
            store=self.store,
            waker=self.waker,
            cargo=self.cargo,
            storage_steps=self.storage_steps,
            snapshots=self.snapshots,
            quotas=self.quotas,
            profiles=self.profiles,
            most_mb=self.settings.max_cargo_mb,
            clock=self.clock,
        )
        browsers = Browsers(
            store=self.store,
            deferred=self.deferred,
            waker=self.waker,
            execs=self.execs,
            traces=Traces(store=self.store, payloads=self.skill_payloads),
            replays=Replays(store=self.store, payloads=self.skill_payloads),
            clock=self.clock,
        )
        kernels = Kernels(
            store=self.store,
            deferred=self.deferred,
            waker=self.waker,
            ship=self.kernels,
            connections=self.connections,
            clock=self.clock,
        )
        usages = SandboxUsages(core=self.core, waker=self.waker)
        history = SampleHistory(
            core=self.core,
            waker=self.waker,
            leases=self.leases,
            sampler=self.sampler,
            is_on=self.settings.samples,
        )
        e2b_sandboxes = E2bSandboxes(
            store=self.store,
            waker=self.waker,
            sandboxes=self.sandboxes,
            usages=usages,
            history=history,
            checkpoints=checkpoints,
            snapshots=self.snapshots,
            clock=self.clock,
        )
        made = (
            e2b_sandboxes,
            self.sandboxes,
            usages,
            history,
            SandboxStates(core=self.core, feed=self.feed, connections=self.connections, view=self.view),
            self.images,
            self.logins,
            self.templates,
            self.builds,
            checkpoints,
            remote_checkpoints,
            cargos,
            self.execs,
            attachments,
            processes,
            EnvdProcesses(
                waker=self.waker,
                execs=self.execs,
                attachments=attachments,
                processes=processes,
                connections=self.connections,
            ),
            SpriteExecs(
                waker=self.waker,
                execs=self.execs,
                attachments=attachments,
                ports=port_watches,
                connections=self.connections,
            ),
            kernels,
            Interpreter(waker=self.waker, kernels=kernels, profiles=self.core.profiles),
            browsers,
            files,
            self.sandbox_files,
            self.envd_files,
            self.envd_watchers,
            self.mcp_messages,
            networks,
            Tunnels(waker=self.waker, ship=self.port_client, connections=self.connections),
            port_watches,
            SpriteFiles(
                files=self.sandbox_files,
                waker=self.waker,
                connections=self.connections,
                profiles=self.profiles,
            ),
            SpriteServices(services=services, waker=self.waker),
            Ports(
                core=self.core,
                waker=self.waker,
                ship=self.port_client,
                hosts=self.hosts,
                tokens=self.port_tokens,
            ),
            services,
            History(store=self.store, deferred=self.deferred, waker=self.waker, outcomes=self.outcomes),
            ApiKeys(store=self.store, keys=self.keys, clock=self.clock),
            Console(
                store=self.store,
                keys=self.keys,
                tokens=self.console_tokens,
                origin=self.hosts.public_origin,
                clock=self.clock,
            ),
            Secrets(store=self.store, vault=self.vault, quotas=self.quotas, clock=self.clock),
            Skills(store=self.store, deferred=self.deferred, payloads=self.skill_payloads, clock=self.clock),
            Audits(store=self.store, deferred=self.deferred),
            events,
            webhooks,
            Cursors(self.seals),
            self.pool,
            Garbage(
                core=self.core,
                waker=self.waker,
                sweep=self.sweep,
                orphans=self.reconciler.orphans,
                bus=self.bus,
            ),
            PlannedRestart(
                core=self.core,
                waker=self.waker,
                directories=(self.settings.data_dir, self.settings.data_dir / backend_detection.ROOT),
            ),
            self.metrics,
            self.host_view,
            SettingsView(settings=self.settings),
            self.replicas,
            Abilities(driver=self.driver, cargo=self.cargo, has_samples=self.settings.samples),
            Readiness(store=self.store, leases=self.leases, bus=self.bus),
        )
        return {type(one): one for one in made}

    @asynccontextmanager
    async def running(self) -> AsyncGenerator[None, None]:
        """Open everything, take over what runs, and work until the block is left; sandboxes keep running.
        Raises DriverUnavailable or StorageFull, with the way to mend it, before anything is half done.
        """
        async with AsyncExitStack() as stack:
            stack.push_async_callback(asyncio.to_thread, self.tracing.close)
            stack.push_async_callback(self.store.aclose)
            async with self.store.starting():
                await self.store.open()
                await bind(self.store, self.settings)
                if isinstance(self.clock, BootClock):
                    await self.clock.open(self.store)
                await self.keys.open()
                await self.seals.open(self.store)
                await asyncio.to_thread(self._open_keys)
                stack.callback(self.addresses.close)
                stack.callback(self.feed.close)
                stack.callback(self.connections.close)
                stack.push_async_callback(self.screens.aclose)
                await self._ensure_key()
                others = await self.leases.join(self.hosts.own_url)
                if self.settings.replicas:
                    await check_same(
                        self.store, self.vault.key_names, self.port_tokens.key_name, others=others
                    )
                if isinstance(self.cargo, KeptElsewhere):
                    self.cargo.belong_to(await identity(self.store))
                await self.cargo.open(beside_others=others)
                stack.push_async_callback(self.cargo.aclose)
                if self._cargo_kind is not None:
                    await asyncio.to_thread(
                        backend_detection.record, self.settings.data_dir, self._cargo_kind
                    )
            await self.driver.open()
            stack.push_async_callback(self.driver.aclose)
            stack.callback(self.ship.close)
            if self.egress is not None:
                await self.egress.open()
                stack.push_async_callback(self.egress.aclose)
            await self.core.images.open()
            stack.push_async_callback(self.core.images.aclose)
            if not self.bus.is_shared:
                await self.puller.take_over()
                await self.discards.take_over()
            await self.reconciler.take_over()
            stack.push_async_callback(self.deferred.flush)
            await stack.enter_async_context(_running(self.bus.run()))
            stack.push_async_callback(self.leases.leave)
            group = await stack.enter_async_context(asyncio.TaskGroup())
            parts = (
                self.reconciler,
                self.feeds,
                self.service_syncer,
                self.sweep,
                self.deferred,
                self.cargo,
                self.port_proxy,
                self.envd_watchers,
                self.mcp_messages,
                self.loop_lag,
                *([self.egress] if self.egress is not None else []),
                *([self.sampler] if self.settings.samples else []),
            )
            do = self.leases.do
            jobs = (
                do("retention", self.housekeeping.run),
                do("pool", self.pool.run),
                do("images", self.puller.run, self.puller.take_over),
                do("templates", self.template_maker.run),
                do("usage", self.usage.run),
                do("checkpoints", self.discards.run, self.discards.take_over),
                do("pushes", self.pusher.run),
                do("webhooks", self.deliverer.run),
            )
            tasks = [group.create_task(part.run()) for part in parts]
            tasks += map(group.create_task, (*jobs, self.pool.watch()))
            self.replicas.start()
            self.host_view.start()
            tasks.append(group.create_task(self.leases.run()))
            try:
                yield
                if not self.bus.is_shared:  # the others go on with it
                    await self.pool.drain()
            finally:
                for task in tasks:
                    task.cancel()

    def _open_keys(self) -> None:
        given, directory = self.settings, self.settings.data_dir
        secrets_key, ports_key = given.secrets_key_file, given.ports_key_file
        self.vault.open_file(secrets_key or directory / SECRETS_KEY_FILE, given=secrets_key is not None)
        for tokens in (self.port_tokens, self.sandbox_tokens, self.console_tokens):
            tokens.open(ports_key or directory / PORTS_KEY_FILE, given=ports_key is not None)

    async def _token_of(self, session_id: str) -> str | None:
        async with self.store.read() as db:
            return await sessions.token_of(db, session_id)

    async def _ensure_key(self) -> None:
        given = self.settings.api_key
        secret = given.get_secret_value() if given else None
        self.new_key = await self.keys.ensure_admin(secret, self.settings.data_dir / KEY_FILE)


@asynccontextmanager
async def _running(work: Coroutine[None, None, None]) -> AsyncGenerator[None]:
    async with asyncio.TaskGroup() as group:
        task = group.create_task(work)
        try:
            yield
        finally:
            task.cancel()


def _own_cargo(settings: Settings) -> CargoBackend:
    return backend_detection.make(
        settings.data_dir, choose_cargo(settings), settings.pool_max_gb and settings.pool_max_gb * GIB,
        shared=settings.replicas,
    )  # fmt: skip


def _egress(settings: Settings, core: Core, bus: Bus) -> ProxiedEgress | None:
    """The egress proxy, where the driver starts sessions that reach nothing else."""
    given, listen = settings.kubernetes, proxy_listener(settings)
    if given is None or listen is None or core.driver.capabilities.egress != "proxy":
        return None
    return ProxiedEgress(
        core,
        bus,
        listen=listen,
        resolvers=cluster_resolvers(settings),
        private=settings.network_private,
        deny=given.network_private,
        ipv6=settings.network_ipv6,
    )


def _largest_ring(settings: Settings) -> int:
    """Bytes of output that a Ship keeps of an exec, at most."""
    return max((profile.output_buffer_mb for profile in settings.profiles.values()), default=1) * MIB


def _retention(settings: Settings) -> Retention:
    return Retention(
        history=Keep(count=settings.history_max_count, size=settings.history_max_mb * MIB),
        history_age=timedelta(days=settings.history_max_age),
        events=settings.event_max_count,
        event_age=timedelta(days=settings.event_retention),
        audit=settings.audit_max_count,
        audit_age=timedelta(days=settings.audit_retention),
        deleted_age=timedelta(days=settings.deleted_retention),
    )
