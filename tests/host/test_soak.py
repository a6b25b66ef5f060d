"""Good, bad and cancelled prompts of several clients at once: every result is the core's or a sentence, nothing stays.

Two pages and a program that addresses nodes by their titles share one server; a second server shares its folders.
"""

import collections
import io
import json
import os
import queue
import random
import shutil
import threading
import time
import warnings

import numpy as np
import pytest
import torch
from comfy_api_simplified import ComfyApiWrapper, ComfyWorkflowWrapper
from PIL import Image
from safetensors.torch import load_file

import gld_core
from gld_core.cameras import motions
from gld_core.checkpoints import NANO
from gld_core.io.cameras import read_scene
from gld_core.io.posed_folders import write_scene
from gld_core.synthetic.render import render_scene
from tests.host.test_templates import API, quick

PROMPTS = int(os.environ.get("GLD_SOAK_PROMPTS", 40))
STEPS, SIDE = 2, 56


def relative(found, meant):
    return float((found - meant).norm() / meant.norm())


# What is wrong with a prompt: how to spoil it, and words of the sentence it has to fail with.
BAD = {
    "cascade in level 1": (lambda p: p["level1"]["inputs"].update(model=["model0", 0]), "a level-1 model is needed"),
    "swapped latents": (
        lambda p: p["rgb"]["inputs"].update(level1=["level0", 0], level0=["level1", 0]),
        "swap the connections",
    ),
    "no such scene": (lambda p: p["scene"]["inputs"].update(scene="../room"), "There is no scene"),
    "no such view": (lambda p: p["scene"]["inputs"].update(targets="2, 77"), "There is no target view 77"),
    "views backwards": (lambda p: p["scene"]["inputs"].update(targets="4-2"), "give view numbers such as"),
    "no view numbers": (lambda p: p["scene"]["inputs"].update(sources="²"), "give view numbers such as"),
    "no such model": (lambda p: p["model1"]["inputs"].update(model_name="../a.pt"), "is not in models/gld"),
    "no steps": (lambda p: p["level1"]["inputs"].update(steps=-1), "smaller than min"),
    "one window too small": (
        lambda p: (p["scene"]["inputs"].update(targets="2, 3"), p["level1"]["inputs"].update(window=2)),
        "no room for a new target",
    ),
    "no wire": (lambda p: p["rgb"]["inputs"].pop("views"), "Required input is missing"),
    "a wire of another kind": (lambda p: p["rgb"]["inputs"].update(views=["model1", 0]), "return_type_mismatch"),
}


# Values that some prompts get by wire.
WIRED = (("scene", "scene"), ("model1", "model_name"), ("backbone", "backbone"), ("level1", "steps"), ("level0", "cfg"))


