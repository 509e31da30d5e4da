"""The one place where objects meet: settings in, application out. Nothing is built by importing a module."""

import asyncio
import hashlib
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import timedelta
from pathlib import Path

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from bay import __version__
from bay.cargo.directory import DirectoryCargo
from bay.clock import Clock, utc_now
from bay.drivers.base import Driver
from bay.drivers.fake import FakeDriver
from bay.drivers.oci.driver import OciDriver
from bay.errors import BayError
from bay.server.api import execs as execs_api
from bay.server.api import filesystem as filesystem_api
from bay.server.api import health as health_api
from bay.server.api import sandboxes as sandboxes_api
from bay.server.api.deps import Services
from bay.server.auth import Keys
from bay.server.changes import Changes
from bay.server.edge import Edge
from bay.server.reconcile import Reconciler
from bay.server.replies import on_bay_error, on_http_exception, on_invalid_request
from bay.server.services.execs import Execs
from bay.server.services.files import Files
from bay.server.services.sandboxes import Sandboxes
from bay.server.settings import MIB, Settings
from bay.server.ship_link import ShipLink
from bay.server.sweep import Sweep
from bay.server.wake import Waker
from bay.store.engine import Store

DATABASE = "bay.db"
KEY_FILE = "admin.key"


class Bay:
    """A control plane that is put together but not yet running."""

    def __init__(self, settings: Settings, driver: Driver, clock: Clock) -> None:
        self.settings = settings
        self.clock = clock
        self.driver = driver
        self.store = Store(settings.data_dir / DATABASE)
        self.keys = Keys(self.store, clock)
        self.cargo = DirectoryCargo(settings.data_dir / "cargo")
        self.link = ShipLink()
        self.changes = Changes()
        self.profiles = {name: p.to_profile(name) for name, p in settings.profiles.items()}
        self.reconciler = Reconciler(
            store=self.store,
            driver=driver,
            cargo=self.cargo,
            link=self.link,
            profiles=self.profiles,
            changes=self.changes,
            clock=clock,
            workers=settings.start_concurrency,
            stop_grace_s=settings.stop_grace,
            retention=timedelta(seconds=settings.expired_retention),
        )
        self.sweep = Sweep(store=self.store, queue=self.reconciler.queue, link=self.link, clock=clock)
        self.waker = Waker(
            store=self.store,
            queue=self.reconciler.queue,
            changes=self.changes,
            profiles=self.profiles,
            clock=clock,
            start_timeout_s=settings.start_timeout,
        )
        self.new_key: str | None = None
        """The first admin key, when it was made by this start."""

    def services(self) -> Services:
        """What the routes call."""
        sandboxes = Sandboxes(
            store=self.store,
            queue=self.reconciler.queue,
            waker=self.waker,
            link=self.link,
            profiles=self.profiles,
            driver=self.driver.capabilities,
            cargo_backend=self.cargo.name,
            clock=self.clock,
        )
        execs = Execs(store=self.store, waker=self.waker, link=self.link, clock=self.clock)
        files = Files(waker=self.waker, link=self.link, max_text_bytes=self.settings.max_file_mb * MIB)
        return Services(sandboxes=sandboxes, execs=execs, files=files, profiles=self.profiles)

    @asynccontextmanager
    async def running(self) -> AsyncGenerator[None, None]:
        """Open everything, take over what runs, and work until the block is left; sandboxes keep running.

        Raises DriverUnavailable or StorageFull, with the way to mend it, before anything is half done.
        """
        async with AsyncExitStack() as stack:
            await self.store.open()
            stack.push_async_callback(self.store.aclose)
            await self.keys.open()
            await self._ensure_key()
            await self.cargo.open()
            await self.driver.open()
            stack.push_async_callback(self.driver.aclose)
            stack.callback(self.link.close)
            await self.reconciler.take_over()
            group = await stack.enter_async_context(asyncio.TaskGroup())
            tasks = [group.create_task(self.reconciler.run()), group.create_task(self.sweep.run())]
            try:
                yield
            finally:
                for task in tasks:
                    task.cancel()

    async def _ensure_key(self) -> None:
        given = self.settings.api_key
        secret = given.get_secret_value() if given else None
        self.new_key = await self.keys.ensure_admin(secret, self.settings.data_dir / KEY_FILE)


def build_app(settings: Settings, *, driver: Driver | None = None, clock: Clock = utc_now) -> FastAPI:
    """The ASGI application. Its lifespan runs the control plane; `app.state.bay` is the `Bay` behind it."""
    bay = Bay(settings, driver or make_driver(settings), clock)

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncGenerator[None, None]:
        async with bay.running():
            yield

    app = FastAPI(title="Bay", version=__version__, lifespan=lifespan)
    app.state.bay = bay
    app.state.services = bay.services()
    for api in (health_api, sandboxes_api, execs_api, filesystem_api):
        app.include_router(api.router)
    app.add_exception_handler(BayError, on_bay_error)
    app.add_exception_handler(RequestValidationError, on_invalid_request)
    app.add_exception_handler(HTTPException, on_http_exception)
    app.add_middleware(
        Edge,
        keys=bay.keys,
        max_body_bytes=settings.max_body_mb * MIB,
        max_upload_bytes=settings.max_upload_mb * MIB,
    )
    return app


def make_driver(settings: Settings) -> Driver:
    """The driver that the settings name. Its names on the host carry a mark of this data directory."""
    run_dir = settings.run_dir / instance_of(settings.data_dir)
    if settings.driver == "fake":
        return FakeDriver(run_dir=run_dir)
    return OciDriver(
        root=settings.data_dir / "oci",
        run_dir=run_dir,
        cache=settings.cache_dir,
        runc=settings.runc,
        id_range_start=settings.id_range_start,
    )


def instance_of(data_dir: Path) -> str:
    """A short name that tells the Bays of one host apart: twelve hex characters from the data directory's path."""
    return hashlib.sha256(str(data_dir.resolve()).encode()).hexdigest()[:12]
