"""The import arrows of ARCHITECTURE.md, drawn from the source: a wrong arrow, a cycle or a hidden import
fails.
"""

import ast
import sys
from collections.abc import Iterator
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

pytestmark = pytest.mark.pure

SRC = Path(__file__).parents[2] / "src"

# Which group a module belongs to: the longest prefix decides.
GROUPS = {
    "bay": "root",
    "bay.models": "words",
    "bay.errors": "words",
    "bay.ids": "words",
    "bay.backoff": "words",
    "bay.clock": "words",
    "bay.linux": "linux",
    "bay.meters": "meters",  # what a Bay counts, for all that count
    "bay.cell_output": "words",
    "bay.durations": "words",
    "bay.hints": "words",
    "bay.token_bucket": "words",
    "bay.validation_words": "words",
    "bay.places": "words",
    "bay.tracing": "words",
    "bay.units": "words",
    "bay.webhook_signature": "words",
    "bay.builds": "builds",  # Dockerfiles read into data: pure, for clients and servers alike
    "bay.store": "store",
    "bay.store.records": "records",  # the shapes of rows, without any access to them
    "bay.drivers": "drivers",
    "bay.drivers.kubernetes.kube": "kube",  # the client of a cluster, for its driver and its cargos
    "bay.cargo": "cargo",
    "bay.images": "images",
    "bay.terminal": "terminal",  # an emulator that knows nothing of sandboxes
    "bay.network": "network",
    "bay.network.proxy": "proxy",  # run by a service, since rows tell it whom it serves
    "bay.network.policy": "words",  # what a policy means: pure, for services and drivers alike
    "bay.network.reserved_ranges": "words",
    "bay.network.domains": "words",
    "bay.network.header_rules": "words",
    "bay.network.port_classes": "words",
    "bay.server": "server",
    "bay.server.app": "app",
    "bay.server.backends": "app",
    "bay.server.control_plane": "app",
    "bay.server.offline.backup": "app",
    "bay.server.offline.database_choice": "app",
    "bay.server.offline.database_migration": "app",
    "bay.server.offline.doctor": "app",
    "bay.server.offline.repairs": "app",
    "bay.server.embedded": "app",
    "bay.server.offline.leftover_runs": "app",
    "bay.server.offline.runtime_trial": "app",
    "bay.server.offline.secrets_key": "app",
    "bay.server.offline.ship_image": "app",
    "bay.server.offline.store_migration": "app",
    "bay.server.main": "app",
    "bay.object_store": "objects",
    "bay.testing": "testing",  # suites for other people's backends: it alone imports pytest
    "bay.client": "client",
    "bay.integrations": "integrations",  # glue for other people's frameworks, over the SDK's public names
    "bay.mcp": "mcp",  # the tools of agents, over the SDK's public names
    "bay.cli": "cli",
    "bay.__main__": "cli",
    "ship": "ship",
    "ship_kernel": "kernel",
    "layer_unpack": "unpack",
    "tree_tar": "tar",
    "ship_protocol": "protocol",
}

