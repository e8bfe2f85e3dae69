"""The terminal program: chats that are kept when one wants it, files as context, Markdown."""
