"""The pod of a session: a pure function of its spec and the driver's settings.

It meets the Pod Security Standard `restricted`, and holds no secret but a token that is worthless once Bay
has used it: everything else reaches Ship over its own connection. Its labels have few values, since network
plug-ins keep an identity for each set of them; ids are annotations.
"""

import hashlib
import json
import platform
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from bay.drivers.base import MountedVolume, SessionSpec
from bay.models import NetworkPolicy, Resources
from bay.places import VolumeClaim, claim_of
from ship_protocol import bootstrap_token

MANAGED_BY = "app.kubernetes.io/managed-by"
INSTALL = "bay.dev/install"
ROLE = "bay.dev/role"
EGRESS = "bay.dev/egress"
SESSION = "bay.dev/session"
SANDBOX = "bay.dev/sandbox"
SPEC_HASH = "bay.dev/spec-hash"
CERTIFICATE = "bay.dev/certificate"
"""The certificate that Ship showed at its introduction: for people, and for one who knows the pod alone."""
FENCE = "bay.dev/fence"
"""The finalizer that keeps a pod's object until Bay has seen that its containers ended."""

SHIP_PORT = 8124
CONTAINER = "sandbox"
OWN_IMAGE = "host"
"""The one that the settings name."""

_CLOSURE = "/.ship"
_IMAGE_CLOSURE = "/closure"
IMAGE_PART = "closure"
"""The same directory, as a part of a volume."""
_COPIED = f"{_CLOSURE}/copied"
_FILES = "workspace"
"""The directory of a claim that sessions have. Beside it is room for the files of a restore, so that a rename
puts them in place: see `carriers`."""
_UID = 1000
_GRACE_S = 10
_SHIP_BYTES = 256 << 20
"""The kubelet counts the pod's copy of Ship, and its log, as the session's. They are smaller than this."""
_LOADERS = {"x86_64": "ld-linux-x86-64.so.2", "aarch64": "ld-linux-aarch64.so.1"}
_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}
_LOADERS_OWN = ("LD_PRELOAD", "LD_AUDIT")
"""Variables by which an image would have libraries of its own loaded into Ship, which has another libc."""
_SHIP_RESOURCES = {"cpu": "100m", "memory": "64Mi"}


EgressClass = Literal["none", "open", "proxy"]
"""The places that a pod reaches: none, public addresses, or Bay's egress proxy alone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Isolation:
    """How and where the pods of one kind of isolation run: a RuntimeClass, and nodes that have it."""

    runtime_class: str | None = None
    node_selector: Mapping[str, str] = field(default_factory=dict[str, str])
    tolerations: tuple[Mapping[str, Any], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class PodSettings:
    """The settings that the pods of one installation share."""

    install: str
    """A label of all that this installation makes: letters, digits and hyphens, at most 63."""
    image: str
    """The image `host`: of sandboxes that name none."""
    admitted: tuple[str, ...] = ()
    """The images that callers may name, as `NamedImages.admitted`."""
    ship_image: str
    """Its directory /closure holds Ship and all it needs; more is not in it."""
    ship_volume: Literal["copy", "image"] = "copy"
    """How a pod has Ship: an init container copies it, or the image itself is a volume (Kubernetes 1.33)."""
    pull_policy: Literal["Always", "IfNotPresent", "Never"] = "IfNotPresent"
    pull_secrets: tuple[str, ...] = ()
    service_account: str | None = None
    isolations: Mapping[str, Isolation] = field(default_factory=lambda: {"container": Isolation()})
    cpu_request: float = 0.1
    """The part of its cores that a node keeps free for a pod."""
    lifetime_s: int = 7 * 24 * 3600
    """After so long Kubernetes ends a pod, also when no Bay runs."""
    machine: str = field(default_factory=platform.machine)


@dataclass(frozen=True, slots=True, kw_only=True)
class PodTimeouts:
    """The seconds that the driver waits before it judges a pod."""

    start_s: float = 30
    """For a node with room, and for a reason to pass that keeps a container from starting."""
    settled_s: float = 60
    """A kubelet that lived on for so long after a pod failed, or was deleted, has ended those of its
    containers of which it reports nothing: it kills them for good after the pod's 10 s of grace.
    """
    end_s: float = 75
    """For the word that containers ended, beyond the time that they are given."""
    silent_s: float = 10
    """For a Ship that does not answer, before a pause or a wake has failed."""


def pod_name(session_id: str) -> str:
    """The name of a session's pod, which is fixed before it is made."""
    return f"bay-{session_id}"


def labels(settings: PodSettings) -> dict[str, str]:
    """The labels of everything that this installation makes."""
    return {MANAGED_BY: "bay", INSTALL: settings.install}


