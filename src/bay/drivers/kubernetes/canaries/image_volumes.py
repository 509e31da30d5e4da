"""The canary of image volumes, by which a pod could have Ship without a copy of it."""

from bay.drivers.host_check import HostCheck
from bay.drivers.kubernetes.canaries.trial_pods import TrialPods
from bay.drivers.kubernetes.kube import POD, Json, KubeRefused, as_dict, as_list
from bay.errors import SandboxNotReady

_PATH = "/image"
_FIX = "nothing has to be mended: an init container copies Ship into each pod"


async def image_is_mounted(pods: TrialPods) -> list[HostCheck]:
    """Whether a pod reads the files of Ship's image in a volume. Asks for a pod that is not made at first: an
    older API server leaves out the field that it does not know, and would make another pod.
    """
    manifest = _manifest(pods)
    try:
        answered = await pods.kube.create(POD, manifest, dry_run=True)
        if not is_understood(answered):
            return [_no("the API server does not know them")]
        end = await pods.ended(await pods.create(POD, manifest))
    except (KubeRefused, SandboxNotReady) as error:
        return [_no(error.message)]
    if end.told is None or "lib" not in as_list(end.told.get("names")):
        return [_no((end.told or {}).get("error") or f"the volume has no file of the image ({end.reason})")]
    return [HostCheck("image-volumes", True, False, "a pod reads the files of an image in a volume", "-")]


def is_understood(pod: Json) -> bool:
    """Whether the API server kept the volume of a pod that it was asked for."""
    return any("image" in as_dict(one) for one in as_list(as_dict(pod.get("spec")).get("volumes")))


def _manifest(pods: TrialPods) -> Json:
    made = pods.program("image", {"do": "look", "path": f"{_PATH}/closure"})
    source = {"reference": pods.settings.ship_image, "pullPolicy": pods.settings.pull_policy}
    made["spec"]["volumes"].append({"name": "image", "image": source})
    [container] = made["spec"]["containers"]
    container["volumeMounts"].append({"name": "image", "mountPath": _PATH, "readOnly": True})
    return made


def _no(why: str) -> HostCheck:
    return HostCheck("image-volumes", False, False, f"no: {why}", _FIX)
