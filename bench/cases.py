"""The benchmarks by name.

Each returns what it found; what is compared is measured alternately, within one run.
"""

from bench.attached import flood, keystroke, replay
from bench.base import Case
from bench.compat import compat
from bench.console import console
from bench.density import density
from bench.files import listing_files, search, transfer, watch
from bench.footprint import idle, memory
from bench.gvisor import gvisor
from bench.gvisor_memory import gvisor_memory
from bench.hibernation import hibernation
from bench.images import builds, pulls, shared_pages, starts, templates
from bench.layers import layers
from bench.listing import listing
from bench.live_fork import live_fork
from bench.mcp import mcp
from bench.network import network
from bench.ports import ports
from bench.programs import clients, ship
from bench.python import python, python_pooled
from bench.replicas import replicas
from bench.restarting import restart
from bench.running import exec_many, exec_true, warm
from bench.sampling import sampling
from bench.scraping import scraping
from bench.starting import burst, cold, patterns, pool
from bench.storage import checkpoints, machine
from bench.store import store

CASES: dict[str, Case] = {
    "clients": clients,
    "ship": ship,
    "cold": cold,
    "exec": exec_true,
    "exec100": exec_many,
    "keystroke": keystroke,
    "flood": flood,
    "replay": replay,
    "python": python,
    "python-pool": python_pooled,
    "warm": warm,
    "hibernate": hibernation,
    "live_fork": live_fork,
    "gvisor": gvisor,
    "gvisor_memory": gvisor_memory,
    "pool": pool,
    "burst": burst,
    "patterns": patterns,
    "memory": memory,
    "idle200": idle,
    "density": density,
    "list": listing,
    "store": store,
    "sampling": sampling,
    "scraping": scraping,
    "replicas": replicas,
    "restart": restart,
    "checkpoint": checkpoints,
    "machine": machine,
    "transfer": transfer,
    "files": listing_files,
    "search": search,
    "watch": watch,
    "ports": ports,
    "network": network,
    "layers": layers,
    "compat": compat,
    "console": console,
    "mcp": mcp,
    "image-pull": pulls,
    "image-start": starts,
    "templates": templates,
    "shared-pages": shared_pages,
    "image-build": builds,
}
GROUPS = {"images": ("image-pull", "image-start", "templates", "shared-pages", "image-build")}
"""Names for several at once."""
