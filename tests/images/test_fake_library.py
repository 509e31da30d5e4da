"""The fake image library of several Bays on one data directory."""

from pathlib import Path

import pytest

from bay.images.base import ImageSource
from bay.images.fake import FakeLibrary

pytestmark = pytest.mark.anyio

DEBIAN = ImageSource(ref="docker.io/library/debian:13", digest=None, is_upload=False, credentials=None)


async def test_an_image_that_one_process_brought_is_there_for_another_until_that_removes_it(
    tmp_path: Path,
) -> None:
    first, second = (FakeLibrary(tmp_path / "images") for _ in range(2))
    for library in (first, second):
        await library.open()

    async def none() -> tuple[()]:
        return ()

    async with first.bring("img-1", DEBIAN, none, lambda _: None) as brought:
        diff_ids = [layer.diff_id for layer in brought.layers]
    assert await second.is_whole("img-1", diff_ids)
    assert not await second.is_whole("img-1", [*diff_ids, "sha256:other"])
    assert not await second.is_whole("img-2", diff_ids)

    async def needed() -> tuple[set[str], set[str]]:
        return set(), set()

    await second.collect(needed)
    assert not await FakeLibrary(tmp_path / "images").is_whole("img-1", diff_ids)
