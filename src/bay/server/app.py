"""The ASGI application: the routes, the errors and the middleware around one control plane."""

from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError, WebSocketRequestValidationError
from starlette.exceptions import HTTPException

from bay import __version__
from bay.cargo.base import CargoBackend
from bay.clock import Clock
from bay.drivers.base import Driver
from bay.errors import BayError
from bay.images.base import ImageLibrary
from bay.meters import Meters
from bay.server.backends import (
    check_replicas,
    make_claims,
    make_driver,
    make_library,
    make_network,
    make_tracing,
)
from bay.server.browser import routes as browser_api
from bay.server.builds import routes as builds_api
from bay.server.cargos import routes as cargos_api
from bay.server.checkpoints import remote_routes as remote_checkpoints_api
from bay.server.checkpoints import routes as checkpoints_api
from bay.server.compat.e2b import files_routes as envd_contents_api
from bay.server.compat.e2b import filesystem_routes as envd_files_api
from bay.server.compat.e2b import health_routes as e2b_health_api
from bay.server.compat.e2b import interpreter_routes as interpreter_api
from bay.server.compat.e2b import metrics_routes as e2b_metrics_api
from bay.server.compat.e2b import process_routes as envd_processes_api
from bay.server.compat.e2b import sandbox_routes as e2b_sandboxes_api
from bay.server.compat.e2b import wire as e2b
from bay.server.compat.e2b.entrance import Entrance
from bay.server.compat.e2b.port_guests import E2bGuests
from bay.server.compat.e2b.sandbox_service import E2bSandboxes
from bay.server.compat.mcp import routes as mcp_api
from bay.server.compat.mcp import wire as mcp
from bay.server.compat.sprites import checkpoint_routes as sprite_checkpoints_api
from bay.server.compat.sprites import exec_routes as sprite_execs_api
from bay.server.compat.sprites import file_routes as sprite_files_api
from bay.server.compat.sprites import policy_routes as sprite_policies_api
from bay.server.compat.sprites import port_routes as sprite_ports_api
from bay.server.compat.sprites import proxy_routes as sprite_proxy_api
from bay.server.compat.sprites import service_routes as sprite_services_api
from bay.server.compat.sprites import sprites_routes as sprites_api
from bay.server.compat.sprites import wire as sprites
from bay.server.console import routes as console_api
from bay.server.control_plane import ControlPlane
from bay.server.events import routes as events_api
from bay.server.events import webhook_routes as webhooks_api
from bay.server.execs import attach_routes as attach_api
from bay.server.execs import history_routes as history_api
from bay.server.execs import process_routes as processes_api
from bay.server.execs import routes as execs_api
from bay.server.files import routes as files_api
from bay.server.files import workspace_routes as filesystem_api
from bay.server.images import login_routes as registries_api
from bay.server.images import routes as images_api
from bay.server.kernels import routes as kernels_api
from bay.server.keys import audit_routes as audit_api
from bay.server.keys import routes as keys_api
from bay.server.maintenance import admin_routes as admin_api
from bay.server.maintenance import capability_routes as capabilities_api
from bay.server.maintenance import health_routes as health_api
from bay.server.maintenance import metrics_routes as metrics_api
from bay.server.maintenance import replica_routes as replicas_api
from bay.server.managed_services import routes as services_api
from bay.server.networks import routes as network_api
from bay.server.ports import routes as ports_api
from bay.server.ports import tunnel_routes as tunnel_api
from bay.server.ports.gate import PortGate, PortPaths
from bay.server.reconciler.boot_clock import BootClock
from bay.server.reconciler.memory_pressure import available_memory
from bay.server.replicas.answers import WrittenAnswers
from bay.server.samples import routes as samples_api
from bay.server.sandboxes import routes as sandboxes_api
from bay.server.sandboxes import usage_routes as usage_api
from bay.server.secrets import routes as secrets_api
from bay.server.settings import Settings
from bay.server.skills import routes as skills_api
from bay.server.templates import routes as templates_api
from bay.server.web import page_routes as pages_api
from bay.server.web.console_page import ConsolePage
from bay.server.web.edge import Edge
from bay.server.web.page_routes import HEADERS
from bay.server.web.replies import on_bay_error, on_http_exception, on_invalid_request
from bay.server.web.static_site import CONSOLE, DOCS, StaticSite
from bay.units import MIB

