"""A TOML file of all settings with their meanings and defaults, as comments. It is made of the settings'
model, so it has all that this version reads.
"""

import json
import textwrap
from collections.abc import Iterator
from typing import Any, Literal, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from bay.server.settings import (
    IsolationSettings,
    KubernetesSettings,
    ObjectStoreSettings,
    ProfileSettings,
    QuotaSettings,
    RegistrySettings,
    Settings,
    default_profiles,
)

_WIDTH = 100
_TABLES = ("profiles", "quotas", "owners", "registries", "object_store", "kubernetes")
_EMPTY: dict[Any, Any] = {int: 0, float: 0.0, tuple: ()}
_HEAD = """\
Settings of a Bay server: `bay serve --config FILE`. Remove the # of a line to change its value.
An environment variable BAY_NAME overrides the line of that name, and an option of `bay serve` both.
docs/settings.md explains more.
"""


def example() -> str:
    """The text of the file. Read as it is, it changes nothing."""
    blocks = [_remark(_HEAD)]
    for name, field in Settings.model_fields.items():
        if name not in _TABLES:
            blocks.append(_block(name, field, field.get_default(call_default_factory=True)))
    return "\n".join([*blocks, *_tables()])


def _tables() -> Iterator[str]:
    yield _remark("The profiles. Those of this file replace all the built-in ones, which are these:")
    for name, profile in default_profiles(pool_size=2, pool_max=8).items():
        values = profile.model_dump(exclude_unset=True)
        yield "".join([f"#[profiles.{name}]\n", *(_line(key, value) for key, value in values.items())])
    yield _remark("Everything that a profile may set, with its default:")
    yield "#[profiles.NAME]\n" + _fields(ProfileSettings)
    yield _remark(
        "Quotas of each owner, and in [owners.NAME] those of one. Without a line there is no limit."
    )
    yield "#[quotas]\n" + _fields(QuotaSettings)
    yield _remark("Registries of images that are not public, or need a certificate authority, by host.")
    yield '#[registries."registry.example.com"]\n' + _fields(RegistrySettings)
    yield _remark("The bucket that checkpoints may be pushed to and pulled from.")
    yield "#[object_store]\n" + _fields(ObjectStoreSettings)
    yield _remark("The cluster of the driver kubernetes.")
    yield "#[kubernetes]\n" + _fields(KubernetesSettings, apart="isolations")
    yield _remark("A kind of isolation, by name. `container` is there without one, with the defaults.")
    yield "#[kubernetes.isolations.NAME]\n" + _fields(IsolationSettings)


def _fields(model: type[BaseModel], apart: str | None = None) -> str:
    """The lines of a table, without the field that has a table of its own."""
    return "".join(
        _block(name, field, field.get_default(call_default_factory=True))
        for name, field in model.model_fields.items()
        if name != apart
    )


def _block(name: str, field: FieldInfo, default: Any) -> str:
    unset = " (unset)" if default is None and "unset" not in (field.description or "") else ""
    return _remark(f"{field.description}{unset}") + _line(
        name, _placeholder(field) if default is None else default
    )


def _remark(text: str) -> str:
    lines = (line for part in text.splitlines() for line in textwrap.wrap(part, _WIDTH))
    return "".join(f"# {line}\n" for line in lines)


def _line(name: str, value: Any) -> str:
    return f"#{name} = {_toml(value)}\n"


def _placeholder(field: FieldInfo) -> Any:
    """An empty value of the type of a setting that has none by default."""
    for kind in get_args(field.annotation):
        origin = get_origin(kind) or kind
        if origin in _EMPTY:
            return _EMPTY[origin]
        if origin is Literal:
            return get_args(kind)[0]
        if isinstance(origin, type) and issubclass(origin, BaseModel):
            return {}
    return ""


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_toml, value))}]"  # pyright: ignore[reportUnknownArgumentType, reportUnknownVariableType]
    if isinstance(value, dict):
        return f"{{{', '.join(f'{key} = {_toml(one)}' for key, one in value.items())}}}"  # pyright: ignore[reportUnknownArgumentType, reportUnknownVariableType]
    return json.dumps(str(value), ensure_ascii=False)
