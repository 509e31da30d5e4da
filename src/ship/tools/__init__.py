"""Programs of Ship's own that run as the sandbox's user, each in a process that can be killed.

What they are asked to do may take for ever or a lot of memory: a regular expression, an archive. And what they may touch is decided
by the kernel, as for any program of that user. They get one JSON object as their argument and begin in the directory
that they work on, which they never leave. They import this package, `tree_tar` and the standard library.
"""
