"""Experiments as files."""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path

from jkofilter.errors import InputError
from jkofilter.experiments.contract import Experiment


def load(path: str | os.PathLike[str]) -> Experiment:
    """The ``SCENARIO`` of a Python file, loaded by its path, as if the file were run.

    The file may import its neighbours, and define dataclasses and whatever else looks itself up in ``sys.modules``.

    Raises:
        InputError: no such file, it fails to run, or it defines no SCENARIO.
    """
    file = Path(path)
    if not file.exists():
        raise InputError(f"scenario {str(path)!r} does not exist; give a path such as scenarios/sine_1d.py.")
    if file.suffix != ".py" or not file.is_file():
        raise InputError(f"scenario {str(path)!r} is not a Python file; give a path such as scenarios/sine_1d.py.")
    spec = importlib.util.spec_from_file_location(f"scenario_{file.stem}", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    folder = str(file.resolve().parent)
    sys.modules[spec.name] = module
    sys.path.insert(0, folder)
    try:
        spec.loader.exec_module(module)
    except BaseException as error:
        sys.modules.pop(spec.name, None)
        if not isinstance(error, Exception | SystemExit):
            raise
        first_line = (str(error).splitlines() or [""])[0].rstrip(".")
        raise InputError(f"scenario {str(path)!r} fails to load: {type(error).__name__}: {first_line}.") from error
    finally:
        if folder in sys.path:
            sys.path.remove(folder)
    experiment = getattr(module, "SCENARIO", None)
    if not isinstance(experiment, Experiment) or isinstance(experiment, type):
        raise InputError(
            f"scenario {str(path)!r} defines no SCENARIO = jkofilter.Scenario(...), FilterStudy(...) or FlowStudy(...)."
        )
    return experiment
