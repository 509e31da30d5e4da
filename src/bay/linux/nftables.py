"""libnftables, by ctypes: a text of commands is one atomic transaction on the ruleset."""

import ctypes
import json
import os
import threading
from typing import Any

from bay.errors import DriverUnavailable

LIBRARY = "libnftables.so.1"
_JSON = 1 << 4
_TERSE = 1 << 11
_HIGHEST_DESCRIPTOR = 1023  # FD_SETSIZE
# The library keeps tables of the process, interfaces among them, and guards none of them: two threads in it,
# each with a context of its own, end the process or read the other's interfaces.
_one_at_a_time = threading.Lock()


class Nft:
    """nftables in the namespace of the thread that makes this. An object is for one thread at a time, and all
    objects of the process wait for each other.
    Raises DriverUnavailable where the library is missing, the kernel refuses, or this process has 1024
    descriptors open.
    """

    def __init__(self) -> None:
        self._library = _load()
        with _one_at_a_time:
            _check_descriptors()
            self._context = self._library.nft_ctx_new(0)
        if not self._context:
            raise DriverUnavailable("nftables is unusable: libnftables gave no context")
        self._library.nft_ctx_buffer_output(self._context)
        self._library.nft_ctx_buffer_error(self._context)

    def close(self) -> None:
        """Free the library's memory; the rules stay."""
        with _one_at_a_time:
            self._library.nft_ctx_free(self._context)
        self._context = None

    def run(self, commands: str) -> str:
        """Run `commands` in one transaction, and return their output."""
        if self._context is None:  # the library would end the process
            raise DriverUnavailable("the network manager is closed")
        with _one_at_a_time:
            code = self._library.nft_run_cmd_from_buffer(self._context, commands.encode())
        said = self._library.nft_ctx_get_error_buffer(self._context).decode(errors="replace")
        printed = self._library.nft_ctx_get_output_buffer(self._context).decode()
        if code:
            raise DriverUnavailable(f"nftables refused a sandbox's rules: {_first_line(said)}")
        return printed

    def ask(self, command: str, *, elements: bool = False) -> list[dict[str, Any]]:
        """The output of `list …` as data; it has the elements of sets and maps only when asked for."""
        self._set_flags(_JSON if elements else _JSON | _TERSE)
        try:
            return json.loads(self.run(command) or '{"nftables": []}')["nftables"]
        finally:
            self._set_flags(0)

    def _set_flags(self, flags: int) -> None:
        if self._context is not None:
            self._library.nft_ctx_output_set_flags(self._context, flags)


def is_installed() -> bool:
    """Whether the library is there."""
    try:
        _load()
    except DriverUnavailable:
        return False
    return True


def _check_descriptors() -> None:
    """The library waits by select(), and ends the process for a socket that this cannot take."""
    lowest_free = os.open("/", os.O_PATH | os.O_CLOEXEC)
    os.close(lowest_free)
    if lowest_free > _HIGHEST_DESCRIPTOR:
        raise DriverUnavailable(
            f"nftables is unusable: this process has its first {lowest_free} descriptors open, and libnftables works "
            f"only below {_HIGHEST_DESCRIPTOR + 1}; close some, or open the network before them"
        )


def _load() -> ctypes.CDLL:
    try:
        library = ctypes.CDLL(LIBRARY)
    except OSError as error:
        raise DriverUnavailable(f"{LIBRARY} is missing; install libnftables1 ({error})") from error
    context = ctypes.c_void_p
    library.nft_ctx_new.argtypes, library.nft_ctx_new.restype = [ctypes.c_uint32], context
    library.nft_run_cmd_from_buffer.argtypes = [context, ctypes.c_char_p]
    for name in ("nft_ctx_get_error_buffer", "nft_ctx_get_output_buffer"):
        function = getattr(library, name)
        function.argtypes, function.restype = [context], ctypes.c_char_p
    for name in ("nft_ctx_buffer_output", "nft_ctx_buffer_error", "nft_ctx_free"):
        getattr(library, name).argtypes = [context]
    library.nft_ctx_output_set_flags.argtypes = [context, ctypes.c_uint]
    return library


def _first_line(said: str) -> str:
    return next((line for line in said.splitlines() if line.strip()), "without a word")
