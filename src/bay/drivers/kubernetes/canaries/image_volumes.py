"""The canary of image volumes, by which a pod has Ship without a copy: a pod runs a program from one."""

from dataclasses import replace

from bay.drivers.host_check import HostCheck
from bay.drivers.kubernetes import pod
from bay.drivers.kubernetes.canaries.trial_pods import TrialPods
from bay.drivers.kubernetes.kube import POD, Json, KubeRefused, as_dict, as_list
from bay.errors import SandboxNotReady

_PATH = "/image"
_UNUSED = "nothing has to be mended: an init container copies Ship into each pod"
_FIX = 'set ship_volume = "copy"; image volumes need Kubernetes 1.33 and a runtime that lets programs run from them'


async def image_is_mounted(pods: TrialPods) -> list[HostCheck]:
    """Whether a pod runs the interpreter of Ship's image from a volume. Asks for a pod that is not made at
    first: an older API server leaves out the field that it does not know, and would make another pod.
    """
    is_used = pods.settings.ship_volume == "image"
    manifest = _manifest(pods)
    try:
        answered = await pods.kube.create(POD, manifest, dry_run=True)
        if not is_understood(answered):
            return [_no("the API server does not know them", is_used)]
        end = await pods.ended(await pods.create(POD, manifest))
    except (KubeRefused, SandboxNotReady) as error:
        return [_no(error.message, is_used)]
    if end.told is None or "lib" not in as_list(end.told.get("names")):
        told = (end.told or {}).get("error") or f"no program of the volume runs ({end.reason})"
        return [_no(told, is_used)]
    return [HostCheck("image-volumes", True, is_used, "a pod runs programs from an image in a volume", "-")]


def is_understood(pod: Json) -> bool:
    """Whether the API server kept the volume of a pod that it was asked for."""
    return any("image" in as_dict(one) for one in as_list(as_dict(pod.get("spec")).get("volumes")))


def _manifest(pods: TrialPods) -> Json:
    made = pods.program("image", {"do": "look", "path": _PATH})
    made["spec"]["volumes"].append(
        {"name": "image", **pod.ship_source(replace(pods.settings, ship_volume="image"))}
    )
    [container] = made["spec"]["containers"]
    *_, flag, program, task = container["command"]
    container["command"] = [*pod.interpreter(pods.settings, _PATH), flag, program, task]
    container["env"] = [{"name": "PYTHONHOME", "value": _PATH}]
    mount = {"name": "image", "mountPath": _PATH, "subPath": pod.IMAGE_PART, "readOnly": True}
    container["volumeMounts"].append(mount)
    return made


def _no(why: str, is_used: bool) -> HostCheck:
    return HostCheck("image-volumes", False, is_used, f"no: {why}", _FIX if is_used else _UNUSED)
