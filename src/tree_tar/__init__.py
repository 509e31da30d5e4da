"""The package `tree_tar` reads and writes trees as tar archives. It imports the standard library only.

An archive, or a directory that another program writes to, may be an attacker's: no path is resolved as a
whole, every number has a bound, and memory holds one chunk and one sparse map. Rejected: `tarfile`, whose
extraction filters were bypassed (CVE-2025-4517), which loops on a negative size (CVE-2025-8194), reads
headers of any length into memory, and cannot parse what is pushed to it.
"""
