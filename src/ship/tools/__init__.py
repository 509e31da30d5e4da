"""Tools: programs of Ship's that run as the sandbox's user, each in a process that can be killed.

Their work, on a regular expression or an archive, may take for ever or a lot of memory. The kernel decides
which files they may touch, as for any program of that user. They get one JSON object as their argument and
begin in the directory that they work on, which they never leave. They import this package, `tree_tar` and the
standard library.
"""
