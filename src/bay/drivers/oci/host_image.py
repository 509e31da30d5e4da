"""The image `host`: a synthesized skeleton over the host's `/usr`. Nothing is downloaded or else shown.

An allow list: a file of the host's `/etc` or `/var/lib/dpkg` is in the skeleton because a line here names it,
it is readable by everyone on the host, and programs in `/usr` do not work without it.
"""

import hashlib
import os
import re
import shutil
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path

from bay.drivers.etc_files import (
    EXEC_GROUPS,
    HOSTNAME_FILE,
    HOSTS_FILE,
    PIP_CONF,
    RESOLV_CONF,
    UV_TOML,
    exec_group_line,
)
from bay.linux.renames import built_beside

USR, _DPKG, _CACHE = Path("/usr"), Path("/var/lib/dpkg"), Path("/var/cache")
USER = "ship"
"""The name of uid 1000, where a profile does not give it another."""
_CACHES = ("fontconfig",)
"""Of /var/cache. Without it a program that draws text first reads every font in /usr/share/fonts."""
_ACCOUNTS = ("etc/passwd", "etc/shadow", "etc/group")

_FROM_ETC = (
    *("alternatives", "bash.bashrc", "ca-certificates.conf", "debian_version", "dpkg", "fonts", "inputrc"),
    *("ld.so.cache", "ld.so.conf", "ld.so.conf.d", "localtime", "magic", "matplotlibrc", "mime.types"),
    *("os-release", "protocols", "python3", "python3.11", "python3.12", "python3.13", "python3.14"),
    *("services", "ssl/certs", "ssl/openssl.cnf", "timezone"),
    # Debian's programs that make users read these.
    *("adduser.conf", "deluser.conf", "login.defs", "skel"),
    # Debian's launcher of Chromium reads these, and ends without any. Not `apikeys`.
    *("chromium.d/README", "chromium.d/default-flags", "chromium.d/dev-shm", "chromium.d/extensions"),
)

# The packages installed in /usr, so that a package manager can go on from there in a sandbox that keeps its
# machine. Not /etc/apt: its addresses and proxies may have passwords in them.
_FROM_DPKG = ("alternatives", "arch", "arch-native", "cmethopt", "diversions", "info", "status", "triggers")

# Debian's own sets PATH anew, and a login shell would lose the sandbox's.
_PROFILE = """\
# Read by login shells. PATH is the sandbox's, and stays as it is.
export PATH="${PATH:-/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin}"
if [ "${PS1-}" ] && [ "${BASH-}" ] && [ "$BASH" != /bin/sh ]; then
  [ ! -r /etc/bash.bashrc ] || . /etc/bash.bashrc
elif [ "${PS1-}" ]; then
  [ "$(id -u)" -eq 0 ] && PS1='# ' || PS1='$ '
fi
for file in /etc/profile.d/*.sh; do
  [ ! -r "$file" ] || . "$file"
done
unset file
"""

_USERS = """root:x:0:0:root:/root:/bin/bash
daemon:x:1:1:daemon:/usr/sbin:/usr/sbin/nologin
bin:x:2:2:bin:/bin:/usr/sbin/nologin
sys:x:3:3:sys:/dev:/usr/sbin/nologin
man:x:6:12:man:/var/cache/man:/usr/sbin/nologin
mail:x:8:8:mail:/var/mail:/usr/sbin/nologin
www-data:x:33:33:www-data:/var/www:/usr/sbin/nologin
_apt:x:42:65534::/nonexistent:/usr/sbin/nologin
ship:x:1000:1000:ship:/workspace:/bin/bash
nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin
"""

# Dropbear lets only those in whose shell is listed; the C library lists no bash where the file is missing.
_SHELLS = ("/bin/sh", "/bin/bash", "/usr/bin/sh", "/usr/bin/bash")

# Root may become any user without a password; no other user may become anyone, as there are no passwords.
_PAM = """auth sufficient pam_rootok.so
auth required pam_unix.so
account required pam_unix.so
password required pam_unix.so
session required pam_unix.so
"""

_WRITTEN = {
    "etc/pip.conf": PIP_CONF,
    "etc/uv/uv.toml": UV_TOML,
    "etc/profile": _PROFILE,
    "etc/passwd": _USERS,
    "etc/shadow": "".join(f"{line.partition(':')[0]}:*:::::::\n" for line in _USERS.splitlines()),
    "etc/shells": "".join(f"{shell}\n" for shell in _SHELLS),
    "etc/pam.d/other": _PAM,
    "etc/group": """root:x:0:
daemon:x:1:
bin:x:2:
sys:x:3:
adm:x:4:
tty:x:5:
disk:x:6:
mail:x:8:
man:x:12:
www-data:x:33:
shadow:x:42:
utmp:x:43:
staff:x:50:
users:x:100:
ship:x:1000:
nogroup:x:65534:
"""
    + "".join(f"{exec_group_line(gid)}\n" for gid in EXEC_GROUPS),
    "etc/nsswitch.conf": "passwd: files\ngroup: files\nhosts: files dns\nservices: files\nprotocols: files\n",
    "etc/hostname": HOSTNAME_FILE,
    "etc/hosts": HOSTS_FILE,
    "etc/resolv.conf": RESOLV_CONF,
    "var/lib/dpkg/statoverride": "",  # the host's names users that are not in this image
}

