"""Values of llama.cpp's options that a user chooses from."""

CACHE_TYPES = ("f16", "q8_0", "q4_0")  # of the KV cache, each about half of the one before
REASONING = ("off", "on", "low", "medium", "high")  # efforts
