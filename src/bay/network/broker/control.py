"""The words between Bay and a broker's process: lines of JSON over a pair of sockets.

Bay → broker    {"sites": {domain: {"pem", "ports"}}, "trust": [path…], "uid"}     the first line
                {"addresses": [text…], "headers": [[name, value]…]}                an answer
                {"refused": {"status", "reason", "message"}}                       another
broker → Bay    {"ask": domain}                                                    one at a time
                {"note": [domain, reason]}
"""

from typing import Final

LINE_BYTES: Final = 4096
"""The longest line of a broker. Bay treats it as a stranger's, since a broker reads what strangers send."""

REASONS: Final = frozenset(
    (
        "pinned",
        "other_host",
        "method",
        "malformed",
        "upstream",
        "untrusted",
        "refused",
        "secret",
        "limit",
        "port",
        "unused",
    )
)
"""Why a connection or a request went nowhere; docs/network.md explains them."""
