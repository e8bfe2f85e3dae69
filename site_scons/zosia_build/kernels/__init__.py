"""Kernels that distributions have built."""
