"""Network policies of sprites, which are rules on names, as Bay's own and back. Pure.

Without a rule everything public is reachable: mode `open`. With rules a sprite is in mode `allowlist`, where
addresses are reachable only after an allowed name was resolved to them, and a name that no rule allows is
refused.
"""

from collections.abc import Iterator, Sequence

from bay.errors import BadRequest
from bay.models import NetworkPolicy, NetworkRule

Rule = dict[str, str]
"""A rule as clients write it: `domain` and `action`, or `include`."""

_NAMES = {
    "ai": "openrouter",
    "com": (
        "github *.github *.githubusercontent gitlab *.gitlab bitbucket registry.yarnpkg dl.google "
        "*.ubuntu *.docker *.docker.cloudflare api.anthropic api.openai generativelanguage.googleapis"
    ),
    "dev": "go",
    "io": "crates *.crates docker *.docker ghcr quay",
    "org": (
        "pypi *.pypi *.pythonhosted nodejs *.npmjs rubygems *.rubygems *.rust-lang *.golang "
        "*.debian *.alpinelinux conda.anaconda"
    ),
    "pm": "hex repo.hex",
}
"""By their endings."""

DEFAULTS = tuple(f"{name}.{ending}" for ending, names in _NAMES.items() for name in names.split())
"""The names that `{"include": "defaults"}` allows: sources and packages of programs, and models."""

_EXPANDED = tuple(NetworkRule(action="allow", domain=name) for name in DEFAULTS)
_ANYTHING_ELSE = "*"


def policy_of(rules: Sequence[Rule]) -> NetworkPolicy:
    """Bay's policy of such rules. Raises BadRequest for a rule that is none."""
    if not rules:
        return NetworkPolicy(mode="open")
    expanded = tuple(one for index, rule in enumerate(rules) for one in _expanded(index, rule))
    return NetworkPolicy(mode="allowlist", rules=expanded)


def rules_of(policy: NetworkPolicy) -> list[Rule]:
    """The rules that say of names what the policy does; those of its rules on addresses are left out."""
    rules = list(_folded(policy.rules))
    has_rest = any(rule.get("domain") == _ANYTHING_ELSE for rule in rules)
    if policy.mode == "open":
        return [*rules, _rule(_ANYTHING_ELSE, "allow")] if rules and not has_rest else rules
    return rules or [_rule(_ANYTHING_ELSE, "deny")]


def _expanded(index: int, rule: Rule) -> tuple[NetworkRule, ...]:
    if "include" in rule:
        if rule["include"] != "defaults" or "domain" in rule or "action" in rule:
            raise BadRequest(f'rule {index}: an include is {{"include": "defaults"}} and nothing else')
        return _EXPANDED
    action, domain = rule.get("action"), rule.get("domain")
    if not domain or (action != "allow" and action != "deny"):
        raise BadRequest(f"rule {index}: give a domain, and an action of allow or deny")
    return (NetworkRule(action=action, domain=domain),)


def _folded(rules: Sequence[NetworkRule]) -> Iterator[Rule]:
    """The rules on names, where the defaults stand all together as one."""
    at = 0
    while at < len(rules):
        if tuple(rules[at : at + len(_EXPANDED)]) == _EXPANDED:
            yield {"include": "defaults"}
            at += len(_EXPANDED)
            continue
        rule = rules[at]
        at += 1
        if rule.domain is not None:
            yield _rule(rule.domain, rule.action)


def _rule(domain: str, action: str) -> Rule:
    return {"domain": domain, "action": action}
