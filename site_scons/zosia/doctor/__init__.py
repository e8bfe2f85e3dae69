"""Checks whether a run can work on this host."""
