"""What a block computes, as data, and its arithmetic: sizes and costs."""
