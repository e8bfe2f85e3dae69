"""Supply of a build: the bills of materials, the audit of the pins, and their renewal."""
