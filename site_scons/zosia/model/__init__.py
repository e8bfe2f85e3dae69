"""A model's shape, and the memory and arguments that follow from it: arithmetic only."""