_APIS = (
    admin_api,
    health_api,
    capabilities_api,
    metrics_api,
    replicas_api,
    sandboxes_api,
    usage_api,
    samples_api,
    checkpoints_api,
    remote_checkpoints_api,
    cargos_api,
    images_api,
    registries_api,
    templates_api,
    builds_api,
    execs_api,
    attach_api,
    network_api,
    tunnel_api,
    ports_api,
    services_api,
    processes_api,
    kernels_api,
    browser_api,
    filesystem_api,
    files_api,
    history_api,
    keys_api,
    console_api,
    secrets_api,
    skills_api,
    audit_api,
    events_api,
    webhooks_api,
    pages_api,
    envd_processes_api,
    interpreter_api,
    sprite_checkpoints_api,
    sprite_files_api,
    sprite_policies_api,
    sprite_ports_api,
    sprite_proxy_api,
    sprite_services_api,
    sprites_api,
    sprite_execs_api,
    e2b_health_api,
    e2b_metrics_api,
    envd_files_api,
    envd_contents_api,
    e2b_sandboxes_api,
    mcp_api,
)

FORMATS = (sprites.FORMAT, e2b.FORMAT, mcp.FORMAT)
"""The foreign wire formats."""


def build_app(
    settings: Settings,
    *,
    driver: Driver | None = None,
    cargo: CargoBackend | None = None,
    library: ImageLibrary | None = None,
    clock: Clock | None = None,
    available_memory: Callable[[], int] = available_memory,
) -> FastAPI:
    """The ASGI application; its lifespan runs the `ControlPlane`, which is `app.state.bay`."""
    meters = Meters()
    network = make_network(settings, meters) if driver is None and settings.driver == "oci" else None
    driver = driver or make_driver(settings, network)
    check_replicas(settings, driver)
    cargo = cargo or make_claims(settings, driver)
    library = library or make_library(settings, network)
    tracing = make_tracing(settings)
    bay = ControlPlane(
        settings, driver, library, clock or BootClock(), available_memory, cargo, meters, tracing
    )

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncGenerator[None, None]:
        async with bay.running():
            yield

    app = FastAPI(title="Bay", version=__version__, lifespan=lifespan, docs_url=None, redoc_url=None)
    app.state.bay = bay
    app.state.services = bay.services()
    app.state.profiles = bay.profiles
    app.state.doc_site = StaticSite(DOCS)
    app.state.console = ConsolePage(StaticSite(CONSOLE), lambda: bay.hosts.previews, HEADERS)
    # Taken over and not included: FastAPI would prepare each route once more, and look for it in two steps.
    app.router.routes += [route for api in _APIS for route in api.router.routes]
    app.add_exception_handler(BayError, on_bay_error)
    app.add_exception_handler(RequestValidationError, on_invalid_request)
    app.add_exception_handler(WebSocketRequestValidationError, on_invalid_request)
    app.add_exception_handler(HTTPException, on_http_exception)
    app.add_middleware(PortPaths, waker=bay.waker, proxy=bay.port_proxy)
    if settings.replicas:
        app.add_middleware(WrittenAnswers, deferred=bay.deferred)
    token = settings.metrics_token
    app.add_middleware(
        Edge,
        keys=bay.keys,
        cookies=bay.console_cookies,
        auditor=bay.auditor,
        formats=FORMATS,
        max_body_bytes=settings.max_body_mb * MIB,
        max_upload_bytes=settings.max_upload_mb * MIB,
        meters=bay.meters,
        metrics_token=None if token is None else token.get_secret_value(),
        tracing=bay.tracing,
    )
    app.add_middleware(
        PortGate,
        hosts=bay.hosts,
        sites=bay.port_sites,
        tokens=bay.port_tokens,
        keys=bay.keys,
        proxy=bay.port_proxy,
        guests=E2bGuests(bay.sandbox_tokens, bay.keys, bay.clock, app.state.services[E2bSandboxes]),
        meters=bay.meters,
    )
    app.add_middleware(
        Entrance,
        hosts=bay.hosts,
        sites=bay.port_sites,
        tokens=bay.sandbox_tokens,
        keys=bay.keys,
        e2b=app.state.services[E2bSandboxes],
        clock=bay.clock,
    )
    return app
