"""Services through the SDK against a real Bay with the `fake` driver: real routes, real Ship."""

import socket
from collections.abc import Callable

import pytest

import bay


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def until(box: bay.Box, name: str, done: Callable[[bay.Service], bool]) -> bay.Service:
    """The service once `done` holds; the waiting is for its next output, which every look brings nearer."""
    for _ in range(2000):
        if done(service := box.services.get(name)):
            return service
    raise AssertionError(f"{name} never came so far: {box.services.get(name)}")


def test_a_service_that_needs_another_starts_when_that_works(client: bay.Client) -> None:
    port = free_port()
    serve = ("python3", "-m", "http.server", "--bind", "127.0.0.1", str(port))
    health = bay.ServiceHealth(port=port, path="/", interval_s=0.1)
    api = bay.ServiceSpec(name="api", argv=serve, http_port=port, health=health)
    web = bay.ServiceSpec(name="web", argv=("sh", "-c", "echo up; exec sleep 600"), needs=("api",))
    with client.sandbox(services=[web, api]) as box:
        assert [service.name for service in box.services.list()] == ["web", "api"]
        assert until(box, "web", lambda service: service.state == "running").pid
        assert box.services.get("api").healthy is True
        box.stop()
        assert {service.state for service in box.services.list()} == {"stopped"}
        box.start(wait=30)
        until(box, "web", lambda service: service.state == "running")


def test_a_service_is_put_stopped_started_and_forgotten(box: bay.Box) -> None:
    spec = bay.ServiceSpec(name="web", argv=("sh", "-c", "echo $A; exec sleep 600"), env={"A": "1"}, cwd=".")
    made = box.services.put(spec)
    assert (made.state, made.argv, made.env, made.restarts) == ("running", spec.argv, {"A": "1"}, 0)
    assert (box.services.stop("web").enabled, box.services.get("web").state) == (False, "stopped")
    assert box.services.start("web").state == "running"
    assert box.services.restart("web").restarts == 1
    assert box.services.put(box.services.get("web")).argv == spec.argv
    box.services.delete("web")
    with pytest.raises(bay.NotFound, match="no service web"):
        box.services.get("web")


def test_what_a_service_prints_is_followed_over_its_restarts(box: bay.Box) -> None:
    command = "echo run; test -e done && exit 0; touch done; exit 1"
    box.services.put(bay.ServiceSpec(name="task", argv=("sh", "-c", command), restart="on-failure"))
    chunks = list(box.services.logs("task", follow=True))
    assert [(chunk.offset, chunk.data) for chunk in chunks] == [(0, b"run\n"), (4, b"run\n")]
    assert [chunk.data for chunk in box.services.logs("task", since=6)] == [b"n\n"]
    ended = box.services.get("task")
    assert (ended.state, ended.exit_code, ended.restarts, ended.output_bytes) == ("exited", 0, 1, 8)


def test_a_reader_that_is_there_when_the_sandbox_stops_comes_to_an_end(box: bay.Box) -> None:
    box.services.put(bay.ServiceSpec(name="web", argv=("sh", "-c", "echo up; exec sleep 600")))
    output = box.services.logs("web", follow=True)
    assert next(output).data == b"up\n"
    box.stop()
    assert list(output) == []


def test_what_cannot_be_is_refused(box: bay.Box) -> None:
    with pytest.raises(bay.InvalidArgument, match="needs db"):
        box.services.put(bay.ServiceSpec(name="web", argv=("true",), needs=("db",)))
    box.services.put(bay.ServiceSpec(name="db", argv=("sleep", "600")))
    box.services.put(bay.ServiceSpec(name="web", argv=("sleep", "600"), needs=("db",)))
    with pytest.raises(bay.Conflict, match="web needs db"):
        box.services.delete("db")
