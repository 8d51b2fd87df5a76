"""Runs a search with one of Keras Tuner's own tuners."""
