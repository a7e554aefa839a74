"""The house: rooms and the arrows allowed between them, one library behind one module, nothing outgrows a page."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent / "jkofilter"
FILES = sorted(ROOT.rglob("*.py"))

LAWS = ("_typing", "errors", "numerics", "models", "beliefs")
MAPS = (*LAWS, "transport/maps")
STEPS = (*MAPS, "transport/schemes", "transport/steps")
FITTED = (*STEPS, "transport/laws")
FLOWS = (*FITTED, "files", "transport/flow", "transport/time_steps", "transport/solve")
DRIVEN = (
    *FLOWS,
    "pictures",
    "filters/contract",
    "filters/checks",
    "filters/on_grid",
    "filters/forecast",
    "filters/passage",
    "filters/predictive",
    "filters/result",
    "filters/driver",
)
FILTERS = (*DRIVEN, "transport/line", "assimilation", "baselines", "smoothing", "filters")
CONTRACT = (
    *FILTERS,
    "experiments/failures",
    "experiments/measures",
    "experiments/published",
    "experiments/contract",
    "experiments/load",
)
SWEEP = ("_version", *CONTRACT, "experiments/sweep")
REPORT = (*SWEEP, "experiments/pictures", "experiments/report")
KINDS = (*REPORT, "experiments/command", "experiments/runs", "experiments/film")
FUTURE = ("filters/forecast", "filters/passage", "filters/predictive")
ROOMS: dict[str, tuple[str, ...]] = {
    "_typing": (),
    "_version": (),
    "errors": (),
    "numerics": ("_typing", "errors"),
    "files": ("errors",),
    "models": ("_typing", "errors", "numerics"),
    "beliefs": ("_typing", "errors", "numerics"),
    "transport": (),
    "transport/schemes": (),
    "transport/line": (*LAWS, "transport/schemes"),
    "transport/maps": LAWS,
    "transport/steps": (*MAPS, "transport/schemes"),
    "transport/laws": (*STEPS, "files"),
    "transport/flow": (*FITTED, "files"),
    "transport/time_steps": STEPS,
    "transport/solve": FLOWS,
    "assimilation": FITTED,
    "baselines": LAWS,
    "pictures": LAWS,
    "filters/contract": LAWS,
    "filters/checks": LAWS,
    "filters/forecast": (*LAWS, "pictures", "filters/contract"),
    "filters/on_grid": LAWS,
    "filters/passage": LAWS,
    "filters/predictive": (*LAWS, "pictures", "filters/contract"),
    "filters/result": (*FLOWS, "pictures", "filters/contract", *FUTURE),
    "filters/driver": (*FLOWS, "filters/contract", "filters/checks", "filters/result"),
    "smoothing": DRIVEN,
    "filters": FILTERS,
    "learning": (*LAWS, "filters/on_grid"),
    "experiments": (),
    "experiments/failures": ("errors",),
    "experiments/measures": (),
    "experiments/published": ("errors", "experiments/measures"),
    "experiments/contract": (*FILTERS, "experiments/published"),
    "experiments/load": ("errors", "experiments/contract"),
    "experiments/sweep": SWEEP,
    "experiments/pictures": (*LAWS, "pictures", "experiments/measures", "experiments/published"),
    "experiments/report": REPORT,
    "experiments/command": REPORT,
    "experiments/runs": CONTRACT,
    "experiments/film": FILTERS,
    "experiments/scenario": KINDS,
    "experiments/flow_study": KINDS,
    "experiments/filter_study": (*KINDS, "experiments/scenario"),
    "experiments/methods": (*FILTERS, "experiments/flow_study"),
    "experiments/calibration": FILTERS,
    "cli": (*REPORT, "experiments/command", "experiments/calibration"),
}
"""Every room and those it may import from; a file that stands alone in its folder's way is a room of its own.

Nothing here allows pictures -> filters, transport -> assimilation, sweep, report or a command -> a concrete kind of
experiment, or any arrow up: whoever adds a room says here what it stands on.
"""


def name_of(file: Path) -> str:
    return file.relative_to(ROOT).as_posix()


def room_of(parts: tuple[str, ...]) -> str:
    """The longest beginning of a module's path that is a room."""
    names = ["/".join(parts[:end]) for end in range(len(parts), 0, -1)]
    return next((name for name in names if name in ROOMS), names[-1])


def own_imports(node: ast.AST) -> list[tuple[str, ...]]:
    """Paths of the package's own modules that an import names."""
    if isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
        names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    elif isinstance(node, ast.Import):
        names = [alias.name for alias in node.names]
    else:
        return []
    paths = [tuple(name.split(".")[1:]) for name in names if name.split(".")[0] == "jkofilter"]
    return [path for path in paths if is_module(path)]


