"""Networks as data, and what can be computed of one without building a Keras model."""
