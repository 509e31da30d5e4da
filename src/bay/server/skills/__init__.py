"""Skills: what executions showed to work, stored, evaluated and released. Nothing here runs anything."""
