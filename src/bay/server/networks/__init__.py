"""Network policies of sandboxes, as callers set and read them.

The kernel's side is `bay.network`; the reconciler applies a policy.
"""
