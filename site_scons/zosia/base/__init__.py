"""Errors, output, files, processes and time limits, used by all other packages."""
