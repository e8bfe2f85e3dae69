"""The model's disk image, and the record beside it."""
