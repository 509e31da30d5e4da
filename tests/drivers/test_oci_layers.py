"""Overlays of many lower layers, named in each of the ways that kernels have. Needs root."""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import pytest

from bay.drivers.oci.probe import checks, layer_names
from bay.drivers.oci.rootfs import Layer, Rootfs, assemble, prepare_writable
from bay.drivers.oci.userns import user_namespace
from bay.linux import mounts
from bay.linux.overlays import LAYER_NAMES, LayerNames

pytestmark = [pytest.mark.host, pytest.mark.skipif(os.getuid() != 0, reason="mounting needs root")]

T = TypeVar("T")
MANY = 127
ID_BASE = 1_879_048_192 + 4000 * 65_536


def layers_in(directory: Path, number: int) -> tuple[Path, ...]:
    """Layers of a file each, and one file that all have."""
    made = [
        directory / f"a-layer-with-quite-a-long-name-as-digests-have-it-{index:03}" for index in range(number)
    ]
    for index, layer in enumerate(made):
        layer.mkdir(parents=True)
        (layer / f"own-{index}").touch()
        (layer / "all").write_text(str(index))
    return tuple(made)


def in_root(tmp_path: Path, lower: tuple[Path, ...], names: LayerNames, look: Callable[[Path], T]) -> T:
    """The result of `look` at an assembled root, in the thread that sees it."""
    (tmp_path / "stage").mkdir()
    made = Rootfs((Layer("/", lower, tmp_path / "writable", foreign=True),), (), names)

    def work() -> T:
        prepare_writable(made)
        with user_namespace(ID_BASE) as userns:
            mounts.unshare(mounts.CLONE_NEWNS | mounts.CLONE_FS)
            return look(assemble(made, tmp_path / "stage", userns, ID_BASE))

    with ThreadPoolExecutor(1) as thread:
        return thread.submit(work).result()


@pytest.mark.parametrize("names", LAYER_NAMES)
def test_127_layers_make_a_root_that_can_be_written(tmp_path: Path, names: LayerNames) -> None:
    lower = layers_in(tmp_path / "layers", MANY)

    def look(root: Path) -> tuple[str, int, int]:
        with mounts.acting_as(ID_BASE, ID_BASE):
            (root / "new").touch()
        return (root / "all").read_text(), len(list(root.iterdir())), (root / "own-126").stat().st_uid

    assert in_root(tmp_path, lower, names, look) == ("0", MANY + 2, ID_BASE)
    assert (tmp_path / "writable/upper/new").exists()


@pytest.mark.parametrize("names", LAYER_NAMES)
def test_a_root_shows_no_path_of_the_host_and_gives_no_special_rights(
    tmp_path: Path, names: LayerNames
) -> None:
    def look(root: Path) -> str:
        found = Path("/proc/thread-self/mountinfo").read_text().splitlines()
        return next(line for line in found if f" {root} " in line)

    line = in_root(tmp_path, layers_in(tmp_path / "layers", 2), names, look)
    options = line.partition(" - ")[2]
    assert "overlay" in options
    assert str(tmp_path) not in options
    assert "layer-with" not in options
    assert {"nosuid", "nodev"} <= set(line.split()[5].split(","))


def test_this_host_has_one_of_the_ways_and_doctor_shows_which(tmp_path: Path) -> None:
    names = layer_names(tmp_path)
    found = next(check.found for check in checks(scratch=tmp_path) if check.name == "overlay-on-id-mapped")
    shown = {"options": "each layer is an option", "text": "one page of text"}
    assert shown[names] in found


def test_a_way_that_the_kernel_lacks_is_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    new_mount = mounts.new_mount

    def older(fstype: str, options: list[tuple[str, str]], attributes: int = 0) -> int:
        if any(key == "lowerdir+" for key, _ in options):
            raise OSError(22, "fsconfig lowerdir+: Invalid argument")
        return new_mount(fstype, options, attributes)

    monkeypatch.setattr(mounts, "new_mount", older)
    assert layer_names(tmp_path) == "text"


def test_a_layer_that_points_into_another_is_not_followed(tmp_path: Path) -> None:
    lower = layers_in(tmp_path / "layers", 2)
    (lower[1] / "hidden").mkdir()
    (lower[1] / "hidden/secret").touch()
    (lower[0] / "shown").mkdir()
    os.setxattr(lower[0] / "shown", "trusted.overlay.redirect", b"/hidden")

    def look(root: Path) -> list[str] | str:
        try:
            return os.listdir(root / "shown")
        except OSError as error:
            return str(error.strerror)

    assert in_root(tmp_path, lower, "options", look) in ([], "Operation not permitted")
