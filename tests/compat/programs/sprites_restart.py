"""A command by `sprites-py` whose Bay is killed: the client hears it, and finds the session again later."""

import io
import os
import sys

from sprites import ExecError, SpritesClient
from sprites.exceptions import NetworkError

client = SpritesClient(token=os.environ["BAY_API_KEY"], base_url=os.environ["BAY_URL"])
sprite = client.create_sprite("restart")
command = sprite.command("sh", "-c", "echo running; read line; exit 3", tty=True)
command.stdout = os.fdopen(os.dup(1), "wb", buffering=0)
try:
    command.run()
    sys.exit("the command has ended")
except NetworkError as error:
    print(f"cut: {error}".splitlines()[0], flush=True)
assert sys.stdin.readline() == "back\n"
(session,) = sprite.list_sessions()
again = sprite.attach_session(session.id)
again.stdin, again.stdout = io.BytesIO(b"told\r"), io.BytesIO()
try:
    again.run()
    sys.exit("the command has not failed")
except ExecError as error:
    assert error.exit_code() == 3, error
    assert again.stdout.getvalue().startswith(b"running\r\n"), again.stdout.getvalue()
print("done", flush=True)
