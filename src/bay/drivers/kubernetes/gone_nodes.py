"""Nodes of which an operator has said that they are gone: no watch of pods tells that.

The nodes of all watched pods are looked at one after the other, each once in `every_s` seconds. Rejected: to
ask for each session's pod and node once in a while. That is two requests a minute for each of thousands.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import NoReturn

import structlog

from bay.drivers.kubernetes.kube import NODE, Kube
from bay.drivers.kubernetes.pod_watch import PodWatch
from bay.drivers.kubernetes.session_state import node_state
from bay.errors import DriverUnavailable

log = structlog.get_logger("bay.drivers.kubernetes")


class GoneNodes:
    """Wakes those who wait for a change of a pod whose node is gone."""

    def __init__(
        self,
        kube: Kube,
        watch: PodWatch,
        *,
        every_s: float,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
    ) -> None:
        self._kube = kube
        self._watch = watch
        self._every_s = every_s
        self._sleep = sleep
        self._gone: set[str] = set()

    def __contains__(self, node: str | None) -> bool:
        """Whether it was gone when it was looked at last."""
        return node in self._gone

    async def run(self) -> NoReturn:
        """Look, until cancelled."""
        while True:
            nodes = {one.node for one in self._watch.all() if one.node is not None}
            self._gone &= nodes
            for name in sorted(nodes):
                await self._look(name)
                await self._sleep(self._every_s / len(nodes))
            if not nodes:
                await self._sleep(self._every_s)

    async def _look(self, name: str) -> None:
        try:
            is_gone = node_state(name, await self._kube.get(NODE, name)).is_gone
        except DriverUnavailable:
            return  # unknown is not gone, and the watch fails too
        except Exception:  # a defect here must not end the only look
            log.exception("kubernetes.node_defect")
            return
        if not is_gone:
            self._gone.discard(name)
        elif name not in self._gone:
            self._gone.add(name)
            self._watch.wake(one.name for one in self._watch.all() if one.node == name)
