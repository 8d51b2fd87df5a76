"""The Keras layer of each op."""
