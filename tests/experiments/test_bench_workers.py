"""The bench with real workers: processes, a Dask cluster, a kill at any moment."""

from __future__ import annotations

import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from bench_scenarios import FAMILY, FLOW, LINE, TROUBLE, lines, steady, write

import jkofilter as jf
from jkofilter.experiments.sweep.plan import load_all
from jkofilter.experiments.sweep.runner import Sweep, run_sweep

COMMAND = [sys.executable, "-c", "from jkofilter.cli.app import main; main()", "bench"]
THREE = {"line": LINE, "family": FAMILY, "flow": FLOW}


def by_status(made: list[dict[str, Any]]) -> dict[str, set[str]]:
    return {one["filter"]: {two["status"] for two in made if two["filter"] == one["filter"]} for one in made}


def test_a_run_that_kills_its_process_is_recorded_and_the_others_go_on(tmp_path: Path) -> None:
    loaded = load_all(write(tmp_path, trouble=TROUBLE))
    before = dict(os.environ)
    made = run_sweep(Sweep(loaded, seeds=[0], workers=2, out=str(tmp_path / "out")))
    statuses = by_status(made)
    assert statuses.pop("kills") == {"its worker process died, perhaps for want of memory."}
    assert statuses.pop("raises").pop().startswith("RuntimeError: a mistake of the user")
    assert set(statuses) == {"particles, 300", "ensemble", "unscented", "exact"}
    assert all(values == {"ok"} for values in statuses.values())
    assert dict(os.environ) == before