_OPEN_DIRECTORIES = """
    .ship dev etc home mnt opt proc run srv sys usr workspace run/lock var var/cache var/lib var/log var/spool
    var/cache/apt var/cache/apt/archives var/cache/apt/archives/partial var/lib/apt var/lib/apt/lists
    var/lib/apt/lists/partial var/log/apt var/lib/dpkg var/lib/dpkg/parts var/lib/dpkg/updates etc/apt etc/pam.d
    etc/uv etc/apt/apt.conf.d etc/apt/preferences.d etc/apt/sources.list.d
"""
_DIRECTORIES = {
    **dict.fromkeys(_OPEN_DIRECTORIES.split(), 0o755),
    **dict.fromkeys(("root", ".ship-run"), 0o700),
    **dict.fromkeys(("tmp", "var/tmp"), 0o1777),
}
_USR_LINKS = ("bin", "lib", "lib64", "sbin")

Sources = tuple[tuple[Path, str, tuple[str, ...]], ...]
"""Directories of the host, where each goes in the image, and the names of it that do."""


def build(images: Path, *, etc: Path = Path("/etc"), user: str = USER) -> Path:
    """The skeleton below `images`, rebuilt when the host's files have changed; `user`: the name of uid 1000.
    Safe against concurrent builds. Blocks; raises OSError.
    """
    sources = ((etc, "etc", _FROM_ETC), (_DPKG, "var/lib/dpkg", _FROM_DPKG), (_CACHE, "var/cache", _CACHES))
    written, links = _written(user), _links()
    target = images / f"host-{_fingerprint(sources, written, links)}"
    if not target.is_dir():
        with built_beside(target) as building:
            _fill(building, sources, written)
            for name, found in links.items():
                _make_directory((building / name).parent)
                (building / name).symlink_to(found)
    return target


def _written(user: str) -> dict[str, str]:
    named = {name: re.sub(rf"(?m)^{USER}:", f"{user}:", _WRITTEN[name]) for name in _ACCOUNTS}
    return {**_WRITTEN, **named}


def _links() -> dict[str, str]:
    """The links added to the host's /usr: the names by which programs and people call Python."""
    has = {name: os.path.lexists(USR / "bin" / name) for name in ("python", "python3")}
    return {"usr/bin/python": "python3"} if has["python3"] and not has["python"] else {}


def _fill(skeleton: Path, sources: Sources, written: Mapping[str, str]) -> None:
    skeleton.chmod(0o755)
    for name, mode in _DIRECTORIES.items():
        (skeleton / name).mkdir(exist_ok=True)
        (skeleton / name).chmod(mode)
    for name in _USR_LINKS:
        _copy_link(Path("/", name), skeleton / name)
    (skeleton / "etc/mtab").symlink_to("../proc/self/mounts")
    (skeleton / "var/run").symlink_to("../run")
    for above, place, names in sources:
        for source in map(Path, _wanted(above, names)):
            _copy(source, skeleton / place / source.relative_to(above))
    for name, text in written.items():
        (skeleton / name).write_text(text)
        (skeleton / name).chmod(0o640 if name == "etc/shadow" else 0o644)


def _copy_link(source: Path, target: Path) -> None:
    if source.is_symlink():
        target.symlink_to(os.readlink(source))
    elif source.is_dir():
        raise OSError(f"{source} is not a link into /usr: the image `host` needs a host with a merged /usr")


def _wanted(above: Path, names: tuple[str, ...]) -> Iterator[str]:
    """Thousands of paths, at each start of Bay: a `Path` of each would take most of the time."""
    for name in names:
        top = os.path.join(above, name)
        yield top
        if os.path.islink(top):
            continue
        for directory, below, files in os.walk(top):
            below.sort()
            for one in sorted((*below, *files)):
                yield os.path.join(directory, one)


def _copy(source: Path, target: Path) -> None:
    try:
        mode = source.lstat().st_mode
    except FileNotFoundError:
        return
    if stat.S_ISDIR(mode):
        _make_directory(target)
        return
    _make_directory(target.parent)
    if stat.S_ISLNK(mode):
        target.symlink_to(os.readlink(source))
    elif stat.S_ISREG(mode) and mode & stat.S_IROTH:
        shutil.copyfile(source, target)
        target.chmod(mode & 0o755)


def _make_directory(path: Path) -> None:
    path.mkdir(parents=True, exist_ok=True)
    path.chmod(0o755)  # with any umask of Bay


def _fingerprint(sources: Sources, written: Mapping[str, str], links: Mapping[str, str]) -> str:
    digest = hashlib.sha256(repr((_DIRECTORIES, written, links, _USR_LINKS)).encode())
    for path in (path for above, _, names in sources for path in _wanted(above, names)):
        try:
            info = os.lstat(path)
        except FileNotFoundError:
            continue
        digest.update(f"{path} {info.st_mode} {info.st_size} {info.st_mtime_ns}\n".encode())
    return digest.hexdigest()[:16]