def is_module(path: tuple[str, ...]) -> bool:
    target = ROOT.joinpath(*path)
    return target.with_suffix(".py").is_file() if path and not target.is_dir() else target.is_dir() and bool(path)


@pytest.mark.parametrize("file", FILES, ids=name_of)
def test_every_import_is_an_arrow_of_the_table(file: Path) -> None:
    if file == ROOT / "__init__.py":
        return
    own = room_of(file.relative_to(ROOT).with_suffix("").parts)
    assert own in ROOMS, f"{own} is no room of the table"
    for node in ast.walk(ast.parse(file.read_text())):
        for path in own_imports(node):
            other = room_of(path)
            assert other == own or other in ROOMS[own], f"{own} may not import {'.'.join(path)}"


@pytest.mark.parametrize("file", FILES, ids=name_of)
def test_no_import_of_our_own_is_late(file: Path) -> None:
    tree = ast.parse(file.read_text())
    late = [node.lineno for node in ast.walk(tree) if node not in tree.body and own_imports(node)]  # type: ignore[attr-defined]
    assert not late, f"imports inside of functions or conditions, lines {late}"


def test_the_table_has_no_circle() -> None:
    done: set[str] = set()

    def visit(room: str, path: tuple[str, ...]) -> None:
        assert room not in path, " -> ".join((*path, room))
        if room not in done:
            for other in ROOMS.get(room, ()):
                if other != room:
                    visit(other, (*path, room))
            done.add(room)

    for room in ROOMS:
        visit(room, ())


def test_no_import_cycle_between_files() -> None:
    graph = {}
    for file in FILES:
        found = {path for node in ast.walk(ast.parse(file.read_text())) for path in own_imports(node)}
        graph[file.relative_to(ROOT).with_suffix("").parts] = found
    done: set[tuple[str, ...]] = set()

    def visit(module: tuple[str, ...], path: tuple[tuple[str, ...], ...]) -> None:
        assert module not in path, " -> ".join(".".join(one) for one in (*path, module))
        if module not in done:
            for other in graph.get(module, ()):
                visit(other, (*path, module))
            done.add(module)

    for module in graph:
        visit(module, ())


def test_the_top_of_the_package_holds_few_files() -> None:
    assert len(list(ROOT.glob("*.py"))) <= 6


SHARED = {
    "filters": {
        "contract",
        "checks",
        "forecast",
        "passage",
        "predictive",
        "result",
        "driver",
        "base",
        "on_grid",
        "on_particles",
        "surprise",
        "spectral_sweep",
        "proximal_recursion",
        "jko_line",
        "jko_pool",
    },
    "baselines": {"weighted_particles", "entropic", "stepped"},
}
METHODS = [file for package in SHARED for file in sorted((ROOT / package).glob("*.py"))]


@pytest.mark.parametrize("file", METHODS, ids=name_of)
def test_methods_never_import_each_other(file: Path) -> None:
    if file.name == "__init__.py":
        return
    package = file.parent.name
    stems = {other.stem for other in file.parent.glob("*.py")} - SHARED[package]
    found = {path for node in ast.walk(ast.parse(file.read_text())) for path in own_imports(node)}
    assert not {(package, stem) for stem in stems} & found


def test_only_commands_print() -> None:
    for file in FILES:
        calls = [n for n in ast.walk(ast.parse(file.read_text())) if isinstance(n, ast.Call)]
        printing = [n for n in calls if isinstance(n.func, ast.Name) and n.func.id == "print"]
        assert not printing or file.parent.name in ("cli", "command"), file


def imported(nodes: list[ast.AST]) -> list[str]:
    found = []
    for node in nodes:
        if isinstance(node, ast.ImportFrom) and node.module:
            found.append(node.module)
        elif isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
    return found


def test_each_library_stays_behind_its_module() -> None:
    homes = {
        "filterpy.kalman": {"filters/kalman.py", "filters/unscented.py"},
        "numba": {
            "numerics/even_steps.py",
            "numerics/newton.py",
            "numerics/separable_paths.py",
            "numerics/splines.py",
            "numerics/tridiagonal.py",
            "transport/maps/icnn_kernels.py",
            "transport/steps/ridge_kernels.py",
        },
        "distributed": {"experiments/sweep/executors.py"},
        "jinja2": {"experiments/report/page.py"},
    }
    for file in FILES:
        for module in imported(list(ast.walk(ast.parse(file.read_text())))):
            for library, allowed in homes.items():
                if module == library or module.startswith(library + "."):
                    assert name_of(file) in allowed, f"{file} imports {module}"


@pytest.mark.parametrize("file", FILES, ids=name_of)
def test_files_and_functions_fit_a_page(file: Path) -> None:
    text = file.read_text()
    assert len(text.splitlines()) <= 400
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef):
            assert (node.end_lineno or 0) - node.lineno < 60, f"{file}: {node.name}"
