"""The service of sign-ins: a key or a one-time code becomes a cookie, of which Bay keeps nothing."""

import secrets
from dataclasses import dataclass
from datetime import datetime, timedelta

from bay import __version__
from bay.clock import Clock
from bay.errors import InvalidArgument, Unauthorized
from bay.models import ConsoleCode, SignIn
from bay.server.web.auth import Caller, Keys
from bay.server.web.console_cookie import LIFE_S, ConsolePass, ConsoleTokens
from bay.store import audit, used_links
from bay.store.engine import Store
from bay.store.records import ApiKey

CODE_S = 60

_NO_CODE = "this code has expired, was used, or belongs to a key that is revoked; get a new one by `bay open`"


@dataclass(frozen=True, slots=True)
class BrowserSignIn:
    """A sign-in, and the cookie's value where the browser gets one."""

    shown: SignIn
    token: str | None


@dataclass(kw_only=True, eq=False)
class Console:
    """The service behind `/v1/console`. `origin` is that of `public_url`."""

    store: Store
    keys: Keys
    tokens: ConsoleTokens
    origin: str | None
    clock: Clock

    async def sign_in(self, *, secret: str | None, code: str | None) -> BrowserSignIn:
        """Begin a sign-in with exactly one of the two. Raises Unauthorized for one that opens nothing."""
        if (secret is None) == (code is None):
            raise InvalidArgument("give key or code, and not both")
        key = await self._of_code(code) if code is not None else self._of_secret(secret or "")
        audit.by(key.owner, key.id)
        return self._begun(key)

    def look(self, caller: Caller, *, renew: bool) -> BrowserSignIn:
        """Who the caller is; `renew` begins the cookie's time anew."""
        key = self._valid(caller.key_id)
        return self._begun(key) if renew else BrowserSignIn(_shown(key, None), None)

    def make_code(self, caller: Caller, reached_at: str) -> ConsoleCode:
        """A code that signs a browser in as the caller. `reached_at` is the origin that this request was for.
        The code stands in the fragment of the URL, which browsers send to no server.
        """
        given = self._pass(caller.key_id, CODE_S, once=secrets.token_hex(12))
        code = self.tokens.seal("code", given)
        url = f"{self.origin or reached_at}/#code={code}"
        return ConsoleCode(code=code, url=url, expires_at=given.expires_at)

    def _of_secret(self, secret: str) -> ApiKey:
        return self._valid(self.keys.authenticate(f"Bearer {secret}").key_id)

    async def _of_code(self, code: str) -> ApiKey:
        given = self.tokens.read("code", code)
        key = None if given is None else self.keys.valid(given.key_id)
        if given is None or given.once is None or key is None:
            raise Unauthorized(_NO_CODE)
        audit.by(key.owner, key.id)
        async with self.store.write() as db:
            is_first = await used_links.use(db, given.once, given.expires_at, self.clock())
        if not is_first:
            raise Unauthorized(_NO_CODE)
        return key

    def _valid(self, key_id: str) -> ApiKey:
        if (key := self.keys.valid(key_id)) is None:
            raise Unauthorized("this API key was revoked or has expired")
        return key

    def _begun(self, key: ApiKey) -> BrowserSignIn:
        given = self._pass(key.id, LIFE_S)
        return BrowserSignIn(_shown(key, given.expires_at), self.tokens.seal("cookie", given))

    def _pass(self, key_id: str, seconds: int, once: str | None = None) -> ConsolePass:
        expires_at = (self.clock() + timedelta(seconds=seconds)).replace(microsecond=0)
        return ConsolePass(key_id=key_id, expires_at=expires_at, once=once)


def _shown(key: ApiKey, cookie_ends: datetime | None) -> SignIn:
    ends = [end for end in (key.expires_at, cookie_ends) if end is not None]
    return SignIn(
        owner=key.owner, scope=key.scope, key_id=key.id, key_name=key.name, expires_at=min(ends, default=None),
        version=__version__,
    )  # fmt: skip
