"""One family of architectures a file."""
