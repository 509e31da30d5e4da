"""TLS 1.3 between a socket's transport and a protocol, on either side of the connection.

Not asyncio's own: there, what is unsent is lost when the peer still sends while the connection closes, one
direction cannot end before the other, and each connection takes 256 KiB. TLS 1.3 has an end of each direction
(RFC 8446, section 6.1), and so has this layer, as plain sockets have.
"""

import asyncio
import socket
import ssl
from collections.abc import Callable
from contextlib import suppress
from typing import Any, cast

_RECORD_BYTES = 16 * 1024  # RFC 8446, section 5.1
_LINGER_S = 10.0

KEEP_ALIVE = {
    socket.TCP_KEEPIDLE: 10,
    socket.TCP_KEEPINTVL: 5,
    socket.TCP_KEEPCNT: 2,
    socket.TCP_USER_TIMEOUT: 20_000,
}
"""Of the sockets on both sides, so that a peer which is gone with its machine is noticed, before calls are
too late to tell: tcp(7). The 20 s are those of gRPC's keepalive.
"""


class TlsLayer(asyncio.Protocol, asyncio.Transport):
    """A protocol for the socket's transport below, and the transport of `above`.

    `above` hears of the connection once the handshake is over, and of its end only if it heard of its
    beginning. `ended` is called in either case.
    """

    def __init__(
        self,
        context: ssl.SSLContext,
        above: asyncio.Protocol,
        *,
        server: bool,
        ended: Callable[["TlsLayer"], None] | None = None,
    ) -> None:
        super().__init__()
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_side=server)
        self._above = above
        self._ended = ended
        self._below: asyncio.Transport | None = None
        self._leaving: asyncio.TimerHandle | None = None
        self._said_end = False
        self.is_open = False
        """Whether the handshake is over, and `above` has the connection."""
        self.settled: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        """Done once the handshake is over, or cannot be."""
        self.failure: Exception | None = None
        """Why it cannot be, if the peer is to blame."""

    @property
    def certificate(self) -> bytes | None:
        """The peer's, in DER; nothing but the handshake has looked at it."""
        return self._tls.getpeercert(binary_form=True)

    # Called by the transport below.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin the handshake."""
        self._below = cast("asyncio.Transport", transport)
        self._shake_hands()

    def data_received(self, data: bytes) -> None:
        """Decrypt what came, and give it to `above`."""
        if self._said_end:
            return  # read on, so that to close does not destroy what is on its way to the peer
        self._incoming.write(data)
        if self.is_open:
            self._give()
        else:
            self._shake_hands()

    def eof_received(self) -> bool:
        """The peer sends nothing more; it may still read."""
        if self._leaving is not None or not self.is_open:
            return False
        return bool(self._above.eof_received())

    def connection_lost(self, exc: Exception | None) -> None:
        """The end of the socket."""
        if self._leaving is not None:
            self._leaving.cancel()
        self._settle()
        if self.is_open:
            self._above.connection_lost(exc)
        if self._ended is not None:
            self._ended(self)

    def pause_writing(self) -> None:
        """Pass it on."""
        if self.is_open:
            self._above.pause_writing()

    def resume_writing(self) -> None:
        """Pass it on."""
        if self.is_open:
            self._above.resume_writing()

    # Called by the protocol above.

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Encrypt and send. After `write_eof` or `close` it goes nowhere."""
        if self._said_end:
            return
        view = memoryview(data).cast("B")
        while view:
            view = view[self._tls.write(view) :]
        self._send()

    def writelines(self, list_of_data: Any) -> None:
        """Send all of them, as one."""
        self.write(b"".join(list_of_data))

    def can_write_eof(self) -> bool:
        """TLS 1.3 has an end of each direction."""
        return True

    def write_eof(self) -> None:
        """End this direction. From now on the bytes of the peer are dropped; its end is told."""
        if self._said_end:
            return
        self._said_end = True
        if self.is_open:
            with suppress(ssl.SSLError):  # ours is written; it waits for the peer's
                self._tls.unwrap()
        self._send()
        if not self._transport.is_closing():
            with suppress(
                OSError
            ):  # the peer has reset the connection, and the end of it is about to be told
                self._transport.write_eof()
            self._transport.resume_reading()

    def close(self) -> None:
        """Send the unsent bytes and the end, and close: once the peer has, or after a while. A socket that
        closes while the peer sends destroys what is on its way to it.
        """
        if self._leaving is None:
            self.write_eof()
            linger = asyncio.get_running_loop().call_later
            self._leaving = linger(_LINGER_S, self._transport.close)

    def abort(self) -> None:
        """Close at once."""
        if self._below is not None:
            self._below.abort()

    def is_closing(self) -> bool:
        """Whether it is closed, or will be."""
        return self._leaving is not None or self._transport.is_closing()

    def pause_reading(self) -> None:
        """Idempotent."""
        if not self._said_end and not self._transport.is_closing():
            self._transport.pause_reading()

    def resume_reading(self) -> None:
        """Idempotent."""
        if not self._transport.is_closing():
            self._transport.resume_reading()

    def is_reading(self) -> bool:
        """Whether it reads."""
        return self._transport.is_reading()

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """Of what is encrypted and unsent."""
        self._transport.set_write_buffer_limits(high, low)

    def get_write_buffer_size(self) -> int:
        """Of what is encrypted and unsent."""
        return self._transport.get_write_buffer_size()

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """A fact that the transport below knows of its socket."""
        return self._transport.get_extra_info(name, default)

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        """Another protocol gets what comes from now on."""
        self._above = cast("asyncio.Protocol", protocol)

    def get_protocol(self) -> asyncio.BaseProtocol:
        """The present one."""
        return self._above

    @property
    def _transport(self) -> asyncio.Transport:
        if self._below is None:
            raise ConnectionError("there is no connection yet")
        return self._below

    def _shake_hands(self) -> None:
        try:
            self._tls.do_handshake()
        except ssl.SSLWantReadError:
            self._send()
        except ssl.SSLError as error:
            self._fail(error)
        else:
            self._send()
            self.is_open = True
            self._above.connection_made(self)
            self._settle()
            self._give()

    def _give(self) -> None:
        """Give `above` all that can be decrypted."""
        parts: list[bytes] = []
        ended = False
        try:
            while data := self._tls.read(_RECORD_BYTES):
                parts.append(data)
            ended = True
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLError as error:
            self._fail(error)
            return
        self._send()  # a change of keys is answered
        if parts:
            self._above.data_received(b"".join(parts))
        if ended and not self._said_end and not self._above.eof_received():
            self.close()

    def _fail(self, error: ssl.SSLError) -> None:
        self.failure = error
        self._said_end = True
        self._send()  # an alert may say why
        self._transport.close()
        self._settle()

    def _send(self) -> None:
        if (data := self._outgoing.read()) and not self._transport.is_closing():
            self._transport.write(data)

    def _settle(self) -> None:
        if not self.settled.done():
            self.settled.set_result(None)
