"""A search by one of Keras Tuner's own tuners."""
