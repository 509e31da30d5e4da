"""The kernels of a sandbox and their cells; ended ones can be found by id for a while."""

from collections.abc import Mapping

from ship.errors import Conflict, NotFound
from ship.execs.execs import ProcessContext
from ship.kernels.cells import Cell, CellRequest, expired
from ship.kernels.kernel import Kernel, KernelRequest
from ship.kernels.process import PYTHON
from ship.process.identity import Identity
from ship.waiting import Timer
from ship.wire import printable

DEFAULT = "default"

_MAX_KERNELS = 16
_MAX_QUEUED = 1000
_MAX_QUEUED_CHARS = 16 << 20
_SWEEP_S = 60.0


class Kernels:
    """The kernels of this sandbox and their cells."""

    def __init__(self, context: ProcessContext) -> None:
        self._context = context
        self._all: dict[str, Kernel] = {}
        self._cells: dict[str, Cell] = {}
        self._sweep = Timer()

    async def create(self, order: KernelRequest) -> Kernel:
        """A started kernel. Raises Conflict for a known id or at the limit, and the errors of a bad cwd."""
        if order.id in self._all:
            raise Conflict(f"kernel {order.id} exists already", id=order.id)
        kernel = self._add(order)
        try:
            await kernel.start()
        except BaseException:
            self._all.pop(order.id, None)
            raise
        return kernel

    def get(self, kernel_id: str) -> Kernel:
        """Raises NotFound."""
        found = self._all.get(kernel_id)
        if found is None:
            raise NotFound(f"there is no kernel {printable(kernel_id)}")
        return found

    def list(self) -> list[Kernel]:
        """All, oldest first."""
        return list(self._all.values())

    async def delete(self, kernel_id: str) -> None:
        """Raises NotFound."""
        kernel = self.get(kernel_id)
        await kernel.close()
        # Another call may have deleted it too, and a third one made a new one.
        if self._all.get(kernel_id) is kernel:
            del self._all[kernel_id]

    def run(self, kernel_id: str, order: CellRequest, default: KernelRequest) -> Cell:
        """Queue a cell; the cell of that id when there is one. A missing kernel `default` is made. Raises
        NotFound, InvalidArgument, or Conflict when too many wait, the kernel is ending, or the id is another
        kernel's cell's.
        """
        self._sweep_later()
        known = self._cells.get(order.id)
        if known is not None:
            if known.kernel_id != kernel_id:
                raise Conflict(f"{order.id} is a cell of kernel {known.kernel_id}", id=order.id)
            return known
        missing = kernel_id == DEFAULT and DEFAULT not in self._all
        kernel = self._add(default) if missing else self.get(kernel_id)
        kernel.check_takes(order)
        self._check_room(order)
        cell = Cell(order, kernel_id)
        self._cells[cell.id] = cell
        kernel.run(cell)
        return cell

    def prepare(self, order: KernelRequest) -> None:
        """Start a kernel before anyone asks for it."""
        self._add(order).start_soon()

    def stop(self) -> None:
        """Start no process from now on: Ship is about to kill all processes."""
        for kernel in self._all.values():
            kernel.stop()

    def cell(self, cell_id: str) -> Cell:
        """Raises NotFound."""
        self._forget_old()
        found = self._cells.get(cell_id)
        if found is None:
            raise NotFound(f"there is no cell {printable(cell_id)}, or it ended long ago")
        return found

    def _check_room(self, order: CellRequest) -> None:
        waiting = [cell for kernel in self._all.values() for cell in kernel.waiting]
        if len(waiting) >= _MAX_QUEUED:
            problem = f"{_MAX_QUEUED} cells are queued, the limit; wait for some to end"
            raise Conflict(problem, limit=_MAX_QUEUED)
        if sum(len(cell.code) for cell in waiting) + len(order.code) > _MAX_QUEUED_CHARS:
            problem = "the queued code has reached its limit; wait for some cells to end"
            raise Conflict(problem, limit=_MAX_QUEUED_CHARS)

    def _add(self, order: KernelRequest) -> Kernel:
        if len(self._all) >= _MAX_KERNELS:
            problem = f"the sandbox has {_MAX_KERNELS} kernels, the limit; delete one first"
            raise Conflict(problem, limit=_MAX_KERNELS)
        kernel = self._all[order.id] = Kernel(order, self._context)
        return kernel

    def _sweep_later(self) -> None:
        # A timer only while there is something to forget: an idle sandbox stays asleep.
        self._forget_old()
        self._sweep.set(_SWEEP_S, self._swept)

    def _swept(self) -> None:
        self._forget_old()
        if self._cells:
            self._sweep_later()

    def _forget_old(self) -> None:
        for cell in expired(self._cells.values()):
            del self._cells[cell.id]


def default_order(user: Identity, shared: Mapping[str, str], cwd: str | None = None) -> KernelRequest:
    """The kernel `default`, which is made by its first cell."""
    return KernelRequest(id=DEFAULT, spec=PYTHON, cwd=cwd, environment={}, shared=shared, identity=user)
