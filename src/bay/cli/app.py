"""The root command: its options, and the commands in the order of the help."""

from typing import Annotated

import typer

import bay
from bay.cli.output import print_line
from bay.cli.state import state_of
from bay.cli.tree import CommandEntry, Root, Tree

_LIFE, _RUN, _FILES = "Sandboxes", "Run things", "Files and checkpoints"
_NETWORK, _EVENTS, _SERVER = "Network", "Events and keys", "The server and this program"

COMMANDS = {
    "create": CommandEntry(
        "sandbox",
        "create",
        "Make a sandbox and print its id",
        _LIFE,
        "bay create web\nbay create web --ttl 3600 --network none --wait 60\nbay create --from-checkpoint ckpt-…",
    ),
    "ls": CommandEntry(
        "sandbox",
        "ls",
        "List sandboxes, oldest first",
        _LIFE,
        "bay ls\nbay ls --compute running\nbay rm $(bay ls -q --label ci=yes)",
    ),
    "get": CommandEntry("sandbox", "get", "Show one sandbox", _LIFE, "bay get web\nbay get web --json"),
    "update": CommandEntry(
        "sandbox",
        "update",
        "Change a sandbox's name, labels, timeouts or URL",
        _LIFE,
        "bay update web --name shop\nbay update web --idle-timeout never",
    ),
    "start": CommandEntry(
        "sandbox", "start", "Start the compute of sandboxes; they keep name and files", _LIFE
    ),
    "pause": CommandEntry("sandbox", "pause", "Freeze sandboxes in memory; the next call wakes them", _LIFE),
    "resume": CommandEntry("sandbox", "resume", "Thaw frozen sandboxes, and start cold ones", _LIFE),
    "stop": CommandEntry("sandbox", "stop", "Stop the compute of sandboxes; files stay", _LIFE),
    "rm": CommandEntry(
        "sandbox",
        "rm",
        "Remove sandboxes and their files permanently",
        _LIFE,
        "bay rm web try-1\nbay rm --all",
    ),
    "run": CommandEntry(
        "exec",
        "run",
        "Run a command in a sandbox of its own",
        _RUN,
        "bay run python3 -c 'print(6 * 7)'\nbay run --cp ./src:src --timeout 60 make -C src test\nbay run -it bash",
    ),
    "exec": CommandEntry(
        "exec",
        "exec_",
        "Run a command in an existing sandbox, waking it if need be",
        _RUN,
        "bay exec web ls -la\nbay exec --cwd src --env CI=1 web make test\ntar c . | bay exec -i web tar x\n"
        "bay exec -it web python3",
    ),
    "shell": CommandEntry("attach", "shell", "Open a login shell in a sandbox", _RUN, "bay shell web"),
    "python": CommandEntry(
        "python",
        "python",
        "Run code in the Python of a sandbox, which keeps variables",
        _RUN,
        "bay python web -c 'x = 6 * 7'\nbay python web -c 'print(x)'\nbay python web plot.py --save figures",
    ),
    "attach": CommandEntry(
        "attach",
        "attach",
        "Reattach to a command: to its terminal, or to its output",
        _RUN,
        "bay attach web exec-…",
    ),
    "logs": CommandEntry(
        "attach", "logs", "Show the kept output of a command", _RUN, "bay logs -f web exec-…"
    ),
    "execs": CommandEntry(
        "processes", "execs", "List the commands of a sandbox that run, or ended lately", _RUN
    ),
    "ps": CommandEntry("processes", "ps", "List the processes of a sandbox", _RUN),
    "kill": CommandEntry(
        "processes",
        "kill",
        "Send a signal to processes of a sandbox",
        _RUN,
        "bay kill web 42\nbay kill web exec-… --signal INT",
    ),
    "history": CommandEntry(
        "processes", "history", "List the calls of `shell/exec` and `python/exec` in a sandbox", _RUN
    ),
    "services": CommandEntry(
        "services",
        "services",
        "Define commands that start with a sandbox and are restarted",
        _RUN,
        "bay services put web db postgres -D /workspace/db\nbay services logs -f web db",
    ),
    "cp": CommandEntry(
        "cp",
        "cp",
        "Copy a file or a directory into a sandbox, or out of one",
        _FILES,
        "bay cp ./src web:project\nbay cp web:project/out ./out\nbay cp web:/var/log/app.log - | less",
    ),
    "files": CommandEntry(
        "files",
        "files",
        "List, search and watch the files of a sandbox",
        _FILES,
        "bay files ls web\nbay files find web '**/*.py'\nbay files search web TODO",
    ),
    "checkpoint": CommandEntry(
        "checkpoint",
        "checkpoint",
        "Make and restore checkpoints of a sandbox's files",
        _FILES,
        "bay checkpoint create web --name before\nbay checkpoint restore web before",
    ),
    "fork": CommandEntry(
        "checkpoint",
        "fork",
        "Make new sandboxes with copies of another's files",
        _FILES,
        "bay fork web --name try --count 3",
    ),
    "cargo": CommandEntry("cargo", "cargo", "Manage files that outlive sandboxes", _FILES),
    "net": CommandEntry(
        "net",
        "net",
        "Set a sandbox's network policy, and show refused traffic",
        _NETWORK,
        "bay net mode web allowlist\nbay net allow web example.com '*.files.example.com'\nbay net show web",
    ),
    "ports": CommandEntry(
        "ports",
        "ports",
        "List the listening ports of a sandbox and their access",
        _NETWORK,
        "bay ports web\nbay ports web --public 8000",
    ),
    "url": CommandEntry(
        "ports",
        "url",
        "Print the URL of a sandbox for a browser",
        _NETWORK,
        "bay url web 8000\nbay url web 8000 --expires 2h",
    ),
    "proxy": CommandEntry(
        "proxy", "proxy", "Forward ports of this machine to a sandbox", _NETWORK, "bay proxy 8080:80 5432 web"
    ),
    "ssh-config": CommandEntry(
        "ssh",
        "ssh_config",
        "Print lines for ~/.ssh/config, so that `ssh bay-NAME` leads into a sandbox",
        _NETWORK,
        "bay ssh-config web >> ~/.ssh/config\nssh bay-web",
    ),
    "ssh-proxy": CommandEntry(
        "ssh", "ssh_proxy", "Connect stdin and stdout to a port of a sandbox", _NETWORK
    ),
    "events": CommandEntry(
        "events",
        "events",
        "Show the events of sandboxes, oldest first",
        _EVENTS,
        "bay events web\nbay events --follow --json",
    ),
    "webhooks": CommandEntry(
        "events",
        "webhooks",
        "Send events to a URL",
        _EVENTS,
        "bay webhooks create https://example.com/hook --type sandbox.failed",
    ),
    "keys": CommandEntry(
        "keys", "keys", "Create, list and revoke API keys", _EVENTS, "bay keys create ci --owner ci"
    ),
    "serve": CommandEntry(
        "serve",
        "serve",
        "Run the server in the foreground",
        _SERVER,
        "sudo bay serve\nsudo bay serve --port 8701 --data-dir /srv/bay",
    ),
    "doctor": CommandEntry("serve", "doctor", "Check whether this machine can run sandboxes", _SERVER),
    "admin": CommandEntry(
        "admin",
        "admin",
        "Commands for operators: audit, backup, restore, pool",
        _SERVER,
        "bay admin backup bay.tar.gz\nbay admin audit --since 2h",
    ),
    "help": CommandEntry(
        "about", "help_", "Show the help of a command", _SERVER, "bay help exec\nbay help files ls"
    ),
    "version": CommandEntry("about", "version", "Print the version", _SERVER),
}


class _Bay(Root):
    """`bay` with all its commands."""

    entries = COMMANDS


app = Tree(root=_Bay)


def _version(wanted: bool) -> None:
    if wanted:
        print_line(f"bay {bay.__version__}")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def options(
    ctx: typer.Context,
    url: Annotated[
        str | None,
        typer.Option(
            metavar="URL", help="The URL of Bay; else BAY_URL, else the Bay that runs on this machine."
        ),
    ] = None,
    api_key: Annotated[
        str | None, typer.Option(metavar="KEY", help="The key to call with; else BAY_API_KEY.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="As after the command: print JSON.")] = False,
    version: Annotated[
        bool,
        typer.Option("--version", "-V", callback=_version, is_eager=True, help="Print the version and exit."),
    ] = False,
) -> None:
    """Sandboxes for programs: a name and files that stay, and compute that comes and goes."""
    state = state_of(ctx)
    state.url, state.api_key = url, api_key
    if ctx.invoked_subcommand is None:
        print_line(ctx.get_help())
