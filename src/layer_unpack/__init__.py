"""The package `layer_unpack` makes the tree of an image's layer from its tar, in a cage that Bay makes.

It parses what strangers made, so it runs as root of a user namespace of its own, with one directory to write
in, and says what it found in lines of JSON. It imports the standard library, `tree_tar` and `zstandard` only.
"""
