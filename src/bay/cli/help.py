"""Help as text: the usual notation (`NAME`, `[PORT]`, `CMD...`), groups of commands, and examples."""

from pathlib import Path
from typing import Any

from bay.cli.option_values import kind_of

WIDEST = 120
"""Longer lines are hard to read, however wide the terminal is."""

_METAVARS = {int: "N", float: "SECONDS", Path: "PATH"}


def usage(command: Any) -> list[str]:
    """The usage after the command's name in its first line."""
    return ["[OPTIONS]", *(_argument(param) for param in command.params if _is_argument(param))]


def write_parameters(params: list[Any], formatter: Any) -> None:
    """The arguments and the options, each with its help."""
    shown = [param for param in params if not param.hidden]
    rows = {
        "Arguments": [(_name(param), param.help or "") for param in shown if _is_argument(param)],
        "Options": [(_option(param), _meaning(param)) for param in shown if not _is_argument(param)],
    }
    write_commands({head: found for head, found in rows.items() if found}, formatter)


def write_commands(panels: dict[str, list[tuple[str, str]]], formatter: Any) -> None:
    """A definition list for each panel, all with the same columns."""
    for head, rows in panels.items():
        with formatter.section(head):
            formatter.write_dl(rows)


def write_examples(text: str | None, formatter: Any) -> None:
    """Lines that are left as they are."""
    lines = (text or "").strip().splitlines()
    if lines:
        with formatter.section("Examples"):
            for line in lines:
                formatter.write(f"  {line}\n")


def summary(command: Any) -> str:
    """The first sentence of its help."""
    return (command.help or "").partition("\n")[0].rstrip(".")


def _is_argument(param: Any) -> bool:
    return param.param_type_name == "argument"


def _name(param: Any) -> str:
    return (param.metavar or param.name.upper()) + ("..." if param.nargs == -1 else "")


def _argument(param: Any) -> str:
    return _name(param) if param.required else f"[{_name(param)}]"


def _option(param: Any) -> str:
    names = ", ".join(sorted(param.opts, key=len))
    if param.is_flag or param.count:
        return names
    return f"{names} {param.metavar or _METAVARS.get(kind_of(param), 'TEXT')}"


def _meaning(param: Any) -> str:
    default = None if param.is_flag or callable(param.default) else param.default
    shown = f"  [default: {default}]" if default not in (None, "", (), []) and param.show_default else ""
    return f"{param.help or ''}{shown}"
