"""The async client, for asyncio and trio. `bay.client._sync` is generated from it."""
