"""The settings: environment (`BAY_…`) over TOML file over default. Each is documented in docs/settings.md."""

import re
import tomllib
from collections.abc import Mapping, Sequence
from functools import partial
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, cast
from urllib.parse import urlsplit

from pydantic import Field, PrivateAttr, SecretStr, ValidationError, ValidationInfo, field_validator
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
    TomlConfigSettingsSource,
)

from bay import validation_words
from bay.errors import InvalidArgument
from bay.ids import is_owner
from bay.images import names
from bay.images.references import parse_host
from bay.images.registries import RegistryAccess
from bay.models import (
    DEFAULT_CAPABILITIES,
    Capability,
    HeaderInjection,
    Limits,
    NetworkMode,
    NetworkPolicy,
    NetworkProtocol,
    NetworkRule,
    OnExpiry,
    Persist,
    Profile,
    Resources,
    SettingOrigin,
)
from bay.server.web.auth import MIN_CHOSEN
from bay.server.web.bodies import KnownFields
from bay.server.web.public_addresses import ports_in
from bay.units import MIB
from ship_protocol import RING_BYTES

_TAKEN_NAMES = re.compile(
    "root|daemon|bin|sys|adm|tty|disk|mail|man|www-data|shadow|utmp|staff|users|_apt|nobody|nogroup"
)


class SettingFields(KnownFields):
    """Settings that belong together."""

    noun: ClassVar[str] = "setting"


class InjectSettings(SettingFields):
    """The header that a rule has added."""

    header: str
    secret: str
    format: str = "{}"


class RuleSettings(SettingFields):
    """One `[[profiles.NAME.network_policy.rules]]`."""

    action: Literal["allow", "deny"]
    domain: str | None = None
    cidr: str | None = None
    ports: tuple[int | str, ...] | None = None
    protocol: NetworkProtocol | None = None
    inject: InjectSettings | None = None

    def to_rule(self) -> NetworkRule:
        """The noun that the rest of Bay uses."""
        inject = self.inject and HeaderInjection(**self.inject.model_dump())
        return NetworkRule(**self.model_dump(exclude={"inject"}), inject=inject)


class NetworkSettings(SettingFields):
    """`[profiles.NAME.network_policy]`."""

    mode: NetworkMode = "open"
    rules: tuple[RuleSettings, ...] = ()

    def to_policy(self) -> NetworkPolicy:
        """The noun that the rest of Bay uses."""
        return NetworkPolicy(mode=self.mode, rules=tuple(rule.to_rule() for rule in self.rules))


