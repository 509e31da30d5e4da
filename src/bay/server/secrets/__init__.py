"""Secrets: values that owners give Bay to keep. The vault reads them, and the delivery hands them out."""