# What a group may import of this project, itself included where that is fine.
MAY = {
    "root": {"client", "words"},
    "words": {"words", "protocol"},
    "builds": {"builds", "words"},
    "linux": {"root", "linux", "words", "tar"},
    "records": {"root", "drivers", "words"},
    "meters": {"root"},
    "store": {"root", "store", "records", "meters", "words"},
    "network": {"root", "network", "linux", "meters", "words"},
    "proxy": {"proxy", "network", "meters", "words"},
    "drivers": {"root", "drivers", "kube", "network", "linux", "words", "protocol"},
    "kube": {"drivers", "linux", "words"},
    "cargo": {"root", "cargo", "kube", "linux", "objects", "words", "tar"},
    "objects": {"root", "objects", "words"},
    "images": {"root", "images", "cargo", "drivers", "network", "linux", "words", "tar", "unpack"},
    "server": {
        "root",
        "builds",
        "mcp",
        "meters",
        "server",
        "store",
        "records",
        "drivers",
        "cargo",
        "images",
        "objects",
        "terminal",
        "proxy",
        "linux",
        "words",
        "protocol",
        "tar",
    },
    "app": {
        "root",
        "app",
        "meters",
        "server",
        "store",
        "records",
        "drivers",
        "cargo",
        "images",
        "objects",
        "network",
        "linux",
        "words",
        "protocol",
        "tar",
    },
    "terminal": {"terminal", "words"},
    "testing": {"testing", "drivers", "cargo", "network", "linux", "words"},
    "client": {"root", "builds", "client", "words", "tar", "protocol"},
    "integrations": {"root", "integrations"},
    "mcp": {"root", "mcp", "words"},
    "cli": {"root", "builds", "cli", "client", "words"},
    "ship": {"ship", "tar", "protocol"},
    "kernel": {"kernel"},
    "unpack": {"unpack", "tar"},
    "tar": {"tar"},
    "protocol": {"protocol"},
}

# What a folder of the server may import of the other folders, from the lowest to the highest. Beside them lie
# the settings, the logs and the wiring.
SERVER_MAY: dict[str, set[str]] = {
    "replicas": set(),
    "web": {"replicas"},
    "ship": {"web"},
    "sessions": {"web", "ship", "replicas"},
    "checkpoints": {"web", "ship", "sessions"},
    "events": {"web", "replicas"},
    "images": {"web", "sessions", "secrets", "managed_services", "replicas"},
    "kernels": {"web", "ship", "sessions"},
    "keys": {"web"},
    "console": {"web"},
    "networks": {"web", "sessions", "replicas"},
    "cargos": {"web", "sessions", "checkpoints"},
    "execs": {"web", "ship", "sessions", "kernels"},
    "files": {"web", "ship", "sessions"},
    "secrets": {"web", "ship", "sessions", "files"},
    "managed_services": {"web", "ship", "sessions", "events", "execs", "replicas"},
    "ports": {"web", "ship", "sessions", "events", "replicas"},
    "samples": {"web", "sessions", "replicas"},
    "skills": {"web"},
    "browser": {"web", "sessions", "execs", "skills"},
    "sandboxes": {
        *("web", "ship", "sessions", "checkpoints", "images", "managed_services", "networks", "ports"),
        *("secrets", "templates", "events", "cargos", "replicas"),
    },
    "templates": {"web", "sessions", "checkpoints", "images", "secrets", "replicas"},
    "builds": {
        *("web", "ship", "sessions", "checkpoints", "images", "execs", "files", "templates", "sandboxes"),
    },
    "reconciler": {
        *("ship", "sessions", "checkpoints", "kernels", "managed_services", "sandboxes", "secrets"),
        "replicas",
    },
    "maintenance": {"web", "sessions", "execs", "reconciler", "samples", "sandboxes", "replicas"},
    "compat": {
        *("web", "ship", "sessions", "checkpoints", "execs", "files", "managed_services", "networks"),
        *("ports", "samples", "sandboxes", "kernels", "templates"),
    },
    "offline": {"secrets"},
}

# Where a module is imported only when it is needed, so that `import bay` and `bay --help` stay quick.
LAZY = {
    "bay": "the SDK, of which most programs need one class",
    "bay.client": "one of the two clients, for programs that need one",
    "bay.cli.state": "the SDK, the server and the probe, each for the commands that need it",
    "bay.cli.output": "the models, for JSON",
    "bay.cli.tables": "rich's table of widths, for names that are not ASCII",
    "bay.cli.topics": "rich and the pager, for pages on a terminal",
    "bay.cli.progress": "rich, for transfers that are worth a bar",
    "bay.client._socket": "the WebSocket library, for the programs that attach to something",
    "bay.server.backends": "the library of object stores, for servers that push to one",
    "bay.server.compat.mcp.messages": "the library of the Model Context Protocol, for servers that agents call",
    "bay.store.versions": "Alembic, for a database of another version",
    "ship_kernel.boot": "one of two kernels, in an interpreter that may be able to run neither",
}

