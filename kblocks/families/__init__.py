"""Published networks and their search spaces, one family a file."""
