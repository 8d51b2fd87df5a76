"""What a block computes, as data, and the arithmetic of it."""
