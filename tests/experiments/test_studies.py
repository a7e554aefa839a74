"""Flow studies: what is measured, what is written, what bad input says; and flows as files."""

from pathlib import Path

import pandas as pd
import pytest
import torch
from torch import Tensor
from torch.distributions import Independent, MultivariateNormal, StudentT

import jkofilter as jf
from jkofilter.cli.app import main
from jkofilter.experiments.command.run import write_files
from jkofilter.experiments.report.tables import run_table
from jkofilter.experiments.sweep.runner import run_here

EYE = torch.eye(2, dtype=torch.float64)
NORMAL = MultivariateNormal(torch.zeros(2, dtype=torch.float64), EYE)
SDE = jf.LangevinSDE(jf.Quadratic(torch.ones(2, dtype=torch.float64), 2 * EYE))


def exact(time: float) -> jf.GaussianBelief:
    decay = torch.exp(torch.tensor(-2.0 * time, dtype=torch.float64))
    return jf.GaussianBelief(time, (1 - decay) * torch.ones(2, dtype=torch.float64), (0.5 + 0.5 * decay**2) * EYE)


def study(**changes: object) -> jf.FlowStudy:
    settings = {
        "name": "small",
        "cases": [jf.FlowCase("d = 2", NORMAL, SDE, (0.25, 0.5), exact=exact, stationary=stationary())],
        "methods": {"JKO": jf.jko(0.1, pool=256), "particles": jf.particles(substep=0.01, count=500)},
        "projections": ("d = 2",),
    }
    return jf.FlowStudy(**(settings | changes))  # type: ignore[arg-type]


def table_of(one: jf.FlowStudy) -> pd.DataFrame:
    return run_table(run_here(one).records)


def stationary() -> jf.GaussianBelief:
    return jf.GaussianBelief(9.0, torch.ones(2, dtype=torch.float64), 0.5 * EYE)


