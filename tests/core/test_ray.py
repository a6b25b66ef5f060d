"""Many scenes on a local Ray cluster of two workers."""

import hashlib
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from gld_core.checkpoints import NANO
from gld_core.io.posed_folders import write_scene
from gld_core.jobs import Job, Models, measure, run_many, scene
from gld_core.jobs.many import BEFORE, DONE, EXPORTS_FAILED, FAILED
from gld_core.jobs.measure import Judged, Measurement
from gld_core.jobs.results import PARTIAL, RESULT, files_of, read_result
from gld_core.synthetic.render import render_scene

pytestmark = pytest.mark.slow
ROOT = Path(__file__).resolve().parents[2]
MODELS = Models(NANO)
SCENES = 3


def silent(text):
    pass


@pytest.fixture(scope="module")
def cluster():
    ray = pytest.importorskip("ray", reason="ray is not installed: the cluster was not tested")
    from gld_core.jobs.cluster import Cluster

    made = Cluster(workers=2)
    made.connect()
    yield made
    ray.shutdown()


@pytest.fixture(scope="module")
def jobs(tmp_path_factory) -> list[Job]:
    folder = tmp_path_factory.mktemp("rooms")
    for seed in range(SCENES):
        images, _, cameras = render_scene(seed, 4, 56, 84)
        write_scene(folder / f"room_{seed}", images, cameras)
    return [Job(str(folder / f"room_{seed}"), size=84, steps=6) for seed in range(SCENES)]


def contents(folder: Path) -> dict[str, str]:
    """Digests, which a failed comparison shows in a moment."""
    return {
        name: hashlib.sha256((folder / name).read_bytes()).hexdigest()
        for name in files_of(folder)
        if not name.endswith((RESULT, ".md", ".jsonl"))
    }


@pytest.fixture(scope="module")
def alone(jobs, tmp_path_factory) -> dict[str, str]:
    """The files that one process makes of the jobs, with one thread as Ray's workers have: sums of several threads are
    rounded in another order.
    """
    folder, threads = tmp_path_factory.mktemp("alone"), torch.get_num_threads()
    torch.set_num_threads(1)
    run_many(jobs, folder, MODELS, silent)
    torch.set_num_threads(threads)
    return contents(folder)


def test_a_worker_killed_in_the_middle_of_a_scene_loses_nothing(cluster, jobs, alone, tmp_path):
    killed = tmp_path / "killed"

    class KilledOnce:
        """The stages of a scene; the first process that is about to write its files is ended."""

        read, make = staticmethod(scene.read), staticmethod(scene.make)

        @staticmethod
        def write(job, given, made, folder):
            try:
                killed.touch(exist_ok=False)
            except FileExistsError:
                return scene.write(job, given, made, folder)
            (folder / "half").touch()
            os.kill(os.getpid(), signal.SIGKILL)

    out = tmp_path / "out"
    outcomes = run_many(jobs, out, MODELS, silent, ray=cluster, stages=KilledOnce())
    assert killed.exists() and [one.state for one in outcomes] == [DONE] * SCENES
    # Nor does it leave anything.
    assert contents(out) == alone


def test_the_driver_started_again_does_only_what_is_missing(cluster, jobs, alone, tmp_path):
    class Interrupted(Exception):
        pass

    def interrupt(text):
        if text.startswith("1 of"):
            raise Interrupted

    with pytest.raises(Interrupted):
        run_many(jobs, tmp_path, MODELS, interrupt, ray=cluster)
    whole = {path.parent for path in tmp_path.glob(f"*/{RESULT}")}
    assert whole
    times = {path: (path / RESULT).stat().st_mtime_ns for path in whole}
    outcomes = run_many(jobs, tmp_path, MODELS, silent, ray=cluster)
    assert {one.name for one in outcomes if one.state == BEFORE} >= {path.name for path in whole}
    assert all((path / RESULT).stat().st_mtime_ns == before for path, before in times.items())
    assert {name: data for name, data in contents(tmp_path).items() if PARTIAL not in name} == alone


def test_a_scene_that_fails_is_recorded_and_stops_no_other(cluster, jobs, tmp_path):
    outcomes = run_many([Job(str(tmp_path / "nothing")), jobs[0]], tmp_path / "out", MODELS, silent, ray=cluster)
    assert [one.state for one in outcomes] == [FAILED, DONE]
    assert "does not exist" in outcomes[0].text


def test_a_scene_whose_export_fails_keeps_its_views(cluster, jobs, tmp_path):
    class Exporting:
        """The stages of a scene without the networks."""

        read, write = staticmethod(scene.read), staticmethod(scene.write)

        @staticmethod
        def make(*given):
            raise ValueError("sampled again")

    job = replace(jobs[0], steps=1, export=("glb",))
    first = run_many([replace(job, voxel=1000.0)], tmp_path, MODELS, silent, ray=cluster)
    then = run_many([job], tmp_path, MODELS, silent, ray=cluster, stages=Exporting())
    assert [one.state for one in (*first, *then)] == [EXPORTS_FAILED, DONE]
    assert (tmp_path / then[0].name / "scene.glb").is_file()


def test_measurements_go_the_same_way(cluster, jobs, tmp_path):
    measured = {}
    for name, ray in (("alone", None), ("ray", cluster)):
        models, jobs_ = Judged(NANO), [Measurement(job.input, size=84, steps=1, cascade=False) for job in jobs[:2]]
        outcomes = run_many(jobs_, tmp_path / name, models, silent, ray=ray, stages=measure)
        measured[name] = [(one.name, one.state, one.figures) for one in outcomes]
    assert repr(measured["ray"]) == repr(measured["alone"]) and measured["ray"][0][1] == DONE


def test_two_drivers_on_one_folder_do_not_harm_each_other(jobs, alone, tmp_path):
    """Without Ray, which hands out the same work: two processes, begun together."""
    inputs = [job.input for job in jobs]
    command = [sys.executable, "-m", "gld_core", "views", *inputs, "--models", str(NANO), "--out", str(tmp_path)]
    command += ["--size", "84", "--steps", "6", "--device", "cpu"]
    one_thread = dict(os.environ, OMP_NUM_THREADS="1")
    both = [subprocess.Popen(command, cwd=ROOT, env=one_thread, stderr=subprocess.DEVNULL) for _ in range(2)]
    assert [process.wait(600) for process in both] == [0, 0]
    assert contents(tmp_path) == alone
    assert all(read_result(tmp_path / Path(name).name) for name in inputs)
