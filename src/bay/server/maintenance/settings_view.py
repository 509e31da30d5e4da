"""The settings in force, for their operator: each with its value and its origin, and never a secret."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, cast, get_args

from pydantic import SecretStr
from pydantic.fields import FieldInfo
from pydantic_core import to_jsonable_python

from bay.models import SettingInForce
from bay.server.settings import SettingFields, Settings

_ENV = "env"
"""The variables of a profile: one may be a password, so that their names alone are shown."""


@dataclass(kw_only=True, eq=False)
class SettingsView:
    """The service behind `/v1/admin/settings`."""

    settings: Settings

    def all(self) -> list[SettingInForce]:
        """Every setting that has a value, in the order of their documentation; tables with dots."""
        return list(_of(self.settings, (), self.settings))


def _of(fields: SettingFields, above: tuple[str, ...], settings: Settings) -> Iterator[SettingInForce]:
    for name, info in type(fields).model_fields.items():
        yield from _one(getattr(fields, name), (*above, name), info, settings)


def _one(
    value: object, path: tuple[str, ...], info: FieldInfo, settings: Settings
) -> Iterator[SettingInForce]:
    if isinstance(value, SettingFields):
        yield from _of(value, path, settings)
        return
    tables = _tables(value)
    if tables:
        for name, one in tables.items():
            yield from _of(one, (*path, name), settings)
        return
    is_secret = SecretStr in (info.annotation, *get_args(info.annotation))
    yield SettingInForce(
        name=".".join(path),
        value=None if is_secret else _shown(path[-1], value),
        is_secret=is_secret,
        is_set=value is not None,
        origin=settings.origin_of(path),
        description=info.description or "",
    )


def _tables(value: object) -> Mapping[str, SettingFields]:
    """A table of tables, such as the profiles; empty for any other value."""
    if not isinstance(value, Mapping):
        return {}
    found = cast("Mapping[str, object]", value)
    return {name: one for name, one in found.items() if isinstance(one, SettingFields)}


def _shown(name: str, value: object) -> Any:
    if name == _ENV and isinstance(value, Mapping):
        return sorted(cast("Mapping[str, object]", value))
    return to_jsonable_python(value)
