"""The entry point of a Ship that is reached over TCP, as in a pod: `SHIP_LISTEN` is set."""

import asyncio
import os

from ship import settings as settings_module
from ship import tls
from ship.app import Life, run, say
from ship.bootstrap import Bootstrap
from ship.listening import TlsListener, listen
from ship.process import syscalls
from ship.process.init import Nursery

# The pod's author sets these. All others come by the bootstrap: the image may have set some, too.
_GIVEN = frozenset(("SHIP_SWITCH",))


def main() -> None:
    """Wait for the settings, and then run with them, until TERM."""
    asyncio.run(_run())


async def _run() -> None:
    life = Life(only_from_outside=True)
    nursery = Nursery()
    syscalls.hide_from_debuggers()
    told = settings_module.take_raw(os.environ)
    identity = tls.make_identity()
    listening = listen(told["SHIP_LISTEN"])
    given = {name: value for name, value in told.items() if name in _GIVEN}
    bootstrap = Bootstrap(told["SHIP_BOOTSTRAP_TOKEN"], identity.certificate, given, os.environ)
    listener = TlsListener(listening, identity.context, bootstrap.serve)
    await listener.start()
    host, port = listening.getsockname()[:2]
    say(f"listening {f'[{host}]' if ':' in host else host}:{port}")
    ending = asyncio.ensure_future(life.wait_told())
    await asyncio.wait((bootstrap.settings, ending), return_when=asyncio.FIRST_COMPLETED)
    if not bootstrap.settings.done():
        os._exit(0)
    ending.cancel()
    listener.serve_by(listener.wait_for_door)
    settings = bootstrap.settings.result()
    del told, bootstrap  # and with them the bootstrap token
    await run(settings, listener, life, nursery)
