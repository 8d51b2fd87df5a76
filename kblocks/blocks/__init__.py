"""The blocks that belong to no family."""
