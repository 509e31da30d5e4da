"""Ship: the runtime inside each sandbox."""
