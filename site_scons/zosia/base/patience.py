"""Timeout multiplier, for slow machines."""

from __future__ import annotations

import os
import re

from zosia.base.errors import ZosiaError

FACTOR = "ZOSIA_TIMEOUT_FACTOR"


def patience() -> float:
    """Return the timeout multiplier (ZOSIA_TIMEOUT_FACTOR, default 1).

    Raises:
        ZosiaError: the variable is not a number above 0.
    """
    text = os.environ.get(FACTOR, "1")
    if not re.fullmatch(r"[0-9]{1,6}(\.[0-9]{1,6})?", text) or float(text) == 0:
        raise ZosiaError(f"{FACTOR}={text} is not a number above 0", f"Type for example {FACTOR}=3")
    return float(text)
