"""Foreign wire formats, one folder each: they parse, make one call of a service that Bay's own routes call,
and word its answer.

A folder has the tables of names of its format and nothing else that is kept. No rule of a noun belongs here.
"""
