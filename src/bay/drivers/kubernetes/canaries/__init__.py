"""The trials of `bay doctor` in a cluster: pods that try what a sandbox could try, and claims as Bay makes
them. `run` has the checks in order, `inside` is the program in such a pod.
"""
