"""The command tree: parses Bay's options, the names of commands, and shows help.

Typer brings the parser. It differs from Typer in these:

- The words of a command in a sandbox are its own, as with docker: `bay exec box ls -la` needs no `--`.
- `.` stands for the directory's default sandbox, also where a sandbox is all that a command is not given.
- `--json` may stand before the command as well as after it.
- Other tools' names of commands lead to ours, and the help is in groups and in the usual notation.
- A command is imported on demand: loading all of them takes longer than most of them run.
"""

from collections import UserDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, cast

import typer
from typer.core import TyperCommand, TyperGroup
from typer.models import Default

from bay.cli import help as cli_help
from bay.cli.complete import complete_names
from bay.cli.option_values import read_plainly
from bay.cli.output import print_line
from bay.cli.state import DEFAULT_SANDBOX, lazily, state_of
from bay.cli.usage import no_command
from bay.errors import InvalidArgument

COMMAND = "CMD"
"""The metavar of an argument that is a command line: all that follows its first word belongs to it."""

_ALIASES = {
    "list": "ls",
    "delete": "rm",
    "remove": "rm",
    "inspect": "get",
    "show": "get",
    "describe": "get",
    "ssh": "shell",
    "new": "create",
    "thaw": "resume",
    "unpause": "resume",
    "add": "create",
}


def first_word(params: list[Any], arguments: list[str], before: int) -> int:
    """The place of the positional argument behind `before` others (a `--` counts as one), else the length."""
    valued = {name for param in params if not _is_flag(param) for name in param.opts}
    place = 0
    while place < len(arguments):
        word = arguments[place]
        if word == "--":
            return place
        if not word.startswith("-") or word == "-":
            if before == 0:
                return place
            before -= 1
        elif _takes_the_next(word, valued):
            place += 1
        place += 1
    return len(arguments)


def _is_flag(param: Any) -> bool:
    return param.param_type_name != "option" or param.is_flag or param.count


def _takes_the_next(word: str, valued: set[str]) -> bool:
    """Whether the next word is this option's value: of `--env`, `-e`, `-ie`, not of `--env=A` and `-eA`."""
    if word.startswith("--"):
        return word in valued
    letters = [f"-{letter}" in valued for letter in word[1:]]
    return True in letters and letters.index(True) == len(letters) - 1


def _is_sandbox(param: Any) -> bool:
    """Whether the parameter names a sandbox, or several: completion is that of their names."""
    info = getattr(getattr(param, "type_descriptor", None), "parameter_info", None)
    return getattr(info, "autocompletion", None) is complete_names


