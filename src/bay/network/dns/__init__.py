"""The DNS forwarder: it answers the queries of sandboxes, as far as their network policies allow.

`forwarder` opens a resolver for each sandbox and asks the upstream resolvers. Nothing here changes the kernel: the
manager of networks hands in an `Opener`.
"""
