"""Fields of requests that annotate an entry of the history."""

from typing import Annotated

from pydantic import AfterValidator, Field


def split_tags(text: str) -> tuple[str, ...]:
    """The tags in a text of tags with commas between: sorted, each once."""
    return tuple(sorted({tag.strip() for tag in text.split(",")} - {""}))


def normal_tags(text: str | None) -> str | None:
    """The tags sorted, each once; None for an empty list."""
    return ",".join(split_tags(text or "")) or None


Description = Annotated[str | None, Field(max_length=4096)]
Tags = Annotated[
    str | None, Field(max_length=1024, description="Separated by commas"), AfterValidator(normal_tags)
]
