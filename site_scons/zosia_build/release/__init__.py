"""What goes with a release: licences and sources."""
