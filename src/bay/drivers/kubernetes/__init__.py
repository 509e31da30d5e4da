"""The `kubernetes` driver runs sessions as pods; `kube` alone knows the client library, which it loads."""
