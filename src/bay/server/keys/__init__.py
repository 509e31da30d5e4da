"""API keys and the audit as callers see them. `web.auth` authenticates requests."""
