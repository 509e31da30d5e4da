"""Network policies as callers set and read them. The kernel's side is `bay.network`."""
