"""Events: lists, live streams and webhooks. The transaction that changes a state has written its event."""
