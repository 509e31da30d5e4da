"""A command to the browser as the program that runs it: `agent-browser`, one subprocess for each command.

The first command starts a daemon with the browser, which the later ones find by its socket. The socket lies
in `/tmp`, which ends with the session, and the browser's profile among the files that stay. A launcher in
`sh` gives the variables that no image, profile or sandbox has set, and no word of the command is read by it.
"""

import shlex

from bay.errors import BadRequest

PROGRAM = "agent-browser"

# Chromium takes a profile for locked by another computer when the name in the lock is not this sandbox's, as
# in a fork. A lock of its own name it looks after itself. Its own sandbox needs user namespaces, which are
# refused in here.
_LAUNCHER = """\
export AGENT_BROWSER_SESSION="${AGENT_BROWSER_SESSION-bay}"
export AGENT_BROWSER_PROFILE="${AGENT_BROWSER_PROFILE-/workspace/.browser/profile}"
export AGENT_BROWSER_SOCKET_DIR="${AGENT_BROWSER_SOCKET_DIR-/tmp/.agent-browser}"
export AGENT_BROWSER_ARGS="${AGENT_BROWSER_ARGS---no-sandbox}"
export AGENT_BROWSER_NO_VERSION_CHECK="${AGENT_BROWSER_NO_VERSION_CHECK-1}"
if ! command -v agent-browser >/dev/null; then
  echo "agent-browser is not on the PATH of this sandbox; install it as docs/browser.md says" >&2
  exit 127
fi
held=$(readlink "$AGENT_BROWSER_PROFILE/SingletonLock")
[ "${held%-*}" = "$(uname -n)" ] || rm -f "$AGENT_BROWSER_PROFILE"/Singleton*
exec agent-browser "$@"
"""


def argv_of(cmd: str, field: str) -> tuple[str, ...]:
    """The words to run for a command, which is split as a shell splits. Raises BadRequest, naming `field`."""
    try:
        words = shlex.split(cmd)
    except ValueError as error:
        raise BadRequest(
            f"{field}: {cmd[:200]!r} cannot be split into words: {str(error).lower()}; mend its quotes",
            details={"field": field},
        ) from error
    if not words:
        raise BadRequest(
            f"{field} is empty; give a command such as `open https://example.com`", details={"field": field}
        )
    return ("/bin/sh", "-c", _LAUNCHER, PROGRAM, *words)
