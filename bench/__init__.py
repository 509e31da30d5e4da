"""Measurements of Bay; `python -m bench` runs them."""
