"""`zosia`, the command: what it takes, how it says things, and what it does."""
