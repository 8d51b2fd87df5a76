"""Compiling and training models."""
