"""Puppet kubelets: thousands of pods of a real API server, in which nothing runs but one puppet of all Ships.

`python -m bench.puppets` measures a whole Bay with them; docs/scaling.md has what it found.
"""
