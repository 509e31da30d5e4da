"""The client as it is written, for asyncio and trio. `bay.client._sync` is generated from it."""
