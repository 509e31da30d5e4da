"""The driver, the network and the cargo backend that the settings name."""

import asyncio
import importlib
import importlib.util
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from bay.cargo import backend_detection, base_backend
from bay.cargo.base import CargoBackend
from bay.drivers.base import Driver
from bay.drivers.fake import FakeDriver
from bay.drivers.host_check import HostCheck
from bay.drivers.kubernetes.egress import PUBLIC_RESOLVERS, EgressSettings, ProxyPlace
from bay.drivers.kubernetes.pod import Isolation, PodSettings, PodTimeouts
from bay.drivers.oci.driver import OciDriver
from bay.drivers.oci.idrange import ID_RANGES, IDS_DIR, IdRanges
from bay.errors import InvalidArgument
from bay.hints import extra
from bay.images.base import ImageLibrary
from bay.images.fake import FakeLibrary
from bay.images.fetching import Fetcher, FetchLimits
from bay.images.layer_cage import CageParts
from bay.images.layer_store import LayerLimits, LayerStore
from bay.images.library import HostLibrary, ImageLimits
from bay.images.registries import Registries
from bay.meters import Meters
from bay.network.broker.supervisor import Brokers
from bay.network.dns.forwarder import Forwarder
from bay.network.dns.names import Opener
from bay.network.dns.upstream import UpstreamResolver, resolvers_in
from bay.network.manager import NetworkManager
from bay.network.reserved_ranges import Address
from bay.object_store.base import ObjectStore
from bay.server.data_dir import FAKE_IMAGES, instance_of
from bay.server.settings import IsolationSettings, KubernetesSettings, Settings
from bay.server.ship.carriers import ShipCarriers
from bay.tracing import Tracing
from bay.units import MIB


def make_driver(settings: Settings, network: NetworkManager | None = None) -> Driver:
    """The driver that the settings name. Its names on the host carry a mark of this data directory.
    It opens and closes `network`, which others may use meanwhile; without one it has one of its own.
    """
    run_dir = run_dir_of(settings)
    if settings.driver == "fake":
        return FakeDriver(run_dir=run_dir)
    if settings.driver == "kubernetes":
        return _kubernetes_driver(settings)
    return OciDriver(
        root=settings.data_dir / "oci",
        run_dir=run_dir,
        cache=settings.cache_dir,
        layers=layers_of(settings),
        runc=settings.runc,
        runc_timeout_s=settings.runc_timeout,
        runsc_binary=settings.runsc,
        criu=settings.criu if any(profile.hibernate for profile in settings.profiles.values()) else None,
        id_range_start=settings.id_range_start,
        network=network or make_network(settings),
        network_off=settings.network == "off",
    )


def make_claims(settings: Settings, driver: Driver) -> CargoBackend | None:
    """Keeps files in volume claims where the settings' driver runs pods, and their checkpoints in snapshots
    of volumes or in the object store, where there are such; None where a data directory keeps files.
    """
    if settings.driver != "kubernetes":
        return None
    given = _cluster_of(settings)
    claims = importlib.import_module("bay.cargo.volume_claims")
    about = claims.ClaimSettings(
        install=given.install,
        storage_class=given.storage_class,
        default_bytes=given.volume_mb * MIB,
        read_write_once_pod=given.read_write_once_pod,
        enforced=given.volume_limits,
    )

    def connect() -> AbstractAsyncContextManager[Any]:
        connected: AbstractAsyncContextManager[Any] = claims.connected(_access_to(given))
        return connected

    pods = getattr(driver, "carriers", None)
    store = object_store_of(settings)
    if pods is None or (store is None and given.snapshot_class is None):
        plain: CargoBackend = claims.VolumeClaimCargo(connect, about)
        return plain
    checkpoints = importlib.import_module("bay.cargo.claim_checkpoints")
    snapshots = importlib.import_module("bay.cargo.claim_snapshots")
    archives = importlib.import_module("bay.cargo.claim_archives")
    kept = archives.ClaimArchives(store or snapshots.NoArchives, are_kept=store is not None)
    archived = connect, about, kept, ShipCarriers(pods)
    made: CargoBackend = (
        checkpoints.ClaimCheckpoints(*archived)
        if given.snapshot_class is None
        else snapshots.ClaimSnapshots(*archived, snapshot_class=given.snapshot_class)
    )
    return made


def cluster_checks(settings: Settings, *, canaries: bool, kubeconfig: Path | None = None) -> list[HostCheck]:
    """The checks of the settings' cluster, seen with `kubeconfig` where that is given. Blocks, for a minute
    with `canaries`. Raises InvalidArgument where the settings name no cluster.
    """
    given = _cluster_of(settings)
    if kubeconfig is not None:
        given = given.model_copy(update={"kubeconfig": kubeconfig, "context": None})
    trials = importlib.import_module("bay.drivers.kubernetes.canaries.run")
    storage = importlib.import_module("bay.drivers.kubernetes.canaries.storage")
    facts = trials.ClusterFacts(
        access=_access_to(given),
        pods=_pods_of(given),
        network=_egress_of(settings, given),
        storage=storage.StorageFacts(
            storage_class=given.storage_class,
            read_write_once_pod=given.read_write_once_pod,
            snapshot_class=given.snapshot_class,
        ),
        start_s=given.unschedulable,
    )
    found: list[HostCheck] = asyncio.run(trials.cluster_checks(facts, canaries=canaries))
    return found


