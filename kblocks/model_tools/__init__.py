"""What is done to a finished Keras model."""
