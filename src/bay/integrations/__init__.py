"""Sandboxes of Bay as backends of frameworks for agents, a module and an extra for each.

A module is glue over the SDK and is imported by name; `import bay` loads none of them.
"""
