"""A program of the client `sprites-py`: files, checkpoints, services and a network policy of one sprite."""

import os

from sprites import SpritesClient
from sprites.exceptions import (
    APIError,
    DirectoryNotEmptyError,
    FileNotFoundError_,
    IsADirectoryError_,
    PermissionError_,
)
from sprites.policy import get_network_policy, update_network_policy
from sprites.types import NetworkPolicy, PolicyRule

client = SpritesClient(token=os.environ["BAY_API_KEY"], base_url=os.environ["BAY_URL"])
sprite = client.create_sprite("files-py")

# Files, as the sprite's own user.
fs = sprite.filesystem("/home/sprite")
(fs / "app").mkdir()
config = fs / "app" / "config.json"
config.write_text('{"a": 1}', mode=0o600)
assert config.read_text() == '{"a": 1}'
stat = config.stat()
assert (stat.size, stat.mode, stat.is_dir, config.is_file()) == (8, "0600", False, True)
assert sprite.run("stat", "-c", "%U %a", "app/config.json", capture_output=True).stdout == b"sprite 600\n"
config.chmod(0o755)
assert config.stat().mode == "0755"
(fs / "app" / "deep" / "er").mkdir(parents=True)
(fs / "app").copy_to(fs / "copy")
moved = (fs / "copy" / "config.json").rename(fs / "copy" / "moved.json")
assert sorted((fs / "copy").listdir()) == ["deep", "moved.json"]
big = os.urandom(1 << 20)
(fs / "big").write_bytes(big)
assert (fs / "big").read_bytes() == big
for error, act in (
    (FileNotFoundError_, (fs / "none").read_text),
    (IsADirectoryError_, (fs / "app").read_text),
    (DirectoryNotEmptyError, (fs / "app").rmdir),
    (PermissionError_, lambda: (fs / "/etc/new").write_text("x")),
):
    try:
        act()
        raise AssertionError(f"no {error.__name__}")
    except error:
        pass
assert not (fs / "none").exists()
(fs / "copy").rmtree()
(fs / "big").unlink()

# A checkpoint, and back to it.
told = [message.data for message in sprite.create_checkpoint("as it was") if message.type == "info"]
assert "  ID: v1" in told, told
config.write_text("changed")
assert list(sprite.restore_checkpoint("v1"))[-1].type == "complete"
assert config.read_text() == '{"a": 1}'
assert [one.id for one in sprite.list_checkpoints()] == ["Current", "v1"]
assert sprite.get_checkpoint("v1").comment == "as it was"

# A service, through its life.
serve = ["-u", "-m", "http.server", "8080", "--bind", "127.0.0.1"]
stream = sprite.create_service("web", "python3", serve, http_port=8080, duration=1.0)
assert next(event.type for event in stream) == "started"
service = sprite.get_service("web")
assert (service.cmd, service.http_port, service.state.status) == ("python3", 8080, "running")
try:
    sprite.create_service("other", "true", http_port=9090)
    raise AssertionError("a second service with an http_port was taken")
except APIError as error:
    assert error.status_code == 409
sprite.signal_service("web", "SIGTERM")
assert [event.type for event in sprite.stop_service("web")][-1] == "complete"
assert sprite.get_service("web").state.status == "stopped"
assert next(iter(sprite.start_service("web", duration=0.5))).type == "started"
sprite.delete_service("web")
assert sprite.list_services() == []

# Names, and nothing else.
rules = [PolicyRule(domain="*.example.com", action="allow"), PolicyRule(include="defaults")]
update_network_policy(sprite, NetworkPolicy(rules=rules))
assert get_network_policy(sprite).rules == rules
update_network_policy(sprite, NetworkPolicy(rules=[]))
assert sprite.get_network_policy().rules == []

sprite.destroy()
print("done")
