"""Tunnels of the SDK through a real Bay and a real Ship.

Sandboxes of the `fake` driver share the loopback device with these programs.
"""

import socket
import threading
from collections.abc import Iterator

import anyio
import pytest
import tunnel_standin
from tunnel_standin import running

import bay

SIZE = 3 << 20


@pytest.fixture(scope="module")
def box(served: tuple[str, str]) -> Iterator[bay.Box]:
    with bay.Client(*served, timeout_s=30) as client, client.sandbox() as made:
        yield made


def port_of(app: tunnel_standin.App) -> int:
    return app.server_address[1]


def all_of(tunnel: bay.Tunnel) -> bytes:
    return b"".join(iter(tunnel.receive, b""))


def test_bytes_go_both_ways_and_each_direction_ends_by_itself(box: bay.Box) -> None:
    with running(tunnel_standin.echo) as app, box.tunnel(port_of(app)) as tunnel:
        tunnel.send(b"one ")
        assert tunnel.receive() == b"one "
        tunnel.send_eof()
        assert all_of(tunnel) == b""
    with running(tunnel_standin.count) as app, box.tunnel(port_of(app)) as tunnel:
        tunnel.send(bytes(SIZE))
        tunnel.send_eof()
        assert all_of(tunnel) == b"%d bytes\n" % SIZE
    with running(tunnel_standin.greet) as app, box.tunnel(port_of(app)) as tunnel:
        assert all_of(tunnel) == b"hello\n"
        tunnel.send(b"thanks")
        tunnel.send_eof()


def test_one_thread_sends_while_another_receives(box: bay.Box) -> None:
    data = bytes(range(256)) * (SIZE // 256)
    with running(tunnel_standin.echo) as app, box.tunnel(port_of(app)) as tunnel:
        sender = threading.Thread(target=lambda: (tunnel.send(data), tunnel.send_eof()), daemon=True)
        sender.start()
        assert all_of(tunnel) == data
        sender.join(10)


def test_a_port_on_which_nothing_listens_is_said_to_be_closed(box: bay.Box) -> None:
    with running(tunnel_standin.echo) as app:
        open_port = port_of(app)
        with pytest.raises(bay.PortClosed, match="listens on port 1 ") as caught, box.tunnel(1):
            pytest.fail("there is nothing to be connected to")
    assert open_port in caught.value.details["listening"]


def test_a_program_that_resets_is_no_end(box: bay.Box) -> None:
    with running(tunnel_standin.drop) as app, box.tunnel(port_of(app)) as tunnel:
        tunnel.send(b"x")
        with pytest.raises(bay.ConnectionFailed, match="reset"):
            tunnel.receive()


def test_leaving_in_mid_stream_resets_the_connection_of_the_program(box: bay.Box) -> None:
    source = tunnel_standin.Source(64 << 20)
    left = threading.Event()

    def serve(client: socket.socket) -> None:
        try:
            source(client)
        finally:
            left.set()

    with running(serve) as app:
        with box.tunnel(port_of(app)) as tunnel:
            assert tunnel.receive()
        assert left.wait(10)
    assert source.sent < source.size


def test_a_program_in_the_sandbox_is_reached_and_a_stopped_sandbox_is_started(box: bay.Box) -> None:
    box.stop()
    with running(tunnel_standin.greet) as app, box.tunnel(port_of(app)) as tunnel:
        assert all_of(tunnel) == b"hello\n"
    listen = "import socket; s = socket.create_server(('127.0.0.1', 0)); print(s.getsockname()[1], flush=True); c = s.accept()[0]"
    with box.spawn(["python3", "-c", f"{listen}; c.sendall(c.recv(9)[::-1])"]).attach() as attached:
        port = int(next(iter(attached)).data)
        with box.tunnel(port) as tunnel:
            tunnel.send(b"abc")
            assert all_of(tunnel) == b"cba"


@pytest.mark.anyio
async def test_the_async_client_does_the_same(served: tuple[str, str], box: bay.Box) -> None:
    data = bytes(range(256)) * (SIZE // 256)
    received = bytearray()

    async def send() -> None:
        await tunnel.send(data)
        await tunnel.send_eof()

    with running(tunnel_standin.echo) as app:
        async with bay.AsyncClient(*served, timeout_s=30) as client:
            found = await client.sandboxes.get(box.id)
            async with found.tunnel(port_of(app)) as tunnel, anyio.create_task_group() as tasks:
                tasks.start_soon(send)
                while piece := await tunnel.receive():
                    received += piece
    assert received == data
