"""The routes `/v1/registries`: user names and passwords for the registries of images."""

from typing import Annotated

from fastapi import Path, Response
from pydantic import Field

from bay.images.registries import Credentials
from bay.models import RegistryLogin
from bay.server.images.logins import RegistryLogins
from bay.server.web.bodies import Body
from bay.server.web.dependencies import Reader, Writer, noun_router, service
from bay.server.web.replies import Items, WireResponse

router = noun_router("images", "/v1/registries")

LoginsDep = Annotated[RegistryLogins, service(RegistryLogins)]
Host = Annotated[str, Path(max_length=255, description="Such as `registry.example.com:5000` or `docker.io`")]


class PutLogin(Body):
    """A user name and a password or token."""

    username: Annotated[str, Field(min_length=1, max_length=8192)]
    password: Annotated[str, Field(min_length=1, max_length=8192, repr=False)]


class LoginList(Items[RegistryLogin]):
    """All logins by host."""


@router.put("/{registry_host}", response_model=RegistryLogin)
async def put_login(caller: Writer, logins: LoginsDep, registry_host: Host, body: PutLogin) -> WireResponse:
    """Keep a login to a registry, in place of the one it had. No answer ever has the password."""
    given = Credentials(username=body.username, password=body.password)
    return WireResponse(await logins.put(caller, registry_host, given))


@router.get("", response_model=LoginList)
async def list_logins(caller: Reader, logins: LoginsDep) -> WireResponse:
    """Your logins by host, without their passwords."""
    return WireResponse({"items": await logins.all(caller)})


@router.delete("/{registry_host}", status_code=204)
async def delete_login(caller: Writer, logins: LoginsDep, registry_host: Host) -> Response:
    """Forget a login to a registry."""
    await logins.delete(caller, registry_host)
    return Response(status_code=204)
