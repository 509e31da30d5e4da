"""The HTTP edge, the same for every route; it imports no folder of a noun, so shared shapes live here."""
