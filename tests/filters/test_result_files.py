"""Files of results: those of release 0.1.0, what their mark says, and damage told apart from faults of our own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import jkofilter as jf
from jkofilter.beliefs.info import StepInfo
from jkofilter.filters import result as result_module

FILES = Path(__file__).parent / "files"
X = torch.tensor([[0.0, 0.0], [1.0, -1.0], [0.25, 0.75]], dtype=torch.float64)


def test_a_result_that_release_0_1_0_saved_is_what_it_was() -> None:
    """Figures printed by the run that saved it; the law is a fitted law under four maps."""
    back = jf.FilterResult.load(FILES / "jko_0.1.0.pt")
    assert type(back.final) is jf.TransportBelief
    assert len(back.final.maps) == 4
    found = back.final.log_prob(X)
    exact = torch.tensor([-2.567968651997628, -0.7193439947080508, -2.672536891472318], dtype=torch.float64)
    torch.testing.assert_close(found, exact, rtol=1e-9, atol=1e-9)
    assert back.means.tolist()[1] == pytest.approx([0.49988881334444035, -0.43118764150428934], rel=1e-12)
    assert back.log_evidence.tolist() == pytest.approx([-2.2456918290883405] * 2, rel=1e-12)
    assert [info.status for info in back.infos] == ["ok", "skipped"]
    assert len(back.predict_infos) == 3


def test_a_gaussian_result_and_a_flow_of_release_0_1_0_are_what_they_were() -> None:
    back = jf.FilterResult.load(FILES / "kalman_0.1.0.pt")
    assert back.means.tolist() == [[pytest.approx(0.24)], [pytest.approx(0.14556735833103202)]]
    assert back.final.covariance.item() == pytest.approx(0.8917317734107099, rel=1e-12)
    assert len(back.beliefs) == 2
    flow = jf.JKOFlow.load(FILES / "flow_0.1.0.pt")
    exact = torch.tensor([-2.586881546055606, -1.699014554655729, -2.2435168732959894], dtype=torch.float64)
    torch.testing.assert_close(flow.final.log_prob(X), exact, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    ("name", "load", "mark"),
    [
        ("jko_0.1.0.pt", jf.FilterResult.load, "jkofilter result"),
        ("flow_0.1.0.pt", jf.JKOFlow.load, "jkofilter flow"),
    ],
)
def test_files_say_what_they_are_and_which_version(name: str, load: Any, mark: str, tmp_path: Path) -> None:
    file = tmp_path / "file.pt"
    load(FILES / name).save(file)
    document = torch.load(file, weights_only=True)
    assert (document["format"], document["version"]) == (mark, 1)
    load(file)
    torch.save(document | {"version": 2}, file)
    with pytest.raises(jf.InputError, match=r"written by a newer version of jkofilter; upgrade to read it\.$"):
        load(file)
    torch.save(document | {"format": "jkofilter"}, file)
    if name.startswith("flow"):
        with pytest.raises(jf.InputError, match="is not a flow written by"):
            load(file)


def _document(tmp_path: Path) -> dict[str, Any]:
    file = tmp_path / "sound.pt"
    jf.FilterResult.load(FILES / "jko_0.1.0.pt").save(file)
    return torch.load(file, weights_only=True)


def _without(*path: Any) -> Callable[[dict[str, Any]], None]:
    def spoil(document: Any) -> None:
        for key in path[:-1]:
            document = document[key]
        del document[path[-1]]

    return spoil


def _with(value: Any, *path: Any) -> Callable[[dict[str, Any]], None]:
    def spoil(document: Any) -> None:
        for key in path[:-1]:
            document = document[key]
        document[path[-1]] = value

    return spoil


FINAL = ("final", "fields")
DAMAGE: dict[str, tuple[Callable[[dict[str, Any]], None], str]] = {
    "no means": (_without("means"), "means of a FilterResult is missing"),
    "no infos": (_without("infos"), "'infos' is missing"),
    "infos a number": (_with(3, "infos"), "'infos' is a int and no list"),
    "infos of numbers": (_with([3, 4], "infos"), "'infos' holds something else than tables"),
    "an info too few": (_without("infos", 0), "do not belong together"),
    "an info with a colour": (_with({"colour": 1}, "infos", 0, "fields"), "a StepInfo has no colour"),
    "means a list": (_with([1.0], "means"), "'means' is a list and no Tensor"),
    "a belief of no kind": (_with("Hunch", "final", "type"), "'type' is 'Hunch', and none of BenesBelief"),
    "a belief without time": (_without(*FINAL, "time"), "time of a TransportBelief is missing"),
    "a prior of no kind": (_with("hunch", *FINAL, "prior", "kind"), "'kind' is 'hunch'"),
    "a prior without mean": (_without(*FINAL, "prior", "mean"), "'mean' is missing"),
    "a map of no kind": (_with("hunch", *FINAL, "maps", 0, "kind"), "'kind' is 'hunch'"),
    "a map without shift": (_without(*FINAL, "maps", 0, "parameters", "shift"), "'shift' is missing"),
    "a map of words": (_with("x", *FINAL, "maps", 0, "parameters", "shift"), "something else than tensors"),
    "a pool without scores": (_without(*FINAL, "pool", "score"), "score of a Pool is missing"),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_a_damaged_result_says_what_is_wrong_with_it(name: str, tmp_path: Path) -> None:
    spoil, words = DAMAGE[name]
    document, file = _document(tmp_path), tmp_path / "damaged.pt"
    spoil(document)
    torch.save(document, file)
    with pytest.raises(jf.InputError, match=r"^path .* is a result written by .*, but damaged: .*\.$") as caught:
        jf.FilterResult.load(file)
    assert words in str(caught.value)


@pytest.mark.parametrize("fault", [KeyError("x"), AttributeError("x"), TypeError("x"), ValueError("x")])
def test_a_fault_of_our_own_in_reading_shows_as_itself(fault: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise fault

    monkeypatch.setattr(result_module, "decoded_belief", broken)
    with pytest.raises(type(fault)) as caught:
        jf.FilterResult.load(FILES / "kalman_0.1.0.pt")
    assert caught.value is fault


def test_details_that_were_read_are_plain_tables(tmp_path: Path) -> None:
    back = jf.FilterResult.load(FILES / "jko_0.1.0.pt")
    assert type(back.infos[0].details) is dict
    assert back.infos[1] == StepInfo(status="skipped")
