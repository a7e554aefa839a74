"""The layers of the package: imports point downwards, one library behind one module, nothing outgrows a page."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent / "jkofilter"
FILES = sorted(ROOT.rglob("*.py"))
LAYERS = {
    "cli": 10,
    "cli_bench": 9,
    "cli_calibrate": 9,
    "cli_options": 8,
    "bench_page": 8,
    "bench_plotting": 8,
    "bench_tables": 8,
    "report": 8,
    "study_run": 8,
    "study_plotting": 8,
    "plotting": 8,
    "plane_plotting": 8,
    "calibration_plotting": 8,
    "benchmark": 8,
    "bench": 7,
    "single_run": 6,
    "scenario": 5,
    "calibration": 5,
    "run": 4,
    "study": 4,
    "filters": 3,
    "transport": 2,
    "flows": 2,
    "tabulation": 2,
    "models": 1,
    "beliefs": 1,
    "numerics": 0,
    "measures": 0,
    "files": 0,
    "_typing": -1,
    "errors": -1,
}
TOP = LAYERS["report"]
COMMAND_LINE = {"cli.py", "cli_bench.py", "cli_calibrate.py", "cli_options.py"}
# Habits that start at the bottom and end at the top: filter.run(), result.plot(), scenario.main().
LAZY = {"filters/base.py": {"run"}, "run.py": {"plotting"}, "scenario.py": {"cli"}, "study.py": {"cli"}}


def name_of(file: Path) -> str:
    return file.relative_to(ROOT).as_posix()


def imported(nodes: list[ast.AST]) -> list[str]:
    found = []
    for node in nodes:
        if isinstance(node, ast.ImportFrom) and node.module:
            found.append(node.module)
        elif isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
    return found


def part(module: str) -> str:
    pieces = module.split(".")
    return pieces[1] if pieces[0] == "jkofilter" and len(pieces) > 1 else ""


@pytest.mark.parametrize("file", FILES, ids=name_of)
def test_imports_point_downwards(file: Path) -> None:
    own = file.relative_to(ROOT).parts[0].removesuffix(".py")
    if own in ("__init__", "cli"):
        return
    tree = ast.parse(file.read_text())
    for module in imported(list(tree.body)):
        other = part(module)
        if other:
            assert LAYERS[other] <= LAYERS[own], f"{own} imports {module}"
            assert other == own or LAYERS[other] < LAYERS[own] or LAYERS[own] == TOP, (
                f"{own} imports its neighbour {module}"
            )
    inner = [node for node in ast.walk(tree) if node not in tree.body]
    for module in imported(inner):
        other = part(module)
        if other and LAYERS[other] > LAYERS[own]:
            assert other in LAZY.get(name_of(file), set()), f"{own} imports {module} upwards"


SHARED = {"filters": {"base", "tabulated"}, "flows": {"cloud", "stepped"}}
METHODS = [file for package in SHARED for file in sorted((ROOT / package).glob("*.py"))]


@pytest.mark.parametrize("file", METHODS, ids=name_of)
def test_methods_never_import_each_other(file: Path) -> None:
    if file.name == "__init__.py":
        return
    package = file.parent.name
    stems = {other.stem for other in file.parent.glob("*.py")} - SHARED[package]
    siblings = {f"jkofilter.{package}.{stem}" for stem in stems}
    assert not siblings & set(imported(list(ast.walk(ast.parse(file.read_text())))))


def test_only_the_command_line_prints() -> None:
    for file in FILES:
        calls = [n for n in ast.walk(ast.parse(file.read_text())) if isinstance(n, ast.Call)]
        printing = [n for n in calls if isinstance(n.func, ast.Name) and n.func.id == "print"]
        assert not printing or file.name in COMMAND_LINE, file


def test_each_library_stays_behind_its_module() -> None:
    homes = {
        "filterpy.kalman": {"kalman.py", "unscented.py"},
        "numba": {"newton.py", "icnn_kernels.py"},
        "typer": COMMAND_LINE,
        "distributed": {"crew.py"},
        "jinja2": {"bench_page.py"},
    }
    for file in FILES:
        for module in imported(list(ast.walk(ast.parse(file.read_text())))):
            for library, allowed in homes.items():
                if module == library or module.startswith(library + "."):
                    assert file.name in allowed, f"{file} imports {module}"


@pytest.mark.parametrize("file", FILES, ids=name_of)
def test_files_and_functions_fit_a_page(file: Path) -> None:
    text = file.read_text()
    assert len(text.splitlines()) <= 420
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef):
            assert (node.end_lineno or 0) - node.lineno < 70, f"{file}: {node.name}"


def test_no_import_cycle() -> None:
    modules = {"jkofilter." + name_of(f).removesuffix(".py").replace("/", "."): f for f in FILES}
    graph = {m: {i for i in imported(list(ast.parse(f.read_text()).body)) if i in modules} for m, f in modules.items()}
    done: set[str] = set()

    def visit(module: str, path: tuple[str, ...]) -> None:
        assert module not in path, " -> ".join((*path, module))
        if module not in done:
            for other in graph[module]:
                visit(other, (*path, module))
            done.add(module)

    for module in graph:
        visit(module, ())
