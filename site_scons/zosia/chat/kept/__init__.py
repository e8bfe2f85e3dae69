"""Chats that are kept: transcripts, states of machines, and their encryption."""
