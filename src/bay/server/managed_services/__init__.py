"""Services of a sandbox: commands that Ship keeps running, their rules, routes and state.

"Service" means this noun here; the service layer of Bay is the `service` module of each folder.
"""
