"""The commands `events` and `webhooks`: follow events here, or send them elsewhere."""

import json
from typing import TYPE_CHECKING, Annotated

import typer

from bay.cli.complete import complete_names
from bay.cli.output import act_on_each, print_fields, print_json, print_line, print_list, printable
from bay.cli.state import JsonOption, connect
from bay.cli.tree import Tree
from bay.clock import to_rfc3339

if TYPE_CHECKING:
    from bay.models import Event, Webhook

webhooks = Tree(help="Send events to a URL.")

WebhookIds = Annotated[list[str], typer.Argument(metavar="ID", help="Ids of webhooks.")]


def events(
    ctx: typer.Context,
    name: Annotated[
        str | None,
        typer.Argument(
            metavar="NAME",
            help="One sandbox's name or id; default: all of yours.",
            autocompletion=complete_names,
        ),
    ] = None,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Follow events from now on, until interrupted.")
    ] = False,
    since: Annotated[
        str | None, typer.Option(metavar="ID", help="Only events after this id; 0 is all.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Show the events of sandboxes, oldest first."""
    with connect(ctx) as client:
        for event in client.events(since, sandbox=name, follow=follow):
            print_json(event) if as_json else print_line(_line(event))


@webhooks.command("create")
def create(
    ctx: typer.Context,
    url: Annotated[str, typer.Argument(metavar="URL", help="The receiver's URL: http or https.")],
    kind: Annotated[
        list[str] | None, typer.Option("--type", metavar="TYPE", help="Only events of this type. Repeatable.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Send events to a URL, and show the secret of their signatures, once."""
    with connect(ctx) as client:
        made = client.webhooks.create(url, kind or ())
    print_json(made) if as_json else print_fields({"id": made.id, "secret": made.secret or ""})


@webhooks.command("ls")
def ls(ctx: typer.Context, as_json: JsonOption = False) -> None:
    """List webhooks with the state of their deliveries."""
    with connect(ctx) as client:
        found = client.webhooks.list()
    print_list(found, as_json, ("ID", "URL", "TYPES", "FAILED", "LAST ERROR"), _row)


@webhooks.command("rm")
def rm(ctx: typer.Context, ids: WebhookIds, as_json: JsonOption = False) -> None:
    """Remove webhooks."""
    with connect(ctx) as client:
        act_on_each(ids, client.webhooks.delete, as_json, "id", "deleted")


def _line(event: "Event") -> str:
    at = to_rfc3339(event.at)[:23] + "Z"
    data = json.dumps(event.data, ensure_ascii=False) if event.data else ""
    return printable(f"{at}  {event.sandbox_id or '-':<32}  {event.type:<18}  {data}").rstrip()


def _row(webhook: "Webhook") -> tuple[str, ...]:
    failed = str(webhook.attempts) if webhook.attempts else "-"
    return (webhook.id, webhook.url, ",".join(webhook.types) or "all", failed, webhook.last_error or "-")