# Suites for the runtimes of one kind, which start its driver and know what it has them do.
SUITES_OF_OCI = {"bay.testing.oci_runtime", "bay.testing.walls"}

# The parts of the oci driver with which images are fetched and unpacked in cages of the same make.
CAGES = {f"bay.drivers.oci.{name}" for name in ("cgroups", "closure", "idrange", "netns", "userns")}

# What runs in the sandbox's own interpreters, and the bridge to Jupyter's kernels in the closure's.
KERNEL_MAY = {*sys.stdlib_module_names, "IPython", "traitlets", "ship_kernel"}
BRIDGE_MAY = {*KERNEL_MAY, "jupyter_client", "zmq"}

SHIP_MAY = {*sys.stdlib_module_names, "h11", "ship", "ship_protocol", "tree_tar"}

# The packages that Ship, Bay and the SDK share.
SHARED = {"tar": "tree_tar", "protocol": "ship_protocol"}


@cache
def modules() -> dict[str, Path]:
    """Every module of the source by its dotted name."""
    found: dict[str, Path] = {}
    for path in SRC.rglob("*.py"):
        parts = path.relative_to(SRC).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def imported(node: ast.AST) -> Iterator[str]:
    """The dotted names that an import statement may load; `from a import b` gives both `a.b` and `a`."""
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom) and node.module:
        yield from (f"{node.module}.{alias.name}" for alias in node.names)
        yield node.module


def run_nodes(node: ast.AST) -> Iterator[ast.AST]:
    """Every node but what stands under `if TYPE_CHECKING`: that is for type checkers and never runs."""
    yield node
    for child in ast.iter_child_nodes(node):
        if not (isinstance(child, ast.If) and "TYPE_CHECKING" in ast.dump(child.test)):
            yield from run_nodes(child)


@cache
def arrows(name: str) -> frozenset[str]:
    """The modules of this project that `name` imports."""
    known = modules()
    found: set[str] = set()
    for node in run_nodes(tree(known[name])):
        names = list(imported(node))
        inner = {n for n in names if n in known}
        # `from bay.store import keys` means the submodule, not the package it lies in.
        packages = {
            n for n in inner if isinstance(node, ast.ImportFrom) and n == node.module and len(inner) > 1
        }
        found |= inner - packages
    return frozenset(found - {name})


def group(name: str) -> str:
    prefixes = [p for p in GROUPS if name == p or name.startswith(f"{p}.")]
    longest = max(prefixes, key=len)
    assert longest != "bay" or name == "bay", f"{name} is in no group: give it one, and its arrows"
    return GROUPS[longest]


def test_every_arrow_points_the_right_way() -> None:
    wrong = [
        f"{name} ({group(name)}) imports {target} ({group(target)})"
        for name in modules()
        for target in arrows(name)
        if group(target) not in MAY[group(name)]
    ]
    assert wrong == []


def loaded(name: str) -> set[str]:
    """The arrows of `name`, and the packages named in its imports, which Python runs first."""
    nodes = run_nodes(tree(modules()[name]))
    packages = {
        node.module for node in nodes if isinstance(node, ast.ImportFrom) and node.module in modules()
    }
    return {*arrows(name), *(package for package in packages if package and package != name)}


def test_no_import_goes_in_a_circle() -> None:
    graph = {name: loaded(name) for name in modules()}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(" → ".join(error.args[1]))


def folder(name: str) -> str | None:
    """The folder of the server that a module lies in."""
    parts = name.split(".")
    return parts[2] if parts[:2] == ["bay", "server"] and parts[2:] and parts[2] in SERVER_MAY else None


