"""Images: pulled beside other tools, started from, frozen to templates, shared in memory, and built."""

import shutil
import subprocess
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial, wraps
from pathlib import Path

from bay.client import Box, Client
from bench import host, spending
from bench.base import Bench, Case, create_and_run
from bench.figures import Absent, Figure, Ratio, Result
from bench.image_world import (
    ImageWorld,
    Missing,
    box_layer,
    containers_storage,
    image_world,
    large_layers,
    need,
    thin_layers,
)
from bench.layers import GIB, make_layer
from bench.processor import Timed
from bench.spending import Spent
from bench.starting import scored, spread

PULLS, PULL_LAYERS, AGAIN, START_RUNS, LAYERS = 3, 4, 5, 15, (1, 10, 60)
FREEZES, TEMPLATE_RUNS, AT_ONCE = 10, 30, 100
SHARING, SHARED_MIB, BUILDS = 20, 100, 3
MIB = 1 << 20

FROZEN_BYTES = 200_000_000
_MAP = """
import mmap
with open({path!r}, "rb") as file:
    data = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
print(sum(data[::4096]))
"""
_DOCKERFILE = """
FROM {base}
RUN mkdir -p /srv/app && echo {mark} > /srv/mark
COPY app /srv/app/
RUN cat /srv/app/* > /srv/all && seq 100000 | sort -r > /srv/sorted
ENV MODE=fast
WORKDIR /srv
RUN wc -l sorted all > counts
CMD ["cat", "/srv/all"]
"""
_ULIMITS = """
[containers]
default_ulimits = ["nofile=20000:20000", "nproc=20000:20000"]
"""


def _in_a_world(what: str) -> Callable[[Callable[[Bench, ImageWorld], list[Result]]], Case]:
    """Gives a benchmark a Bay and a registry; where a program is missing it is a word about that."""

    def decorate(measure: Callable[[Bench, ImageWorld], list[Result]]) -> Case:
        @wraps(measure)
        def case(bench: Bench) -> list[Result]:
            try:
                with image_world() as world:
                    return measure(bench, world)
            except Missing as error:
                return [Absent(what, str(error))]

        return case

    return decorate


@_in_a_world("pull of an image")
def pulls(bench: Bench, world: ImageWorld) -> list[Result]:
    """A large image from a registry on this machine, beside other tools that fetch and unpack it, by turns.

    None has a part of it before. Bay's layers are on the disk when a pull returns; the others do not wait.
    """
    size = bench.size or round(GIB * bench.scale)
    layers = [box_layer(world.folder), *large_layers(world.folder, size, PULL_LAYERS)]
    files = sum(layer.files for layer in layers)
    name = f"pull of {size / GIB:.1f} GiB, {files:,} files, {len(layers)} layers"
    reference = world.push("large", layers)
    mine: list[Spent] = []
    again = Timed(world.server)
    others: dict[str, list[Spent]] = {}
    for run in range(bench.count(PULLS) if size <= GIB else 1):
        mine.append(spending.by_server(world.server, lambda: world.client.images.pull(reference)))
        if not run:
            for _ in range(bench.count(AGAIN)):
                again.take(lambda: world.client.images.pull(reference))
        world.forget(reference)
        for other, spent in _other_pulls(bench, world, reference):
            others.setdefault(other, []).append(spent)
    found = spending.figures(name, mine, "on the disk when it returns")
    found.append(again.figure("the same again, with all layers here", "the tag is resolved"))
    for other, spent in others.items():
        found += [*spending.figures(other, spent), *spending.ratios(name, mine, other, spent)]
    return found if bench.docker else [*found, Absent("docker pull", "docker not available")]


def _other_pulls(bench: Bench, world: ImageWorld, reference: str) -> Generator[tuple[str, Spent]]:
    with containers_storage(world.folder) as store:
        yield (
            "skopeo copy into containers-storage",
            spending.by_program(_copy(reference, store.target("large:1"))),
        )
    if bench.docker:
        docker = bench.docker
        yield "docker pull", spending.by_daemon(docker.daemon(), lambda: docker.pull(reference))
        docker.forget(reference)


def _copy(reference: str, target: str) -> Sequence[str]:
    copy = ("skopeo", "--insecure-policy", "copy", "--quiet", "--src-tls-verify=false")
    return (*copy, f"docker://{reference}", target)


