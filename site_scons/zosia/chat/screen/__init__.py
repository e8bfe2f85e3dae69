"""An answer as rows of a terminal."""
