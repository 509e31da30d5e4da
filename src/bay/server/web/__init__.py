"""The HTTP edge: authentication, limits, request bodies, replies and the audit, the same for every route.

A module here knows no noun of Bay but keys. Routes and services live in the folders of their nouns.
"""
