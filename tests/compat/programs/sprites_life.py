"""A program of the client `sprites-py`: sprites come and go, and commands run in them."""

import hashlib
import io
import os
import time
from concurrent.futures import ThreadPoolExecutor

from sprites import ExecError, ListOptions, NotFoundError, SpriteError, SpritesClient, URLSettings
from sprites.exceptions import AuthenticationError
from sprites.session import kill_session

client = SpritesClient(token=os.environ["BAY_API_KEY"], base_url=os.environ["BAY_URL"])

made = client.create_sprite("life", labels=["team=a"], url_settings=URLSettings(auth="sprite"))
try:
    client.create_sprite("life")
    raise AssertionError("a taken name was given again")
except SpriteError as error:
    assert "409" in str(error), error
assert client.get_sprite("life").id == made.id
assert [sprite.name for sprite in client.list_all_sprites(prefix="li")] == ["life"]
assert client.list_sprites(ListOptions(max_results=100)).cold >= 1
assert client.update_sprite("life", labels=["b"]).labels == ["b"]
client.update_url_settings("life", URLSettings(auth="public"))

# A cold sprite wakes during the handshake of its first command.
sprite = client.sprite("life")
assert sprite.command("sh", "-c", "echo $HOME; id -un").output() == b"/home/sprite\nsprite\n"
for number in range(20):
    assert sprite.command("echo", str(number)).output() == b"%d\n" % number
done = sprite.run("sh", "-c", "echo out; echo err >&2; exit 3", capture_output=True)
assert (done.returncode, done.stdout, done.stderr) == (3, b"out\n", b"err\n")
try:
    sprite.command("false").run()
    raise AssertionError("a failure went by")
except ExecError as error:
    assert error.exit_code() == 1

# Input, environment, directory.
given = os.urandom(300_000)
reader = sprite.command("sha256sum", env={"A": "b c"}, cwd="/tmp")
reader.stdin = io.BytesIO(given)
assert reader.output().split()[0].decode() == hashlib.sha256(given).hexdigest()
assert sprite.command("sh", "-c", "echo $A; pwd", env={"A": "b c"}, cwd="/tmp").output() == b"b c\n/tmp\n"

# A terminal has a size.
shown = sprite.run("stty", "size", tty=True, tty_rows=30, tty_cols=100, capture_output=True)
assert shown.stdout is not None
assert b"30 100" in shown.stdout

# A command times out, and a session on a terminal goes on until it is killed.
try:
    sprite.run("sleep", "100", timeout=1.0)
    raise AssertionError("it did not time out")
except TimeoutError:
    pass
with ThreadPoolExecutor(1) as pool:
    asleep = pool.submit(sprite.run, "sleep", "1000", tty=True)
    while not (sessions := [one for one in sprite.list_sessions() if one.command == "sleep 1000"]):
        time.sleep(0.05)
    (session,) = sessions
    steps = [step.type for step in kill_session(sprite, session.id, "SIGTERM", 60)]
    assert steps == ["signal", "exited", "complete"], steps
    assert asleep.result().returncode == 128 + 15

for name, call in (
    ("dead", lambda: sprite.attach_session(session.id).run()),
    ("none", lambda: client.get_sprite("none")),
):
    try:
        call()
        raise AssertionError(f"{name} was found")
    except (NotFoundError, SpriteError) as error:
        assert "not found" in str(error).lower(), error
try:
    SpritesClient(token="a/b", base_url=os.environ["BAY_URL"]).get_sprite("life")
    raise AssertionError("a stranger came in")
except AuthenticationError:
    pass

sprite.upgrade()
assert client.get_sprite("life").status == "cold"
sprite.destroy()
assert client.list_all_sprites(prefix="life") == []
print("done")
