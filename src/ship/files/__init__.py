"""Files: the workspace and every other path of the sandbox, opened as the sandbox's user."""
