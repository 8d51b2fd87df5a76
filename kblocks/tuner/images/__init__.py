"""The images of a search: where they come from, and how they are split."""