class ProfileSettings(SettingFields):
    """One `[profiles.NAME]` table of the configuration file."""

    image: str = Field("host", description="image of the root file system; `host` needs no download")
    isolation: str = Field("container", description="how sessions are isolated")
    cpus: float = Field(1.0, gt=0, le=1024, description="cores")
    memory_mb: int = Field(1024, ge=64, description="memory, MiB")
    pids: int = Field(512, ge=16, le=1_000_000, description="processes and threads")
    capabilities: tuple[Capability, ...] = Field(
        DEFAULT_CAPABILITIES, description="calls this profile serves"
    )
    env: dict[str, str] = Field(default_factory=dict[str, str], description="environment of every command")
    idle_timeout: int | None = Field(
        1800, ge=1, description="seconds without activity before compute freezes"
    )
    warm_timeout: int | None = Field(
        3600, ge=0, description="seconds frozen in memory before compute stops; 0 = never frozen"
    )
    hibernate: bool = Field(
        False,
        description="whether memory goes to disk when compute would stop, and checkpoints may have it, where the host can "
        "save it; see docs/memory.md",
    )
    pool_size: int = Field(0, ge=0, le=1000, description="started sandboxes that are kept ready for a create")
    pool_max: int | None = Field(
        None, ge=0, le=1000, description="as many of them at most, as creates come fast; unset: `pool_size`"
    )
    output_buffer_mb: int = Field(1, ge=1, le=RING_BYTES >> 20, description="each exec's output buffer, MiB")
    ttl: int | None = Field(None, ge=1, description="lifetime in seconds of a sandbox without its own `ttl`")
    on_expiry: OnExpiry = Field("delete", description="at the end of its lifetime: `delete`, or `pause`")
    persist: Persist = Field(
        "workspace",
        description="files that survive a stop: those under /workspace, or with `machine` the whole root file system",
    )
    disk_mb: int | None = Field(
        10_240,
        ge=16,
        description="limit of its files, MiB, and as much again outside of its workspace; enforced on btrfs only",
    )
    max_cpus: float | None = Field(
        None, gt=0, le=1024, description="most `cpus` that a create or `PATCH` may ask for; unset: `cpus`"
    )
    max_memory_mb: int | None = Field(
        None, ge=64, description="most `memory_mb` of a create or `PATCH`; unset: `memory_mb`"
    )
    max_disk_mb: int | None = Field(
        None, ge=16, description="most `disk_mb` of a create, and limit of its cargo; unset: `disk_mb`"
    )
    max_pids: int | None = Field(
        None, ge=16, le=1_000_000, description="most `pids` of a create or `PATCH`; unset: `pids`"
    )
    start: Literal["eager", "lazy"] = Field("eager", description="when compute starts")
    kernel: Literal["eager", "lazy"] = Field(
        "lazy", description="when the default kernel starts: with the sandbox, or with the first code"
    )
    root: bool = Field(True, description="whether an exec may use `user: root`")
    user: str = Field(
        "ship",
        pattern=r"^[a-z_][a-z0-9_-]{0,31}$",
        description="name of the user that commands run as, uid 1000",
    )
    home: str = Field(
        "/workspace",
        pattern=r"^(/workspace|/home/[A-Za-z0-9_][A-Za-z0-9._-]{0,63})$",
        description="home of that user: `/workspace`, or a directory of `/home`, which is made at a start",
    )
    skills: bool = Field(
        False, description="whether each start puts Bay's own skills below `/workspace/skills`"
    )
    env_file: bool = Field(
        False,
        description="whether `/workspace/.bay_env.sh` has the environment, and `shell/exec` reads that file",
    )
    users: tuple[str, ...] | None = Field(
        None, description="further users of execs without `root`; unset: every user of `/etc/passwd`"
    )
    network_policy: NetworkSettings | None = Field(
        None, description="its network policy, in the form of `PUT …/network-policy`; unset: mode `open`"
    )
    description: str = Field("", description="for people")

    @field_validator("pool_max")
    @classmethod
    def _no_less_than_its_size(cls, value: int | None, info: ValidationInfo) -> int | None:
        size = info.data.get("pool_size", 0)
        if value is not None and value < size:
            raise ValueError(f"{value} is less than pool_size, {size}; leave it out, or give {size} or more")
        return value

    @field_validator("max_cpus", "max_memory_mb", "max_disk_mb", "max_pids")
    @classmethod
    def _no_less_than_its_own(cls, value: float | None, info: ValidationInfo) -> float | None:
        name = str(info.field_name).removeprefix("max_")
        own = info.data.get(name)
        if value is not None and name in info.data and (own is None or value < own):
            has = "no limit" if own is None else f"{own:g}"
            raise ValueError(f"{value:g} is less than {name}, {has}; leave it out, or give more")
        return value

    @field_validator("user")
    @classmethod
    def _nobody_elses_name(cls, value: str) -> str:
        if _TAKEN_NAMES.fullmatch(value):
            raise ValueError(f"{value} is the name of another user or group of the image; choose a new name")
        return value

    def to_profile(self, name: str) -> Profile:
        """The noun that the rest of Bay uses."""
        values = self.model_dump(exclude={"cpus", "memory_mb", "pids", "network_policy"})
        resources = Resources(cpus=self.cpus, memory=self.memory_mb * MIB, pids=self.pids)
        return Profile(
            id=name,
            resources=resources,
            network_policy=(self.network_policy or NetworkSettings()).to_policy(),
            **values,
        )


Limit = Annotated[int | None, Field(ge=0, le=1_000_000_000)]


