"""Many scenes on a Ray cluster (https://docs.ray.io): actors that hold the networks, and work as they become free.

Needs the package ray: `pip install gld-novel-views[ray]`. Nothing else imports this module.
"""

import logging
import math
import os
from collections.abc import Generator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import ray
import torch

from .many import FAILED, Models, Outcome, Stages, sentence, work_through
from .results import absolute

# How often a scene is tried again whose actor died.
RETRIES = 2


class Worker:
    """Runs in a process of its own, on any machine that sees the folders."""

    def __init__(self, models: Models, weights: str, threads: int):
        # Ray sets OMP_NUM_THREADS for the CPUs that an actor takes; a fraction is one thread.
        torch.set_num_threads(threads)
        self.weights = weights
        self.loaded = models.load()

    def work(self, job: Any, folder: Path, stages: Stages) -> Outcome:
        return next(work_through([(job, folder)], self.loaded, self.weights, stages=stages))


class Cluster:
    """A Ray cluster. address: of a running one, "auto" or ray://HOST:PORT; None starts one on this machine.

    workers: number of actors (None: one for every share of the cluster's GPUs or CPUs); cpus, gpus: what each takes
    (gpus None: 1 where the networks run on CUDA, else 0).
    """

    def __init__(
        self, address: str | None = None, workers: int | None = None, cpus: float = 1, gpus: float | None = None
    ):
        if (workers is not None and workers < 1) or cpus < 0 or (gpus is not None and gpus < 0):
            raise ValueError(
                f"{workers} workers with {cpus} CPUs and {gpus} GPUs are no cluster; give numbers above 0."
            )
        self.address, self.workers, self.cpus, self.gpus = address, workers, cpus, gpus

    def connect(self) -> None:
        if ray.is_initialized():
            return
        # Workers import gld_core from where this process did; one that is installed everywhere is found there.
        path = os.pathsep.join(filter(None, (str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH"))))
        settings: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
        if self.address is None:
            # As many as the workers that were asked for take, where the machine has fewer.
            settings["num_cpus"] = max(math.ceil((self.workers or 1) * self.cpus), os.cpu_count() or 1)
            settings |= {"include_dashboard": False, "runtime_env": {"env_vars": {"PYTHONPATH": path}}}
        try:
            ray.init(self.address or "local", **settings)
        except ConnectionError as error:
            raise ValueError(
                f"No Ray cluster answers at --ray {self.address}; start one with `ray start --head`, or leave the "
                "address out, and Ray starts on this machine."
            ) from error

    def count(self, gpus: float) -> int:
        if self.workers is not None:
            return self.workers
        have = ray.cluster_resources()
        return max(1, int(have.get("GPU", 0) / gpus if gpus else have.get("CPU", 1) / max(self.cpus, 1)))

    def work_through(
        self, work: Sequence[tuple[Any, Path]], models: Models, weights: str, stages: Stages
    ) -> Generator[Outcome, None, None]:
        """Outcomes as scenes are finished, in any order. Folders are given to the workers as absolute paths."""
        self.connect()
        gpus = self.gpus if self.gpus is not None else float(models.device.startswith("cuda"))
        count = min(self.count(gpus), len(work))
        models = replace(models, folder=models.folder.resolve(), device="cuda" if gpus else models.device)
        options: dict[str, Any] = {
            "num_cpus": self.cpus,
            "num_gpus": gpus,
            "max_restarts": -1,
            "max_task_retries": RETRIES,
        }
        actor: Any = ray.remote(**options)(Worker)
        threads = max(1, int(self.cpus))
        free: list[Any] = [actor.remote(models, weights, threads) for _ in range(count)]
        waiting = list(reversed(work))
        busy: dict = {}
        try:
            while waiting or busy:
                while waiting and free:
                    worker, (job, folder) = free.pop(), waiting.pop()
                    busy[worker.work.remote(absolute(job), folder.resolve(), stages)] = (worker, folder)
                done, _ = ray.wait(list(busy))
                for reference in done:
                    worker, folder = busy.pop(reference)
                    free.append(worker)
                    try:
                        yield ray.get(reference)
                    except ray.exceptions.RayActorError as error:
                        text = f"its worker died {RETRIES + 1} times ({sentence(error)})"
                        yield Outcome(folder.name, FAILED, 0, text)
                    except ray.exceptions.RayError as error:
                        yield Outcome(folder.name, FAILED, 0, sentence(error))
        finally:
            for worker in {*free, *(worker for worker, _ in busy.values())}:
                ray.kill(worker)
