"""`zosia`, the command: an entrance that imports only what it needs, so that a prompt comes soon."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Callable, Sequence

from zosia.base.errors import ZosiaError

REFUSED, INTERRUPTED, BROKEN_PIPE = 2, 130, 141  # statuses, as zosia.machine.status and 128 + the signal


def main(argv: Sequence[str] | None = None) -> int:
    """Act on a command line, and return the exit status: that of a run, or 2 for an error."""
    words = sys.argv[1:] if argv is None else list(argv)
    gc.disable()  # what is imported stays, and looking for garbage in it takes time
    try:
        if words[:1] == ["--version"]:
            from zosia.base.version import VERSION

            print(f"zosia {VERSION}", flush=True)
            return 0
        if not words or words[0] == "run" or words[0].startswith("-"):
            from zosia.command import again

            if machine := again.remembered(words):
                return again.run(words, machine, _main)
        return _main()(words)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # else the interpreter's last flush fails, too
        return BROKEN_PIPE
    except KeyboardInterrupt:  # while modules are imported
        return INTERRUPTED
    except ZosiaError as error:  # ZOSIA_CACHE is no path, which an import finds
        from zosia.base import style

        print(style.error(error), file=sys.stderr)
    except ImportError as error:
        from zosia.base import style

        text = f"the Python package {error.name} is needed and was not found. Install zosia again"
        print(style.error(text), file=sys.stderr)
    return REFUSED


def _main() -> Callable[..., int]:
    from zosia.command import actions, line  # noqa: F401 - slow to import

    return line.main


if __name__ == "__main__":
    sys.exit(main())
