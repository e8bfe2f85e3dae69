"""llama.cpp's own web page, for `scons ui`."""
