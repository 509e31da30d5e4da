"""The routes `/v1/secrets`: values that Bay keeps and gives to sandboxes by name."""

from typing import Annotated

from fastapi import Path, Response
from pydantic import Field, StringConstraints

from bay.models import Secret
from bay.server.secrets.rules import MAX_VALUE, NAME
from bay.server.secrets.service import Secrets
from bay.server.web.bodies import Body
from bay.server.web.dependencies import Reader, Writer, noun_router, service
from bay.server.web.replies import PageOf, WireResponse

router = noun_router("secrets", "/v1/secrets")

SecretsDep = Annotated[Secrets, service(Secrets)]
SecretPath = Annotated[
    str, Path(pattern=rf"^{NAME}$", description="A letter or `_`, then letters, digits, `_`, `.` and `-`")
]


class PutSecret(Body):
    """The value of a secret."""

    value: Annotated[
        str,
        StringConstraints(min_length=1, max_length=MAX_VALUE, pattern=r"^[^\x00]*$"),
        Field(repr=False, description="Text without NUL"),
    ]


class SecretList(PageOf[Secret]):
    """All secrets by name: there are never so many that they need pages."""


@router.put("/{secret_name}", response_model=Secret)
async def put_secret(
    caller: Writer, secrets: SecretsDep, secret_name: SecretPath, body: PutSecret
) -> WireResponse:
    """Keep a value under a name, in place of the one it had. No answer ever has the value."""
    return WireResponse(await secrets.put(caller, secret_name, body.value))


@router.get("", response_model=SecretList)
async def list_secrets(caller: Reader, secrets: SecretsDep) -> WireResponse:
    """Your secrets by name, without their values."""
    return WireResponse({"items": await secrets.all(caller), "has_more": False, "next_cursor": None})


@router.delete("/{secret_name}", status_code=204)
async def delete_secret(caller: Writer, secrets: SecretsDep, secret_name: str) -> Response:
    """Forget a secret. Sandboxes that are given it do not start without it."""
    await secrets.delete(caller, secret_name)
    return Response(status_code=204)
