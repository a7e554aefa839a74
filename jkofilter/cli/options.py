"""What the commands share: options, seeds, names, and where they speak."""

from __future__ import annotations

import sys
from typing import Annotated

import typer
from rich.console import Console

from jkofilter.errors import InputError

Filters = Annotated[str | None, typer.Option(help="Names of the filters to run, separated by commas.")]
Seeds = Annotated[str | None, typer.Option(help="How many seeds (N), or which (a:b, b not included).")]
Out = Annotated[str | None, typer.Option(help="Folder for tables and pictures; out/SCENARIO by default.")]
Plots = Annotated[bool, typer.Option(help="Draw the pictures.")]


def parse_names(text: str | None, known: list[str]) -> list[str] | None:
    """Names separated by commas; a name may hold commas itself where it is one of the known ones.

    Raises:
        InputError: none at all.
    """
    if text is None:
        return None
    names: list[str] = []
    pieces = [piece.strip() for piece in text.split(",")]
    while pieces:
        # The longest run of pieces that is a known name, or else the next piece.
        ends = [end for end in range(len(pieces), 0, -1) if ", ".join(pieces[:end]) in known]
        end = ends[0] if ends else 1
        names.append(", ".join(pieces[:end]))
        pieces = pieces[end:]
    names = [name for name in names if name]
    if not names:
        raise InputError(f"filters must name at least one of {', '.join(known)}.")
    return names


def parse_seeds(text: str | None, default: int) -> list[int]:
    """Seeds from "N" (0 to N - 1) or "a:b" (a to b - 1).

    Raises:
        InputError: neither, or none at all.
    """
    if text is None:
        return list(range(default))
    try:
        low, high = (int(part) for part in text.split(":")) if ":" in text else (0, int(text))
    except ValueError as error:
        raise InputError(f"seeds must be a number N or a range a:b, got {text!r}.") from error
    if not 0 <= low < high:
        raise InputError(f"seeds must hold at least one seed of zero or more, got {text!r}.")
    return list(range(low, high))


def console() -> Console:
    """Standard output; of a fixed width where it is not a terminal, so that tables are not cut."""
    return Console(width=None if sys.stdout.isatty() else 140, highlight=False)


def complain(sentence: str, kind: str = "error") -> None:
    """Say on standard error, in one line, what is wrong."""
    print(f"{kind}: {' '.join(sentence.split())}", file=sys.stderr)


def warn(sentence: str) -> None:
    """Say on standard error, in one line, what is odd but stops nothing."""
    complain(sentence, "warning")
