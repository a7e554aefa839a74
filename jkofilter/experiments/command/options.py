"""What the commands share: their options, and how names and seeds are written."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated

import typer

from jkofilter.errors import InputError

Filters = Annotated[str | None, typer.Option(help="Names of the filters to run, separated by commas.")]
Seeds = Annotated[str | None, typer.Option(help="How many seeds (N), or which (a:b, b not included).")]
Out = Annotated[str | None, typer.Option(help="Folder for tables and pictures; out/SCENARIO by default.")]
Plots = Annotated[bool, typer.Option(help="Draw the pictures.")]
Threads = Annotated[int, typer.Option(help="Threads of each run.")]


def parse_names(text: str | None, known: Iterable[str]) -> list[str] | None:
    """Names separated by commas; a name may hold commas itself where it is one of the known ones.

    Raises:
        InputError: none at all.
    """
    if text is None:
        return None
    names, known = list[str](), list(known)
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


def parse_seeds(text: str | None) -> list[int] | None:
    """Seeds from "N" (0 to N - 1) or "a:b" (a to b - 1); None where there is no text.

    Raises:
        InputError: neither, or none at all.
    """
    if text is None:
        return None
    try:
        low, high = (int(part) for part in text.split(":")) if ":" in text else (0, int(text))
    except ValueError as error:
        raise InputError(f"seeds must be a number N or a range a:b, got {text!r}.") from error
    if not 0 <= low < high:
        raise InputError(f"seeds must hold at least one seed of zero or more, got {text!r}.")
    return list(range(low, high))