@_in_a_world("cold create from an image")
def starts(bench: Bench, world: ImageWorld) -> list[Result]:
    """Cold creates to the first answer from images of few and many layers, beside `host`, by turns."""
    images = {"host": "host"}
    for count in LAYERS:
        layers = [box_layer(world.folder), *thin_layers(world.folder, count - 1)]
        images[f"an image of {count} layer{'s' if count > 1 else ''}"] = world.push(f"of-{count}", layers)
    for reference in list(images.values())[1:]:
        world.client.images.pull(reference)
    taken = {name: Timed(world.server) for name in images}
    for _ in range(bench.count(START_RUNS)):
        for name, reference in images.items():
            _timed_start(taken[name], world.client, image=reference)
    host_figure, *others = (
        timed.figure(f"create to first exec answer, {name}") for name, timed in taken.items()
    )
    return [host_figure, *others, *(Ratio(one, host_figure) for one in others)]


@_in_a_world("freeze of a template")
def templates(bench: Bench, world: ImageWorld) -> list[Result]:
    """Freezes of small and larger changes; starts from a template and its image by turns, and all at once."""
    reference = world.push("box", [box_layer(world.folder)])
    found: list[Result] = []
    for size in (0, bench.count(FROZEN_BYTES)):
        found += _freezes(bench, world, reference, size)
    kinds = {"template t:1": {"template": "t:1"}, "its image": {"image": reference}}
    taken = {name: Timed(world.server) for name in kinds}
    for _ in range(bench.count(TEMPLATE_RUNS)):
        for name, options in kinds.items():
            _timed_start(taken[name], world.client, **options)
    of_template, of_image = (
        timed.figure(f"create to first exec answer, from {name}", "profile with persist = machine")
        for name, timed in taken.items()
    )
    count = bench.count(AT_ONCE)
    (whole, more), (of_others, others) = (
        _at_once(world.client, count, f"from {name}", **options) for name, options in kinds.items()
    )
    single = [of_template, of_image, Ratio(of_template, of_image)]
    return [*found, *single, whole, *more, of_others, *others, Ratio(whole, of_others)]


def _at_once(
    client: Client, count: int, what: str, *, image: str | None = None, template: str | None = None
) -> tuple[Figure, list[Result]]:
    """How long until all are answered, and the single starts."""
    start = partial(create_and_run, client, None if template else "machine", image, template)
    wall, answered = spread(client, start, count, 0)
    slowest = max(answered, default=0.0)
    note = f"{len(answered)} of {count} answered, the slowest after {slowest:.0f} ms"
    whole = Figure(f"{count} at once {what}, until all answered", "ms", (wall,), note)
    return whole, scored(f"{count} at once {what}", answered, count)


def _freezes(bench: Bench, world: ImageWorld, reference: str, size: int) -> list[Result]:
    """Of a running sandbox, from the call until the template is ready, and the second after that, in which
    Bay tidies up. The last one is `t:1`.
    """
    timed, after, count = Timed(world.server), Timed(world.server), bench.count(FREEZES)
    with _source(world, reference, size) as (box, files):
        for number in range(count, 0, -1):
            # Each has a tag of its own: one that loses its tag is removed while the next is measured.
            tag = f"{number}" if number == 1 else f"{number}-of-{size}"
            timed.take(lambda tag=tag: world.client.templates.create("t", box.id, tag=tag))
            after.take(lambda: time.sleep(1))
    what = f"{files:,} files, {size / 1e6:.0f} MB"
    return [
        timed.figure(f"freeze until the template is ready, {what}"),
        after.figure(f"the second after a freeze, {what}", "its processor time counts"),
    ]


@contextmanager
def _source(world: ImageWorld, reference: str, size: int) -> Generator[tuple[Box, int]]:
    """A sandbox with changes of `size` bytes, and how many files they are."""
    with world.client.sandbox(profile="machine", image=reference) as box:
        box.run("for n in 0 1 2 3 4 5 6 7 8 9; do echo $n > /opt/$n; done", user="root", check=True)
        files = 10
        if size:
            blob = world.folder / "changes"
            files += make_layer(blob, "gzip", size)[1]
            box.files.upload(blob, "changes.tar.gz")
            box.run("cd / && gunzip -c /workspace/changes.tar.gz | tar -x && rm /workspace/changes.tar.gz",
                    user="root", timeout_s=300, check=True)  # fmt: skip
        yield box, files


@_in_a_world("memory that sandboxes of a template share")
def shared_pages(bench: Bench, world: ImageWorld) -> list[Result]:
    """Sandboxes of one template that map the same file: in its layer there is one copy for all of them, and
    in the workspace, which each has for itself, one for each.
    """
    reference = world.push("box", [box_layer(world.folder)])
    with world.client.sandbox(profile="machine", image=reference) as box:
        write = f"head -c {SHARED_MIB * MIB} /dev/urandom"
        box.run(f"{write} > /opt/data", user="root", timeout_s=120, check=True)
        box.run(f"{write} > /workspace/data", timeout_s=120, check=True)
        world.client.templates.create("t", box.id)
    count = bench.count(SHARING)
    found: list[Result] = []
    for place in ("/opt/data", "/workspace/data"):
        found += _mapped_by_all(world, place, count)
    return found


