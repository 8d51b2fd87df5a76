"""Helpers that know Keras and the machine, but nothing of kblocks."""
