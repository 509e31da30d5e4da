"""Sandboxes in the words of E2B's control plane."""

import json
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

from bay.errors import BadRequest
from bay.models import Sandbox
from bay.server.sessions.lifecycle import OWN_LABELS

OPTIONS = OWN_LABELS + "e2b"
"""The label with what a create of E2B said that Bay has no field for. It goes with the row of the sandbox, so
that it is written with it and gone with it. Forks by E2B's clients have it too; Bay's own have not."""

ENVD_VERSION = "0.6.4"
CLIENT_ID = "bay"
_NEVER = "9999-12-31T23:59:59Z"
"""The end of a sandbox without a lifetime: clients want one."""
LONGEST_S = 10 * 365 * 86400
"""Seconds that a sandbox may be told to live."""
_LEAST_RESUMED_S = 300
_MOST_PAIRS = 60
_LONGEST_KEY = 256
_LONGEST_VALUE = 8192
_MOST_CHARS = 64 << 10
"""Of all pairs together. They are read with every row, and thousands of rows are in memory."""


@dataclass(frozen=True, slots=True, kw_only=True)
class E2bOptions:
    """The options of a create. Those of a sandbox that another door made are the defaults."""

    template: str = ""
    timeout: int = 300
    resume: bool = False
    """Whether a request wakes it when it is paused."""
    public: bool = False
    """Whether strangers may use its ports."""

    def label(self) -> dict[str, str]:
        """The label that keeps them."""
        return {OPTIONS: json.dumps(asdict(self), separators=(",", ":"))}


def options_of(labels: dict[str, str]) -> E2bOptions:
    """The options in the labels of a sandbox, which its owner may have changed to anything."""
    try:
        given = json.loads(labels.get(OPTIONS, "{}"))
        return E2bOptions(
            template=str(given.get("template", ""))[:_LONGEST_KEY],
            timeout=min(int(given.get("timeout", 300)), LONGEST_S),
            resume=given.get("resume") is True,
            public=given.get("public") is True,
        )
    except (ValueError, TypeError, AttributeError, OverflowError):
        return E2bOptions()


def resumed_for(options: E2bOptions) -> int:
    """The seconds that a sandbox lives which a request woke."""
    return max(options.timeout, _LEAST_RESUMED_S)


def labels_of(metadata: dict[str, str]) -> dict[str, str]:
    """Metadata as labels. Raises BadRequest for what no list could be filtered by."""
    if len(metadata) > _MOST_PAIRS:
        raise BadRequest(f"metadata has {len(metadata)} pairs; give {_MOST_PAIRS} at most")
    for key, value in metadata.items():
        if not 0 < len(key) <= _LONGEST_KEY or not key.isprintable() or set('"\\') & set(key):
            raise BadRequest('a key of metadata must have 1 to 256 printable characters, without " and \\')
        if key.startswith(OWN_LABELS):
            raise BadRequest(f"metadata {key} begins with {OWN_LABELS}, as Bay's own do; choose another key")
        if len(value) > _LONGEST_VALUE:
            raise BadRequest(f"metadata {key} has {len(value)} characters; give {_LONGEST_VALUE} at most")
    if (size := sum(map(len, (*metadata, *metadata.values())))) > _MOST_CHARS:
        raise BadRequest(f"metadata has {size} characters in all; give {_MOST_CHARS} at most")
    return metadata


def metadata_of(sandbox: Sandbox) -> dict[str, str]:
    """The labels without Bay's own."""
    return {key: value for key, value in sandbox.labels.items() if not key.startswith(OWN_LABELS)}


def time_of(moment: datetime) -> str:
    """A time as clients parse it."""
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def template_of(sandbox: Sandbox) -> str:
    """The template that its create named, or else its profile."""
    return options_of(sandbox.labels).template or sandbox.profile


def cpu_count(cpus: float | None) -> int:
    """Cores in whole numbers."""
    return max(1, round(cpus or 1))


def state_of(sandbox: Sandbox) -> str:
    """`paused` for one that only `connect` wakes."""
    return "running" if sandbox.paused_at is None else "paused"


def listed(sandbox: Sandbox) -> dict[str, Any]:
    """A sandbox as a list has it."""
    item = {
        "templateID": template_of(sandbox),
        "sandboxID": sandbox.id,
        "clientID": CLIENT_ID,
        "startedAt": time_of(sandbox.created_at),
        "endAt": _NEVER if sandbox.expires_at is None else time_of(sandbox.expires_at),
        "cpuCount": cpu_count(sandbox.cpus),
        "memoryMB": sandbox.memory_mb or 0,
        "diskSizeMB": sandbox.disk_mb or 0,
        "state": state_of(sandbox),
        "envdVersion": ENVD_VERSION,
        "metadata": metadata_of(sandbox),
    }
    return item if sandbox.name is None else {**item, "alias": sandbox.name}


def detailed(sandbox: Sandbox) -> dict[str, Any]:
    """A sandbox as it is shown alone, without its token."""
    pauses = sandbox.on_expiry == "pause"
    resumes = options_of(sandbox.labels).resume
    return {
        **listed(sandbox),
        "allowInternetAccess": sandbox.network != "none",
        "lifecycle": {"autoResume": resumes, "onTimeout": "pause" if pauses else "kill"},
    }
