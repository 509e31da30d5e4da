"""Resource limits of a tool's process."""

import resource


def settle(memory_bytes: int) -> None:
    """Bound the memory of this process, which leaves no core file."""
    resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
