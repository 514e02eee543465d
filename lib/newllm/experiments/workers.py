"""Workers for trials, on this machine or on many, by Dask: one trial at a time in each, and any may be lost."""

import logging
from collections.abc import Iterator
from concurrent.futures import Executor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import dask
from dask_jobqueue import SLURMCluster
from distributed import Client, LocalCluster

from newllm.config.errors import ParameterError
from newllm.config.workers import LOCAL, SLURM
from newllm.experiments.executor import threads_of_each

logger = logging.getLogger(__name__)

# Seconds until a scheduler must have answered.
ANSWER_SECONDS = 10

SETTINGS = {
    # A trial holds Python's lock for long, which is no sign that its worker is gone.
    "distributed.scheduler.worker-ttl": None,
    # Workers that are daemons may start no processes.
    "distributed.worker.daemon": False,
    # A trial takes minutes to days: whoever adapts the number of workers must not take it for half a second.
    "distributed.scheduler.unknown-task-duration": "1h",
}


@dataclass(frozen=True)
class Workers:
    """Where trials are run.

    Attributes
    ----------
    executor
        Takes functions and their arguments, as `concurrent.futures.Executor` does.
    count
        How many trials run at a time.
    """

    executor: Executor
    count: int


@contextmanager
def open_workers(where: str, count: int) -> Iterator[Workers]:
    """Start or find workers, and let them go at the end.

    A job whose worker is lost is given to another one; one whose function fails is not tried again.

    Parameters
    ----------
    where
        ``local`` starts processes here, ``slurm`` submits jobs as dask-jobqueue's configuration says; all else is the
        address of a scheduler that runs already.
    count
        How many workers to start; a scheduler that runs has its own.

    Raises
    ------
    ParameterError
        Where there is no such scheduler, its workers run several trials at a time, or SLURM is not configured.
    """
    with ExitStack() as stack:
        stack.enter_context(dask.config.set(SETTINGS))
        if where == LOCAL:
            cluster = stack.enter_context(_local_cluster(count))
            client = stack.enter_context(Client(cluster))
        elif where == SLURM:
            cluster = stack.enter_context(_slurm_cluster())
            client = stack.enter_context(Client(cluster))
            cluster.adapt(minimum_jobs=0, maximum_jobs=count)
        else:
            client = stack.enter_context(_client_of(where))
            count = _workers_of(client)
        yield Workers(client.get_executor(pure=False, retries=0), count)


def _local_cluster(count: int) -> LocalCluster:
    return LocalCluster(
        n_workers=count,
        threads_per_worker=1,
        memory_limit=0,
        dashboard_address=None,
        silence_logs=logging.CRITICAL,  # what fails is said by whoever waits for it
        env={"OMP_NUM_THREADS": str(threads_of_each(count)), "TQDM_DISABLE": "1"},
    )


def slurm_job_script() -> str:
    """Return the script that ``slurm`` submits for each worker; ParameterError where SLURM is not configured."""
    with dask.config.set(SETTINGS), _slurm_cluster() as cluster:
        script: str = cluster.job_script()
        return script


def _slurm_cluster() -> SLURMCluster:
    """Make a scheduler whose workers are SLURM's jobs, of which none is submitted yet.

    All other settings are those of dask-jobqueue's configuration (``jobqueue.slurm``): a job has one worker, which
    runs one trial at a time on all its cores.

    Raises
    ------
    ParameterError
        Where cores and memory are not configured.
    """
    cores, memory = (dask.config.get(f"jobqueue.slurm.{name}") for name in ("cores", "memory"))
    if cores is None or memory is None:
        raise ParameterError(
            "SLURM's jobs need cores and memory: set jobqueue.slurm.cores and jobqueue.slurm.memory in "
            "~/.config/dask/jobqueue.yaml, where queue, account and walltime stand, too."
        )
    before = dask.config.get("jobqueue.slurm.job-script-prologue") or []
    return SLURMCluster(
        cores=1,
        processes=1,
        job_cpu=cores,
        worker_extra_args=["--memory-limit", "0"],  # SLURM itself ends what takes more
        job_script_prologue=[*before, f"export OMP_NUM_THREADS={cores} TQDM_DISABLE=1"],
    )


def _client_of(address: str) -> Client:
    try:
        return Client(address, timeout=ANSWER_SECONDS)
    except (OSError, ValueError) as error:
        raise ParameterError(
            f"no Dask scheduler answers at {address} ({error}): start one with `dask scheduler`, and workers with "
            f"`dask worker {address} --nthreads 1`."
        ) from error


def _workers_of(client: Client) -> int:
    """Return how many workers a running scheduler has; one, which may come later, where it has none.

    Raises
    ------
    ParameterError
        Where a worker runs several functions at a time: trials in one process would share its random numbers.
    """
    workers = client.scheduler_info(n_workers=-1)["workers"]
    wide = [address for address, worker in workers.items() if worker["nthreads"] != 1]
    if wide:
        raise ParameterError(
            f"the worker {wide[0]} runs several trials at a time: start workers with --nthreads 1, and set "
            "OMP_NUM_THREADS to the cores that each may use."
        )
    if not workers:
        logger.info("The scheduler has no worker yet: trials wait until one comes.")
    return max(1, len(workers))
