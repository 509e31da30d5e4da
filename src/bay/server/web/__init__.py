"""The HTTP edge: authentication, limits, request bodies, replies and the audit, the same for every route.

A module here imports no folder of a noun: it has keys, and the shapes that several nouns share. Routes and
services live in the folders of their nouns.
"""
