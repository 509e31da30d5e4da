"""A call to Bay as data: method, path, query and body, without any I/O."""

import json
from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass, field
from typing import Any, Literal, Self
from urllib.parse import quote, urlencode

from bay.ids import new_id

Json = dict[str, Any]

Params = Mapping[str, str | int | float | bool]

Method = Literal["GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS"]

COPY_S = 600.0
"""How much longer than other calls one may take that copies files where a copy is not instant."""

_SLICE_S = 30.0


@dataclass(frozen=True, slots=True)
class Call:
    """One request. `safe` says that sending it twice does no harm; `wait_s` that the server may take so long.

    `repeatable` is False when the body can be read only once.
    """

    method: Method
    path: str
    _: KW_ONLY
    params: Params = field(default_factory=dict[str, str | int | float | bool])
    body: Json | None = None
    headers: Mapping[str, str] = field(default_factory=dict[str, str])
    safe: bool = False
    repeatable: bool = True
    wait_s: float = 0.0

    @classmethod
    def get(cls, path: str, params: Params | None = None, wait_s: float = 0.0) -> Self:
        """A call that changes nothing."""
        return cls("GET", path, params=params or {}, safe=True, wait_s=wait_s)

    @classmethod
    def once(
        cls,
        path: str,
        body: Json,
        key: str | None = None,
        *,
        params: Params | None = None,
        wait_s: float = 0.0,
    ) -> Self:
        """A POST that may be sent again: its idempotency key, a fresh one unless given, has it done once."""
        headers = {"Idempotency-Key": key or new_id("key")}
        return cls("POST", path, params=params or {}, body=body, headers=headers, safe=True, wait_s=wait_s)

    @property
    def address(self) -> str:
        """The path with the query. A path of a sandbox goes as the bytes it has, which need not be UTF-8."""
        return f"{self.path}{query(self.params)}"

    @property
    def json_content(self) -> bytes | None:
        """The body as JSON text, None where there is none."""
        return None if self.body is None else json.dumps(self.body).encode()

    @property
    def all_headers(self) -> dict[str, str]:
        """The headers, with the content type of a JSON body."""
        return {**({} if self.body is None else {"Content-Type": "application/json"}), **self.headers}


def query(params: Params) -> str:
    """The query of a URL with its question mark, empty without parameters."""
    texts = {name: str(value).lower() if isinstance(value, bool) else value for name, value in params.items()}
    return f"?{urlencode(texts, quote_via=quote, errors='surrogateescape')}" if texts else ""


def given(**fields: object) -> Json:
    """The fields that were given, without the ones that are None."""
    return {name: value for name, value in fields.items() if value is not None}


def list_params(filters: Mapping[str, object], cursor: str | None) -> Params:
    """The query of one page. A mapping becomes ``key:value``, as the `label` filter wants it."""
    return {k: str(v) for k, v in given(**filters, cursor=cursor).items()}


def flags(**given_flags: bool) -> dict[str, str]:
    """Query parameters of yes and no."""
    return {name: "true" if value else "false" for name, value in given_flags.items()}


def wait_slice(remaining_s: float | None) -> float:
    """How long one request may wait: short enough that no proxy between cuts it."""
    return _SLICE_S if remaining_s is None else max(0.0, min(_SLICE_S, remaining_s))