def _kubernetes_driver(settings: Settings) -> Driver:
    given = _cluster_of(settings)
    if settings.images_allow:
        raise InvalidArgument(
            "setting images_allow: it is about images that Bay pulls, and driver kubernetes pulls none; name what "
            "callers may use in `images` of [kubernetes]"
        )
    kubernetes = importlib.import_module("bay.drivers.kubernetes.driver")  # which takes half a second
    driver: Driver = kubernetes.KubernetesDriver(
        access=_access_to(given),
        pods=_pods_of(given),
        network=_egress_of(settings, given),
        timeouts=PodTimeouts(start_s=given.unschedulable),
        is_alone=not settings.replicas,
        snapshots=given.snapshot_class is not None,
    )
    return driver


def _pods_of(given: KubernetesSettings) -> PodSettings:
    return PodSettings(
        install=given.install,
        image=given.image,
        admitted=given.images,
        ship_image=given.ship_image,
        ship_volume=given.ship_volume,
        pull_policy=given.pull_policy,
        pull_secrets=given.pull_secrets,
        service_account=given.service_account,
        isolations={
            "container": Isolation(),
            **{name: _isolation(one) for name, one in given.isolations.items()},
        },
        cpu_request=given.cpu_request,
        lifetime_s=given.lifetime,
    )


def _egress_of(settings: Settings, given: KubernetesSettings) -> EgressSettings:
    return EgressSettings(
        enforced=given.network_enforced,
        dns_servers=tuple(map(str, settings.dns_servers)) or PUBLIC_RESOLVERS,
        clients=given.network_clients,
        private=given.network_private,
        proxy=_proxy_of(given),
    )


def _proxy_of(given: KubernetesSettings) -> ProxyPlace | None:
    if given.egress_proxy is None:
        return None
    (host, port), (_, listens_on) = map(_place, (given.egress_proxy, given.egress_proxy_listen))
    return ProxyPlace(host=host, port=port, listens_on=listens_on)


