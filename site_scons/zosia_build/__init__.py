"""Builders of a machine: kernel, llama.cpp, initramfs, ISO; and the manual and the benchmarks."""
