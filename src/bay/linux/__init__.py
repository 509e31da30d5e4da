"""Linux interfaces that Bay calls: system calls, netlink, btrfs, nftables, mounts and processes.

Nothing here knows a sandbox, a setting or a row; a module raises `OSError` or an error of its own.
"""
