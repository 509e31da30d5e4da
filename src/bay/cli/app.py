"""The root command: its options, and the commands in the order of the help."""

from typing import Annotated

import typer

import bay
from bay.cli.complete import complete_contexts
from bay.cli.output import print_line
from bay.cli.state import state_of
from bay.cli.tree import CommandEntry, Root, Tree
from bay.errors import InvalidArgument

PANELS = {
    "Sandboxes": {
        "create": CommandEntry(
            "sandbox",
            "Make a sandbox and print its id",
            "bay create web\nbay create web --ttl 3600 --network none --wait 60\nbay create --from-checkpoint ckpt-…",
        ),
        "ls": CommandEntry(
            "sandbox",
            "List sandboxes, oldest first",
            "bay ls\nbay ls --compute running\nbay rm $(bay ls -q --label ci=yes)",
        ),
        "get": CommandEntry("sandbox", "Show one sandbox", "bay get web\nbay get web --json"),
        "usage": CommandEntry(
            "usage",
            "Show the processors, memory, processes and disk that a sandbox uses",
            "bay usage web\nbay usage web --over 5s --json",
        ),
        "metrics": CommandEntry(
            "metrics",
            "Show what a sandbox used over time, as small charts",
            "bay metrics web\nbay metrics web --since 7d\nbay metrics web --since 10m --json",
        ),
        "top": CommandEntry(
            "top",
            "Show what sandboxes use, again and again",
            "bay top\nbay top --sort memory\nbay top --once --all",
        ),
        "use": CommandEntry(
            "use",
            "Set the sandbox that `.` stands for in this directory and below",
            "bay use web\nbay exec . make test\nbay cp ./src .:src\nbay ps",
        ),
        "update": CommandEntry(
            "sandbox",
            "Change a sandbox's name, labels, timeouts, sizes or URL",
            "bay update web --name shop\nbay update web --idle-timeout never\nbay update web --cpus 2 --memory 4g",
        ),
        "start": CommandEntry("sandbox", "Start the compute of sandboxes; they keep name and files"),
        "pause": CommandEntry("sandbox", "Freeze sandboxes in memory; the next call wakes them"),
        "hibernate": CommandEntry(
            "sandbox", "Write the memory of sandboxes to disk; the next call brings them back"
        ),
        "resume": CommandEntry("sandbox", "Thaw frozen sandboxes, and start cold ones"),
        "stop": CommandEntry("sandbox", "Stop the compute of sandboxes; files stay"),
        "rm": CommandEntry(
            "sandbox", "Remove sandboxes and their files permanently", "bay rm web try-1\nbay rm --all"
        ),
    },
    "Run things": {
        "run": CommandEntry(
            "exec",
            "Run a command in a sandbox of its own",
            "bay run python3 -c 'print(6 * 7)'\nbay run --cp ./src:src --timeout 60 make -C src test\nbay run -it bash",
        ),
        "exec": CommandEntry(
            "exec",
            "Run a command in an existing sandbox, waking it if need be",
            "bay exec web ls -la\nbay exec --cwd src --env CI=1 web make test\ntar c . | bay exec -i web tar x\n"
            "bay exec -it web python3",
            function="exec_",
        ),
        "shell": CommandEntry("attach", "Open a login shell in a sandbox", "bay shell web"),
        "python": CommandEntry(
            "python",
            "Run code in the Python of a sandbox, which keeps variables",
            "bay python web -c 'x = 6 * 7'\nbay python web -c 'print(x)'\nbay python web plot.py --save figures",
        ),
        "browser": CommandEntry(
            "browser",
            "Run a command in the browser of a sandbox, which stays open",
            "bay browser web open https://example.com\nbay browser web snapshot -i\nbay browser web screenshot page.png",
        ),
        "attach": CommandEntry(
            "attach", "Reattach to a command: to its terminal, or to its output", "bay attach web exec-…"
        ),
        "logs": CommandEntry("attach", "Show the kept output of a command", "bay logs -f web exec-…"),
        "execs": CommandEntry("processes", "List the commands of a sandbox that run, or ended lately"),
        "ps": CommandEntry("processes", "List the processes of a sandbox"),
        "kill": CommandEntry(
            "processes",
            "Send a signal to processes of a sandbox",
            "bay kill web 42\nbay kill web exec-… --signal INT",
        ),
        "history": CommandEntry(
            "processes", "List the calls of `shell/exec`, `python/exec` and the browser in a sandbox"
        ),
        "services": CommandEntry(
            "services",
            "Define commands that start with a sandbox and are restarted",
            "bay services put web db postgres -D /workspace/db\nbay services logs -f web db",
        ),
    },
    "Files and checkpoints": {
        "cp": CommandEntry(
            "cp",
            "Copy a file or a directory into a sandbox, or out of one",
            "bay cp ./src web:project\nbay cp web:project/out ./out\nbay cp web:/var/log/app.log - | less",
        ),
        "files": CommandEntry(
            "files",
            "List, search and watch the files of a sandbox",
            "bay files ls web\nbay files find web '**/*.py'\nbay files search web TODO",
        ),
        "checkpoint": CommandEntry(
            "checkpoint",
            "Make and restore checkpoints of a sandbox's files",
            "bay checkpoint create web --name before\nbay checkpoint restore web before\n"
            "bay checkpoint create web --memory",
        ),
        "fork": CommandEntry(
            "checkpoint",
            "Make new sandboxes with copies of another's files",
            "bay fork web --name try --count 3\nbay fork web --count 8 --memory",
        ),
        "cargo": CommandEntry("cargo", "Manage files that outlive sandboxes"),
        "build": CommandEntry(
            "build",
            "Build a template of a Dockerfile",
            "bay build . -t web\nbay build app -t web:2 -f app/Dockerfile.prod --build-arg VERSION=2 --secret TOKEN",
        ),
        "image": CommandEntry(
            "image",
            "Manage the images that sandboxes start from",
            "bay image pull debian:13\nbay image import app.tar app:1\nbay create web --image app:1",
        ),
        "template": CommandEntry(
            "template",
            "Freeze sandboxes into templates that others start from",
            "bay template create web --from dev --start 'python3 app.py'\nbay create --template web",
        ),
    },
    "Network": {
        "net": CommandEntry(
            "net",
            "Set a sandbox's network policy, and show refused traffic",
            "bay net mode web allowlist\nbay net allow web example.com '*.files.example.com'\nbay net show web",
        ),
        "ports": CommandEntry(
            "ports",
            "List the listening ports of a sandbox and their access",
            "bay ports web\nbay ports web --public 8000",
        ),
        "url": CommandEntry(
            "ports",
            "Print the URL of a sandbox for a browser",
            "bay url web 8000\nbay url web 8000 --expires 2h",
        ),
        "open": CommandEntry(
            "open",
            "Open the console or a port of a sandbox in the browser",
            "bay open\nbay open web\nbay open web 8000 --print",
            function="open_",
        ),
        "proxy": CommandEntry(
            "proxy", "Forward ports of this machine to a sandbox", "bay proxy 8080:80 5432 web"
        ),
        "ssh-config": CommandEntry(
            "ssh",
            "Print lines for ~/.ssh/config, so that `ssh bay-NAME` leads into a sandbox",
            "bay ssh-config web >> ~/.ssh/config\nssh bay-web",
        ),
        "ssh-proxy": CommandEntry("ssh", "Connect stdin and stdout to a port of a sandbox"),
    },
    "Events and keys": {
        "events": CommandEntry(
            "events",
            "Show the events of sandboxes, oldest first",
            "bay events web\nbay events --follow --json",
        ),
        "webhooks": CommandEntry(
            "events",
            "Send events to a URL",
            "bay webhooks create https://example.com/hook --type sandbox.failed",
        ),
        "secret": CommandEntry(
            "secrets",
            "Keep values that sandboxes are given by name",
            "bay secret set API_KEY < key.txt\nbay create web --secret API_KEY\nbay secret rm API_KEY",
        ),
        "keys": CommandEntry("keys", "Create, list and revoke API keys", "bay keys create ci --owner ci"),
    },
    "The server and this program": {
        "context": CommandEntry(
            "context",
            "Name the servers that `bay` speaks to, and choose one",
            "bay context add build https://bay.example.com --api-key-file ~/.bay-key\nbay context use build\n"
            "bay --context build ls",
        ),
        "init": CommandEntry(
            "init",
            "Write a file of the server's settings, each as a comment",
            "bay init\nbay serve --config bay-server.toml",
        ),
        "serve": CommandEntry(
            "serve",
            "Run the server in the foreground",
            "sudo bay serve\nsudo bay serve --port 8701 --data-dir /srv/bay",
        ),
        "doctor": CommandEntry(
            "doctor",
            "Check whether this machine can run sandboxes, and mend it",
            "bay doctor\nsudo bay doctor --fix\nsudo bay doctor --runtime crun\nbay doctor --kubernetes",
        ),
        "capabilities": CommandEntry(
            "capabilities",
            "Show what the server can do, by its driver and its storage",
            "bay capabilities\nbay capabilities --json",
        ),
        "admin": CommandEntry(
            "admin",
            "Commands for operators: audit, backup, restore, pool",
            "bay admin backup bay.tar.gz\nbay admin audit --since 2h",
        ),
        "replicas": CommandEntry(
            "replicas",
            "List the servers that share one database, and the work of each",
            "bay replicas\nbay replicas --json",
        ),
        "compat": CommandEntry(
            "compat",
            "Print the lines that point another platform's client here",
            'bay compat e2b\neval "$(bay compat e2b)" && python program.py',
        ),
        "mcp": CommandEntry(
            "mcp",
            "Serve an agent by the Model Context Protocol, over stdin and stdout",
            "bay mcp --sandbox work",
        ),
        "help": CommandEntry(
            "about",
            "Show the help of a command, or a page of the documentation",
            "bay help exec\nbay help files ls\nbay help topics\nbay help network",
            function="help_",
        ),
        "version": CommandEntry("about", "Print the version"),
    },
}
"""The commands below the headings of the help, in its order."""


class _Bay(Root):
    """`bay` with all its commands."""

    panels = PANELS


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
    context: Annotated[
        str | None,
        typer.Option(
            metavar="CONTEXT",
            help="The context to use, of `bay context`; else BAY_CONTEXT.",
            autocompletion=complete_contexts,
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="As after the command: print JSON.")] = False,
    version: Annotated[
        bool,
        typer.Option("--version", "-V", callback=_version, is_eager=True, help="Print the version and exit."),
    ] = False,
) -> None:
    """Sandboxes for programs: a name and files that stay, and compute that comes and goes."""
    state = state_of(ctx)
    if url and context:
        raise InvalidArgument("give --url or --context, not both")
    state.url, state.api_key, state.context = url, api_key, context
    if ctx.invoked_subcommand is None:
        print_line(ctx.get_help())
