"""The drivers' suite on the driver `kubernetes`, with a real API server, kubelet and containerd."""

import pytest

from bay.testing.drivers import *  # noqa: F403 - the suite is the module's functions

pytestmark = pytest.mark.kubernetes
