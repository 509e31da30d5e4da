"""The judgement on a session by its pod and its node: unknown is not dead."""

from typing import Any

import pytest

from bay.drivers.base import Exited
from bay.drivers.kubernetes import session_state
from bay.drivers.kubernetes.pod import FENCE
from bay.drivers.kubernetes.pod_watch import pod_state
from bay.drivers.kubernetes.session_state import (
    OUT_OF_SERVICE,
    NodeSilent,
    NodeState,
    is_released,
    node_state,
)
from bay.errors import DriverUnavailable

pytestmark = pytest.mark.pure

SETTLED_S = 60.0
RUNS: dict[str, Any] = {"running": {"startedAt": "2026-01-01T00:00:00Z"}}
DELETED = {"deletionTimestamp": "2026-01-01T00:00:00Z"}
READY = NodeState(name="n", is_there=True, is_ready=True)
SILENT = NodeState(name="n", is_there=True)


def ended_with(code: int, reason: str = "Completed") -> dict[str, Any]:
    return {"terminated": {"exitCode": code, "reason": reason}}


def ended(
    phase: str,
    state: dict[str, Any] | None = None,
    node: NodeState | None = READY,
    *,
    metadata: dict[str, Any] | None = None,
    watched_s: float = 0.0,
    on: str | None = "n",
) -> Exited | None:
    """The judgement on a pod with one container in that state."""
    statuses = [] if state is None else [{"name": "sandbox", "state": state}]
    pod = {
        "metadata": {"name": "bay-sess-1", "uid": "u", **(metadata or {})},
        "spec": {"containers": [{"name": "sandbox"}], **({"nodeName": on} if on else {})},
        "status": {"phase": phase, "containerStatuses": statuses},
    }
    return session_state.ended(pod_state(pod), node, watched_s, SETTLED_S)


def test_a_pod_that_runs_or_may_yet_has_not_ended() -> None:
    assert ended("Running", RUNS) is None
    assert ended("Pending", on=None, node=None) is None
    assert ended("Running", RUNS, SILENT) is None  # its Ship may well answer


def test_what_the_kubelet_saw_end_has_ended_with_its_code() -> None:
    assert ended("Succeeded", ended_with(0)) == Exited(0)
    assert ended("Failed", ended_with(137, "Error")) == Exited(137)
    assert ended("Running", ended_with(3), metadata=DELETED) == Exited(3)
    assert ended("Failed", ended_with(1), SILENT) == Exited(1)


def test_the_code_counts_and_not_the_reason() -> None:
    assert ended("Succeeded", ended_with(0, "OOMKilled")) == Exited(0)


def test_a_pod_that_no_kubelet_has_ends_with_its_deletion() -> None:
    assert ended("Pending", metadata=DELETED, on=None, node=None) == Exited(None)
    assert ended("Pending", on=None, node=None) is None


@pytest.mark.parametrize("node", [READY, SILENT])
def test_a_deleted_pod_whose_container_was_last_seen_running_is_unknown(node: NodeState) -> None:
    with pytest.raises(DriverUnavailable, match="has not told that its containers ended"):
        ended("Running", RUNS, node, metadata=DELETED, watched_s=1000)


def test_a_silent_node_is_named_with_the_way_out() -> None:
    with pytest.raises(NodeSilent, match=f"node n does not answer.*{OUT_OF_SERVICE}"):
        ended("Running", RUNS, SILENT, metadata=DELETED)


def test_a_failed_pod_without_a_word_of_its_containers_has_ended_once_its_kubelet_lived_on() -> None:
    with pytest.raises(DriverUnavailable, match=r"it is Failed \(no reason\)"):
        ended("Failed", watched_s=SETTLED_S)
    assert ended("Failed", watched_s=SETTLED_S + 1) == Exited(None)
    with pytest.raises(DriverUnavailable, match="it is Failed"):
        ended("Failed", RUNS, watched_s=9 * SETTLED_S)
    assert ended("Failed", RUNS, watched_s=10 * SETTLED_S + 1) == Exited(None)
    assert ended("Pending", metadata=DELETED, watched_s=SETTLED_S + 1) == Exited(None)


@pytest.mark.parametrize(
    "found",
    [None, {"spec": {"taints": [{"key": OUT_OF_SERVICE}]}, "status": {"conditions": []}}],
    ids=["deleted", "tainted"],
)
def test_an_operators_word_that_a_node_is_gone_is_enough(found: dict[str, Any] | None) -> None:
    node = node_state("n", found)
    assert node.is_gone
    assert ended("Running", RUNS, node) == Exited(None)
    assert ended("Running", RUNS, node, metadata=DELETED) == Exited(None)


def test_a_node_is_ready_by_its_condition_alone() -> None:
    def of(status: str) -> NodeState:
        return node_state("n", {"status": {"conditions": [{"type": "Ready", "status": status}]}})

    assert of("True").is_ready
    assert not of("Unknown").is_ready
    assert not of("False").is_ready
    assert not node_state("n", {}).is_ready
    assert not of("Unknown").is_gone


def test_a_pod_is_released_when_bay_took_its_finalizer_off() -> None:
    def released(**metadata: Any) -> bool:
        return is_released(pod_state({"metadata": metadata}))

    assert released(**DELETED)
    assert not released(**DELETED, finalizers=[FENCE])
    assert not released()
