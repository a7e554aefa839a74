"""What a record says of a run that failed."""

from __future__ import annotations

import traceback
from pathlib import Path

from jkofilter.errors import FilterError, InputError


def sentence(error: Exception) -> str:
    """What went wrong, in one line: the toolkit's own errors speak for themselves, others with their type and place."""
    first = (str(error).splitlines() or [""])[0]
    if isinstance(error, FilterError | InputError) and first:
        return " ".join(str(error).split())
    frames = traceback.extract_tb(error.__traceback__)
    place = f" ({Path(frames[-1].filename).name}, line {frames[-1].lineno})" if frames else ""
    return f"{type(error).__name__}: {first}{place}"
