"""The tree of commands."""

from typing import Annotated

import typer

import bay
from bay.cli import (
    _admin,
    _attach,
    _cargos,
    _checkpoints,
    _copy,
    _events,
    _execute,
    _files,
    _history,
    _host,
    _keys,
    _net,
    _ports,
    _processes,
    _proxy,
    _python,
    _sandboxes,
    _services,
    _ssh,
)
from bay.cli._output import print_line
from bay.cli._state import state_of

# Rich is pretty but costs a third of the time of `bay --help`; plain help also pipes better.
app = typer.Typer(
    name="bay",
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

app.command("run")(_execute.run)
app.command("create")(_sandboxes.create)
app.command("ls")(_sandboxes.ls)
app.command("get")(_sandboxes.get)
app.command("exec")(_execute.exec_)
app.command("python")(_python.python)
app.command("shell")(_attach.shell)
app.command("attach")(_attach.attach)
app.command("logs")(_attach.logs)
app.command("execs")(_processes.execs)
app.command("ps")(_processes.ps)
app.command("kill")(_processes.kill)
app.command("history")(_history.history)
app.command("cp")(_copy.cp)
app.add_typer(_files.files, name="files")
app.add_typer(_checkpoints.checkpoint, name="checkpoint")
app.command("fork")(_checkpoints.fork)
app.add_typer(_cargos.cargo, name="cargo")
app.add_typer(_services.services, name="services")
app.add_typer(_net.net, name="net")
app.command("ports")(_ports.ports)
app.command("url")(_ports.url)
app.command("proxy")(_proxy.proxy)
app.command("ssh-config")(_ssh.ssh_config)
app.command("ssh-proxy")(_ssh.ssh_proxy)
app.command("update")(_sandboxes.update)
app.command("start")(_sandboxes.start)
app.command("pause")(_sandboxes.pause)
app.command("resume")(_sandboxes.resume)
app.command("stop")(_sandboxes.stop)
app.command("rm")(_sandboxes.rm)
app.command("events")(_events.events)
app.add_typer(_events.webhooks, name="webhooks")
app.add_typer(_keys.keys, name="keys")
app.add_typer(_admin.admin, name="admin")
app.command("serve")(_host.serve)
app.command("doctor")(_host.doctor)


def _version(wanted: bool) -> None:
    if wanted:
        print_line(f"bay {bay.__version__}")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def options(
    ctx: typer.Context,
    url: Annotated[
        str | None, typer.Option(help="Where Bay is; else BAY_URL, else http://127.0.0.1:8700.")
    ] = None,
    api_key: Annotated[str | None, typer.Option(help="The key to call with; else BAY_API_KEY.")] = None,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Sandboxes for programs: a computer with a name that stays, files that stay, and compute that comes and goes."""
    state = state_of(ctx)
    state.url, state.api_key = url, api_key
    if ctx.invoked_subcommand is None:
        print_line(ctx.get_help())
