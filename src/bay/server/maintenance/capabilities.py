"""The service that tells what a server can do, by its driver and its storage."""

from dataclasses import dataclass

from bay.cargo.base import CargoStore, CheckpointArchives, CheckpointFiles, CheckpointStore
from bay.drivers.base import Driver, Metered, NamedImages, Resizable, Sampled
from bay.models import OtherImages, ServerCapabilities


@dataclass(kw_only=True, eq=False)
class Abilities:
    """The service behind `/v1/capabilities`."""

    driver: Driver
    cargo: CargoStore
    has_samples: bool
    """The setting `samples`."""

    def get(self) -> ServerCapabilities:
        """The abilities that the services ask for before they act."""
        driver, cargo = self.driver, self.cargo
        here = driver.capabilities
        return ServerCapabilities(
            driver=driver.name,
            isolations=here.isolation,
            pause=here.pause,
            memory=here.memory,
            checkpoints=cargo.checkpoint_kind if isinstance(cargo, CheckpointStore) else None,
            exports=isinstance(cargo, CheckpointFiles | CheckpointArchives),
            persist=here.persist,
            images=here.images,
            other_images=_other_images(here.other_images),
            network=here.network,
            network_rules=here.network_rules,
            network_headers=here.broker,
            egress=here.egress,
            resize=isinstance(driver, Resizable),
            usage=isinstance(driver, Metered),
            metrics=self.has_samples and isinstance(driver, Sampled | Metered),
            volumes=here.volumes,
            secret_files=here.secret_files,
        )


def _other_images(taken: str | NamedImages | None) -> OtherImages | None:
    match taken:
        case NamedImages():
            return "names" if taken.admitted else None
        case "layers":
            return "layers"
        case _:
            return None
