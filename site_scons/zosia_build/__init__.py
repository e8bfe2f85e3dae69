"""What builds a machine: kernel, llama.cpp, initramfs, ISO, the manual and the benchmarks."""
