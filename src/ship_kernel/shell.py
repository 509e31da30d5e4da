# pyright: reportUnknownMemberType=false, reportOptionalMemberAccess=false
# (IPython has hardly any types.)
"""IPython's shell without a terminal: its displays go to Ship."""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
import warnings
from collections.abc import Callable, Coroutine, Generator
from typing import Any

from IPython.core import page
from IPython.core.displayhook import DisplayHook
from IPython.core.displaypub import DisplayPublisher
from IPython.core.interactiveshell import InteractiveShell
from IPython.core.profiledir import ProfileDir
from traitlets import Type
from traitlets.config import Config

from ship_kernel import bundles
from ship_kernel.described import Descriptions

_SMALL = 64 * 1024
_ERROR_BOUNDS = ((8 << 20, 8 << 20), (8 << 20, _SMALL), (1 << 20, _SMALL))
"""The most characters of an error's value and of its traceback: the first pair whose line Ship takes. The
value stays whole longest, since programs return results in it.
"""

Publish = Callable[[str, "dict[str, Any]"], None]
"""Sends an event of the running cell: its type and its fields."""


class Results(DisplayHook):
    """The display hook: sends the value of a cell's last expression."""

    def write_output_prompt(self) -> None:
        """Nothing: the event has its number."""

    def write_format_data(self, format_dict: Any, md_dict: Any = None) -> None:
        fields = {"data": bundles.clean(format_dict), "metadata": bundles.clean(md_dict or {})}
        self.shell.publish("result", {**fields, "execution_count": self.shell.cell_count})

    def finish_displayhook(self) -> None:
        """No line to end."""
        self._is_active = False


class Displays(DisplayPublisher):
    def publish(
        self,
        data: Any,
        metadata: Any = None,
        source: Any = None,
        *,
        transient: Any = None,
        update: bool = False,
        **_kwargs: Any,
    ) -> None:
        fields: dict[str, Any] = {"data": bundles.clean(data), "metadata": bundles.clean(metadata or {})}
        if transient and transient.get("display_id"):
            fields["display_id"] = bundles.text(str(transient["display_id"]))
        if update:
            fields["update"] = True
        self.shell.publish("display", fields)

    def clear_output(self, wait: bool = False) -> None:
        self.shell.publish("clear", {"wait": bool(wait)})


class Shell(InteractiveShell):
    """The interpreter. Its maker sets `publish` and `settle`; `cell_count` is the running cell's number."""

    publish: Publish
    settle: Callable[[], None]
    descriptions: Descriptions
    cell_count = 0
    _failed_in = -1
    displayhook_class = Type(Results)
    display_pub_class = Type(Displays)

    def init_hooks(self) -> None:
        """Documentation is shown like everything else, there being no pager."""
        super().init_hooks()
        self.set_hook("show_in_pager", page.as_hook(page.display_page), 99)

    def init_profile_dir(self, profile_dir: Any) -> None:
        """A folder of its own for IPython's files, and nothing in the user's home."""
        self.profile_dir = profile_dir or ProfileDir.create_profile_dir(self.ipython_dir)

    @contextlib.contextmanager
    def _tee(self, channel: Any) -> Generator[None]:
        # IPython's keeps all output for as long as the kernel lives, for a history without a reader.
        del channel
        yield

    def enable_gui(self, gui: Any = None) -> None:
        """There is no screen, and nothing to do about it."""

    def system(self, cmd: str) -> None:
        """`!command`: its output goes into the pipes as it comes, stdout and stderr apart."""
        self.settle()
        self.system_raw(cmd)

    def ask_exit(self) -> None:
        """exit() and quit() end the cell; the kernel stays."""
        raise SystemExit

    def _showtraceback(self, etype: Any, evalue: Any, stb: Any) -> None:
        if etype is SystemExit and evalue.code in (None, 0):
            return  # a script that has ended
        if self._failed_in == self.cell_count:
            return  # IPython's second try at an exception that cannot be printed
        self._failed_in = self.cell_count
        lines, name = [bundles.text(line) for line in stb], bundles.text(etype.__name__)
        self.publish("error", _bounded_error(name, _message(evalue), lines))


def make(publish: Publish, settle: Callable[[], None]) -> Shell:
    config = Config()
    config.HistoryManager.enabled = False  # no database of the input
    config.InteractiveShell.colors = "nocolor"
    config.InteractiveShell.loop_runner = _Loop().run
    config.InteractiveShell.banner1 = ""
    home = tempfile.mkdtemp(prefix="ipython-")
    shell = Shell.instance(config=config, ipython_dir=home)
    shell.publish, shell.settle = publish, settle
    formatters: Any = shell.display_formatter
    shell.descriptions = Descriptions(formatters.formatters)
    warnings.filterwarnings("ignore", message="To exit: use")
    return shell


class _Loop:
    """The event loop that `await` at the top of a cell uses, the same for all cells."""

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None

    def run(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        """Its result. When it is interrupted it is cancelled, so that it does not go on in the next cell."""
        if self._loop is None or self._loop.is_closed():
            self._loop = asyncio.new_event_loop()
            asyncio.set_event_loop(self._loop)
        task = self._loop.create_task(coroutine)
        try:
            return self._loop.run_until_complete(task)
        except KeyboardInterrupt:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                self._loop.run_until_complete(task)
            raise


def _message(value: object) -> str:
    try:
        return bundles.text(str(value))
    except Exception as error:  # noqa: BLE001 - an exception of the user's whose __str__ raises what it likes
        return f"<the message cannot be had: {type(error).__name__}>"


def _bounded_error(name: str, value: str, lines: list[str]) -> dict[str, Any]:
    """The fields of an error, with a mark where one was cut."""
    fields: dict[str, Any] = {}
    for most_of_value, most_of_trace in _ERROR_BOUNDS:
        trace = _bounded_trace(lines, most_of_trace)
        fields = {"ename": name[:1024], "evalue": _cut(value, most_of_value), "traceback": trace}
        if bundles.fits(fields):
            break
    return fields


def _cut(text: str, most: int) -> str:
    left_out = len(text) - most
    return text if left_out <= 0 else f"{text[:most]}… [{left_out} more characters are not shown]"


def _bounded_trace(lines: list[str], most: int) -> list[str]:
    left_out = sum(map(len, lines)) - most
    if left_out <= 0:
        return lines
    whole = "\n".join(lines)
    half = most // 2
    return [whole[:half], f"… [{left_out} characters are not shown]", whole[-half:]]
