"""How a fault in a Dockerfile is told: with its line, and the way out."""

from collections.abc import Generator
from contextlib import contextmanager

from bay.errors import InvalidArgument

ELSEWHERE = "build the image elsewhere and give it to Bay by `bay image import`"


def fault(line: int, message: str) -> InvalidArgument:
    """The error for a fault that the writer of the file can mend."""
    return InvalidArgument(f"Dockerfile line {line}: {message}", details={"line": line})


def unsupported(line: int, subject: str, way_out: str = ELSEWHERE) -> InvalidArgument:
    """The error for something that Docker can do and Bay's builds cannot."""
    return fault(line, f"{subject} is not supported; {way_out}")


@contextmanager
def at_line(line: int) -> Generator[None]:
    """Names the line in a fault that is raised in the block and names none yet."""
    try:
        yield
    except InvalidArgument as error:
        raise error if "line" in error.details else fault(line, error.message) from error
