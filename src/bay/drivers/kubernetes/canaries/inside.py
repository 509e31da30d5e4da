"""The program of a canary: it tries what a sandbox's programs could try, and tells what came of it.

The text of this module is an argument of an interpreter in a pod, so that it imports the standard library
alone. It answers with one object of JSON in the pod's termination message: all who may read the pod can read
that, and it needs no network.
"""

import _thread
import errno
import json
import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

MESSAGE = "/dev/termination-log"
RESOLV_CONF = "/etc/resolv.conf"
CONNECT_S = 2.0
CHUNK = 4 << 20
QUERY = b"\x2b\x2b\x01\0\0\x01\0\0\0\0\0\0\0\0\x02\0\x01"
"""A query of DNS for the servers of the root (RFC 1035, section 4.1)."""


def tell(found: Mapping[str, Any]) -> None:
    """Write the answer, in place of an earlier one: a later trial may end this process."""
    with open(MESSAGE, "w", encoding="utf-8") as file:
        json.dump(found, file)


def listen(task: Mapping[str, Any]) -> None:
    """Take connections on a port until the pod ends."""
    kind = socket.AF_INET6 if socket.has_dualstack_ipv6() else socket.AF_INET
    with socket.create_server(
        ("", task["port"]), family=kind, dualstack_ipv6=kind == socket.AF_INET6
    ) as server:
        while True:
            server.accept()[0].close()


def reach(task: Mapping[str, Any]) -> None:
    """Try the `targets` in rounds, until what is `expected` of each (true: it is reached) has held for
    `steady_s`, or `settle_s` are over. Network plug-ins apply a policy some time after a pod began.
    """
    expected: Mapping[str, bool] = task["expected"]
    began = held_since = time.monotonic()
    while True:
        round_began = time.monotonic()
        found = _each(task["targets"])
        now = time.monotonic()
        if any((found[name] == "connected") != wanted for name, wanted in expected.items()):
            held_since = now
        tell({"outcomes": found, "after_ms": round((min(held_since, round_began) - began) * 1000)})
        if now - held_since > task["steady_s"] or now - began > task["settle_s"]:
            return
        time.sleep(0.2)


def _each(targets: list[dict[str, Any]]) -> dict[str, str]:
    found: dict[str, str] = {}

    def one(target: dict[str, Any]) -> None:
        found[target["name"]] = outcome(target)

    threads = [threading.Thread(target=one, args=(target,)) for target in targets]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found


def outcome(target: Mapping[str, Any]) -> str:
    """`connected`, `refused`, `timeout`, `nowhere` for a place that this pod does not know, or the name of
    the kernel's error.
    """
    host, port = target["host"], target["port"]
    if host == "api":
        host, port = os.environ.get("KUBERNETES_SERVICE_HOST"), os.environ.get("KUBERNETES_SERVICE_PORT")
    elif host == "dns":
        host = _resolver()
    if not host or not port:
        return "nowhere"
    ask: Callable[[str, int], None] = _ask_udp if target.get("udp") else _connect
    try:
        ask(str(host), int(port))
    except TimeoutError:
        return "timeout"
    except ConnectionRefusedError:
        return "refused"
    except OSError as error:
        return errno.errorcode.get(error.errno or 0, "error")
    return "connected"


def _connect(host: str, port: int) -> None:
    socket.create_connection((host, port), timeout=CONNECT_S).close()


def _ask_udp(host: str, port: int) -> None:
    kind = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(kind, socket.SOCK_DGRAM) as sock:
        sock.settimeout(CONNECT_S)
        sock.connect((host, port))
        sock.send(QUERY)
        sock.recv(4096)


def _resolver() -> str | None:
    with suppress(OSError), open(RESOLV_CONF, encoding="utf-8") as file:
        for line in file:
            words = line.split()
            if len(words) > 1 and words[0] == "nameserver":
                return words[1]
    return None


def limits(task: Mapping[str, Any]) -> None:
    """Use more than the container may have: of processors for `busy_s`, then up to `processes`, then up to
    `bytes` of memory. It tells each before the next, since the last may end the pod.
    """
    found: dict[str, Any] = {"cpu_percent": busy(task["busy_s"])}
    tell(found)
    found["processes"] = in_child(lambda: processes(task["processes"]))
    tell(found)
    found["memory"] = in_child(lambda: memory(task["bytes"]))
    tell(found)


def busy(seconds: float) -> int:
    """How much of one processor a busy loop got, in percent."""
    began, used = time.monotonic(), time.process_time()
    while time.monotonic() - began < seconds:
        pass
    return round(100 * (time.process_time() - used) / (time.monotonic() - began))


def processes(most: int) -> str:
    """How many threads there can be: they count as processes do."""
    threading.stack_size(64 << 10)
    over = _thread.allocate_lock()
    over.acquire()

    def waits() -> None:
        over.acquire()

    for count in range(most):
        try:
            _thread.start_new_thread(waits, ())
        except RuntimeError:
            return str(count)
    return str(most)


def memory(most: int) -> str:
    """Whether so many bytes can be had: `all`, or `refused`. The kernel may kill this process first."""
    with suppress(OSError), open("/proc/self/oom_score_adj", "w", encoding="utf-8") as file:
        file.write("1000")
    had: list[bytes] = []
    try:
        for _ in range(most // CHUNK):
            had.append(b"x" * CHUNK)  # written, so that the kernel has to find it
    except MemoryError:
        return "refused"
    return "all"


def in_child(trial: Callable[[], str]) -> str:
    """The words of a trial in a child; `killed` where a signal ended it, `failed` where it told nothing."""
    reads, writes = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.write(writes, trial().encode())
        finally:
            os._exit(0)
    os.close(writes)
    with os.fdopen(reads) as file:
        said = file.read()
    _, status = os.waitpid(child, 0)
    return said or ("killed" if os.WIFSIGNALED(status) else "failed")


def write(task: Mapping[str, Any]) -> None:
    """Write a file in a directory, and remove it unless the task says `keep`."""
    path = os.path.join(task["path"], "canary")
    try:
        with open(path, "wb") as file:
            file.write(b"x" * 4096)
            file.flush()
            os.fsync(file.fileno())
        if not task.get("keep"):
            os.remove(path)
    except OSError as error:
        tell({"error": f"{error.strerror}"})
        return
    tell({"error": None})


def look(task: Mapping[str, Any]) -> None:
    """Tell which names a directory has."""
    try:
        tell({"names": sorted(os.listdir(str(task["path"])))[:20]})
    except OSError as error:
        tell({"error": f"{error.strerror}"})


TASKS: Mapping[str, Callable[[Mapping[str, Any]], None]] = {
    "listen": listen, "reach": reach, "limits": limits, "write": write, "look": look,
}  # fmt: skip


if __name__ == "__main__":
    given = json.loads(sys.argv[1])
    TASKS[given["do"]](given)
