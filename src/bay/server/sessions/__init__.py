"""Sessions of compute: their life cycle, how a call wakes and holds one, quotas, and the view of a sandbox.

Routes live elsewhere. A module here starts and stops nothing: it writes a target, and the reconciler acts.
"""
