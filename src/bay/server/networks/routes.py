"""The routes `…/network-policy` and `…/network`: a sandbox's egress rules, and its traffic."""

from typing import Annotated, Literal

from pydantic import Field

from bay.models import (
    CurrentPolicy,
    HeaderInjection,
    NetworkMode,
    NetworkPolicy,
    NetworkProtocol,
    NetworkRule,
    NetworkState,
)
from bay.server.networks.service import Networks
from bay.server.web.bodies import Body, Most
from bay.server.web.dependencies import Reader, Writer, noun_router, service
from bay.server.web.replies import WireResponse

router = noun_router("network", "/v1/sandboxes/{sandbox_id}")

NetworksDep = Annotated[Networks, service(Networks)]

PortRange = Annotated[str, Field(max_length=11, description="Such as `8000-8100`")]


class Inject(Body):
    """A header, and the secret that it holds in the place of `{}`."""

    header: Annotated[str, Field(max_length=64)]
    secret: Annotated[str, Field(max_length=64, description="The name of one of your secrets")]
    format: Annotated[str, Field(max_length=256, description="Such as `Bearer {}`")] = "{}"


class Rule(Body):
    """One rule, with a `domain` or a `cidr`."""

    action: Literal["allow", "deny"]
    domain: Annotated[
        str | None, Field(max_length=260, description="`api.example.com`, `*.example.com` or `*`")
    ] = None
    cidr: Annotated[str | None, Field(max_length=64)] = None
    ports: Annotated[tuple[int | PortRange, ...], Field(min_length=1), Most(64)] | None = None
    protocol: NetworkProtocol | None = None
    inject: Annotated[
        Inject | None, Field(description="A header that Bay adds to HTTPS requests, outside of the sandbox")
    ] = None

    def to_noun(self) -> NetworkRule:
        """The class that the services take."""
        inject = self.inject and HeaderInjection(**self.inject.model_dump())
        return NetworkRule(**self.model_dump(exclude={"inject"}), inject=inject)


class NetworkPolicyBody(Body):
    """A network policy. The most specific rule decides, and of two equally specific ones the deny."""

    mode: NetworkMode
    rules: Annotated[tuple[Rule, ...], Most(10_000)] = ()

    def to_noun(self) -> NetworkPolicy:
        """The class that the services take."""
        return NetworkPolicy(mode=self.mode, rules=tuple(rule.to_noun() for rule in self.rules))


@router.get("/network-policy", response_model=CurrentPolicy)
async def get_network_policy(caller: Reader, networks: NetworksDep, sandbox_id: str) -> WireResponse:
    """The sandbox's network policy."""
    return WireResponse(await networks.get(caller, sandbox_id))


@router.put("/network-policy", response_model=CurrentPolicy)
async def put_network_policy(
    caller: Writer, networks: NetworksDep, sandbox_id: str, body: NetworkPolicyBody
) -> WireResponse:
    """Replace the policy; answers when it is enforced, also for existing connections."""
    return WireResponse(await networks.put(caller, sandbox_id, body.to_noun()))


@router.delete("/network-policy", response_model=CurrentPolicy)
async def reset_network_policy(caller: Writer, networks: NetworksDep, sandbox_id: str) -> WireResponse:
    """Reset the policy to the profile's."""
    return WireResponse(await networks.put(caller, sandbox_id, None))


@router.get("/network", response_model=NetworkState)
async def get_network(caller: Reader, networks: NetworksDep, sandbox_id: str) -> WireResponse:
    """Allowed and refused traffic since the sandbox's session began, and the refused names."""
    return WireResponse(await networks.state(caller, sandbox_id))
