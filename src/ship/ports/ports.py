"""The sandbox's listening ports, each with address and program; polled only for a request or a follower."""

import asyncio
import os
import socket
import time
from collections.abc import Collection, Iterable

from ship.files.workspace import FileThreads
from ship.ports.sock_diag import Listener, Netlink, Tables
from ship.process import table

_MAX_PORTS = 1000
_MAX_ADDRESSES = 16
_SEARCH_S = 0.5
_MAX_DESCRIPTORS = 10_000

RESOLVER = (53, "127.0.0.53")
"""Where Bay answers for names, which no program of the sandbox does."""

Item = dict[str, object]
Holder = tuple[int, str]
"""The pid and the name of a program."""


class Ports:
    """The listeners. `local`: the network is shared with others, and only Ship's own programs' count."""

    def __init__(self, threads: FileThreads, netlink: Netlink | None = None, *, local: bool) -> None:
        self._threads = threads
        self._local = local
        self._netlink = netlink
        self._tables: Tables | None = None
        self._own: set[int] = set()
        self._own_ports: set[int] = set()
        self._holders: dict[int, Holder | None] = {}
        self._ending: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def hide(self, listening: socket.socket) -> None:
        """A socket of Ship's own, which is none of the sandbox's ports."""
        self._own.add(os.fstat(listening.fileno()).st_ino)
        self._own_ports.add(listening.getsockname()[1])

    def is_own(self, port: int) -> bool:
        return port in self._own_ports

    def stop(self) -> None:
        """End all that follows."""
        if not self._ending.done():
            self._ending.set_result(None)

    @property
    def ending(self) -> asyncio.Future[None]:
        """Done once Ship is about to end."""
        return self._ending

    async def items(self) -> list[Item]:
        """Each port, with its addresses and a program that listens there, as they are now."""
        self._holders.clear()
        if self._tables is not None:
            self._tables = Tables()
        return await self.known()

    async def numbers(self) -> list[int]:
        return sorted({found.port for found in await self._look()})[:_MAX_PORTS]

    async def known(self) -> list[Item]:
        """The same, without another search for the programs of known sockets."""
        found = await self._look()
        await self._find_holders(found)
        by_port: dict[int, list[Listener]] = {}
        for listener in sorted(found):
            if not self._local or self._holders.get(listener.inode):
                by_port.setdefault(listener.port, []).append(listener)
        return [self._item(port, listeners) for port, listeners in list(by_port.items())[:_MAX_PORTS]]

    def _item(self, port: int, listeners: list[Listener]) -> Item:
        holders = [held for each in listeners if (held := self._holders.get(each.inode))]
        pid, name = min(holders, default=(None, None))
        addresses = list(dict.fromkeys(each.address for each in listeners))[:_MAX_ADDRESSES]
        return {"port": port, "addresses": addresses, "pid": pid, "process": name}

    async def _look(self) -> list[Listener]:
        found = self._ask_kernel()
        if found is None:
            found = await self._read_tables()
        return [each for each in found if each.inode not in self._own and each[:2] != RESOLVER]

    async def _read_tables(self) -> list[Listener]:
        tables = self._tables = self._tables or Tables()
        if tables.is_old():
            await asyncio.get_running_loop().run_in_executor(None, tables.read)
        return tables.last

    def _ask_kernel(self) -> list[Listener] | None:
        """None where it does not answer, which then is not asked again."""
        if self._tables is not None:
            return None
        try:
            self._netlink = self._netlink or Netlink()
            return self._netlink.look()
        except OSError:
            if self._netlink is not None:
                self._netlink.close()
            return None

    async def _find_holders(self, found: list[Listener]) -> None:
        """Find the holders of the new sockets; Ship itself looks for those of other users."""
        inodes = {each.inode for each in found}
        self._holders = {inode: held for inode, held in self._holders.items() if inode in inodes}
        unknown = inodes - self._holders.keys()
        if not unknown:
            return
        held = await self._threads.run(_holders_of, unknown, self._local)
        if unknown - held.keys():
            loop = asyncio.get_running_loop()
            held |= await loop.run_in_executor(None, _holders_of, unknown - held.keys(), self._local)
        self._holders |= {inode: held.get(inode) for inode in unknown}


def _holders_of(inodes: Collection[int], local: bool) -> dict[int, Holder]:
    """The oldest process that has each socket open, as far as the calling thread may look. Bounded."""
    wanted = {f"socket:[{inode}]": inode for inode in inodes}
    found: dict[int, Holder] = {}
    until = time.monotonic() + _SEARCH_S
    for pid in _candidates(local):
        if len(found) == len(wanted) or time.monotonic() > until:
            break
        held = {wanted[link] for link in _links(pid) if link in wanted} - found.keys()
        if held and (process := table.read(pid)) is not None:
            found |= dict.fromkeys(held, (pid, process.name))
    return found


def _candidates(local: bool) -> Iterable[int]:
    pids = table.table() if local else table.pids()
    return (pid for pid in sorted(pids) if pid != os.getpid())


def _links(pid: int) -> Iterable[str]:
    directory = f"/proc/{pid}/fd"
    try:
        names = os.listdir(directory)
    except OSError:  # it is over, or not ours to look into
        return
    for name in names[:_MAX_DESCRIPTORS]:
        try:
            yield os.readlink(f"{directory}/{name}")
        except OSError:
            continue
