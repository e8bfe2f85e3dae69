"""Read by SCons before SConstruct: its own chatter about reading files would mix with piped output."""

from SCons.Script.Main import progress_display

progress_display.set_mode(0)
