"""Read by SCons before SConstruct: what has to be right before anything else is opened, shown or interrupted."""

import os
import signal
import sys

from SCons.Script.Main import progress_display

# SCons' own chatter about reading files would mix with piped output.
progress_display.set_mode(0)

# Ctrl+C ends the reading of SConstruct without a word; nothing is written yet.
if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, signal.SIG_DFL)

# A standard stream that the caller closed would be the next file that is opened.
for number, name in enumerate(("stdin", "stdout", "stderr")):
    if getattr(sys, f"__{name}__") is None:
        descriptor = os.open(os.devnull, os.O_RDWR)
        os.dup2(descriptor, number)
        os.set_inheritable(number, True)  # the supervisor's, too
        # Whoever puts another stream in its place closes nothing.
        setattr(sys, name, os.fdopen(number, "r" if number == 0 else "w", closefd=False))

# What is missing would be told as a traceback, and `scons doctor` could not tell it at all.
try:
    if sys.version_info < (3, 11):  # noqa: UP036 - EnsurePythonVersion comes too late
        raise ImportError(f"Python 3.11 or later is needed, and this is {sys.version.split()[0]}")
    from zosia.settings import reading  # noqa: F401
except ImportError as error:
    needed = f"the Python package {error.name} is needed and was not found" if error.name else error
    from zosia.base import style  # which imports nothing that could be missing

    sys.stderr.write(style.error(f"{needed}. Type: ./scripts/bootstrap.sh\n"))
    sys.exit(2)
