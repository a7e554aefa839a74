"""The command line."""

from jkofilter.cli.app import main

__all__ = ["main"]
