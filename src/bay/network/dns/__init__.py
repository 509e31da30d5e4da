"""The DNS forwarder answers sandboxes as their policies allow; the network manager hands in an `Opener`."""
