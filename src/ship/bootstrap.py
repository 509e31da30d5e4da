"""How a Ship that is reached over TCP gets its settings.

Its environment can be read by anybody who may read the pod, and has one secret, which is good for one use.
Bay learns by `GET /hello` that the owner of the certificate that it sees knows that secret, and sends the
settings, with the session's token, by `POST /bootstrap`. Nothing else is answered.
"""

import asyncio
import hmac
import re
from collections.abc import Mapping

from ship import settings as settings_module
from ship.errors import Conflict, Forbidden, InvalidArgument, NotFound, PayloadTooLarge, ShipError
from ship.http.connection import Connection, PeerGone
from ship.http.conversation import Answer, BadRequest, Conversation, Request, TruncatedAnswer, json_answer
from ship.settings import Settings
from ship_protocol import BOOTSTRAP_BYTES, BOOTSTRAP_SETTINGS, HELLO_NONCE, hello_proof

_NONCE = re.compile(rf"[0-9a-f]{{{HELLO_NONCE.start},{HELLO_NONCE.stop - 1}}}")


class Bootstrap:
    """Answers until the settings have come. `given` are those of the environment, which is `environ`."""

    def __init__(
        self, token: str, certificate: str, given: Mapping[str, str], environ: Mapping[str, str]
    ) -> None:
        if not token:
            raise ValueError("SHIP_BOOTSTRAP_TOKEN is empty")
        self._token = token
        self._certificate = certificate
        self._given = given
        self._environ = environ
        self.settings: asyncio.Future[Settings] = asyncio.get_running_loop().create_future()
        """Done once they have come, and the answer has been sent as far as its caller took it."""
        self._found: Settings | None = None

    async def serve(self, wire: Connection) -> None:
        """Answer one request."""
        try:
            await self._converse(Conversation(wire, None))
        except (PeerGone, TimeoutError, TruncatedAnswer):
            wire.abort()
        finally:
            wire.close()
            if self._found is not None and not self.settings.done():
                self.settings.set_result(self._found)

    async def _converse(self, talk: Conversation) -> None:
        try:
            request = await talk.next_request()
            if request is not None:
                await talk.answer(await self._answer(request))
        except (BadRequest, PayloadTooLarge) as error:
            await talk.refuse(error)
        except ShipError as error:
            await talk.refuse(error)
            await talk.recycle()  # so that the rest of the request does not destroy the answer

    async def _answer(self, request: Request) -> Answer:
        match request.method, request.segments:
            case "GET", ("hello",):
                return json_answer(200, {"proof": self._prove(request.query.get("nonce", ""))})
            case "POST", ("bootstrap",):
                await self._take(request)
                return json_answer(200, {"status": "ok"})
            case _:
                raise NotFound("only GET /hello and POST /bootstrap are served before the settings have come")

    def _prove(self, nonce: str) -> str:
        if _NONCE.fullmatch(nonce) is None:
            problem = f"nonce must have {HELLO_NONCE.start} to {HELLO_NONCE.stop - 1} hexadecimal digits"
            raise InvalidArgument(problem, field="nonce")
        return hello_proof(self._token, nonce, self._certificate)

    async def _take(self, request: Request) -> None:
        bearer = f"Bearer {self._token}".encode()
        if request.authorization is None or not hmac.compare_digest(request.authorization, bearer):
            raise Forbidden("the token is missing or wrong")
        told = await request.read_object(BOOTSTRAP_BYTES)
        found = _checked(told, self._given, self._environ)
        if self._found is not None:
            raise Conflict("this Ship has its settings already")
        self._found = found


def _checked(told: dict[str, object], given: Mapping[str, str], environ: Mapping[str, str]) -> Settings:
    texts: dict[str, str] = {}
    for name, value in told.items():
        if name not in BOOTSTRAP_SETTINGS:
            raise InvalidArgument(f"there is no setting {name[:64]!a}", field=name[:64])
        if not isinstance(value, str) or "\0" in value:
            raise InvalidArgument(f"{name} must be text without NUL", field=name)
        texts[name] = value
    try:
        return settings_module.read({**given, **texts}, environ)
    except KeyError as error:
        raise InvalidArgument(f"the setting {error.args[0]} is missing") from error
    except (ValueError, RecursionError) as error:
        raise InvalidArgument("a setting has an invalid value") from error
