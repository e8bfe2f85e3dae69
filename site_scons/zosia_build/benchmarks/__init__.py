"""Benchmarks: what `scons bench` measures, and experiments that are run by hand."""
