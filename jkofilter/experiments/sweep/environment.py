"""What a record says of where it was made: versions, machine, git commit."""

from __future__ import annotations

import os
import platform
import subprocess
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from jkofilter._version import __version__

PACKAGES = ("torch", "numpy", "scipy", "numba", "filterpy")


@cache
def versions() -> dict[str, str]:
    """Of Python, of this package and of the libraries that compute."""
    found = {"python": platform.python_version(), "jkofilter": __version__}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


@cache
def machine() -> dict[str, Any]:
    """System, processor, cores and memory (GiB) of this machine; None for what it does not tell."""
    return {
        "system": platform.platform(),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "memory": _memory(),
    }


def _processor() -> str | None:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.processor() or platform.machine() or None)


def _memory() -> float | None:
    try:
        return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1)
    except (ValueError, OSError, AttributeError):
        return None


def commit() -> dict[str, Any] | None:
    """Commit of the repository that holds the working directory, and whether tracked files differ from it."""
    head = _git("rev-parse", "HEAD")
    if head is None:
        return None
    return {"hash": head, "dirty": bool(_git("status", "--porcelain", "--untracked-files=no"))}


def _git(*arguments: str) -> str | None:
    try:
        done = subprocess.run(["git", *arguments], capture_output=True, text=True, check=True, timeout=20)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
