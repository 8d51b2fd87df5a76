"""Blocks and networks as figures and tables."""
