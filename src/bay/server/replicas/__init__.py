"""Several Bays on one database: which of them does what, and how they tell one another of changes.

A Bay that is alone has the same parts, which then own everything and tell nobody. No rule of a noun is here.
"""