def egress_class(policy: NetworkPolicy) -> EgressClass:
    """The class of a session that begins with that policy."""
    if policy.mode == "none":
        return "none"
    return "open" if policy.mode == "open" and not policy.rules else "proxy"


def selector(settings: PodSettings) -> str:
    """A selector of everything that this installation made."""
    return ",".join(f"{name}={value}" for name, value in labels(settings).items())


def build(spec: SessionSpec, settings: PodSettings, resolver: Mapping[str, Any]) -> dict[str, Any]:
    """The manifest of a session's pod; `resolver` are its fields for DNS. Raises DriverUnavailable for a spec
    with a directory of a host.
    """
    isolation = settings.isolations[spec.isolation]
    body = {
        "restartPolicy": "Never",  # a restart would hide that the session was lost
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "hostname": spec.hostname[:63].strip("-") or "sandbox",
        "terminationGracePeriodSeconds": _GRACE_S,
        "activeDeadlineSeconds": settings.lifetime_s,
        "nodeSelector": {"kubernetes.io/arch": _ARCHITECTURES[settings.machine], **isolation.node_selector},
        "tolerations": [*_stays_put(), *map(dict, isolation.tolerations)],
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": _UID,
            "runAsGroup": _UID,
            "fsGroup": _UID,
            "fsGroupChangePolicy": "OnRootMismatch",
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        **({"initContainers": [ship_container(settings)]} if settings.ship_volume == "copy" else {}),
        "containers": [_sandbox_container(spec, settings)],
        "volumes": [{"name": "ship", **ship_source(settings)}, *_volumes(spec)],
        **resolver,
        **({"serviceAccountName": settings.service_account} if settings.service_account else {}),
        **({"runtimeClassName": isolation.runtime_class} if isolation.runtime_class else {}),
        **(
            {"imagePullSecrets": [{"name": n} for n in settings.pull_secrets]}
            if settings.pull_secrets
            else {}
        ),
    }
    told = {
        SESSION: spec.session_id,
        SANDBOX: spec.sandbox_id,
        SPEC_HASH: _hash({**body, EGRESS: egress_class(spec.network)}),
    }
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": pod_name(spec.session_id),
            "labels": {**labels(settings), ROLE: "session", EGRESS: egress_class(spec.network)},
            "annotations": {
                **told,
                "cluster-autoscaler.kubernetes.io/safe-to-evict": "false",
                "karpenter.sh/do-not-disrupt": "true",
            },
            "finalizers": [FENCE],
        },
        "spec": body,
    }


def fetched_by(image: str) -> str:
    """The reference that nodes fetch an image by: with a digest, without the tag that is only a name then."""
    name, at, digest = image.partition("@")
    before, colon, tag = name.rpartition(":")
    return f"{before}@{digest}" if at and colon and "/" not in tag else image


def claims(spec: SessionSpec) -> list[VolumeClaim]:
    """The volume claims that a session mounts, its workspace first. Raises DriverUnavailable for a directory
    of a host.
    """
    return [claim_of(place) for place in (spec.workspace, *(volume.source for volume in spec.volumes))]


def _stays_put() -> list[dict[str, Any]]:
    """Without a limit of seconds: Kubernetes deletes no session of a node that it merely does not hear of."""
    taints = ("node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable")
    return [{"key": taint, "operator": "Exists", "effect": "NoExecute"} for taint in taints]


def _locked_down() -> dict[str, Any]:
    return {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}


def ship_source(settings: PodSettings) -> dict[str, Any]:
    """The source of the volume with Ship. Of an image a mount has the part `IMAGE_PART`."""
    if settings.ship_volume == "copy":
        return {"emptyDir": {}}
    return {"image": {"reference": settings.ship_image, "pullPolicy": settings.pull_policy}}


def ship_container(settings: PodSettings) -> dict[str, Any]:
    """The container that copies Ship into a pod."""
    # The image need not hold a program of its own: the closure's interpreter copies the closure, all but the
    # mode of the top directory, which is the kubelet's. A kubelet may run it again, beside a Ship that runs.
    copy = f"""import os, shutil
if not os.path.exists("{_COPIED}"):
    for one in os.scandir("{_IMAGE_CLOSURE}"):
        shutil.copytree(one.path, "{_CLOSURE}/" + one.name, dirs_exist_ok=True)
    open("{_COPIED}", "w").close()"""
    return {
        "name": "ship",
        "image": settings.ship_image,
        "imagePullPolicy": settings.pull_policy,
        "command": [*interpreter(settings, _IMAGE_CLOSURE), "-c", copy],
        "env": [{"name": "PYTHONHOME", "value": _IMAGE_CLOSURE}],
        "securityContext": {**_locked_down(), "readOnlyRootFilesystem": True},
        "resources": {"requests": dict(_SHIP_RESOURCES), "limits": {**_SHIP_RESOURCES, "cpu": "1"}},
        "volumeMounts": [{"name": "ship", "mountPath": _CLOSURE}],
    }


