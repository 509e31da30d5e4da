"""Services: programs that Ship starts, restarts and checks."""
