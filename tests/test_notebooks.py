"""The notebooks run from top to bottom, and what they store is light."""

import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

NOTEBOOKS = sorted((Path(__file__).parent.parent / "notebooks").glob("*.ipynb"))
SLOW = ("published_experiments", "when_particles_collapse")
LIGHT = 300_000
"""Bytes of a file with its outputs."""


def named(path: Path) -> str:
    return path.stem


def code_cells(path: Path) -> list[nbformat.NotebookNode]:
    return [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]


@pytest.mark.parametrize(
    "path",
    [pytest.param(path, marks=pytest.mark.slow) if path.stem in SLOW else path for path in NOTEBOOKS],
    ids=named,
)
def test_a_notebook_runs(path: Path, tmp_path: Path) -> None:
    # In a process of its own, where it stands: notebooks look for the scenarios beside them.
    command = [Path(sys.executable).with_name("jupyter-execute"), path, "--output", tmp_path / path.name]
    done = subprocess.run([*command, "--timeout", "300"], capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    outputs = [output for cell in code_cells(tmp_path / path.name) for output in cell.outputs]
    assert outputs
    assert not [output.text for output in outputs if output.get("name") == "stderr"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=named)
def test_a_notebook_is_stored_with_outputs_that_are_light(path: Path) -> None:
    assert path.stat().st_size < LIGHT
    code = code_cells(path)
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    assert any(cell.outputs for cell in code)
