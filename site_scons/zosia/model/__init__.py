"""Shape of a model, and the memory and arguments that follow from it: arithmetic only."""
