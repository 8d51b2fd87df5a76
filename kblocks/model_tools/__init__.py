"""Tools that change, export or measure a finished Keras model."""
