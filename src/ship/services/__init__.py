"""Services: commands that Ship starts, restarts and checks."""
