"""The commands `net`: a sandbox's network policy, and its refused names."""

import json
import sys
from collections.abc import Iterable, Sequence
from dataclasses import fields, replace
from ipaddress import ip_network
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, cast, get_args

import typer

from bay.cli.complete import NameArgument
from bay.cli.output import amount, dash, note, print_columns, print_fields, print_json, print_list
from bay.cli.state import JsonOption, connect_box
from bay.cli.tree import Tree
from bay.clock import to_seconds
from bay.errors import InvalidArgument
from bay.models import HeaderInjection, NetworkMode, NetworkPolicy, NetworkProtocol, NetworkRule, from_wire

if TYPE_CHECKING:
    from bay.models import BrokerRefusal, NetworkCounter, NetworkState, RefusedName

net = Tree(help="Set a sandbox's network policy, and show refused traffic.")

Action = Literal["allow", "deny"]
TargetsArgument = Annotated[
    list[str],
    typer.Argument(
        metavar="TARGET",
        help="A domain, *.domain (all below it), *, an address, or a network such as 10.0.0.0/8.",
    ),
]
PortsOption = Annotated[
    list[str] | None,
    typer.Option("--port", metavar="PORT", help="Only this port, or a range such as 8000-8100. Repeatable."),
]
ProtocolOption = Annotated[str | None, typer.Option(help="Only tcp, udp or icmp.")]

_HEADS = ("RULE", "ACTION", "TARGET", "PROTOCOL", "PORTS", "ALLOWED", "REFUSED", "NAMES", "REFUSED NAMES")
_POINTLESS = {
    "open": "the mode is open, in which every public address is reached anyway; `bay net mode {} allowlist` changes that",
    "none": "the mode is none, in which rules open nothing; `bay net mode {} allowlist` changes that",
}


@net.command("show")
def show(ctx: typer.Context, name: NameArgument, as_json: JsonOption = False) -> None:
    """Show the policy of a sandbox, the counters of each rule since its session began, and refused names."""
    with connect_box(ctx, name) as box:
        policy, state = box.network.get(), box.network.state()
    if as_json:
        print_json({"policy": policy, "state": state})
        return
    print_fields(_fields(policy, state))
    print_columns(_HEADS, _rows(policy, state.counters))
    if state.refused:
        _print_refused(state.refused, as_json)
    if state.broker:
        heads = ("LAST", "COUNT", "BROKERED", "REASON")
        print_columns(heads, map(_broker_row, state.broker))


@net.command("mode")
def mode(
    ctx: typer.Context,
    name: NameArgument,
    wanted: Annotated[str, typer.Argument(metavar="MODE", help="none, allowlist or open.")],
    as_json: JsonOption = False,
) -> None:
    """Set the mode: none, allowlist (only what rules allow), or open (all public addresses not denied)."""
    checked = as_mode(wanted)
    with connect_box(ctx, name) as box:
        _said(box.network.set(replace(box.network.get(), mode=checked)), as_json)


@net.command("allow")
def allow(
    ctx: typer.Context,
    name: NameArgument,
    targets: TargetsArgument,
    port: PortsOption = None,
    protocol: ProtocolOption = None,
    as_json: JsonOption = False,
) -> None:
    """Add allow rules at the end of a sandbox's policy."""
    policy = _added(ctx, name, _rules("allow", targets, port, protocol))
    if policy.mode in _POINTLESS:
        note(_POINTLESS[policy.mode].format(name))
    _said(policy, as_json)


@net.command("deny")
def deny(
    ctx: typer.Context,
    name: NameArgument,
    targets: TargetsArgument,
    port: PortsOption = None,
    protocol: ProtocolOption = None,
    as_json: JsonOption = False,
) -> None:
    """Add deny rules at the end of a sandbox's policy."""
    _said(_added(ctx, name, _rules("deny", targets, port, protocol)), as_json)


