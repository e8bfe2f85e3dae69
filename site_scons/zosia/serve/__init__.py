"""The gate, HTTP on this computer, and the machine behind it, which has no network."""
