"""API keys and the audit, as their callers see them.

Authentication of a request lives in `web.auth`.
"""
