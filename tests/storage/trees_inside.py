"""Programs that run inside a sandbox: one makes every kind of file, one changes all of it, one says what is
there.

They are text because the sandbox has none of our files; each is run as `python3 -c`.
"""

MAKE = r"""
import os, shutil, socket, sys
many, kind = int(sys.argv[1]), sys.argv[2]
os.chdir("/workspace")
os.mkdir("many")
for n in range(many):
    os.close(os.open(f"many/{n}", os.O_CREAT | os.O_WRONLY, 0o640))
def put(path, data=b"x", mode=0o644, owner=0):
    os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
    with open(path, "wb") as file:
        file.write(data)
    os.chown(path, owner, owner)
    os.chmod(path, mode)
socket.socket(socket.AF_UNIX).bind("listening")
os.chown("listening", 1000, 1000)
os.mkfifo("queue", 0o620)
put("a/one", b"linked", owner=1000)
os.makedirs("b/c")
os.link("a/one", "b/two")
os.link("a/one", "b/c/three")
put("marked")
os.setxattr("marked", "user.bytes", bytes(range(256)))
os.setxattr("b", "user.of-a-directory", b"")
with open("sparse", "wb") as file:
    file.truncate(1 << 30)
    os.pwrite(file.fileno(), b"data" * 1024, 1 << 29)
with open("large", "wb") as file:
    for _ in range(144):
        file.write(os.urandom(1 << 20))
put("as-root", mode=0o6755)
put("as-ship", mode=0o4711, owner=1000)
put("closed", mode=0)
put(b"no\ntext\xff", b"bytes")
os.mkdir("sticky")
os.chmod("sticky", 0o3777)
os.symlink("/nowhere/at/all", "dangling")
os.lchown("dangling", 1000, 1000)
for name in ("a/one", "marked", "queue", "listening", "dangling", "sticky", "closed"):
    os.utime(name, ns=(981173106987654321, 981173106123456789), follow_symlinks=False)
os.utime("large", ns=(0, -1500000000))
os.mkdir("deep")
os.chdir("deep")
for level in range(100):
    name = f"level-{level:03}-" + "x" * 50
    os.mkdir(name)
    os.chdir(name)
put("bottom", b"far down", owner=1000)
os.chdir("/workspace")
if kind == "machine":
    put("/opt/tool/bin/run", b"#!/bin/sh\necho tool\n", 0o755)
    put("/etc/own/settings", b"a = 1\n", 0o600, 1000)
    os.link("/etc/own/settings", "/etc/own/link")
    os.unlink("/usr/lib/os-release")
    shutil.rmtree("/etc/alternatives")
    put("/etc/alternatives/only", b"this")
    with open("/etc/group", "a") as file:
        file.write("added:x:5000:\n")
"""

CHANGE = r"""
import os, shutil, stat, sys
def change(path):
    facts = os.lstat(path)
    if stat.S_ISREG(facts.st_mode):
        with open(path, "r+b") as file:
            file.write(b"changed")
            file.truncate(100)
        os.chmod(path, 0o600)
        os.chown(path, 7, 7)
for top in ["/workspace", *(["/opt/tool", "/etc/own", "/etc/alternatives"] if sys.argv[1] == "machine" else [])]:
    for name in os.listdir(os.fsencode(top)):
        path = os.path.join(os.fsencode(top), name)
        change(path)
        os.rename(path, path + b".moved")
shutil.rmtree("/workspace/b.moved")
os.unlink("/workspace/a.moved/one")
os.rename("/workspace/many.moved/0", "/workspace/many.moved/zero")
open("/workspace/new", "w").close()
if sys.argv[1] == "machine":
    open("/usr/lib/os-release", "w").close()
    open("/etc/group", "a").write("later:x:5001:\n")
"""

MANIFEST = r"""
import hashlib, json, os, stat, sys
tops = [b"/workspace"]
if sys.argv[1] == "machine":
    tops += [b"/opt", b"/etc/own", b"/etc/alternatives"]
BLOCK, ZERO = 4096, bytes(4096)
def content(path, fd, size):
    found, at = hashlib.sha256(), 0
    while at < size:
        try:
            at = os.lseek(fd, at, os.SEEK_DATA) // BLOCK * BLOCK
        except OSError:
            break
        piece = os.pread(fd, 256 * BLOCK, at)
        for start in range(0, len(piece), BLOCK):
            block = piece[start:start + BLOCK]
            if block.strip(b"\0"):
                found.update(b"%d:" % (at + start) + block)
        at += len(piece)
    return found.hexdigest()
def facts(name, parent, groups, key):
    at = os.lstat(name, dir_fd=parent)
    kind = stat.S_IFMT(at.st_mode)
    said = [oct(at.st_mode), at.st_uid, at.st_gid, at.st_mtime_ns]
    if kind == stat.S_IFLNK:
        said.append(os.readlink(name, dir_fd=parent).decode())
    if kind == stat.S_IFREG:
        first = groups.setdefault(at.st_ino, key) if at.st_nlink > 1 else key
        said += [at.st_size, at.st_nlink, first, at.st_blocks * 512 < at.st_size // 2]
    if kind in (stat.S_IFREG, stat.S_IFDIR):
        fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW, dir_fd=parent)
        said.append({name: os.getxattr(fd, name).hex() for name in os.listxattr(fd)})
        if kind == stat.S_IFREG:
            said.append(content(name, fd, at.st_size))
        os.close(fd)
    return said
def named(path):
    text = path.decode("latin-1")
    return text if len(text) < 200 else f"{text.count('/')} {hashlib.sha256(path).hexdigest()[:16]}"
found, groups = {}, {}
for top in tops:
    if not os.path.isdir(top):
        continue
    for where, folders, files, fd in os.fwalk(top):
        folders.sort()
        if where.startswith(b"/workspace/many"):
            total = hashlib.sha256()
            for name in sorted(files):
                at = os.lstat(name, dir_fd=fd)
                total.update(repr((name, at.st_mode, at.st_uid, at.st_gid, at.st_mtime_ns, at.st_size)).encode())
            found[named(where)] = [len(files), total.hexdigest()]
            continue
        for name in sorted(folders + files):
            key = named(where + b"/" + name)
            found[key] = facts(name, fd, groups, key)
        found[named(where) + "/"] = facts(b".", fd, groups, "")
if sys.argv[1] == "machine":
    found["group"] = open("/etc/group").read()[-40:]
    found["os-release"] = os.path.exists("/usr/lib/os-release")
print(json.dumps(found))
"""

WRITER = r"""
import os
a, b = (os.open(name, os.O_CREAT | os.O_WRONLY | os.O_APPEND, 0o644) for name in ("A", "B"))
n = 0
while True:
    n += 1
    os.write(a, b"%d\n" % n)
    os.write(b, b"%d\n" % n)
"""
"""Appends the same numbers to two files that it keeps open, always to A first."""
