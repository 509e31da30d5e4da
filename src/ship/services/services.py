"""The services of this sandbox: the host sets them, and Ship starts, ends and reports them."""

import asyncio
import time
from collections.abc import Iterable

from ship.errors import Conflict, NotFound
from ship.execs.execs import ProcessContext
from ship.services.service import GRACE_S, Service, is_same_program
from ship.services.specs import ServiceSpec, levels
from ship.waiting import Bell
from ship.wire import printable

_SETTLE_S = 5.0


class Services:
    """All of them. `changed` rings when one is in another state."""

    def __init__(self, context: ProcessContext) -> None:
        self.changed = Bell()
        self._context = context
        self._all: dict[str, Service] = {}
        self._closed = False
        self._changing = asyncio.Lock()  # held while services are begun and ended at the host's word

    def get(self, name: str) -> Service:
        """Raises NotFound."""
        found = self._all.get(name)
        if found is None:
            raise NotFound(f"there is no service {printable(name)[:100]}")
        return found

    def list(self) -> list[Service]:
        """All, each after those that it needs."""
        return list(self._all.values())

    async def put(self, orders: tuple[ServiceSpec, ...]) -> None:
        """Set the services, each after all that it needs; others are removed.

        An unchanged one runs on; a changed program or a removed service is ended first. Returns when that
        is done and the new ones run, wait for others, or have failed to start; after some seconds in any
        case.
        """
        async with self._changing:
            self._check_open()
            wanted = {one.name: one for one in orders}
            await self._stop(
                [s for s in self._all.values() if _must_end(s, wanted.get(s.order.name))], GRACE_S
            )
            self._all = {one.name: self._placed(one) for one in orders}
            begun = [service for service in self._all.values() if self._begins(service)]
            await _settled(begun)

    async def restart(self, name: str) -> Service:
        """End it and begin anew, also after its end for good. Raises NotFound, Conflict when not enabled."""
        async with self._changing:
            self._check_open()
            service = self.get(name)
            if not service.order.enabled:
                raise Conflict(f"service {name} is not enabled; start it instead")
            await service.stop()
            self._check_open()  # or it would begin when all the others have ended
            service.begin_again()
            await _settled([service])
            return service

    async def close(self, patience_s: float) -> None:
        """The sandbox ends: end all, dependents first, within `patience_s` before KILL; none starts again."""
        self._closed = True
        await self._stop(self._all.values(), patience_s)

    def _placed(self, order: ServiceSpec) -> Service:
        service = self._all.get(order.name)
        if service is None:
            return Service(order, self._context, self.changed, self._is_ready)
        service.order = order
        return service

    def _begins(self, service: Service) -> bool:
        """Begin it, if it is to run and has not come to an end of its own."""
        if self._closed or not service.order.enabled or not service.fresh:
            return False
        service.begin()
        return True

    async def _stop(self, services: Iterable[Service], patience_s: float) -> None:
        """End these, dependents first; each level has its share of the time that is left."""
        chosen = {service.order.name: service for service in services}
        names = [level & chosen.keys() for level in levels(s.order for s in self._all.values())]
        steps = [level for level in reversed(names) if level]
        until = time.monotonic() + patience_s
        for index, level in enumerate(steps):
            grace_s = max(0.0, until - time.monotonic()) / (len(steps) - index)
            await asyncio.gather(*(chosen[name].stop(grace_s) for name in level))

    def _is_ready(self, name: str) -> bool:
        found = self._all.get(name)
        return found is not None and found.ready

    def _check_open(self) -> None:
        if self._closed:
            raise Conflict("the sandbox is ending; its services start with it again")


def _must_end(service: Service, wanted: ServiceSpec | None) -> bool:
    return wanted is None or not wanted.enabled or not is_same_program(service.order, wanted)


async def _settled(services: Iterable[Service]) -> None:
    """Each after those that it needs: it waits for them, or runs as soon as they do."""
    until = time.monotonic() + _SETTLE_S
    for service in services:
        await service.wait_settled(until)
