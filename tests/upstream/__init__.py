"""Upstream's own tests of llama-server, run against the gate: `python -m tests.upstream`.

They come with llama.cpp's sources, and start llama-server themselves. Here each of them gets a machine that serves,
with the same arguments and a model of our own in place of theirs, which would be downloaded. `left-out.toml` lists what
can't be run so, and why.
"""