class QuotaSettings(SettingFields):
    """Limits on use at any one time.

    One left out is unlimited, or as for every owner; `"none"` lifts a limit.
    """

    sandboxes: Limit = Field(None, description="sandboxes")
    running: Limit = Field(None, description="sandboxes that have or want compute and are not frozen")
    cpus: Annotated[float | None, Field(ge=0, le=1_000_000, allow_inf_nan=False)] = Field(
        None, description="cores of those"
    )
    memory_mb: Limit = Field(None, description="memory of those and of the frozen ones, MiB")
    disk_mb: Limit = Field(None, description="files, as last measured, MiB")
    cargos: Limit = Field(None, description="cargos that belong to no sandbox")
    creates_per_minute: Limit = Field(None, description="sandboxes made in the last 60 seconds")
    secrets: Limit = Field(None, description="secrets; never more than 200")

    @field_validator("*", mode="before")
    @classmethod
    def _none_is_a_word(cls, value: object) -> object:
        return None if value == "none" else value  # TOML has no null

    def over(self, others: "QuotaSettings | None") -> Limits:
        """These limits, and where nothing is said those of `others`."""
        below = others.model_dump() if others else {}
        return Limits(**{**below, **self.model_dump(exclude_unset=True)})


class RegistrySettings(SettingFields):
    """One registry, in `registries` by its host."""

    insecure: bool = Field(False, description="whether plain HTTP and certificates of anybody will do")
    ca_file: Path | None = Field(None, description="PEM file of its certificate authority")
    addresses: tuple[IPv4Address | IPv6Address, ...] = Field(
        (), description="where it is reached, from the host: for a registry that is not public"
    )

    def to_access(self, host: str) -> RegistryAccess:
        """The word of Bay's images for it."""
        return RegistryAccess(
            host=host, insecure=self.insecure, ca_file=self.ca_file, addresses=self.addresses
        )


class ObjectStoreSettings(SettingFields):
    """`[object_store]`: a bucket that checkpoints are pushed to, and pulled from."""

    url: str = Field(
        pattern=r"^s3://[a-z0-9][a-z0-9.-]{1,61}[a-z0-9](/[A-Za-z0-9!_.*'()-]+)*/?$",
        max_length=512,
        description="the bucket, and a prefix of its keys: `s3://BUCKET/PREFIX`",
    )
    endpoint: str | None = Field(
        None, pattern=r"^https?://[^\s@]+$", description="URL of a server other than Amazon's"
    )
    region: str | None = Field(
        None, pattern="^[a-z0-9-]{1,64}$", description="region of the bucket; unset: the environment's"
    )
    access_key_id: str | None = Field(
        None, description="the key; unset: the environment's, a profile's, or this machine's role"
    )
    secret_access_key: SecretStr | None = Field(None, description="the secret of `access_key_id`")
    ca_file: Path | None = Field(None, description="PEM file of its certificate authority")
    path_style: bool | None = Field(
        None, description="whether the bucket is in the path of URLs; unset: where `endpoint` is set"
    )
    timeout: float = Field(
        60, gt=0, le=3600, description="seconds that the server may say nothing before a request is repeated"
    )

    @field_validator("secret_access_key")
    @classmethod
    def _comes_with_its_key(cls, value: SecretStr | None, info: ValidationInfo) -> SecretStr | None:
        if value is not None and not info.data.get("access_key_id"):
            raise ValueError("give access_key_id too, or leave both out")
        return value


class IsolationSettings(SettingFields):
    """`[kubernetes.isolations.NAME]`: how and where the pods of that `isolation` run."""

    runtime_class: str | None = Field(
        None, max_length=253, description="RuntimeClass of its pods; unset: the cluster's default runtime"
    )
    node_selector: dict[str, str] = Field(
        default_factory=dict[str, str], description="labels that a node must have"
    )
    tolerations: tuple[dict[str, str | int], ...] = Field(
        (), description="taints of nodes that its pods tolerate, as in a pod's manifest"
    )


