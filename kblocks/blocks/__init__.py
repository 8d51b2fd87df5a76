"""How a block is written, and every block but the heads."""
