"""The conformance suite on every driver of this tree."""

from bay.testing.drivers import *  # noqa: F403 - the suite is the module's functions
