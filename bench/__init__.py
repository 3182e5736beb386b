"""Measures what the project promises, against plain code under the same load: `python -m bench`."""