class Counted:
    """A normal law that remembers how many draws were asked of it."""

    dim = 2

    def __init__(self) -> None:
        self.asked: set[int] = set()

    def sample(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        self.asked.add(n)
        return torch.randn(n, 2, generator=generator, dtype=torch.float64)

    def log_prob(self, x: Tensor) -> Tensor:
        return NORMAL.log_prob(x)


def test_laws_are_judged_on_as_many_draws_as_the_case_says() -> None:
    law = Counted()
    case = jf.FlowCase("d = 2", NORMAL, SDE, (0.5,), stationary=law, samples=123)
    table_of(jf.FlowStudy("small", [case], {"still": lambda problem, seed, seconds: jf.Carried(lambda time: law)}))
    assert law.asked == {123}


def test_a_study_measures_each_method_at_each_time_against_the_exact_law() -> None:
    records = table_of(study())
    assert list(records["time"]) == [0.25, 0.5, 0.25, 0.5]
    jko, particles = records[records["filter"] == "JKO"], records[records["filter"] == "particles"]
    assert (jko["symmetric_kl"] < 1e-4).all()
    assert (particles["symmetric_kl"] > 1e-3).all()
    truth = jf.metrics.kl(exact(0.5), stationary(), 20_000)
    assert jko["kl_stationary"].iloc[1] == pytest.approx(truth, abs=0.01)


def test_the_published_methods_of_a_study_are_measured_like_the_others() -> None:
    methods = {
        "dual": jf.dual_jko(0.05, jf.DualSettings(ridge=0.1)),
        "proximal": jf.proximal(0.05, jf.ProximalSettings(points=500, regularisation=1.9)),
    }
    records = table_of(study(methods=methods)).set_index("filter")
    assert (records.loc["dual", "symmetric_kl"] < 0.02).all()
    assert (records.loc["proximal", "symmetric_kl"] < 0.2).all()
    assert records.loc["dual", "remark"].iloc[0] == "10 steps, 1000 points"


def test_particles_that_take_the_time_of_another_method_do_not_run_without_it() -> None:
    """Two hundred of them, the fewest, would pass for what the method can do."""
    methods = {"particles": jf.particles(substep=0.01), "JKO": jf.jko(0.1, pool=256)}
    records = table_of(study(methods=methods))
    assert records["status"].iloc[0].startswith("not run: ")
    assert records["status"].tolist()[1:] == ["ok", "ok"]


def test_a_failing_method_is_recorded_and_the_others_go_on() -> None:
    def broken(case: jf.FlowCase, seed: int, seconds: float) -> jf.Carried:
        raise jf.FilterError("does not converge")

    records = table_of(study(methods={"broken": broken, "JKO": jf.jko(0.1, pool=256)}))
    assert records["status"].tolist() == ["does not converge", "ok", "ok"]


def test_skipped_pairs_are_not_run() -> None:
    records = table_of(study(skip=frozenset({("particles", "d = 2")})))
    assert set(records["filter"]) == {"JKO"}


def test_the_files_of_a_study_are_written_whole(tmp_path: Path) -> None:
    written = write_files(study(), run_here(study()), tmp_path)
    names = {path.name for path in written}
    assert names == {"runs.csv", "summary.csv", "error_symmetric_kl.png", "error_kl_stationary.png", "projection_2.png"}
    assert all(path.stat().st_size > 0 for path in written)
    assert len(pd.read_csv(tmp_path / "runs.csv")) == 4


@pytest.mark.parametrize(
    "scenario",
    [
        "ornstein_uhlenbeck_nd",
        "double_well_nd",
        "ginzburg_landau_nd",
        "mixture_stationary_nd",
        "logistic_regression",
    ],
)
def test_the_studies_of_the_repository_load_and_name_their_methods(
    scenario: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = Path(__file__).parents[2] / "scenarios" / f"{scenario}.py"
    assert isinstance(jf.Scenario.load(path), jf.FlowStudy)
    with pytest.raises(SystemExit) as stop:
        main(["run", str(path), "--filters", "nobody"])
    assert stop.value.code == 2
    assert "nobody" in capsys.readouterr().err


def test_a_study_needs_cases_methods_and_different_names() -> None:
    with pytest.raises(jf.InputError, match="at least one"):
        study(cases=[])
    case = jf.FlowCase("d = 2", NORMAL, SDE, (0.5,))
    with pytest.raises(jf.InputError, match="samples must be a positive integer, got 0"):
        jf.FlowCase("d = 2", NORMAL, SDE, (0.5,), samples=0)
    with pytest.raises(jf.InputError, match="different names"):
        study(cases=[case, case])
    with pytest.raises(jf.InputError, match="seeds"):
        study(seeds=0)
    for pair in (("particles", "d = 3"), ("nobody", "d = 2")):
        with pytest.raises(jf.InputError, match="skip names no"):
            study(skip=frozenset({pair}))
    for names in (("d = 3",), ("d = 2",)):
        with pytest.raises(jf.InputError, match="projections names no"):
            study(cases=[case], projections=names)


def test_a_product_law_is_the_product_of_its_marginals_in_rotated_coordinates() -> None:
    angle = torch.tensor(0.7, dtype=torch.float64)
    rotation = torch.stack((torch.stack((angle.cos(), angle.sin())), torch.stack((-angle.sin(), angle.cos()))))
    one = torch.ones(1, dtype=torch.float64)
    marginals = tuple(jf.GaussianBelief(0.0, i * one, (1 + i) * one.reshape(1, 1)) for i in range(2))
    law = jf.ProductLaw(marginals, rotation)
    covariance = rotation.mT @ torch.diag(torch.tensor([1.0, 2.0], dtype=torch.float64)) @ rotation
    mean = rotation.mT @ torch.tensor([0.0, 1.0], dtype=torch.float64)
    x = law.sample(50, torch.Generator().manual_seed(0))
    torch.testing.assert_close(law.log_prob(x), MultivariateNormal(mean, covariance).log_prob(x))


@pytest.mark.parametrize(
    "engine",
    [
        jf.RidgeEngine(),
        jf.ICNNEngine((6, 5), iterations=5),
        jf.ICNNEngine((6,), rank=2, iterations=5, ridge=None),
        jf.SoftMaximumEngine(pieces=2, iterations=5, bends=1),
    ],
    ids=["ridge", "icnn from a ridge", "icnn", "bent soft maximum"],
)
def test_a_flow_survives_its_file(engine: object, tmp_path: Path) -> None:
    sde = jf.LangevinSDE(jf.DoubleWell(2))
    flow = jf.solve_jko(NORMAL, sde, 0.1, 0.05, transport=engine, pool=256)  # type: ignore[arg-type]
    flow.save(tmp_path / "flow.pt")
    loaded = jf.JKOFlow.load(tmp_path / "flow.pt")
    x = torch.randn(20, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    assert torch.equal(loaded.final.log_prob(x), flow.final.log_prob(x))
    assert loaded.times == flow.times
    assert loaded.infos == flow.infos


def test_a_flow_of_a_prior_without_a_file_form_asks_for_it(tmp_path: Path) -> None:
    prior = Independent(StudentT(torch.full((2,), 8.0, dtype=torch.float64)), 1)
    flow = jf.solve_jko(prior, SDE, 0.05, 0.05, pool=256)
    flow.save(tmp_path / "flow.pt")
    with pytest.raises(jf.InputError, match="prior must be given"):
        jf.JKOFlow.load(tmp_path / "flow.pt")
    line = MultivariateNormal(torch.zeros(1, dtype=torch.float64), EYE[:1, :1])
    for other in (line, "normal", NORMAL.expand((2,))):
        with pytest.raises(jf.InputError, match=r"^prior must be a .* event_shape \(2,\)\.$"):
            jf.JKOFlow.load(tmp_path / "flow.pt", other)  # type: ignore[arg-type]
    x = torch.zeros(1, 2, dtype=torch.float64)
    assert torch.equal(jf.JKOFlow.load(tmp_path / "flow.pt", prior).final.log_prob(x), flow.final.log_prob(x))


def test_what_is_not_a_flow_is_refused(tmp_path: Path) -> None:
    whole = tmp_path / "flow.pt"
    jf.solve_jko(NORMAL, SDE, 0.05, 0.05, pool=64).save(whole)
    (tmp_path / "cut.pt").write_bytes(whole.read_bytes()[:-200])
    (tmp_path / "bytes.pt").write_bytes(b"no tensor here")
    document = torch.load(whole, weights_only=True)
    torch.save({"format": document["format"]}, tmp_path / "empty.pt")
    torch.save(document | {"maps": [{"kind": "Spline", "parameters": {}}]}, tmp_path / "kind.pt")
    torch.save([document], tmp_path / "list.pt")
    (tmp_path / "junk.pt").write_bytes(b"junk")
    torch.save(document | {"times": [0.0]}, tmp_path / "times.pt")
    for name in ("cut", "bytes", "junk", "empty", "list", ""):
        with pytest.raises(jf.InputError, match="^path .* is not a flow written by"):
            jf.JKOFlow.load(tmp_path / f"{name}.pt" if name else tmp_path)
    for name in ("kind", "times"):
        with pytest.raises(jf.InputError, match="^path .* is a flow written by .* but damaged: "):
            jf.JKOFlow.load(tmp_path / f"{name}.pt")
    with pytest.raises(jf.InputError, match=r"^path .* does not exist"):
        jf.JKOFlow.load(tmp_path / "absent.pt")


def test_a_flow_that_cannot_be_written_leaves_nothing(tmp_path: Path) -> None:
    flow = jf.solve_jko(NORMAL, SDE, 0.05, 0.05, pool=64)
    with pytest.raises(jf.InputError, match=r"^path .* folder that does not exist"):
        flow.save(tmp_path / "absent" / "flow.pt")
    (tmp_path / "folder.pt").mkdir()
    with pytest.raises(jf.InputError, match=r"^path .* cannot be written to"):
        flow.save(tmp_path / "folder.pt")
    assert [file.name for file in tmp_path.iterdir()] == ["folder.pt"]