@net.command("inject")
def inject(
    ctx: typer.Context,
    name: NameArgument,
    domain: Annotated[str, typer.Argument(metavar="DOMAIN", help="The one host, such as api.example.com.")],
    header: Annotated[str, typer.Option(metavar="HEADER", help="The header to add to its requests.")],
    secret: Annotated[str, typer.Option(metavar="NAME", help="The secret that it holds.")],
    template: Annotated[
        str, typer.Option("--format", metavar="TEXT", help="Its value, with {} for the secret.")
    ] = "{}",
    port: Annotated[
        list[int] | None, typer.Option("--port", metavar="PORT", help="Another port than 443. Repeatable.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Have Bay add a header with a secret to HTTPS requests, outside of the sandbox."""
    wanted = HeaderInjection(header=header, secret=secret, format=template)
    ports = tuple(port) if port else None
    rule = NetworkRule(action="allow", domain=domain, ports=ports, inject=wanted)
    _said(_added(ctx, name, (rule,)), as_json)


@net.command("remove")
def remove(
    ctx: typer.Context,
    name: NameArgument,
    places: Annotated[
        list[int], typer.Argument(metavar="RULE", help="Rules by their number in `bay net show`.")
    ],
    as_json: JsonOption = False,
) -> None:
    """Remove rules from a sandbox's policy. The numbers of later rules decrease."""
    with connect_box(ctx, name) as box:
        policy = box.network.get()
        for place in places:
            if not 0 <= place < len(policy.rules):
                raise InvalidArgument(f"there is no rule {place}; `bay net show {name}` numbers them from 0")
        kept = tuple(rule for place, rule in enumerate(policy.rules) if place not in places)
        _said(box.network.set(replace(policy, rules=kept)), as_json)


@net.command("set")
def set_(
    ctx: typer.Context,
    name: NameArgument,
    source: Annotated[str, typer.Argument(metavar="FILE", help="JSON with mode and rules, or - for stdin.")],
    as_json: JsonOption = False,
) -> None:
    """Replace a sandbox's policy by a file's."""
    text = sys.stdin.read() if source == "-" else Path(source).read_text(encoding="utf-8")
    policy = _parsed(text, source)
    with connect_box(ctx, name) as box:
        _said(box.network.set(policy), as_json)


@net.command("reset")
def reset(ctx: typer.Context, name: NameArgument, as_json: JsonOption = False) -> None:
    """Reset a sandbox's policy to its profile's."""
    with connect_box(ctx, name) as box:
        _said(box.network.reset(), as_json)


@net.command("log")
def log(ctx: typer.Context, name: NameArgument, as_json: JsonOption = False) -> None:
    """Show the refused names of a sandbox, newest last."""
    with connect_box(ctx, name) as box:
        _print_refused(box.network.state().refused, as_json)


def _said(policy: NetworkPolicy, as_json: bool) -> None:
    if as_json:
        print_json(policy)


def _added(ctx: typer.Context, name: str, rules: tuple[NetworkRule, ...]) -> NetworkPolicy:
    with connect_box(ctx, name) as box:
        policy = box.network.get()
        return box.network.set(replace(policy, rules=(*policy.rules, *rules)))


# Arguments


def _rules(
    action: Action, targets: Iterable[str], ports: Sequence[str] | None, protocol: str | None
) -> tuple[NetworkRule, ...]:
    if protocol is not None and protocol not in get_args(NetworkProtocol):
        raise InvalidArgument(f"--protocol takes {', '.join(get_args(NetworkProtocol))}, not {protocol!r}")
    numbers = tuple(int(port) if port.isascii() and port.isdigit() else port for port in ports or ()) or None
    rule = NetworkRule(action=action, ports=numbers, protocol=cast("NetworkProtocol | None", protocol))
    return tuple(replace(rule, **_target(text)) for text in targets)


def _target(text: str) -> dict[str, str]:
    """A rule's `domain` or `cidr`. Bay refuses a network with host bits and names the one meant."""
    try:
        network = ip_network(text, strict=False)
    except ValueError:
        if "/" in text or ":" in text:
            raise InvalidArgument(f"{text!r} is neither a domain, an address nor a network") from None
        return {"domain": text}
    return {"cidr": text if "/" in text else str(network)}


def as_mode(text: str) -> NetworkMode:
    """The mode of that name. Raises InvalidArgument."""
    if text not in get_args(NetworkMode):
        raise InvalidArgument(f"mode must be one of {', '.join(get_args(NetworkMode))}, not {text!r}")
    return cast("NetworkMode", text)


def _parsed(text: str, source: str) -> NetworkPolicy:
    """The policy in JSON. Unknown fields are refused, lest a slip opens what it was to close."""
    try:
        data = json.loads(text)
        _only(data, NetworkPolicy, "the policy", ("version", "source"))
        for place, rule in enumerate(data.get("rules", ())):
            _only(rule, NetworkRule, f"rule {place}")
            if rule.get("inject") is not None:
                _only(rule["inject"], HeaderInjection, f"inject of rule {place}")
        policy = from_wire(NetworkPolicy, data)
    except (TypeError, ValueError) as error:
        raise InvalidArgument(f"{source} is not a network policy: {error}") from error
    return replace(policy, mode=as_mode(str(data.get("mode"))))


def _only(data: object, kind: type[Any], what: str, more: Iterable[str] = ()) -> None:
    """Raises ValueError or TypeError for a field of `data` that no `kind` has, or for a list that is none."""
    if not isinstance(data, dict):
        raise TypeError(f"{what} is not an object")
    given = cast("dict[str, object]", data)
    if unknown := given.keys() - {field.name for field in fields(kind)} - set(more):
        raise ValueError(f"{what} has an unknown field {min(unknown)!r}")
    for name in ("rules", "ports"):
        if not isinstance(given.get(name) or [], list):
            raise TypeError(f"{name} of {what} is not a list")


# Output


def _fields(policy: NetworkPolicy, state: "NetworkState") -> dict[str, str]:
    enforced = "yes" if state.enforced else "no: this host cannot hold a network back"
    return {
        "mode": policy.mode,
        "enforced": enforced,
        **({"by": "a proxy: programs reach what HTTPS_PROXY leads to"} if state.proxied else {}),
        "received": amount(state.received_bytes),
        "sent": amount(state.sent_bytes),
    }


def _rows(policy: NetworkPolicy, counters: "Sequence[NetworkCounter]") -> list[tuple[str, ...]]:
    """The rules in their order with their counts, and below them the counts of the mode."""
    by_rule = {counter.rule: counter for counter in counters if counter.rule is not None}
    rules = [(*_rule(n, rule), *_counts(by_rule.get(n))) for n, rule in enumerate(policy.rules)]
    rest = [
        ("-", "-", counter.reason or "-", "-", "-", *_counts(counter))
        for counter in counters
        if counter.rule is None
    ]
    return [*rules, *rest]


def _rule(place: int, rule: NetworkRule) -> tuple[str, ...]:
    target = rule.domain or rule.cidr or "-"
    if rule.inject is not None:
        target += f" +{rule.inject.header} ({rule.inject.secret})"
    ports = " ".join(map(str, rule.ports or ())) or "any"
    return (str(place), rule.action, target, rule.protocol or "any", ports)


def _counts(counter: "NetworkCounter | None") -> tuple[str, ...]:
    if counter is None:
        return ("0",) * 4
    connections = (counter.allowed_connections, counter.refused_connections)
    return tuple(map(str, (*connections, counter.allowed_names, counter.refused_names)))


def _print_refused(refused: "Iterable[RefusedName]", as_json: bool) -> None:
    print_list(refused, as_json, ("LAST", "COUNT", "TYPE", "NAME", "REASON", "RULE"), _refused_row)


def _broker_row(one: "BrokerRefusal") -> tuple[str, ...]:
    return (to_seconds(one.last_at), str(one.count), one.domain, one.reason)


def _refused_row(one: "RefusedName") -> tuple[str, ...]:
    return (to_seconds(one.last_at), str(one.count), one.type, one.name, one.reason, dash(one.rule))
