"""Files that appear whole or not at all, in folders that can be written to."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from jkofilter.errors import InputError


def require_writable(folder: str | os.PathLike[str]) -> Path:
    """``folder``, made if it is not there.

    Raises:
        InputError: it cannot be made or written to.
    """
    path = Path(folder)
    probe = path / ".jkofilter-probe"
    try:
        path.mkdir(parents=True, exist_ok=True)
        probe.write_text("")
        probe.unlink()
    except OSError as error:
        raise InputError(
            f"out {str(folder)!r} cannot be written to ({error.strerror}); give another folder."
        ) from error
    return path


def written_whole(path: Path, write: Callable[[Path], object]) -> Path:
    """``path``, made by ``write`` under another name first, so that it appears whole or not at all."""
    part = path.with_name(path.name + ".part")
    try:
        write(part)
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
    return path
