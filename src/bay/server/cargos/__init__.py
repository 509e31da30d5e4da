"""Cargos as resources of their own, with quotas and disk usage. How files lie on the host is `bay.cargo`."""
