"""Inputs of a build: the catalogue, downloads, checks, and the cache."""
