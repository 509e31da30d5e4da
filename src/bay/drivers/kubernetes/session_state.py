"""The state of a session, judged from its pod and its node. Unknown is not dead.

A pod's phase tells what its node's kubelet last said, and not what runs: a node that is cut off keeps its
pods, and a pod that somebody deleted by force may run on. So a session has ended only when its kubelet has
said that the containers ended, or an operator has said that the node is gone.
"""

from dataclasses import dataclass

from bay.drivers.base import Exited
from bay.drivers.kubernetes.kube import Json, as_dict, as_list
from bay.drivers.kubernetes.pod import CONTAINER, FENCE
from bay.drivers.kubernetes.pod_watch import PodState
from bay.errors import DriverUnavailable

OUT_OF_SERVICE = "node.kubernetes.io/out-of-service"
"""The taint by which an operator says that a node is shut down."""


_CONTRADICTED = 10
"""So many times as long is waited where a kubelet contradicts itself."""


class NodeSilent(DriverUnavailable):
    """Nothing is known of a session, since its node does not answer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeState:
    """A node as the API server tells it."""

    name: str
    is_there: bool
    """False once an operator, or the cloud, has deleted it."""
    is_ready: bool = False
    """Whether its kubelet was heard lately: the node controller takes that back after 40 s of silence."""
    ready_since: str = ""
    """When it became so, as the API server writes a time: compared with nothing but itself."""
    is_out_of_service: bool = False

    @property
    def is_gone(self) -> bool:
        """Whether an operator has said so: nothing of it runs any more."""
        return not self.is_there or self.is_out_of_service


def node_state(name: str, found: Json | None) -> NodeState:
    """The state of a node from its object, if there is one."""
    if found is None:
        return NodeState(name=name, is_there=False)
    spec, status = as_dict(found.get("spec")), as_dict(found.get("status"))
    taints = {as_dict(taint).get("key") for taint in as_list(spec.get("taints"))}
    conditions = map(as_dict, as_list(status.get("conditions")))
    nothing: Json = {}
    ready = next((one for one in conditions if one.get("type") == "Ready"), nothing)
    return NodeState(
        name=name,
        is_there=True,
        is_ready=ready.get("status") == "True",
        ready_since=str(ready.get("lastTransitionTime") or ""),
        is_out_of_service=OUT_OF_SERVICE in taints,
    )


def is_over(pod: PodState) -> bool:
    """Whether it is being deleted, or has run: its containers may go on for a while."""
    return pod.deleting or pod.phase in ("Succeeded", "Failed")


def is_released(pod: PodState) -> bool:
    """Whether Bay has seen the end of its containers, so that nothing but its object is left."""
    return pod.deleting and FENCE not in pod.finalizers


def exited(pod: PodState) -> Exited:
    """How it ended; all of its containers have."""
    # The reason is not looked at: it says OOMKilled also of one that ended well after a child was killed.
    codes = [one.exit_code for one in pod.terminated if one.container == CONTAINER]
    return Exited(codes[0] if codes else None)


def ended(pod: PodState, node: NodeState | None, watched_s: float, settled_s: float) -> Exited | None:
    """How the session ended; None while it runs, or may yet. `watched_s`: for how long its pod was seen to be
    over while its node was Ready without a break. Raises DriverUnavailable when it cannot be known.
    """
    if pod.all_terminated:
        return exited(pod)
    if node is not None and node.is_gone:
        return Exited(None)
    if not is_over(pod):
        return None
    if pod.node is None:  # no kubelet has it, and none takes one that is over
        return Exited(None)
    if watched_s > settled_s and not pod.running:
        return Exited(None)
    # Some kubelets fail a pod and never take back that a container runs. A process that cannot be killed
    # looks the same, for as long as a node takes to notice that.
    if watched_s > _CONTRADICTED * settled_s and pod.phase in ("Succeeded", "Failed"):
        return Exited(None)
    fact = "it is being deleted" if pod.deleting else f"it is {pod.phase} ({pod.reason or 'no reason'})"
    raise unknown(pod, node, fact)


def unknown(pod: PodState, node: NodeState | None, fact: str) -> DriverUnavailable:
    """The error for a session of which nothing is known for sure."""
    told = "has not told that its containers ended"
    silent = node is not None and not node.is_ready
    way_out = (
        f"; node {pod.node} does not answer. Bring it back; or if it is shut down for good, delete the node or give "
        f"it the taint {OUT_OF_SERVICE}"
        if silent
        else "; Bay waits for it"
    )
    kind = NodeSilent if silent else DriverUnavailable
    return kind(f"pod {pod.name}: {fact}, and node {pod.node} {told}{way_out}")