def test_the_folders_of_the_server_know_only_those_below() -> None:
    wrong = [
        f"{name} imports {target}"
        for name in modules()
        for target in arrows(name)
        if (own := folder(name)) and (other := folder(target)) and other not in {own, *SERVER_MAY[own]}
    ]
    assert wrong == []


def test_each_arrow_between_folders_is_used_and_none_closes_a_circle() -> None:
    """Every folder of the server has its line, which holds what it imports and no more."""
    used: dict[str, set[str]] = {
        path.name: set() for path in (SRC / "bay" / "server").iterdir() if (path / "__init__.py").exists()
    }
    for name in modules():
        if own := folder(name):
            used[own] |= {other for target in arrows(name) if (other := folder(target)) and other != own}
    assert used == SERVER_MAY
    TopologicalSorter(used).prepare()  # raises CycleError


@pytest.mark.parametrize(
    "kind",
    [
        *("bay.drivers.fake", "bay.drivers.oci", "bay.drivers.kubernetes"),
        *("bay.cargo.directory", "bay.cargo.btrfs", "bay.cargo.volume_claims"),
    ],
)
def test_only_the_app_knows_which_kinds_there_are(kind: str) -> None:
    """Everyone else is handed one and knows only the contract."""
    wrong = [
        f"{name} imports {target}"
        for name in modules()
        for target in arrows(name)
        if f"{target}.".startswith(f"{kind}.")
        and group(name) not in ("app", "kube", group(kind))
        and group(target) != "kube"  # a client of the API server's, and no kind
        and not (group(name) == "images" and target in CAGES)
        and name not in SUITES_OF_OCI
    ]
    assert wrong == []


def test_the_client_of_kubernetes_has_one_door() -> None:
    """Loading it costs half a second, and another one could take its place."""
    users = {
        name
        for name, path in modules().items()
        for node in run_nodes(tree(path))
        for target in imported(node)
        if target.split(".")[0] in ("kubernetes", "aiohttp")
    }
    assert users == {"bay.drivers.kubernetes.api_server", "bay.drivers.kubernetes.login"}


def functions(path: Path) -> Iterator[ast.AST]:
    return (n for n in ast.walk(tree(path)) if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef))


def test_no_import_hides_in_a_function() -> None:
    hidden = [
        f"{name}:{statement.lineno}"
        for name, path in modules().items()
        for function in functions(path)
        for statement in ast.walk(function)
        if isinstance(statement, ast.Import | ast.ImportFrom)
    ]
    assert hidden == []


def test_lazy_imports_are_the_ones_listed_here() -> None:
    found = {
        name
        for name, path in modules().items()
        for node in ast.walk(tree(path))
        if isinstance(node, ast.Attribute | ast.Name | ast.alias) and "import_module" in ast.dump(node)
    }
    assert found == set(LAZY)


def test_ship_needs_only_the_standard_library_and_its_libraries() -> None:
    wrong = [
        f"{name} imports {target}"
        for name, path in modules().items()
        if group(name) == "ship"
        for node in ast.walk(tree(path))
        for target in imported(node)
        if target.split(".")[0] not in SHIP_MAY
    ]
    assert wrong == []


def test_a_kernel_needs_only_ipython() -> None:
    wrong = [
        f"{name} imports {target}"
        for name, path in modules().items()
        if group(name) == "kernel"
        for node in ast.walk(tree(path))
        for target in imported(node)
        if target.split(".")[0] not in (BRIDGE_MAY if name == "ship_kernel.jupyter" else KERNEL_MAY)
    ]
    assert wrong == []


@pytest.mark.parametrize("shared", SHARED)
def test_shared_packages_need_only_the_standard_library(shared: str) -> None:
    wrong = [
        f"{name} imports {target}"
        for name, path in modules().items()
        if group(name) == shared
        for node in ast.walk(tree(path))
        for target in imported(node)
        if target.split(".")[0] not in {*sys.stdlib_module_names, SHARED[shared]}
    ]
    assert wrong == []
