"""Linux as Bay uses it: system calls, netlink, btrfs, nftables, mounts and processes, each interface in a module.

Nothing here knows a sandbox, a setting or a row; a module raises `OSError` or an error of its own.
"""
