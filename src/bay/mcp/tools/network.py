"""The network of a sandbox: who reaches its ports, and what it reaches."""

from typing import Literal

from pydantic import Field

import bay
from bay.mcp.bounds import first_lines
from bay.mcp.tool import Arguments, ToolAnswer, Toolbox, ToolCall

TOOLBOX = Toolbox()


class ExposePortArguments(Arguments):
    """Arguments of `expose_port`."""

    port: int = Field(ge=1, le=65535)
    public: bool = False
    expires_in_s: int = Field(3600, ge=1, le=7 * 86400)


@TOOLBOX.add("Give a URL of a port: a link that expires, or with public one for everybody.")
async def expose_port(call: ToolCall, given: ExposePortArguments) -> ToolAnswer:
    box = await call.agent.sandbox(given.sandbox)
    if not given.public:
        link = await box.ports.link(given.port, given.expires_in_s)
        return ToolAnswer(f"{link.url}\n[for {given.expires_in_s} s]", {"url": link.url})
    await box.ports.set_access(given.port, "public")
    url = next((one.url for one in await box.ports.list() if one.port == given.port), None)
    if url is None:
        raise bay.PortClosed(
            f"port {given.port} is public, and nothing listens on it yet; start it and ask again"
        )
    return ToolAnswer(f"{url}\n[for everybody]", {"url": url})


class PolicyArguments(Arguments):
    """Arguments of `network_policy`."""

    mode: Literal["none", "allowlist", "open"] | None = None
    allow: list[str] | None = Field(None, max_length=100)
    deny: list[str] | None = Field(None, max_length=100)


@TOOLBOX.add(
    "Show what the sandbox's network reaches and refused; with a mode set it. allow and deny have domains "
    "(*.example.com) or CIDRs."
)
async def network_policy(call: ToolCall, given: PolicyArguments) -> ToolAnswer:
    if given.mode is None and (given.allow or given.deny):
        raise bay.InvalidArgument("allow and deny need a mode: allowlist, or open")
    if given.mode is None:
        return await _shown(await call.agent.existing(given.sandbox))
    box = await call.agent.sandbox(given.sandbox)
    await box.network.set(given.mode, (*_rules("allow", given.allow), *_rules("deny", given.deny)))
    return await _shown(box)


def _rules(action: Literal["allow", "deny"], places: list[str] | None) -> list[bay.NetworkRule]:
    return [
        bay.NetworkRule(action=action, cidr=place)
        if "/" in place
        else bay.NetworkRule(action=action, domain=place)
        for place in places or ()
    ]


async def _shown(box: bay.AsyncBox) -> ToolAnswer:
    policy, state = await box.network.get(), await box.network.state()
    rules, cut = first_lines(f"{rule.action} {rule.domain or rule.cidr}" for rule in policy.rules)
    refused = [f"{name.name} ({name.reason}, {name.count}x)" for name in state.refused[-20:]]
    more = [f"[there are {len(policy.rules) - len(rules)} more rules]"] if cut else []
    lines = [f"mode: {policy.mode}", *rules, *more, *(f"refused: {one}" for one in refused)]
    return ToolAnswer("\n".join(lines), {"mode": policy.mode, "rules": rules, "refused": refused})
