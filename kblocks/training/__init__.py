"""Compiling and fitting."""
