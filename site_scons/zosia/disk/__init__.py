"""Disk image of a model, and the record beside it."""
