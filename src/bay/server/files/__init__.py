"""Files of a sandbox, through Ship. Whole file systems, checkpoints and cargos, have folders of their own."""
