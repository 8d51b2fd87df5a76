"""The Keras layer of each primitive."""
