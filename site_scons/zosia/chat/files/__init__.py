"""Files whose text goes into a chat."""
