"""Where runs are computed: this process, processes of this machine, or a Dask cluster; all give futures."""

from __future__ import annotations

import asyncio
import importlib.util
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import BrokenExecutor, CancelledError, Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import wait
from typing import Any, Protocol

from jkofilter.errors import InputError
from jkofilter.experiments.sweep.environment import versions

THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "NUMBA_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
)
AHEAD = 2
"""Runs handed out for every one that is being computed elsewhere: none waits for this process, few are lost with it."""
PATIENCE = 5.0
"""Seconds that a cluster gets to answer."""


class RunExecutor(Protocol):
    """Takes runs and computes some of them at a time."""

    @property
    def room(self) -> int:
        """How many it holds at a time, those that wait for their turn included."""
        ...

    def submit(self, function: Callable[..., Any], *arguments: Any) -> Future[Any]:
        """Have a function of a module called somewhere."""
        ...

    def restart(self) -> None:
        """After a worker has died and taken its fellows with it: new ones."""
        ...

    def gone(self, error: BaseException) -> str:
        """Why nothing more can be computed, after this error of a future; empty where it is that future's own."""
        ...


class InProcess:
    """This process: a run is computed when it is handed in, by the one who hands it in."""

    room = 1

    def submit(self, function: Callable[..., Any], *arguments: Any) -> Future[Any]:
        """Call a function now; what it raises is the future's."""
        future: Future[Any] = Future()
        try:
            future.set_result(function(*arguments))
        except Exception as error:
            future.set_exception(error)
        return future

    def restart(self) -> None:
        """Nothing to do: a process that has died does not ask."""

    def gone(self, error: BaseException) -> str:
        """Never."""
        return ""


class LocalProcesses:
    """Processes of this machine, each a fresh interpreter.

    Args:
        workers: how many.
    """

    def __init__(self, workers: int) -> None:
        self._workers, self.room = workers, AHEAD * workers
        self._pool = self._new()

    def _new(self) -> ProcessPoolExecutor:
        # Forking would copy the state of thread pools that torch has started.
        context = multiprocessing.get_context("spawn")
        return ProcessPoolExecutor(self._workers, mp_context=context, initializer=_begin)

    def submit(self, function: Callable[..., Any], *arguments: Any) -> Future[Any]:
        """Have a function called in one of the processes."""
        try:
            return self._pool.submit(function, *arguments)
        except BrokenExecutor as error:
            broken: Future[Any] = Future()
            broken.set_exception(error)
            return broken

    def restart(self) -> None:
        """New processes."""
        self._pool.shutdown(wait=True)
        self._pool = self._new()

    def gone(self, error: BaseException) -> str:
        """Never: processes can always be started."""
        return ""

    def close(self) -> None:
        """Wait for the processes to end."""
        self._pool.shutdown(wait=True)

    def kill(self) -> None:
        """End the processes, whatever they are at."""
        for process in list((self._pool._processes or {}).values()):
            process.kill()
        # The pool's own thread sees them gone and ends; not waited for, it can trip over its closed pipe at exit.
        self._pool.shutdown(wait=True, cancel_futures=True)


def _begin() -> None:
    """In a new process: leave Ctrl-C to the parent, and end when the parent does, even where it was killed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)


@contextmanager
def local_processes(workers: int, threads: int) -> Iterator[LocalProcesses]:
    """Processes, at least one, that each compute with so many threads; killed where the block raises."""
    before = {name: os.environ.get(name) for name in THREAD_VARIABLES}
    # Libraries read these when they load: set for the processes to be born, whenever that is.
    os.environ.update(dict.fromkeys(THREAD_VARIABLES, str(threads)))
    try:
        processes = LocalProcesses(workers)
        try:
            yield processes
        except BaseException:
            processes.kill()
            raise
        processes.close()
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


@dataclass(frozen=True, eq=False)
class DaskCluster:
    """The workers of a Dask cluster.

    Attributes:
        address: of its scheduler.
        room: how many runs it holds at a time, for one computed by each worker.
        executor: of the client.
    """

    address: str
    room: int
    executor: Executor

    def submit(self, function: Callable[..., Any], *arguments: Any) -> Future[Any]:
        """Have a function called by one of the workers."""
        return self.executor.submit(function, *arguments)

    def restart(self) -> None:
        """Nothing to do: the cluster looks after its workers."""

    def gone(self, error: BaseException) -> str:
        """Whether the cluster itself has gone."""
        if isinstance(error, CancelledError | OSError):
            return f"the cluster at {self.address} has gone ({type(error).__name__})"
        return ""


@contextmanager
def dask_cluster(address: str) -> Iterator[DaskCluster]:
    """The workers of a running cluster.

    Raises:
        InputError: dask.distributed is not installed; nothing answers at the address; there are no workers; or they
            lack this package, or have another version of it.
    """
    if importlib.util.find_spec("distributed") is None:
        raise InputError("dask needs the optional extra: pip install 'jkofilter[dask]'.")
    from distributed import Client

    try:
        # A client that fails to start complains again, later, when it is collected: so it is made once this is known.
        with ThreadPoolExecutor(1) as elsewhere:
            elsewhere.submit(asyncio.run, _ask_scheduler(address)).result()
        client = Client(address, timeout=PATIENCE, set_as_default=False)
    except Exception as error:
        # Whatever listens there instead, its answer can lead to any error at all.
        raise InputError(
            f"no Dask scheduler answers at {address!r}; start one with 'dask scheduler' and give the address it prints."
        ) from error
    with client:
        try:
            client.wait_for_workers(1, timeout=PATIENCE)
        except TimeoutError as error:
            raise InputError(
                f"the cluster at {address} has no workers; start some with 'dask worker {address} --nthreads 1'."
            ) from error
        executor = client.get_executor(pure=False)
        _check_version(executor, address)
        workers = len(client.scheduler_info(n_workers=-1)["workers"])
        try:
            yield DaskCluster(address, AHEAD * workers, executor)
        finally:
            executor.shutdown(wait=False)


async def _ask_scheduler(address: str) -> None:
    """Raises something unless a scheduler answers."""
    from distributed.core import rpc
    from distributed.security import Security

    security = Security().get_connection_args("client")
    async with rpc(address, timeout=PATIENCE, connection_args=security) as scheduler:
        kind = (await asyncio.wait_for(scheduler.identity(), 2 * PATIENCE))["type"]
    if kind != "Scheduler":
        raise ValueError(f"a {kind} answers")


def _check_version(executor: Executor, address: str) -> None:
    try:
        theirs = executor.submit(versions).result(timeout=60)
    except Exception as error:
        raise InputError(
            f"the workers of the cluster at {address} cannot load jkofilter ({type(error).__name__}); install it there."
        ) from error
    differing = [name for name in ("jkofilter", "torch") if theirs.get(name) != versions().get(name)]
    if differing:
        name = differing[0]
        raise InputError(
            f"the workers of the cluster at {address} have {name} {theirs.get(name)}, here it is "
            f"{versions().get(name)}; install the same."
        )
