"""Files that appear whole or not at all, in folders that can be written to."""

from __future__ import annotations

import os
import pickle
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import torch

from jkofilter.errors import InputError

Content = TypeVar("Content")

# What torch.load raises for a file of another kind, cut short or unsafe, and what a document of another shape does.
_OF_ANOTHER_KIND = (
    pickle.UnpicklingError,
    struct.error,
    EOFError,
    RuntimeError,
    ValueError,
    OSError,
    AttributeError,
    IndexError,
    KeyError,
    TypeError,
)


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


def save_tensors(path: str | os.PathLike[str], document: dict[str, Any]) -> None:
    """Write plain tensors and numbers to one file, in torch's format.

    Raises:
        InputError: the folder of ``path`` is not there, or the file cannot be written.
    """
    name = os.fspath(path)
    if not Path(path).absolute().parent.is_dir():
        raise InputError(f"path {name!r} lies in a folder that does not exist; make the folder first.")
    try:
        written_whole(Path(path), lambda part: torch.save(document, part))
    except (OSError, RuntimeError) as error:
        # A RuntimeError is how torch says that it cannot open a file, or write on.
        raise InputError(f"path {name!r} cannot be written to; give another.") from error


def load_tensors(path: str | os.PathLike[str], decode: Callable[[Any], Content], what: str) -> Content:
    """What ``decode`` makes of a file that ``save_tensors`` wrote; no code in the file is run.

    Raises:
        InputError: the file is missing, or is none that ``decode`` can read; says that it is not ``what``.
    """
    try:
        return decode(torch.load(path, map_location="cpu", weights_only=True))
    except FileNotFoundError as error:
        raise InputError(f"path {os.fspath(path)!r} does not exist; give a file written by save().") from error
    except _OF_ANOTHER_KIND as error:
        raise InputError(f"path {os.fspath(path)!r} is not {what}.") from error
