"""Choices, and the spaces that they span."""
