"""Tools: programs of Ship's that run as the sandbox's user, each in a process that can be killed.

Their work may take for ever or a lot of memory, and the kernel decides which files they may touch. They get
one JSON object as their argument and never leave the directory that they begin in, but for `build`, which an
exec runs. They import this package, `tree_tar`, the standard library, and modules of Ship that load little.
"""

import resource


def settle(memory_bytes: int) -> None:
    """Bound the memory of this process, which leaves no core file."""
    resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
