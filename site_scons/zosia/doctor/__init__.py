"""Checks of `scons doctor`: can a run work on this host?"""
