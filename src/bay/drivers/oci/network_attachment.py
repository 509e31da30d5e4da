"""A session's network attachment: its slot, and the steps on it at each moment of the session's life.

The policy is in place before the device, the device before the first process, and DNS before the first
command.
"""

import os
from dataclasses import dataclass

from bay.linux.processes import closing_fd, ends_within, open_process
from bay.models import NetworkPolicy
from bay.network.manager import NetworkManager
from bay.network.slots import NetworkSlot


@dataclass(frozen=True, slots=True)
class NetworkAttachment:
    """The slot of a session that begins, and the policy that it begins with."""

    network: NetworkManager
    slot: NetworkSlot
    policy: NetworkPolicy

    def admit(self) -> None:
        """Have the host enforce the policy on the session's later traffic.

        Blocks; called in the host's namespaces.
        """
        self.network.admit(self.slot, self.policy)

    def connect(self) -> None:
        """Give the calling thread's network namespace its device. Blocks."""
        with closing_fd(os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)) as namespace:
            self.network.connect(self.slot, namespace)

    async def serve_names(self, namespace: int) -> None:
        """Answer names inside the namespace behind that descriptor."""
        await self.network.serve_names(self.slot, namespace)


def namespace_of(pid: int, started: int) -> int | None:
    """A descriptor of the network namespace of the process that began at `started`; None if it has ended.

    Blocks.
    """
    if (pidfd := open_process(pid, started)) is None:
        return None
    with closing_fd(pidfd):
        try:
            namespace = os.open(f"/proc/{pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:  # it has ended, and is not reaped yet
            return None
        # The number may have gone to another process since it was looked at.
        if not ends_within(pidfd, 0):
            return namespace
    os.close(namespace)
    return None
