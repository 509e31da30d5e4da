"""The parts that all requests to envd share: their paths, and the user whom they act as."""

import base64
import binascii

from starlette.requests import Request

from bay.server.compat.e2b.connect import RpcError
from bay.server.compat.e2b.planes import PREFIX

ENVD = f"{PREFIX}/sandboxes/{{sandbox_id}}/envd"


def user_of(request: Request) -> str | None:
    """The user whom `Authorization: Basic` names, which is no authentication; None for the sandbox's own.
    Raises RpcError.
    """
    scheme, _, given = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "basic":
        return None
    try:
        name = base64.b64decode(given.strip(), validate=True).decode().partition(":")[0]
    except (binascii.Error, UnicodeDecodeError) as error:
        raise RpcError("unauthenticated", "the Basic header is not base64 of `user:`") from error
    return name or None