class Command(TyperCommand):
    """One command."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        read_plainly(self.get_params(ctx))
        before = self._arguments_before_command()
        if before is not None:
            place = first_word(self.params, args, before)
            if args[place : place + 1] not in ([], ["--"]):
                args = [*args[:place], "--", *args[place:]]
        state = state_of(ctx)
        before_command = state.as_json
        # For the errors of this very line, which is not parsed any further.
        state.as_json |= "--json" in (args[: args.index("--")] if "--" in args else args)
        rest = super().parse_args(ctx, self._with_default(args))
        state.as_json = before_command or bool(ctx.params.get("as_json"))
        if "as_json" in ctx.params:
            ctx.params["as_json"] = state.as_json
        if not ctx.resilient_parsing:
            self._fill_in_default(ctx)
        return rest

    def _with_default(self, args: list[str]) -> list[str]:
        """The words with `.` before them, where a sandbox is all that is missing and one is the default."""
        needed = [param for param in cast("list[Any]", self.params) if param.required]
        if len(needed) != 1 or needed[0].nargs != 1 or not _is_sandbox(needed[0]):
            return args
        if first_word(self.params, args, 0) < len(args) or {"-h", "--help"} & set(args):
            return args
        return [DEFAULT_SANDBOX, *args] if lazily("bay.cli.default_sandbox", "nearest")() else args

    def _fill_in_default(self, ctx: Any) -> None:
        for param in filter(_is_sandbox, cast("list[Any]", self.params)):
            given = ctx.params[param.name]
            if given == DEFAULT_SANDBOX:
                ctx.params[param.name] = state_of(ctx).default_sandbox()
            elif isinstance(given, list) and DEFAULT_SANDBOX in given:
                named = cast("list[str]", given)
                default = state_of(ctx).default_sandbox()
                ctx.params[param.name] = [default if name == DEFAULT_SANDBOX else name for name in named]

    def _arguments_before_command(self) -> int | None:
        """How many arguments there are before the command line that this one runs; None when it runs none."""
        arguments = [param for param in cast("list[Any]", self.params) if param.param_type_name == "argument"]
        return len(arguments) - 1 if arguments and arguments[-1].metavar == COMMAND else None

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        return cli_help.usage(self)

    def format_options(self, ctx: Any, formatter: Any) -> None:
        cli_help.write_parameters(self.get_params(ctx), formatter)

    def format_epilog(self, ctx: Any, formatter: Any) -> None:
        cli_help.write_examples(self.epilog, formatter)


class Group(TyperGroup):
    """Commands about one thing."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        read_plainly(self.get_params(ctx))
        state_of(ctx).as_json |= "--json" in args[: first_word(self.params, args, 0)]
        if self.no_args_is_help and not (args or ctx.resilient_parsing):
            print_line(ctx.get_help())
            ctx.exit()
        return super().parse_args(ctx, args)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        return self.commands.get(self._own_name(cmd_name))

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        if not (ctx.resilient_parsing or args[0].startswith("-") or self.get_command(ctx, args[0])):
            state_of(ctx).as_json |= "--json" in args
            raise InvalidArgument(no_command(ctx.command_path, args[0], self.commands))
        return super().resolve_command(ctx, [self._own_name(args[0]), *args[1:]])

    def _own_name(self, name: str) -> str:
        return name if name in self.commands else _ALIASES.get(name, name)

    def list_commands(self, ctx: Any) -> list[str]:
        return list(self.commands)

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        return ["[OPTIONS]", self.subcommand_metavar]

    def format_options(self, ctx: Any, formatter: Any) -> None:
        cli_help.write_parameters(self.get_params(ctx), formatter)
        rows = [(name, cli_help.summary(command)) for name, command in self.commands.items()]
        cli_help.write_commands({"Commands": rows}, formatter)

    def format_epilog(self, ctx: Any, formatter: Any) -> None:
        cli_help.write_examples(self.epilog, formatter)


@dataclass(frozen=True, slots=True)
class CommandEntry:
    """A command of the root: in which module it is written, and its line in the list of all.
    `function` is its name in the module where that is not the command's. Nothing is loaded for the list.
    """

    module: str
    summary: str
    examples: str = ""
    function: str = ""

    def load(self, name: str) -> Any:
        """The command itself."""
        found: Any = lazily(f"bay.cli.commands.{self.module}", self.function or name.replace("-", "_"))
        if not isinstance(found, typer.Typer):
            tree = Tree()
            tree.command(name, epilog=self.examples)(found)
            return typer.main.get_command(tree)
        command = typer.main.get_command(found)
        command.name, command.epilog = name, self.examples
        return command


class CommandTable(UserDict[str, Any]):
    """The commands of the root by name, each loaded when it is looked up."""

    def __getitem__(self, name: str) -> Any:
        command = self.data[name]
        if isinstance(command, CommandEntry):
            command = self.data[name] = command.load(name)
        return command


class Root(Group):
    """`bay` itself, with the commands of `panels`, which are the headings of its help."""

    panels: ClassVar[dict[str, dict[str, CommandEntry]]]

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        entries = {name: entry for panel in self.panels.values() for name, entry in panel.items()}
        self.commands = CommandTable(entries)

    def format_options(self, ctx: Any, formatter: Any) -> None:
        cli_help.write_parameters(self.get_params(ctx), formatter)
        panels = self.panels.items()
        rows = {head: [(name, entry.summary) for name, entry in panel.items()] for head, panel in panels}
        cli_help.write_commands(rows, formatter)


class Tree(typer.Typer):
    """A Typer of commands such as these, plain in its help and its errors."""

    def __init__(self, *, help: str | None = None, root: type[Root] | None = None) -> None:  # noqa: A002 — Typer's word
        super().__init__(
            help=Default(help) if help is None else help,
            cls=root or Group,
            no_args_is_help=root is None,
            add_completion=root is not None,
            rich_markup_mode=None,
            pretty_exceptions_enable=False,
            context_settings={"help_option_names": ["-h", "--help"], "max_content_width": cli_help.WIDEST},
        )

    def command(self, name: str | None = None, *, epilog: str | None = None) -> Callable[[Any], Any]:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Register a function as a command."""
        return super().command(name, cls=Command, epilog=epilog)
