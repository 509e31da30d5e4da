"""Object stores, which keep checkpoints away from the machine: `base` is the contract, `s3` a client."""
