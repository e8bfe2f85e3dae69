"""One running machine: the supervisor, saved states, and the terminal."""
