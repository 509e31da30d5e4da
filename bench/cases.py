"""The benchmarks by name. Each returns what it found; what is compared is measured alternately, within one run."""

from bench.base import Case
from bench.footprint import idle, memory
from bench.listing import listing
from bench.programs import clients, ship
from bench.restarting import restart
from bench.running import exec_true, warm
from bench.starting import burst, cold, patterns, pool

CASES: dict[str, Case] = {
    "clients": clients,
    "ship": ship,
    "cold": cold,
    "exec": exec_true,
    "warm": warm,
    "pool": pool,
    "burst": burst,
    "patterns": patterns,
    "memory": memory,
    "idle200": idle,
    "list": listing,
    "restart": restart,
}
