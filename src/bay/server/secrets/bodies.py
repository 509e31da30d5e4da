"""The body of a secret that something is given."""

from typing import Annotated

from pydantic import Field, StringConstraints

from bay.models import SandboxSecret
from bay.server.secrets.rules import NAME
from bay.server.web.bodies import Body


class SecretBody(Body):
    """A secret, and the place where the sandbox finds it: a variable of its own name, unless one is given."""

    name: Annotated[str, StringConstraints(pattern=rf"^{NAME}$")]
    env: Annotated[
        str | None, Field(max_length=128, description="The variable of each command that holds it")
    ] = None
    file: Annotated[
        str | None, Field(max_length=256, description="A file below `/run/secrets`, kept in memory alone")
    ] = None

    def to_noun(self) -> SandboxSecret:
        """The class that the services take."""
        return SandboxSecret(**self.model_dump())
