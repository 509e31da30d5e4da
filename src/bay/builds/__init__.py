"""Plans of builds: Dockerfiles, `.dockerignore` and steps, read into data. The code that acts on a plan, and
knows of sandboxes, lies elsewhere.
"""
