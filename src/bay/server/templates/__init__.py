"""Templates: named images made of sandboxes, with what sandboxes from them begin with.

`freezing` makes one of a checkpoint, whoever asks; `maker` makes those that are asked for of a sandbox.
"""
