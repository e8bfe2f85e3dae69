"""Library that runs a machine: plain Python that needs neither SCons nor the build."""
