"""HTTP: what of it is read, refused, sent and passed on."""
