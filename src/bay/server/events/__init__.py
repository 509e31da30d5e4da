"""Events: lists, live streams and webhooks.

Every event is written by the transaction that changes the state; nothing here makes one up.
"""
