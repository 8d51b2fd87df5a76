"""What a search keeps, who has which trial, and whether it is still the same search."""