class Job:
    """One prompt, what it is meant to do, and what became of it."""

    def __init__(self, number: int, graph, only):
        choose = random.Random(number)
        self.kind = choose.choices(("good", "bad", "cancelled"), (5, 2, 2))[0]
        self.scene = choose.choice(("room", "hall"))
        self.sources = choose.choice(([0], [0, 4], [4, 1]))
        self.targets = choose.choice(([2], [3, 2]))
        self.motion = choose.choice((None, "orbit", "truck"))
        self.seed = choose.randrange(4)
        self.delay = choose.uniform(0, 1.5)
        self.preview = choose.choice(("none", "latent2rgb"))
        steps = 1000 if self.kind == "cancelled" else STEPS
        sources, targets = (", ".join(map(str, views)) + "," for views in (self.sources, self.targets))
        prompt = graph(self.scene, sources, targets, SIDE, self.seed, steps)
        if self.motion:
            settings = {"number": 2, "ease": "none", "first_is_source": False, "source": 0}
            settings |= {"orbit": {"degrees": 30.0}, "truck": {"distance": 0.2}}[self.motion]
            inputs = {"cameras": ["scene", 1], "sources": len(self.sources), "motion": self.motion}
            inputs |= {f"motion.{name}": value for name, value in settings.items()}
            prompt["set"] = {"class_type": "GLDSetCameras", "inputs": inputs}
            for name in ("views", "glb"):
                prompt[name]["inputs"]["cameras"] = ["set", 0]
        for node, name in choose.sample(WIRED, choose.randrange(3)):
            value = prompt[node]["inputs"][name]
            prompt[f"wire {name}"] = {"class_type": "TestValue", "inputs": {"json": json.dumps(value)}}
            prompt[node]["inputs"][name] = [f"wire {name}", 0]
        self.words = None
        if self.kind == "bad":
            spoil, self.words = choose.choice(list(BAD.values()))
            spoil(prompt)
        selection = {"min_confidence": 1.0, "keep_at_least": 0.0, "confirmed_by": 0, "max_points": 1000}
        exported = {"geometry": ["depth", 0], "cameras": prompt["glb"]["inputs"]["cameras"], **selection}
        exported |= {"format": "COLMAP", "format.binary": True, "filename_prefix": "soak/set"}
        prompt["dataset"] = {"class_type": "GLDExportDataset", "inputs": exported}
        wanted = choose.choice((["save rgb"], ["save rgb", "save glb"], ["dataset"], []))
        # The host leaves out a bad output and runs the good ones.
        self.prompt = only(prompt, "save rgb") if self.kind == "bad" else only(prompt, "save level0", *wanted)

    def run(self, client) -> None:
        """Queue it, cancel it where that is meant, and wait for its end."""
        started = time.time()
        try:
            self.id = client.queue(self.prompt, preview_method=self.preview)
        except Exception as refused:
            assert type(refused).__name__ == "Refused", refused
            self.outcome, self.message, self.seconds = "refused", str(refused), time.time() - started
            return
        if self.kind == "cancelled":
            time.sleep(self.delay)
        while True:
            if self.kind == "cancelled":
                # The host forgets a cancel that comes just before the prompt's first node.
                client.post("/queue", {"delete": [self.id]})
                client.post("/interrupt", {"prompt_id": self.id})
            found = client.get(f"/history/{self.id}")
            if found and "completed" in found[self.id]["status"]:
                break
            waiting = client.get("/queue")
            if not any(entry[1] == self.id for entries in waiting.values() for entry in entries):
                found = client.get(f"/history/{self.id}")
                break
            assert time.time() - started < 900, f"stuck: {self.prompt}"
            time.sleep(0.05)
        self.seconds = time.time() - started
        if not found:
            self.outcome = "cancelled"
            return
        self.history = found[self.id]
        messages = dict(self.history["status"]["messages"])
        if "execution_error" in messages:
            self.outcome, error = "failed", messages["execution_error"]
            self.message = error["exception_message"].strip()
            assert error["exception_type"] in ("ValueError", "FileNotFoundError"), error
            assert "\n" not in self.message and self.message.endswith("."), self.message
        else:
            self.outcome = "cancelled" if "execution_interrupted" in messages else "done"


class TitledJob:
    """A shipped API file run by a program that knows its nodes by their titles, with pictures for its result."""

    kind = "by title"

    def __init__(self, number: int):
        choose = random.Random(number)
        self.seed, self.sources = choose.randrange(4), choose.choice(([1, 4], [0, 3]))
        content = json.loads((API / "GLD posed scene to new views.json").read_text(encoding="utf-8"))
        self.prompt = ComfyWorkflowWrapper(quick(content))
        with warnings.catch_warnings():
            # Of a title that is not unique.
            warnings.simplefilter("error")
            self.prompt.set_node_param("Sample GLD", "seed", self.seed)
            self.prompt.set_node_param("Load GLD Scene", "sources", ", ".join(map(str, self.sources)))

    def run(self, client) -> None:
        started = time.time()
        found = ComfyApiWrapper(client.url).queue_and_wait_images(self.prompt, "Save Views")
        self.pictures = [np.asarray(Image.open(io.BytesIO(data)), dtype=np.int16) for data in found.values()]
        self.outcome, self.seconds = "done", time.time() - started


@pytest.fixture
def expected_pictures(host_noise):
    """expected_pictures(titled job) -> the core's pictures of all views, (V, H, W, 3) in 0 to 255."""
    nano, known = gld_core.load(NANO, keep=True), {}

    def compute(job: TitledJob):
        key = (*job.sources, job.seed)
        if key not in known:
            scene = read_scene(API.parent / "inputs/room", 84)
            wanted = [view for view in range(len(scene)) if view not in job.sources]
            photographs = scene.photographs(job.sources)
            views = nano.encode_views(photographs, scene.cameras[job.sources + wanted])
            noise = host_noise(views, job.seed)
            level1 = nano.sample_level1(views, steps=1, noise=noise)
            level0 = nano.cascade_level0(views, level1, steps=1, noise=noise)
            generated = nano.decode_rgb(views, level1, level0)[len(photographs) :]
            known[key] = (torch.cat([photographs, generated]).clamp(0, 1) * 255).movedim(1, -1).numpy()
        return known[key]

    return compute


