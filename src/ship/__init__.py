"""Ship is the runtime inside each sandbox."""

__version__ = "0.1.0"
