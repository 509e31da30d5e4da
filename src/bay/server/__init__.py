"""The control plane: the API, its services, and the reconciler that makes the host agree with the rows."""
