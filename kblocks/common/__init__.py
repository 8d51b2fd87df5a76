"""What knows Keras and the machine, and nothing of kblocks."""