def wait_for(condition: Any, seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "gave up waiting"
        time.sleep(0.001)


def children(process: int) -> list[int]:
    try:
        return [int(p) for p in Path(f"/proc/{process}/task/{process}/children").read_text().split()]
    except OSError:
        return []


def alive(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def recorded(out: Path) -> int:
    file = out / "records.jsonl"
    return file.read_bytes().count(b"\n") if file.is_file() else 0


@pytest.mark.skipif(not Path("/proc/self/stat").is_file(), reason="processes are listed in /proc")
def test_ctrl_c_stops_at_once_leaves_no_process_and_says_how_to_go_on(tmp_path: Path) -> None:
    (path,) = write(tmp_path, line=LINE)
    out = tmp_path / "out"
    arguments = [path, "--workers", "2", "--seeds", "2000", "--out", str(out)]
    bench = subprocess.Popen([*COMMAND, *arguments], stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
    wait_for(lambda: recorded(out) >= 3)
    workers = children(bench.pid)
    bench.send_signal(signal.SIGINT)
    said = bench.communicate(timeout=60)[1]
    assert bench.returncode == 130
    assert said == "error: stopped; every finished run is recorded: go on with the same command and --resume.\n"
    assert workers
    wait_for(lambda: not any(alive(worker) for worker in workers))


@pytest.mark.slow
def test_figures_are_the_same_for_any_number_of_workers(tmp_path: Path) -> None:
    paths = write(tmp_path, **THREE)
    for workers in (1, 2):
        run_sweep(Sweep(load_all(paths), workers=workers, out=str(tmp_path / f"out{workers}")))
    assert steady(lines(tmp_path / "out1")) == steady(lines(tmp_path / "out2"))
    assert len(steady(lines(tmp_path / "out1"))) == 30


DASK = [sys.executable, "-m", "dask"]


def start(*arguments: str) -> subprocess.Popen[bytes]:
    quiet = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.Popen([*DASK, *arguments], env=quiet, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@pytest.fixture
def scheduler() -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """The address of a Dask scheduler, and its process."""
    pytest.importorskip("distributed")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    process = start("scheduler", "--host", "127.0.0.1", "--port", str(port), "--no-dashboard")
    try:
        wait_for(lambda: answers(port))
        yield f"tcp://127.0.0.1:{port}", process
    finally:
        process.kill()
        process.wait()


@pytest.fixture
def cluster(scheduler: tuple[str, subprocess.Popen[bytes]]) -> Iterator[str]:
    """The address of a scheduler with two workers of one thread each."""
    from distributed import Client

    address = scheduler[0]
    workers = [start("worker", address, "--nthreads", "1", "--no-dashboard", "--no-nanny") for _ in range(2)]
    try:
        with Client(address, set_as_default=False) as client:
            client.wait_for_workers(2, timeout=120)
        yield address
    finally:
        for worker in workers:
            worker.kill()
            worker.wait()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_a_dask_cluster_gives_the_figures_of_local_processes_byte_for_byte(cluster: str, tmp_path: Path) -> None:
    paths = write(tmp_path, **THREE)
    run_sweep(Sweep(load_all(paths), workers=2, out=str(tmp_path / "local")))
    run_sweep(Sweep(load_all(paths), dask=cluster, out=str(tmp_path / "dask")))
    assert steady(lines(tmp_path / "local")) == steady(lines(tmp_path / "dask"))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_a_cluster_that_dies_stops_the_sweep_with_a_sentence(
    cluster: str, scheduler: tuple[str, subprocess.Popen[bytes]], tmp_path: Path
) -> None:
    (path,) = write(tmp_path, line=LINE)
    out = tmp_path / "out"
    arguments = [path, "--dask", cluster, "--seeds", "5000", "--out", str(out)]
    bench = subprocess.Popen([*COMMAND, *arguments], stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
    wait_for(lambda: recorded(out) >= 3)
    scheduler[1].kill()
    said = bench.communicate(timeout=120)[1]
    assert bench.returncode == 2
    assert "has gone" in said.splitlines()[-1]
    assert "--resume" in said.splitlines()[-1]
    assert recorded(out) >= 3


@pytest.mark.slow
def test_killed_ten_times_at_random_moments_and_resumed_it_leaves_the_records_of_an_unbroken_run(
    tmp_path: Path,
) -> None:
    paths = write(tmp_path, **THREE)
    arguments = ["--workers", "2", "--seeds", "20"]
    run_sweep(Sweep(load_all(paths), seeds=range(20), workers=2, out=str(tmp_path / "whole")))
    whole, out = steady(lines(tmp_path / "whole")), tmp_path / "out"
    assert len(whole) == 300
    chance = random.Random(5)
    for _ in range(10):
        bench = subprocess.Popen(
            [*COMMAND, *paths, *arguments, "--out", str(out), "--resume"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        before, more = recorded(out), chance.randint(0, 25)
        wait_for(lambda bench=bench, goal=before + more: recorded(out) >= goal or bench.poll() is not None)
        time.sleep(chance.uniform(0.0, 0.05) if more else chance.uniform(0.0, 6.0))
        assert bench.poll() is None, "the sweep was over before it could be killed"
        workers = children(bench.pid)
        bench.kill()
        bench.wait()
        wait_for(lambda workers=workers: not any(alive(worker) for worker in workers), 20)
    assert 0 < recorded(out) < 300
    subprocess.run([*COMMAND, *paths, *arguments, "--out", str(out), "--resume"], check=True, capture_output=True)
    assert steady(lines(out)) == whole


@pytest.mark.slow
def test_what_answers_but_is_no_scheduler_says_so(tmp_path: Path) -> None:
    """A page of Dask's own dashboard, for example; what it answers is read as the length of a message."""
    pytest.importorskip("distributed")
    (path,) = write(tmp_path, line=LINE)
    with ThreadingHTTPServer(("127.0.0.1", 0), SimpleHTTPRequestHandler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"tcp://127.0.0.1:{server.server_port}"
        arguments = [path, "--dask", address, "--out", str(tmp_path / "out")]
        done = subprocess.run([*COMMAND, *arguments], capture_output=True, text=True, timeout=120)
        server.shutdown()
    assert done.returncode == 2
    assert f"no Dask scheduler answers at '{address}'" in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_cluster_without_workers_says_how_to_start_one(
    scheduler: tuple[str, subprocess.Popen[bytes]], tmp_path: Path
) -> None:
    loaded = load_all(write(tmp_path, line=LINE))
    with pytest.raises(jf.InputError, match="has no workers; start some with 'dask worker"):
        run_sweep(Sweep(loaded, dask=scheduler[0], out=str(tmp_path / "out")))
    assert not (tmp_path / "out" / "records.jsonl").exists()