def interpreter(settings: PodSettings, closure: str) -> list[str]:
    """The command of the interpreter that comes with Ship, which is at `closure`."""
    lib = f"{closure}/lib"
    return [
        f"{lib}/{_LOADERS[settings.machine]}", "--library-path", lib, f"{closure}/bin/python3", "-I", "-S", "-B"
    ]  # fmt: skip


def _sandbox_container(spec: SessionSpec, settings: PodSettings) -> dict[str, Any]:
    part = {} if settings.ship_volume == "copy" else {"subPath": IMAGE_PART}
    return {
        "name": CONTAINER,
        "image": settings.image if spec.image == OWN_IMAGE else fetched_by(spec.image),
        "imagePullPolicy": settings.pull_policy,
        "command": [*interpreter(settings, _CLOSURE), "-m", "ship"],
        "workingDir": "/",
        "env": [
            {"name": "PYTHONHOME", "value": _CLOSURE},
            *({"name": name, "value": ""} for name in _LOADERS_OWN),
            {"name": "SHIP_LISTEN", "value": f"0.0.0.0:{SHIP_PORT}"},
            {"name": "SHIP_BOOTSTRAP_TOKEN", "value": bootstrap_token(spec.token)},
        ],
        "ports": [{"name": "ship", "containerPort": SHIP_PORT}],
        "securityContext": _locked_down(),
        "resources": _resources(spec.resources, spec.layer_bytes, settings.cpu_request),
        "volumeMounts": [
            {"name": "ship", "mountPath": _CLOSURE, "readOnly": True, **part},
            {"name": "workspace", "mountPath": "/workspace", "subPath": _FILES},
            *([] if spec.tmp_on_disk else [{"name": "tmp", "mountPath": "/tmp"}]),  # noqa: S108 - inside
            *([{"name": "secrets", "mountPath": "/run/secrets"}] if spec.secret_files else []),
            *([{"name": "home", "mountPath": spec.home}] if _has_home(spec) and spec.home else []),
            *(_volume_mount(number, volume) for number, volume in enumerate(spec.volumes)),
        ],
    }


def _volume_mount(number: int, volume: MountedVolume) -> dict[str, Any]:
    mounted = {"name": f"volume-{number}", "mountPath": volume.path, "readOnly": volume.read_only}
    return {**mounted, "subPath": _FILES}


def _volumes(spec: SessionSpec) -> list[dict[str, Any]]:
    workspace, *others = claims(spec)
    half = spec.resources.memory // 2  # files in memory are charged to the session as well
    memory = {"medium": "Memory", "sizeLimit": str(half)}
    return [
        _claimed("workspace", workspace),
        *([] if spec.tmp_on_disk else [{"name": "tmp", "emptyDir": memory}]),
        *([{"name": "secrets", "emptyDir": {**memory, "sizeLimit": "2Mi"}}] if spec.secret_files else []),
        *([{"name": "home", "emptyDir": {}}] if _has_home(spec) else []),
        *(_claimed(f"volume-{number}", place) for number, place in enumerate(others)),
    ]


def _claimed(name: str, place: VolumeClaim) -> dict[str, Any]:
    return {"name": name, "persistentVolumeClaim": {"claimName": place.name}}


def _has_home(spec: SessionSpec) -> bool:
    """Whether the user's home is a place that no other volume has, and its image need not have."""
    if spec.home is None:
        return False
    taken = ["/workspace", *(volume.path for volume in spec.volumes)]
    return not any(f"{spec.home}/".startswith(f"{path}/") for path in taken)


def _resources(resources: Resources, layer_bytes: int | None, cpu_request: float) -> dict[str, Any]:
    memory = str(resources.memory)
    disk = {} if layer_bytes is None else {"ephemeral-storage": str(layer_bytes + _SHIP_BYTES)}
    return {
        "limits": {"cpu": f"{resources.cpus * 1000:.0f}m", "memory": memory, **disk},
        "requests": {
            "cpu": f"{max(1.0, resources.cpus * cpu_request * 1000):.0f}m",
            "memory": memory,
            **({"ephemeral-storage": "0"} if disk else {}),
        },
    }


def _hash(body: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()[:32]
