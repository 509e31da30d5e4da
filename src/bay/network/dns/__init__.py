"""The DNS forwarder answers the queries of sandboxes, as far as their network policies allow.

`forwarder` opens a resolver for each sandbox and queries the upstream resolvers. Nothing here changes the
kernel: the network manager hands in an `Opener`.
"""
