"""The README's snippets run as they stand, in order."""

import re
from pathlib import Path

import pytest

README = Path(__file__).parent.parent / "README.md"


def test_snippets_run_and_agree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    snippets = re.findall(r"```python\n(.*?)```", README.read_text(), flags=re.DOTALL)
    assert len(snippets) == 6
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    for snippet in snippets:
        exec(compile(snippet, str(README), "exec"), names)
    assert (tmp_path / "densities.png").stat().st_size > 10_000
    assert names["belief"].log_evidence == names["result"].log_evidence[-1].item()  # type: ignore[attr-defined]


def test_pictures_are_there() -> None:
    pictures = re.findall(r"!\[.*?\]\((.*?)\)", README.read_text())
    assert pictures
    assert [picture for picture in pictures if not (README.parent / picture).is_file()] == []
