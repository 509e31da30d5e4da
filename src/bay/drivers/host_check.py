"""One row of `bay doctor`: a fact of the place where sandboxes run."""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class HostCheck:
    """One requirement of the host, or of the cluster: nothing runs, or not as the settings say, without a
    `required` one. `fix` is an operator's way out. `risk`: without it one sandbox can harm the others or the
    host. `numbers` are those of `found`, for programs.
    """

    name: str
    ok: bool
    required: bool
    found: str
    fix: str
    risk: bool = False
    numbers: Mapping[str, int] = field(default_factory=dict[str, int])