_PLACE = r"^(\[[0-9a-fA-F:.]+\]|[A-Za-z0-9.-]{1,253}):[0-9]{1,5}$"


class KubernetesSettings(SettingFields):
    """`[kubernetes]`: the cluster that runs sandboxes with `driver = "kubernetes"`."""

    install: str = Field(
        pattern="^[a-z0-9]([a-z0-9-]{0,30}[a-z0-9])?$",
        description="name of this installation in the labels of all that it makes; no other Bay of the namespace has it",
    )
    kubeconfig: Path | None = Field(
        None, description="kubeconfig file; unset: the pod's service account, else ~/.kube/config"
    )
    context: str | None = Field(None, description="context of the kubeconfig; unset: its current one")
    namespace: str | None = Field(
        None, pattern="^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$", description="namespace of the sandboxes; unset: the context's"
    )  # fmt: skip
    image: str = Field(max_length=512, description="image of sandboxes that name none")
    images: tuple[str, ...] = Field(
        (),
        description="images that callers may name: beginnings of full references, such as `docker.io/library/`; `*` is all",
    )
    ship_image: str = Field(
        max_length=512, description="image with Ship, which an init container copies from"
    )
    ship_volume: Literal["copy", "image"] = Field(
        "copy", description="how pods have Ship: `copy`, by the init container; `image`, as a volume, from Kubernetes 1.33 on"
    )  # fmt: skip
    pull_policy: Literal["Always", "IfNotPresent", "Never"] = Field(
        "IfNotPresent", description="when nodes pull images"
    )
    pull_secrets: tuple[str, ...] = Field((), description="names of Secrets for pulls from registries")
    service_account: str | None = Field(
        None, description="service account of the pods, whose token none gets; unset: the namespace's default"
    )
    cpu_request: float = Field(
        0.1, gt=0, le=1, description="part of its cores that a node keeps free for a pod"
    )
    lifetime: int = Field(
        604_800, ge=60, description="seconds after which Kubernetes ends a pod, also when no Bay runs"
    )
    unschedulable: float = Field(
        30, ge=0, description="seconds a start waits for a node with room before it fails"
    )
    storage_class: str | None = Field(
        None, description="StorageClass of the files; unset: the cluster's default"
    )
    volume_mb: int = Field(10_240, ge=16, description="size of a volume where no `disk_mb` says one, MiB")
    read_write_once_pod: bool = Field(
        False,
        description="whether the storage has the access mode ReadWriteOncePod, which one pod alone may use",
    )
    volume_limits: bool = Field(False, description="whether the storage holds volumes to their size")
    snapshot_class: str | None = Field(
        None, description="VolumeSnapshotClass of checkpoints; unset: they are archives in the object store"
    )
    network_enforced: bool = Field(
        False, description="whether the network plug-in holds pods to NetworkPolicies"
    )
    network_private: tuple[IPv4Network | IPv6Network, ...] = Field(
        (), description="public addresses of nodes and services, which sandboxes must not reach"
    )
    network_clients: tuple[IPv4Network | IPv6Network, ...] = Field(
        (), description="networks that Bay reaches pods from, when it runs outside of the cluster"
    )
    egress_proxy: str | None = Field(
        None,
        pattern=_PLACE,
        description="HOST:PORT at which sandboxes reach Bay's egress proxy, for rules of network policies; unset: none",
    )
    egress_proxy_listen: str = Field(
        "0.0.0.0:8701",
        pattern=_PLACE,
        description="ADDRESS:PORT at which each Bay listens as that proxy",
    )
    timeout: float = Field(15, gt=0, le=300, description="seconds a request to the API server may take")
    isolations: dict[str, IsolationSettings] = Field(
        default_factory=dict[str, IsolationSettings],
        description="kinds of isolation by name, besides `container`, which is there with the defaults",
    )

    @field_validator("egress_proxy", "egress_proxy_listen")
    @classmethod
    def _is_place(cls, value: str | None, info: ValidationInfo) -> str | None:
        least = 0 if info.field_name == "egress_proxy_listen" else 1  # 0: a free one
        if value is not None and not least <= int(value.rpartition(":")[2]) < 65536:
            raise ValueError(f"its port is none between {least} and 65535")
        return value

    @field_validator("images")
    @classmethod
    def _are_beginnings(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        try:
            return tuple(map(names.beginning, value))
        except InvalidArgument as error:
            raise ValueError(error.message) from error


def default_profiles(**pool: int) -> dict[str, ProfileSettings]:
    """The profiles of a Bay that is given none, with `pool` as the settings of the pool of the first."""
    about = "One core, 1 GiB, the host's own programs"
    sprite = {"user": "sprite", "home": "/home/sprite", "persist": "machine", "idle_timeout": 30}
    e2b = {"user": "user", "home": "/home/user", "persist": "machine"}
    given: dict[str, dict[str, Any]] = {
        "python-default": {"description": about, **pool},
        "sprite": {"description": "For programs written for Sprites", **sprite},
        "e2b": {"description": "For programs written for E2B", **e2b},
    }
    return {name: ProfileSettings.model_validate(values) for name, values in given.items()}


class Settings(SettingFields, BaseSettings):
    """Everything that can be set.

    Durations are seconds where nothing else is said, sizes MiB where the name says so.
    """

    model_config = SettingsConfigDict(
        env_prefix="BAY_",
        extra="forbid",
        env_nested_delimiter="__",
        env_ignore_empty=True,
        hide_input_in_errors=True,  # it may be a key
    )

    data_dir: Path = Field(Path("/var/lib/bay"), description="directory of Bay's database and all files")
    run_dir: Path = Field(Path("/run/bay"), description="directory of sockets and mounts of live sessions")
    cache_dir: Path = Field(
        Path("/var/cache/bay"),
        description="directory of rebuildable files: Ship's runtime and image skeletons",
    )
    host: str = Field("127.0.0.1", description="address to listen on")
    port: Annotated[int, Field(ge=0, le=65535)] = Field(8700, description="port to listen on; 0 = a free one")
    api_key: SecretStr | None = Field(
        None,
        description="admin key, for automation, 16 characters or more; when unset Bay creates one and shows it once",
    )
    metrics_token: SecretStr | None = Field(
        None,
        description="token that opens `/metrics` and nothing else, 16 characters or more; unset = admin keys alone",
    )
    otlp_endpoint: str | None = Field(
        None,
        description="collector of OpenTelemetry traces, such as `http://127.0.0.1:4318`; unset = no traces",
    )
    database_url: SecretStr | None = Field(
        None,
        description="PostgreSQL for Bay's rows, such as `postgresql://bay:PASSWORD@db.example.com/bay`; "
        "unset = a SQLite file in `data_dir`",
    )
    replicas: bool = Field(
        False, description="share `database_url` with other Bays that have the same settings"
    )
    secrets_key_file: Path | None = Field(
        None,
        description="file with the keys that encrypt secrets, the newest first, which Bay only reads; "
        "unset: `secrets.key` in `data_dir`",
    )
    ports_key_file: Path | None = Field(
        None,
        description="file with the key of the links and cookies of ports and the tokens of sandboxes, which Bay "
        "only reads; unset: `ports.key` in `data_dir`",
    )
    driver: Literal["oci", "kubernetes", "fake"] = Field(
        "oci",
        description="runs sessions: in containers of this host, or in pods; `fake` isolates nothing and is for tests",
    )
    runc: str = Field("runc", description="the OCI runtime to call")
    runc_timeout: float = Field(
        20, gt=0, description="seconds the OCI runtime may take to start a container before it is killed"
    )
    runsc: str | None = Field(
        None,
        description="gVisor's runtime, such as `runsc`, for profiles with isolation `gvisor`; unset = without",
    )
    criu: str = Field("criu", description="the CRIU to save the memory of sandboxes with, 4.2 or newer")
    id_range_start: int = Field(1_879_048_192, ge=65536, description="first host uid of sandboxes' ranges")
    network: Literal["auto", "off"] = Field(
        "auto",
        description="`off`: sandboxes have loopback only; `auto`: a network where the host can enforce policies",
    )
    network_ipv6: bool = Field(
        False,
        description="whether sandboxes reach IPv6; turns on the host's IPv6 forwarding, see docs/network.md",
    )
    images_allow: tuple[str, ...] = Field(
        (),
        description="patterns of the images that keys without the scope admin may pull, such as `docker.io/library/*`",
    )
    images_keep_days: int | None = Field(
        30, ge=0, description="days an image stays that nothing uses; unset = until it is deleted"
    )
    build_cache_days: int = Field(
        7, ge=0, description="days a snapshot after a step of a build stays that no build uses"
    )
    build_cache_mb: int = Field(
        10_240, ge=0, description="snapshots after steps of builds that one owner has, MiB"
    )
    max_context_mb: int = Field(512, ge=1, description="largest context of a build, MiB")
    image_pulls: int = Field(
        3,
        ge=1,
        le=16,
        description="images pulled at once, one owner's in all places but one; more are queued",
    )
    image_unpacks: int = Field(
        3,
        ge=1,
        le=32,
        description="layers unpacked at once, one owner's in all places but one; more are queued",
    )
    network_private: tuple[IPv4Network | IPv6Network, ...] = Field(
        (), description="private networks that rules may allow; all others stay unreachable"
    )
    network_broker_trust: tuple[Path, ...] = Field(
        (), description="files of certificates that the broker verifies hosts by, besides this machine's"
    )
    dns_servers: tuple[IPv4Address | IPv6Address, ...] = Field(
        (), description="resolvers for sandboxes' names; empty = the host's, from /etc/resolv.conf"
    )
    public_url: str | None = Field(
        None,
        description="public URL of Bay, such as `https://bay.example.com`; ports are at {port}-{name}.bay.example.com",
    )
    trusted_proxies: tuple[IPv4Network | IPv6Network, ...] = Field(
        (IPv4Network("127.0.0.1/32"),),
        description="networks of the proxies before `public_url`: Bay takes their X-Forwarded-For and -Proto for true",
    )
    port_wait: float = Field(30, gt=0, le=600, description="seconds a request waits for its port's listener")
    cargo_backend: Literal["auto", "btrfs", "directory"] = Field(
        "auto",
        description="storage backend of the files; `auto` is btrfs where possible, and keeps a data directory's first choice",
    )
    pool_max_gb: int | None = Field(
        None, ge=1, description="largest btrfs pool, GiB; unset = the host's disk"
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="lowest logged level")
    log_format: Literal["auto", "json", "console"] = Field(
        "auto", description="`auto` is console on a terminal, else JSON"
    )
    start_timeout: float = Field(60, gt=0, description="seconds a call waits for compute before it gets 503")
    start_limit: float = Field(120, gt=0, description="seconds after which Bay aborts a start")
    stop_grace: float = Field(5, ge=0, description="seconds between TERM and KILL for processes on stop")
    start_concurrency: int = Field(4, ge=1, le=64, description="sessions started at once; more are queued")
    pool_max_age: int = Field(3600, ge=1, description="seconds after which a pooled sandbox is replaced")
    memory_reserve_mb: int = Field(512, ge=0, description="available MiB below which frozen sandboxes stop")
    expired_retention: int = Field(60, ge=0, description="seconds an expired sandbox is shown until removed")
    max_connections: int = Field(
        10_000,
        ge=16,
        description="client connections at once, at most a third of the descriptors that Bay may open",
    )
    max_connections_per_address: int = Field(
        256, ge=4, description="connections of one address without a key; unlimited where `public_url` is set"
    )
    head_timeout: float = Field(10, gt=0, description="seconds until the head of a request must be complete")
    body_timeout: float = Field(60, gt=0, description="seconds that a request's body may pause")
    keep_alive_timeout: int = Field(
        15, ge=1, description="seconds a connection is kept for the next request after an answer"
    )
    max_body_mb: int = Field(
        16, ge=1, description="largest JSON body that carries a file or stdin, MiB; others may have 1 MiB"
    )
    max_upload_mb: int = Field(4096, ge=1, description="largest upload, MiB")
    upload_spool_mb: int = Field(
        1024,
        ge=1,
        description="space for uploads whose part `path` comes last, MiB; one owner may have a fourth",
    )
    max_file_mb: int = Field(16, ge=1, description="largest file that `filesystem/files` reads as JSON, MiB")
    max_cargo_mb: int = Field(65_536, ge=16, le=65_536, description="largest size of an external cargo, MiB")
    webhook_allow: tuple[IPv4Network | IPv6Network, ...] = Field(
        (), description="networks that are not public and to which webhooks may be sent"
    )
    webhook_ports: tuple[str, ...] = Field(
        ("80", "443", "1024-65535"), description="ports that webhooks may be sent to, and ranges of them"
    )
    history_max_age: int = Field(30, ge=1, le=36500, description="days that successful executions are kept")
    history_max_count: int = Field(
        1000, ge=1, le=100_000, description="successful executions that the history of a sandbox keeps"
    )
    history_max_mb: int = Field(
        16,
        ge=1,
        le=1024,
        description="space for the history of a sandbox, MiB; ten times as much for failures",
    )
    skills_max_mb: int = Field(
        64, ge=1, le=65_536, description="space for the skills of one owner, with traces of browsers, MiB"
    )
    samples: bool = Field(
        True, description="whether Bay samples the use of resources by sandboxes, every ten seconds"
    )
    event_retention: int = Field(7, ge=1, le=36500, description="days that events are kept")
    event_max_count: int = Field(1_000_000, ge=1000, description="events kept for all owners together")
    audit_retention: int = Field(90, ge=1, le=36500, description="days that the audit is kept")
    audit_max_count: int = Field(1_000_000, ge=1000, description="calls that the audit keeps")
    deleted_retention: int = Field(
        7,
        ge=1,
        le=36500,
        description="days that Bay remembers a removed sandbox, so that a second delete succeeds",
    )
    registries: dict[str, RegistrySettings] = Field(
        default_factory=dict[str, RegistrySettings],
        description="registries of images that are not public, or need a certificate authority, by host",
    )
    kubernetes: KubernetesSettings | None = Field(
        None, description="the cluster of the driver kubernetes, which needs it"
    )
    object_store: ObjectStoreSettings | None = Field(
        None, description="a bucket that checkpoints may be pushed to and pulled from; unset = none"
    )
    images_max_mb: int = Field(
        20_480, ge=1, description="largest size of an image's layers as they are fetched, MiB"
    )
    images_pull_timeout: float = Field(
        1800, gt=0, description="seconds that fetching an image may take before it fails"
    )
    images_pull_stall_s: float = Field(
        60, gt=0, description="seconds that fetching an image may come no further before it fails"
    )
    profiles: dict[str, ProfileSettings] = Field(
        default_factory=partial(default_profiles, pool_size=2, pool_max=8),
        description="the profiles, by name",
    )

    quotas: QuotaSettings | None = Field(None, description="quotas of each owner")
    owners: dict[str, QuotaSettings] = Field(
        default_factory=dict[str, QuotaSettings],
        description="quotas of single owners, by name, which override `quotas`",
    )

    _sources: Mapping[SettingOrigin, Mapping[str, Any]] | None = PrivateAttr(None)

    def came_from(self, sources: Mapping[SettingOrigin, Mapping[str, Any]]) -> None:
        """Note the values of each source, of which an earlier one comes before the later."""
        self._sources = sources

    def origin_of(self, path: Sequence[str]) -> SettingOrigin | None:
        """Where the setting, in tables by its path, has its value from; None when that is not known."""
        if self._sources is not None:
            for origin, values in self._sources.items():
                if _has(values, path):
                    return origin
            return "default"
        return None if path[0] in self.model_fields_set else "default"

    @field_validator("api_key", "metrics_token")
    @classmethod
    def _hard_to_guess(cls, value: SecretStr | None, about: ValidationInfo) -> SecretStr | None:
        if value is not None and len(value.get_secret_value()) < MIN_CHOSEN:
            raise ValueError(
                f"BAY_{str(about.field_name).upper()} has fewer than {MIN_CHOSEN} characters and can be guessed; "
                "use the output of: openssl rand -hex 32"
            )
        return value

    @field_validator("otlp_endpoint")
    @classmethod
    def _without_credentials(cls, value: str | None) -> str | None:
        if value is None:
            return None
        url = urlsplit(value)
        if url.scheme not in ("http", "https") or not url.hostname or url.query or url.fragment:
            raise ValueError(f"{value!r} is no URL of a collector; give one such as http://127.0.0.1:4318")
        if "@" in url.netloc:
            raise ValueError(
                "the URL of the collector has credentials, which settings show; give them as headers by "
                "OTEL_EXPORTER_OTLP_HEADERS"
            )
        return value

    @field_validator("database_url")
    @classmethod
    def _postgresql_alone(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None and not value.get_secret_value().startswith(("postgresql://", "postgres://")):
            raise ValueError("BAY_DATABASE_URL is no URL of PostgreSQL; it begins with postgresql://")
        return value

    @field_validator("webhook_ports")
    @classmethod
    def _ports_that_may_be(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for text in value:
            ports_in(text)
        return value

    @field_validator("registries")
    @classmethod
    def _hosts_that_may_be(cls, value: dict[str, RegistrySettings]) -> dict[str, RegistrySettings]:
        for host in value:
            try:
                spelled = parse_host(host)
            except InvalidArgument as error:
                raise ValueError(error.message) from error
            if spelled != host:
                raise ValueError(f"write {spelled!r} for {host!r}")
        return value

    @field_validator("owners")
    @classmethod
    def _owners_that_may_be(cls, value: dict[str, QuotaSettings]) -> dict[str, QuotaSettings]:
        if wrong := [name for name in value if not is_owner(name)]:
            raise ValueError(f"{wrong[0]!r} is not an owner: give 1 to 63 letters, digits and . _ @ + -")
        return value

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return init_settings, env_settings, TomlConfigSettingsSource(settings_cls)


def _has(values: Mapping[str, Any], path: Sequence[str]) -> bool:
    """Whether a source has a value there, or one for all that is there."""
    found: Any = values
    for name in path:
        if not isinstance(found, Mapping):
            return True
        if name not in found:
            return False
        found = cast("Mapping[str, Any]", found)[name]
    return True


def load(config: Path | None = None, **given: Any) -> Settings:
    """Settings from what was given on the command line (None = not given), the environment and `config`.

    Raises OSError, tomllib.TOMLDecodeError, UnicodeDecodeError, SettingsError or pydantic's ValidationError.
    """
    if config is not None:
        config.stat()  # a missing file would be taken for an empty one

    class _Loaded(Settings):
        model_config = SettingsConfigDict(toml_file=config)

    options = {name: value for name, value in given.items() if value is not None}
    loaded = _Loaded(**options)
    loaded.came_from(
        {
            "option": options,
            "variable": EnvSettingsSource(_Loaded)(),
            "file": TomlConfigSettingsSource(_Loaded)(),
        }
    )
    return loaded


def read(config: Path | None = None, **given: Any) -> Settings:
    """`load`, with what is wrong in one line. Raises InvalidArgument or OSError."""
    try:
        return load(config, **given)
    except ValidationError as error:
        raise InvalidArgument(_first_problem(error)) from error
    except SettingsError as error:
        raise InvalidArgument(_unreadable(error)) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InvalidArgument(f"{config} is not valid TOML: {error}") from error


def _first_problem(error: ValidationError) -> str:
    problem = cast("Mapping[str, Any]", error.errors()[0])
    return f"setting {validation_words.place(problem)}: {validation_words.words(problem)}"


def _unreadable(error: SettingsError) -> str:
    """An environment variable that pydantic-settings could not decode; its own message names no way out."""
    named = re.search(r'field "(\w+)"', str(error))
    return f"setting {named[1]}: must be JSON, as docs/settings.md shows" if named else str(error)
