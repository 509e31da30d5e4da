"""Headers are those that `tarfile` writes, byte for byte."""

import tarfile

from hypothesis import given, settings
from hypothesis import strategies as st

from tree_tar.headers import CHARACTER, DIRECTORY, FIFO, FILE, LINK, NS, SYMLINK, TYPEFLAGS, header

letters = st.sampled_from(["a", "/", "ü", "\udcff", " ", "漢"])
names = st.tuples(st.sampled_from([1, 96, 98, 99, 100, 101, 900]), st.text(letters, max_size=4)).map(
    lambda made: "x" * made[0] + made[1]
)
ids = st.sampled_from([0, 1000, 8**7 - 1, 8**7, (1 << 32) - 1])
times = st.sampled_from([0, 5 * NS, 5 * NS + 7, -3, -NS, (8**11 - 1) * NS, 1 << 60])
kinds = st.sampled_from([FILE, LINK, SYMLINK, CHARACTER, DIRECTORY, FIFO])
sizes = st.sampled_from([0, 511, 8**11 - 1, 8**11, 1 << 50])
records = st.dictionaries(st.just("SCHILY.xattr.user.x"), st.text(letters, max_size=9))


@settings(max_examples=500, deadline=None)
@given(names, kinds, st.integers(0, 0o7777), ids, times, sizes, st.just("") | names, records)
def test_a_header_has_the_bytes_that_tarfile_writes(
    name: str, kind: str, mode: int, owner: int, mtime_ns: int, size: int, link: str, told: dict[str, str]
) -> None:
    info = tarfile.TarInfo(name)
    info.type, info.mode, info.uid, info.gid = TYPEFLAGS[kind], mode, owner, owner
    info.size, info.linkname, info.mtime = size, link, max(0, mtime_ns // NS)
    seconds, fraction = divmod(abs(mtime_ns), NS)
    sign = "-" if mtime_ns < 0 else ""
    time = {"mtime": f"{sign}{seconds}.{fraction:09}"} if fraction or sign else {}
    info.pax_headers = {**time, **told}
    expected = info.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape")
    ids = (owner, owner)
    assert expected == header(
        name, kind, mode=mode, ids=ids, mtime_ns=mtime_ns, size=size, link=link, records=told
    )
