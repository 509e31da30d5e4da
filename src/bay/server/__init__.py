"""The control plane: API, services, and the reconciler that makes rows come true."""