def _place(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    return host.strip("[]"), int(port)


def proxy_listener(settings: Settings) -> tuple[str, int] | None:
    """Where Bay listens as the egress proxy of its cluster; None without one."""
    given = settings.kubernetes
    return None if given is None or given.egress_proxy is None else _place(given.egress_proxy_listen)


def cluster_resolvers(settings: Settings) -> tuple[Address, ...]:
    """The resolvers of the names that pods of a cluster ask for."""
    return settings.dns_servers or tuple(map(ip_address, PUBLIC_RESOLVERS))


def _cluster_of(settings: Settings) -> KubernetesSettings:
    """Raises InvalidArgument without a cluster, or without the library that reaches one."""
    if settings.kubernetes is None:
        raise InvalidArgument(
            "setting kubernetes: driver kubernetes needs it; give `install`, `image` and `ship_image` at least, see "
            "docs/kubernetes.md"
        )
    if importlib.util.find_spec("kubernetes") is None:
        raise InvalidArgument(
            f"setting driver: kubernetes needs the library kubernetes; {extra('kubernetes')}"
        )
    return settings.kubernetes


def _access_to(given: KubernetesSettings) -> Any:
    login = importlib.import_module("bay.drivers.kubernetes.login")
    return login.KubeAccess(
        kubeconfig=given.kubeconfig, context=given.context, namespace=given.namespace, timeout_s=given.timeout
    )


def _isolation(given: IsolationSettings) -> Isolation:
    return Isolation(
        runtime_class=given.runtime_class, node_selector=given.node_selector, tolerations=given.tolerations
    )


def make_fetcher(settings: Settings, network: NetworkManager) -> Fetcher:
    """The fetcher of images, with the driver's `network` and id ranges."""
    return Fetcher(
        run_dir=run_dir_of(settings),
        ids=IdRanges(IDS_DIR, settings.id_range_start, ID_RANGES),
        network=network,
        online=settings.network != "off",
        registries=Registries(given.to_access(host) for host, given in settings.registries.items()),
        limits=FetchLimits(
            stall_s=settings.images_pull_stall_s,
            timeout_s=settings.images_pull_timeout,
            max_bytes=settings.images_max_mb * MIB,
        ),
    )


def make_tracing(settings: Settings) -> Tracing:
    """Records spans where the settings name a collector. Raises InvalidArgument when its library is not
    installed.
    """
    if settings.otlp_endpoint is None:
        return Tracing()
    try:
        library = importlib.import_module("bay.server.open_telemetry")
    except ModuleNotFoundError as error:
        raise InvalidArgument(
            f"setting otlp_endpoint: needs the library {error.name}; {extra('opentelemetry')}"
        ) from error
    return library.OpenTelemetry(settings.otlp_endpoint)


def object_store_of(settings: Settings) -> Callable[[], ObjectStore] | None:
    """Makes the object store of the settings, which takes a moment; None where there is none. Raises
    InvalidArgument when its library is not installed.
    """
    given = settings.object_store
    if given is None:
        return None
    if importlib.util.find_spec("boto3") is None:
        raise InvalidArgument(f"setting object_store: needs the library boto3; {extra('s3')}")
    bucket, _, prefix = given.url.removeprefix("s3://").partition("/")
    secret = given.secret_access_key
    values: dict[str, Any] = {
        "bucket": bucket,
        "prefix": f"{prefix.strip('/')}/" if prefix.strip("/") else "",
        "endpoint": given.endpoint,
        "region": given.region,
        "access_key_id": given.access_key_id,
        "secret_access_key": secret and secret.get_secret_value(),
        "ca_file": given.ca_file,
        "path_style": given.endpoint is not None if given.path_style is None else given.path_style,
        "timeout_s": given.timeout,
    }

    def make() -> ObjectStore:
        s3 = importlib.import_module("bay.object_store.s3")  # which half a second of start-up would go to
        return s3.S3ObjectStore(s3.S3Access(**values))

    return make


def check_replicas(settings: Settings, driver: Driver) -> None:
    """Raises InvalidArgument for replicas that could not reach one another's rows or sandboxes."""
    if not settings.replicas:
        return
    if settings.database_url is None:
        raise InvalidArgument("setting replicas: needs database_url, a PostgreSQL database for all of them")
    if not driver.capabilities.shared:
        raise InvalidArgument(
            f"setting replicas: driver {driver.name} runs sandboxes that only this host reaches; unset it, and "
            "have one Bay for each host"
        )
    if settings.driver != "kubernetes" and choose_cargo(settings) == "pool":
        raise InvalidArgument(
            "setting replicas: cargo_backend btrfs keeps files in a pool of its own, which one Bay mounts; keep the "
            "data directory on a file system that all replicas reach"
        )


def run_dir_of(settings: Settings) -> Path:
    """The directory of this Bay that does not outlive a boot."""
    return settings.run_dir / instance_of(settings.data_dir)


def make_library(settings: Settings, network: NetworkManager | None) -> ImageLibrary:
    """The images of the data directory; the `fake` driver's are nothing but names."""
    if settings.driver == "fake" or network is None:
        return FakeLibrary(settings.data_dir / FAKE_IMAGES if settings.replicas else None)
    run_dir, ids = run_dir_of(settings), IdRanges(IDS_DIR, settings.id_range_start, ID_RANGES)
    parts = CageParts(stage=run_dir / "stage", closures=settings.cache_dir / "closures", ids=ids)
    root = images_of(settings)
    layer = LayerLimits(max_bytes=settings.images_max_mb * MIB)
    return HostLibrary(
        root_dir=root,
        fetcher=make_fetcher(settings, network),
        store=LayerStore(root, parts, concurrency=settings.image_unpacks),
        limits=ImageLimits(archive_bytes=settings.images_max_mb * MIB, layer=layer),
    )


def images_of(settings: Settings) -> Path:
    """Where images are, on the file system of the cargos: the layers of templates come from them."""
    if choose_cargo(settings) == "directory":
        return settings.data_dir / "images"
    return settings.data_dir / backend_detection.ROOT / base_backend.IMAGES


def layers_of(settings: Settings) -> Path | None:
    """Where sessions write outside of their workspaces: with the cargos where those have limits."""
    if choose_cargo(settings) == "directory":
        return None
    return settings.data_dir / backend_detection.ROOT / base_backend.LAYERS


def make_network(settings: Settings, meters: Meters | None = None) -> NetworkManager:
    """The networks of the settings' sandboxes; their host names carry a mark of this data directory."""
    resolvers = settings.dns_servers or _host_resolvers()

    def names(opener: Opener, is_reachable: Callable[[Address], bool]) -> Forwarder:
        return Forwarder(
            resolvers=resolvers,
            opener=opener,
            is_reachable=is_reachable,
            ipv6=settings.network_ipv6,
            meters=meters,
        )

    return NetworkManager(
        instance=instance_of(settings.data_dir)[:4],
        ipv6=settings.network_ipv6,
        private=settings.network_private,
        names=names,
        brokers=Brokers(
            directory=settings.run_dir / instance_of(settings.data_dir) / "brokers",
            trust=settings.network_broker_trust,
            meters=meters,
        ),
    )


def _host_resolvers() -> tuple[UpstreamResolver, ...]:
    """Whom this host asks for names."""
    try:
        return resolvers_in(Path("/etc/resolv.conf").read_text(errors="replace"))
    except OSError:
        return ()


def choose_cargo(settings: Settings) -> backend_detection.Kind:
    """Who keeps the cargos of the data directory; the `fake` driver limits nothing by itself."""
    if settings.driver == "fake" and settings.cargo_backend != "btrfs":
        return "directory"
    return backend_detection.decide(settings.cargo_backend, backend_detection.look(settings.data_dir))
