"""Website of the manual."""
