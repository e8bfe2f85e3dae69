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
        setattr(sys, name, os.fdopen(number, "r" if number == 0 else "w"))
