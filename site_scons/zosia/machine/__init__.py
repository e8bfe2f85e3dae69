"""A machine as a value, its QEMU command line, and the contract between host and guest."""
