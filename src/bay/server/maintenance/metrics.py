"""The metrics of a Bay, in the text format that Prometheus reads.

Names and units follow https://prometheus.io/docs/practices/naming/; no label has a value of a caller.
"""

from dataclasses import dataclass

from prometheus_client import CollectorRegistry, Gauge, generate_latest

from bay import __version__
from bay.clock import Clock
from bay.store.engine import Store
from bay.store.image_totals import ImageTotals, totals


@dataclass(kw_only=True, eq=False)
class Metrics:
    """The service behind `/metrics`: gauges that are read when they are asked for."""

    store: Store
    clock: Clock

    async def text(self) -> bytes:
        """All of them, of this moment."""
        async with self.store.read() as db:
            found = await totals(db, self.clock())
        return _written(found)


def _written(found: ImageTotals) -> bytes:
    registry = CollectorRegistry()

    def gauge(name: str, words: str, value: int) -> None:
        Gauge(name, words, registry=registry).set(value)

    Gauge("bay_info", "The version of Bay; always 1", ["version"], registry=registry).labels(__version__).set(
        1
    )
    states = Gauge("bay_images", "Images of registries and archives", ["state"], registry=registry)
    states.labels("ready").set(found.images)
    states.labels("pulling").set(found.pulling)
    gauge("bay_templates", "Templates that are ready", found.templates)
    gauge("bay_image_layers", "Layers that images and templates have", found.layers)
    gauge("bay_image_layers_bytes", "Their bytes, each layer once", found.layer_bytes)
    gauge(
        "bay_template_files_bytes", "Bytes of the workspaces that templates begin with", found.workspace_bytes
    )
    gauge("bay_images_unused", "Images that `bay image prune` would remove", found.unused)
    gauge("bay_images_unused_bytes", "Bytes of layers that it would free", found.unused_bytes)
    gauge("bay_build_cache_steps", "Snapshots after steps of builds", found.cached_steps)
    gauge("bay_build_cache_bytes", "Their bytes; what snapshots share counts for each", found.cached_bytes)
    return generate_latest(registry)
