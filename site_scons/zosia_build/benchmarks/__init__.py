"""What `scons bench` measures, and how."""
