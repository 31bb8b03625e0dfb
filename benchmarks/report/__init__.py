"""Stored results as tables, as a page of the documentation, and as pictures."""
