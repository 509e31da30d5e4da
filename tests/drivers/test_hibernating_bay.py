"""A whole Bay with runc and CRIU, by its SDK: kernels, services and terminals go on after a hibernation."""

import pytest
from hibernating_bay import client, criu_program, server

import bay
from bay.errors import CapabilityNotSupported

pytestmark = pytest.mark.host

# Fixtures are found by their names here.
__all__ = ["client", "criu_program", "server"]


def test_variables_of_a_kernel_and_a_listening_port_live_on(client: bay.Client) -> None:
    box = client.sandboxes.create(wait=60)
    box.python.run("import threading, http.server as h\nloaded = list(range(1000))")
    box.python.run(
        "server = h.HTTPServer(('127.0.0.1', 9000), h.SimpleHTTPRequestHandler)\n"
        "threading.Thread(target=server.serve_forever, daemon=True).start()"
    )
    box.run("mkdir -p /usr/local/made && echo outside > /usr/local/made/file", user="root")
    for _ in range(2):
        assert box.hibernate().compute == "hibernated"
        assert box.refresh().compute == "hibernated"  # looking wakes nothing
        done = box.python.run("print(sum(loaded))")
        assert (done.text, done.error) == ("499500\n", None)
        assert box.refresh().compute == "running"
    said = box.run("curl -s -o /dev/null -w '%{http_code}' http://127.0.0.1:9000/; cat /usr/local/made/file")
    assert said.stdout == "200outside\n"
    kinds = [event.type for event in box.events(follow=False)]
    assert kinds.count("sandbox.hibernated") == 2
    assert "sandbox.memory_lost" not in kinds


def test_a_profile_without_it_refuses(client: bay.Client) -> None:
    box = client.sandboxes.create(profile="plain", wait=60)
    with pytest.raises(CapabilityNotSupported, match="hibernate"):
        box.hibernate()
