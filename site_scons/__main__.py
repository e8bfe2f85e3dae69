"""`python site_scons MODULE ARGUMENT...` runs a module of zosia. Unlike PYTHONPATH, it takes a path with a colon."""

import runpy
import sys

sys.argv.pop(0)
runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
