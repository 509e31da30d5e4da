"""Bay's egress proxy: for sandboxes that reach nothing else, it holds the rules of their network policies.

It speaks HTTP: CONNECT, and requests for `http://` URLs. It resolves names itself, and connects to an address
that it has judged, so no answer of a resolver can change in between.
"""
