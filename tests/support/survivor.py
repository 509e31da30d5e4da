# pyright: basic
# ruff: noqa: SIM115 - all of it is held open on purpose
"""A program with one of everything that must live on in memory; it runs in a sandbox, before and after.

It says `ready` into a file, waits until there is another, and writes down what it finds of itself then. Its
arguments are places where it holds no deleted file.
"""

import ctypes
import fcntl
import json
import mmap
import multiprocessing.shared_memory
import os
import select
import socket
import sys
import threading
import time
from pathlib import Path

HERE = Path("/workspace")
_libc = ctypes.CDLL(None, use_errno=True)

value = {"loaded": os.urandom(32).hex()}
ballast = bytearray(os.urandom(1 << 20)) * 8
deleted = {}
for name, place in {
    "workspace": HERE,
    "root": Path("/var/tmp"),
    "tmp": Path("/tmp"),
    "shm": Path("/dev/shm"),
}.items():
    if name in sys.argv[1:]:
        continue
    file = open(place / "deleted", "w+")
    file.write(name * 1000)
    file.flush()
    os.unlink(file.name)
    deleted[name] = file
watch = _libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
assert _libc.inotify_add_watch(watch, os.fsencode(HERE), 0x100) >= 0  # IN_CREATE
locked = open(HERE / "locked", "w")
fcntl.flock(locked, fcntl.LOCK_EX)
shared = multiprocessing.shared_memory.SharedMemory(name="ours", create=True, size=4096)
assert shared.buf is not None
shared.buf[:4] = b"held"
mapped = mmap.mmap(-1, 4096)
mapped[:3] = b"map"
memory_file = os.memfd_create("unseen")
os.write(memory_file, b"memfd")
os.mkfifo("/tmp/fifo")
fifo = os.open("/tmp/fifo", os.O_RDWR | os.O_NONBLOCK)
os.write(fifo, b"in the fifo")
pair = socket.socketpair()
pair[0].send(b"in the socket")
abstract = socket.socket(socket.AF_UNIX)
abstract.bind("\0ours")
abstract.listen()
datagrams = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
datagrams.bind(("127.0.0.1", 4001))
six = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
six.bind(("127.0.0.1", 4002))
six.listen()
client = socket.create_connection(("127.0.0.1", 4002))
accepted, _ = six.accept()
if (zombie := os.fork()) == 0:
    os._exit(7)
stop = threading.Event()
threads = [threading.Thread(target=stop.wait) for _ in range(200)]
for thread in threads:
    thread.start()
timer = time.monotonic()
event = os.eventfd(5)
many = [open("/etc/hostname") for _ in range(1000)]
directory = os.open("/usr/bin", os.O_PATH)
os.chdir("/tmp")

(HERE / "ready").write_text(json.dumps({"value": value["loaded"], "monotonic": timer}))
while not (HERE / "go").exists():
    time.sleep(0.02)

found = {
    "value": value["loaded"],
    "ballast": len(ballast),
    "deleted": {name: (file.seek(0), file.read() == name * 1000)[1] for name, file in deleted.items()},
    "inotify": b"go" in os.read(watch, 4096),
    "shared": bytes(shared.buf[:4]).decode(),
    "mapped": mapped[:3].decode(),
    "memfd": os.pread(memory_file, 5, 0).decode(),
    "fifo": os.read(fifo, 100).decode(),
    "pair": pair[1].recv(100).decode(),
    "eventfd": int.from_bytes(os.read(event, 8), sys.byteorder),
    "threads": sum(thread.is_alive() for thread in threads),
    "zombie": os.waitstatus_to_exitcode(os.waitpid(zombie, 0)[1]),
    "files": sum(bool(file.read()) for file in many),
    "cwd": os.getcwd(),
    "backwards": time.monotonic() < timer,
    "directory": os.path.samestat(os.fstat(directory), os.stat("/usr/bin")),
}
with socket.socket(socket.AF_UNIX) as other:
    other.connect("\0ours")
    found["abstract"] = True
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
    other.sendto(b"datagram", ("127.0.0.1", 4001))
    found["udp"] = datagrams.recv(100).decode()
with socket.create_connection(("127.0.0.1", 4002)):
    found["listens"] = True
poll = select.poll()
poll.register(client, select.POLLIN)
try:
    found["connection"] = "closed" if poll.poll(1000) and client.recv(10) == b"" else "open"
except OSError as error:
    found["connection"] = type(error).__name__
with open(HERE / "locked") as again:
    try:
        fcntl.flock(again, fcntl.LOCK_SH | fcntl.LOCK_NB)
        found["flock"] = "lost"
    except BlockingIOError:
        found["flock"] = "held"
(HERE / "found.part").write_text(json.dumps(found))
os.rename(HERE / "found.part", HERE / "found")
stop.set()
shared.unlink()
os._exit(0)
