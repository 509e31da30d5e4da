"""What Bay does for its callers, one module for each noun. A service opens the one transaction of its call."""
