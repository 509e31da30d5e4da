"""Suggests known names for an unknown one: the same way in the API, the SDK, the settings and the CLI."""

from collections.abc import Collection
from difflib import get_close_matches

_SYNONYMS: dict[str, tuple[str, ...]] = {
    "cmd": ("command",),
    "envs": ("env",),
    "environment": ("env",),
    "cpu": ("cpus",),
    "disk": ("disk_mb",),
    "memory": ("memory_mb",),
    "metadata": ("labels",),
    "template_id": ("template",),
    "timeout": ("timeout_s", "ttl"),
    "timeout_s": ("timeout", "ttl"),
    "working_dir": ("cwd",),
    "workdir": ("cwd",),
}
"""Words of other products, each with what Bay calls it. The first one that a call takes is named."""

_LONGEST = 64
_LIMIT = 30


def nearest(name: str, known: Collection[str]) -> str | None:
    """The known name that `name` most likely stands for. None when nothing is near."""
    meant = next((other for other in _SYNONYMS.get(name, ()) if other in known), None)
    return meant or next(iter(get_close_matches(name[:_LONGEST], known, n=1, cutoff=0.6)), None)


def unknown(thing: str, name: str, known: Collection[str]) -> str:
    """A message such as `there is no option nmae; did you mean name? there are: image, name, …`."""
    meant = nearest(name, known)
    guess = f"did you mean {meant}? " if meant else ""
    listed = there_are(known) if len(known) <= _LIMIT or not meant else ""
    return f"there is no {thing} {shown(name)}; {guess}{listed}".strip()


def extra(name: str) -> str:
    """How an extra of Bay is installed: from its checkout, since no package index has Bay."""
    return (
        f"add Bay's extra {name}: uv pip install --python .venv -e '.[{name}]' in its clone (docs/install.md)"
    )


def there_are(known: Collection[str]) -> str:
    """The names there are, in order."""
    listed = ", ".join(sorted(known)[:_LIMIT])
    more = f" and {len(known) - _LIMIT} more" if len(known) > _LIMIT else ""
    return f"there are: {listed}{more}" if known else "there are none"


def shown(name: str) -> str:
    """A name as an error repeats it: cut where it is long, and without control characters."""
    cut = name if len(name) <= _LONGEST else f"{name[:_LONGEST]}…"
    return cut if cut.isprintable() and cut else repr(cut)
