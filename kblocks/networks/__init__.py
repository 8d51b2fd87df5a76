"""Architectures, and what is known of one without building it."""
