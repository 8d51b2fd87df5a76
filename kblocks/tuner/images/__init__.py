"""The images of a search: loading and splitting."""
