"""Preparations before SCons reads SConstruct: its output, Ctrl+C, the standard streams, and the Python packages."""

import os
import signal
import sys

from SCons.Script.Main import progress_display

# SCons' own messages about reading files would mix with piped output.
progress_display.set_mode(0)

# While SConstruct is read, Ctrl+C ends SCons without a traceback; nothing has been written yet.
if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, signal.SIG_DFL)

# If the caller closed a standard stream, the next file that is opened would take its place.
for number, name in enumerate(("stdin", "stdout", "stderr")):
    if getattr(sys, f"__{name}__") is None:
        descriptor = os.open(os.devnull, os.O_RDWR)
        os.dup2(descriptor, number)
        os.set_inheritable(number, True)  # the supervisor uses it, too
        # closefd: replacing this stream must not close the descriptor.
        setattr(sys, name, os.fdopen(number, "r" if number == 0 else "w", closefd=False))

# A missing package would end in a traceback, even in `scons doctor`.
try:
    if sys.version_info < (3, 11):  # noqa: UP036 - EnsurePythonVersion comes too late
        raise ImportError(f"Python 3.11 or later is needed, and this is {sys.version.split()[0]}")
    from zosia.settings import reading  # noqa: F401
except ImportError as error:
    needed = f"the Python package {error.name} is needed and was not found" if error.name else error
    from zosia.base import style  # imports nothing that could be missing

    sys.stderr.write(style.error(f"{needed}. Type: ./scripts/bootstrap.sh\n"))
    sys.exit(2)