@pytest.fixture
def expected(server, core, host_noise):
    """expected(job) -> the core's level-0 latent for a job's settings."""
    known = {}

    def compute(job: Job):
        key = (job.scene, *job.sources, -1, *job.targets, job.motion, job.seed)
        if key not in known:
            scene = read_scene(server.base / "input" / job.scene, SIDE)
            cameras = scene.cameras[job.sources + job.targets]
            if job.motion:
                own = scene.cameras[job.sources]
                settings = {"orbit": {"degrees": 30.0}, "truck": {"distance": 0.2}}[job.motion]
                cameras = motions.join(own, motions.targets(own, job.motion, 2, **settings))
            views = core.encode_views(scene.photographs(job.sources), cameras)
            noise = host_noise(views, job.seed)
            level1 = core.sample_level1(views, steps=STEPS, noise=noise)
            known[key] = core.cascade_level0(views, level1, steps=STEPS, noise=noise)
        return known[key]

    return compute


def test_a_soak(server, start_server, tmp_path, graph, only, expected, expected_pictures):
    images, _, cameras = render_scene(1, 5, 84, 56)
    write_scene(server.base / "input" / "hall", images, cameras)
    jobs = [TitledJob(number) if number % 10 == 3 else Job(number, graph, only) for number in range(PROMPTS)]
    left = queue.SimpleQueue()
    for job in jobs:
        left.put(job)
    # The second server reads and writes the same files.
    folders = [part for kind in ("input", "output") for part in (f"--{kind}-directory", str(server.base / kind))]
    other = start_server(tmp_path, None, "--cpu", *folders)
    shutil.rmtree(other.base / "models")
    (other.base / "models").symlink_to(server.base / "models")
    memory, failures, clients = [], [], [server, server.another_page(), other]

    def work(client):
        try:
            while True:
                job = left.get_nowait()
                job.client = client.client
                if client is other:
                    # The host's own nodes would write over each other's files.
                    for node in job.prompt.values():
                        if node["class_type"].startswith("Save"):
                            node["inputs"]["filename_prefix"] += "_other"
                job.run(client)
                if client is not other:
                    memory.append(server.rss() / 2**20)
                    if len(memory) % 50 == 0:
                        seconds = time.time() - started
                        print(f"{len(memory)} prompts in {seconds:.0f} s, {memory[-1]:.0f} MiB", flush=True)
        except queue.Empty:
            return
        except BaseException as error:
            failures.append(error)

    started = time.time()
    # Two of each client at a time, so that there is always something waiting that can be cancelled.
    threads = [threading.Thread(target=work, args=(client,)) for client in clients * 2]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]

    early = len(memory) // 5
    counts = collections.Counter(f"{job.kind}: {job.outcome}" for job in jobs)
    print(f"\n{PROMPTS} prompts in {time.time() - started:.0f} s, the longest {max(job.seconds for job in jobs):.1f} s")
    print(", ".join(f"{count} {name}" for name, count in sorted(counts.items())))
    print(f"server memory after {early} prompts {memory[early]:.0f} MiB, after {PROMPTS} {memory[-1]:.0f} MiB")

    for client in clients:
        assert client.get("/queue") == {"queue_running": [], "queue_pending": []}
    folders = sorted(path.name for path in (server.base / "output/soak").iterdir())
    assert folders == [f"set_{number:05}" for number in range(1, len(folders) + 1)]
    other.close()
    for number, job in enumerate(jobs):
        if job.kind == "bad":
            assert job.outcome in ("refused", "failed"), (number, job.outcome)
            assert job.words in job.message, (number, job.message)
        elif job.kind == "cancelled":
            assert job.outcome == "cancelled", number
        elif job.kind == "by title":
            meant = expected_pictures(job)
            assert len(job.pictures) == len(meant) and np.abs(np.stack(job.pictures) - meant).max() <= 1.01, number
        else:
            assert job.outcome == "done", (number, getattr(job, "message", job.outcome))
            file = job.history["outputs"]["save level0"]["latents"][0]
            found = load_file(server.base / "output" / file["filename"])["latent_tensor"][0].transpose(0, 1)
            assert relative(found, expected(job)) < 1e-5, number
    # Each page hears of its own prompts only.
    queued = [job for job in jobs if job.kind != "by title" and job.outcome != "refused"]
    for client in clients:
        own = {job.id for job in queued if job.client == client.client}
        heard = [client.messages.get_nowait() for _ in range(client.messages.qsize())]
        ran = {message["data"]["prompt_id"] for message in heard if message["type"] == "executing"}
        assert ran <= own and {job.id for job in queued if job.outcome == "done"} & own <= ran
    assert memory[-1] < memory[early] * 1.05 + 20
    assert server.run(only(graph(seed=77), "save rgb")).error is None