def _mapped_by_all(world: ImageWorld, path: str, count: int) -> list[Result]:
    boxes = [create_and_run(world.client, template="t") for _ in range(count)]
    try:
        before, cached = host.available_mib(), host.cached_mib()
        for box in boxes:
            assert not box.python.run(_MAP.format(path=path)).error
        pids = host.View(world.server.folder).processes()
        seen = [host.mapped_mib(pid, path) for pid in pids]
        grown = host.cached_mib() - cached
        fallen = before - host.available_mib()
    finally:
        for box in boxes:
            box.delete()
    of = f"{SHARED_MIB} MiB of {path}, mapped by {count} sandboxes"
    whole = f"{sum(resident for resident, _ in seen):.0f} MiB mapped together"
    return [
        Figure(f"{of}: memory for it", "MiB", (sum(share for _, share in seen),), f"PSS; {whole}"),
        Figure(f"{of}: page cache of the host", "MiB", (grown,), "all of this host, others' work included"),
        Figure(f"{of}: fall of MemAvailable", "MiB", (fallen,), f"with {count} Python kernels"),
    ]


@_in_a_world("build of a small Dockerfile")
def builds(bench: Bench, world: ImageWorld) -> list[Result]:
    """A Dockerfile of three RUN and one COPY, of which nothing was built before, and the same once more;
    beside buildah, by turns. The base image is on the machine for both.
    """
    reference = world.push("box", [box_layer(world.folder)])
    world.client.images.pull(reference)
    mine: tuple[list[Spent], list[Spent]] = ([], [])
    theirs: tuple[list[Spent], list[Spent]] = ([], [])
    lacking: list[Absent] = []
    with ExitStack() as left:
        try:
            buildah = _buildah(world, left, reference)
        except Missing as error:
            buildah, lacking = None, [Absent("buildah bud", str(error))]
        for run in range(bench.count(BUILDS)):
            context = _context(world.folder, reference, mark=f"{run}-{time.monotonic_ns()}")
            for kind in range(2):
                act = partial(_build, world.client, context)
                mine[kind].append(spending.by_server(world.server, act))
                if buildah is not None:
                    theirs[kind].append(buildah(context))
    found: list[Result] = [*lacking]
    for kind, name in enumerate(("build of a small Dockerfile", "the same build again")):
        found += spending.figures(name, mine[kind])
        if buildah is not None:
            other = f"buildah bud: {name}"
            found += spending.figures(other, theirs[kind], "with a cache of steps")
            found += spending.ratios(name, mine[kind], other, theirs[kind])
    return found


def _build(client: Client, context: Path) -> None:
    client.templates.build(context, "built:1", profile="machine")


def _context(folder: Path, base: str, mark: str) -> Path:
    context = folder / "context"
    shutil.rmtree(context, ignore_errors=True)
    (context / "app").mkdir(parents=True)
    for number in range(20):
        (context / f"app/{number}").write_text(f"{mark} {number}\n" * 100)
    (context / "Dockerfile").write_text(_DOCKERFILE.format(base=base, mark=mark))
    return context


def _buildah(world: ImageWorld, left: ExitStack, base: str) -> Callable[[Path], Spent]:
    """Runs `buildah bud` with a store of its own, which has the base image already. Raises Missing."""
    need("buildah")
    store = left.enter_context(containers_storage(world.folder))
    limits = world.folder / "containers.conf"
    limits.write_text(_ULIMITS)
    environment = {"CONTAINERS_CONF": str(limits)}
    buildah = ("buildah", *store.options)
    try:
        spending.by_program([*buildah, "pull", "--quiet", "--tls-verify=false", base], environment)
    except subprocess.CalledProcessError:
        raise Missing("buildah does not work here; it said why") from None
    options = ("--layers", "--network", "none", "--tls-verify=false", "--quiet", "--tag", "built:1")
    return lambda context: spending.by_program([*buildah, "bud", *options, context], environment)


def _timed_start(
    timed: Timed, client: Client, *, image: str | None = None, template: str | None = None
) -> None:
    made: list[Box] = []
    profile = None if template else "machine"
    timed.take(lambda: made.append(create_and_run(client, profile, image, template)))
    made[0].delete()
