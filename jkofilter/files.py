"""Files that appear whole or not at all, in folders that can be written to; documents that say what they are."""

from __future__ import annotations

import os
import pickle
import struct
import warnings
import zipfile
import zlib
from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from types import UnionType
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

import torch
from jaxtyping import jaxtyped

from jkofilter.errors import InputError

T = TypeVar("T")

# What torch.load raises for a file of another kind, one cut short, and one that would run code.
_UNREADABLE = (
    pickle.UnpicklingError,
    zipfile.BadZipFile,
    zlib.error,
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


class DamagedError(ValueError):
    """A document of the right format that lacks something, or holds something else in its place."""


class Table(dict[str, Any]):
    """Part of a document, whose entries are asked for by name: one that is missing or of another kind is damage."""

    def __missing__(self, name: str) -> Any:
        raise DamagedError(f"{name!r} is missing")

    def of(self, name: str, kind: type[T]) -> T:
        """The entry of that name.

        Raises:
            DamagedError: it is missing, or not of that kind.
        """
        value = self[name]
        if not isinstance(value, kind):
            raise DamagedError(f"{name!r} is a {type(value).__name__} and no {kind.__name__}")
        return value

    def table(self, name: str) -> Table:
        """The entry of that name, a table of its own."""
        return Table(self.of(name, dict))

    def tables(self, name: str) -> list[Table]:
        """The entry of that name, a list of tables."""
        entries = self.of(name, list)
        if not all(isinstance(entry, dict) for entry in entries):
            raise DamagedError(f"{name!r} holds something else than tables")
        return [Table(entry) for entry in entries]

    def one_of(self, name: str, kinds: dict[str, T]) -> T:
        """Which of some named kinds the entry names."""
        value = self.of(name, str)
        if value not in kinds:
            raise DamagedError(f"{name!r} is {value!r}, and none of {', '.join(kinds)}")
        return kinds[value]

    def built(self, kind: type[T]) -> T:
        """The dataclass whose fields the entries are.

        Raises:
            DamagedError: a field without a default is missing, or an entry is no field, or not of a field's type.
        """
        known = fields(kind)  # type: ignore[arg-type]
        needed = {f.name for f in known if f.default is MISSING and f.default_factory is MISSING}
        if needed - set(self):
            raise DamagedError(f"{', '.join(sorted(needed - set(self)))} of a {kind.__name__} is missing")
        if set(self) - {f.name for f in known}:
            raise DamagedError(f"a {kind.__name__} has no {', '.join(sorted(set(self) - {f.name for f in known}))}")
        hints = get_type_hints(kind)
        # Within the context axes of one name have one length in all tensors.
        with jaxtyped("context"):
            for f in known:
                if f.init and f.name in self and not fits(self[f.name], hints[f.name]):
                    wanted = getattr(hints[f.name], "__name__", str(hints[f.name]))
                    raise DamagedError(f"{f.name!r} is a {type(self[f.name]).__name__} and no {wanted}")
        return kind(**self)


def fits(value: Any, hint: Any) -> bool:
    """Whether ``value`` is of the type in an annotation; inside a ``jaxtyped`` context shapes have to match as well."""
    kind, inner = get_origin(hint), get_args(hint)
    if hint is Any:
        return True
    if kind in (Union, UnionType):
        return any(fits(value, one) for one in inner)
    if kind is tuple:
        whole = inner[:1] * len(value) if isinstance(value, tuple) and inner[1:] == (Ellipsis,) else inner
        return isinstance(value, tuple) and len(value) == len(whole) and all(map(fits, value, whole))
    if kind is Mapping:
        return isinstance(value, dict) and all(fits(k, inner[0]) and fits(v, inner[1]) for k, v in value.items())
    if hint is float:
        return isinstance(value, float | int) and not isinstance(value, bool)
    return isinstance(value, hint)


@dataclass(frozen=True)
class Format:
    """A kind of file.

    Attributes:
        name: the mark in the document.
        version: of what is written today; files of older ones are read.
        what: the file in words, for messages.
        unmarked: whether a document without today's mark is one of release 0.1.0.
    """

    name: str
    version: int
    what: str
    unmarked: Callable[[Table], bool]

    def save(self, path: str | os.PathLike[str], document: dict[str, Any]) -> None:
        """Write plain tensors and numbers to one file, in torch's format, with the mark.

        Raises:
            InputError: the folder of ``path`` is not there, or the file cannot be written.
        """
        save_tensors(path, {"format": self.name, "version": self.version, **document})

    def load(self, path: str | os.PathLike[str], decode: Callable[[Table], T]) -> T:
        """What ``decode`` makes of a file of this format; no code in the file is run.

        What ``decode`` raises shows as it is, unless it says that the document is damaged.

        Raises:
            InputError: the file is missing, of another kind, of a newer version, or damaged.
        """
        name, document = os.fspath(path), self._marked(path)
        try:
            return decode(document)
        except DamagedError as error:
            raise InputError(f"path {name!r} is {self.what}, but damaged: {error}.") from error

    def _marked(self, path: str | os.PathLike[str]) -> Table:
        """The document in a file without its mark."""
        name, found = os.fspath(path), _read(path)
        document = Table(found) if isinstance(found, dict) else Table()
        mark, version = document.get("format"), document.get("version")
        if mark == self.name and isinstance(version, int):
            if version > self.version:
                raise InputError(f"path {name!r} was written by a newer version of jkofilter; upgrade to read it.")
            return Table({key: value for key, value in document.items() if key not in ("format", "version")})
        if found is _UNKNOWN or not self.unmarked(document):
            raise InputError(f"path {name!r} is not {self.what}.")
        return document


_UNKNOWN = object()


def _read(path: str | os.PathLike[str]) -> Any:
    """What a file of torch's format holds; _UNKNOWN for any other."""
    try:
        with warnings.catch_warnings():
            # Of pickles that torch has not written, which it then refuses.
            warnings.simplefilter("ignore")
            if zipfile.is_zipfile(path):
                with zipfile.ZipFile(path) as archive:
                    # torch does not look at the checksums that it writes.
                    if archive.testzip() is not None:
                        return _UNKNOWN
            return torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise InputError(f"path {os.fspath(path)!r} does not exist; give a file written by save().") from error
    except _UNREADABLE:
        return _UNKNOWN


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
