"""The `kubernetes` driver runs sessions as pods. `kube` has the verbs of the API, `pod_watch` the pods."""
