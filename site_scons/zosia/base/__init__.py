"""Errors, output, files, processes and time limits: what every other room uses."""
