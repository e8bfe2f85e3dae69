"""zosia's library: what the build and the running machine do, in plain Python without SCons."""
