"""Files as a user of E2B handles them, with the sync and the async client of Python."""

import asyncio
import io
import sys

import httpx
from e2b import AsyncSandbox, FileNotFoundException, FileType, InvalidArgumentException, Sandbox


def check(fact: bool, what: object) -> None:
    if not fact:
        sys.exit(f"wrong: {what!r}")


def with_sync(box: Sandbox) -> None:
    written = box.files.write("notes/a.txt", "hello", metadata={"author": "me"})
    check(written.path == "/home/user/notes/a.txt", written)
    check(box.files.read("notes/a.txt") == "hello", "read")
    check(box.files.read("/home/user/notes/a.txt", format="bytes") == b"hello", "bytes")
    box.files.write_files([{"path": f"many/{n}.txt", "data": str(n)} for n in range(100)])
    check(box.files.read("many/99.txt") == "99", "many")
    box.files.write("packed", "x" * 100_000, gzip=True)
    box.files.write("streamed", io.BytesIO(b"y" * 3_000_000))
    check(box.files.get_info("streamed").size == 3_000_000, "streamed")
    info = box.files.get_info("notes/a.txt")
    check((info.type, info.size, info.owner, info.group) == (FileType.FILE, 5, "user", "user"), info)
    check(info.metadata == {"author": "me"}, info)
    box.commands.run("ln -s a.txt notes/link")
    check(box.files.get_info("notes/link").symlink_target == "/home/user/notes/a.txt", "link")
    check(box.files.make_dir("folder/deep"), "make_dir")
    check(not box.files.make_dir("folder/deep"), "make_dir again")
    box.files.rename("notes/a.txt", "folder/b.txt")
    listed = box.files.list("folder", depth=2)
    check(sorted(entry.name for entry in listed) == ["b.txt", "deep"], listed)
    check(box.files.exists("folder/b.txt") and not box.files.exists("notes/a.txt"), "exists")
    box.files.write("/srv/secret", "of root", user="root")
    check(box.files.get_info("/srv/secret", user="root").owner == "root", "root")
    box.files.remove("folder")
    box.files.remove("folder")
    for call, error in (
        (lambda: box.files.read("nothing"), FileNotFoundException),
        (lambda: box.files.list("nothing"), FileNotFoundException),
        (lambda: box.files.read("many"), InvalidArgumentException),
    ):
        try:
            call()
            sys.exit(f"no {error}")
        except error:
            pass


def with_watcher(box: Sandbox) -> None:
    box.files.make_dir("seen")
    handle = box.files.watch_dir("seen")
    box.files.write("seen/new.txt", "x")
    events = handle.get_new_events()
    while len(events) < 3:
        events += handle.get_new_events()
    check([event.type.value for event in events] == ["create", "chmod", "write"], events)
    handle.stop()


def with_urls(box: Sandbox) -> None:
    named = {"E2b-Sandbox-Id": box.sandbox_id, "E2b-Sandbox-Port": "49983"}
    url = box.upload_url("signed.txt", use_signature_expiration=60)
    answer = httpx.post(url, files={"file": ("signed.txt", b"signed")}, headers=named)
    check(answer.status_code == 200, answer.text)
    url = box.download_url("signed.txt", use_signature_expiration=60)
    check(httpx.get(url, headers=named).content == b"signed", url)
    answer = httpx.get(url.replace("signed.txt", "other.txt"), headers=named)
    check((answer.status_code, answer.json()["message"]) == (401, "invalid signature"), answer.text)
    answer = httpx.get(box.download_url("signed.txt", use_signature_expiration=-5), headers=named)
    check(
        (answer.status_code, answer.json()["message"]) == (401, "signature is already expired"), answer.text
    )


async def with_async(sandbox_id: str) -> None:
    box = await AsyncSandbox.connect(sandbox_id)
    came = asyncio.Event()
    await box.files.make_dir("live")
    watch = await box.files.watch_dir("live", lambda event: came.set(), recursive=True)
    await box.files.write("live/below/a.bin", bytes(2_000_000))
    await asyncio.wait_for(came.wait(), 30)
    await watch.stop()
    check(await box.files.read("live/below/a.bin", format="bytes") == bytes(2_000_000), "bytes")


def main() -> None:
    box = Sandbox.create()
    try:
        with_sync(box)
        with_watcher(box)
        with_urls(box)
        asyncio.run(with_async(box.sandbox_id))
    finally:
        box.kill()
    print("done")


main()
