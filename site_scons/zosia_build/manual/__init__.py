"""The manual as a website."""
