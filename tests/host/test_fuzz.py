"""Wrong values, wires and hostile names over the API: refused in a sentence, and nothing outside output/ changes."""

import json
import math
import random
import shutil
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = '{"width": 84, "height": 56, "K": [[70,0,42],[0,70,28],[0,0,1]], "c2w": [[[1,0,0,0],[0,1,0,0],[0,0,1,0]]]}'
JUNK = (
    math.nan,
    math.inf,
    -1,
    0,
    1e30,
    2**70,
    "",
    "x",
    "²",
    "5-2",
    "0-99999999999",
    "9" * 5000,
    "a\0b",
    None,
    True,
    {},
)
HOSTILE = (
    "../escaped",
    "../../escaped",
    "{outside}/escaped",
    "link/escaped",
    "a/../../escaped",
    "a\0b",
    "..",
    "",
    "n" * 300,
    "{base}/input/room/frame_00000.npz/x",
)
# Whatever runs in the host writes these; the server's log lies in the base directory.
OWN = ("output", "temp", "user", "__pycache__")


def node(class_type: str, **inputs) -> dict:
    return {"class_type": class_type, "inputs": inputs}


@pytest.fixture(scope="module")
def everything(graph):
    """A prompt with every node, each of whose results somebody looks at."""
    prompt = graph(steps=1, long_side=56)
    room, selection = {"geometry": ["room", 0], "cameras": ["room", 1]}, {"min_confidence": 1.0, "keep_at_least": 0.0}
    selection |= {"confirmed_by": 0, "max_points": 1000}
    orbit = {"degrees": 30.0, "number": 2, "ease": "none", "first_is_source": False, "source": 0}
    room_of = {"seed": 0, "views": 4, "height": 28, "width": 42, "sources": 2, "broken": False}
    prompt |= {
        "room": node("TestRoom", **room_of),
        "set": node("GLDSetCameras", cameras=["scene", 1], sources=2, motion="orbit") | {},
        "estimate": node("GLDEstimateCameras", backbone=["backbone", 0], images=["scene", 0], long_side=56, fov=0.0),
        "preview": node("GLDPreviewCameras", **room, sources=2, min_confidence=1.0, max_points=1000),
        "load": node("GLDLoadCameras", source="json", views="", long_side=0),
        "saved": node("GLDSaveCameras", cameras=["load", 0], filename_prefix="f/c", format="COLMAP text", view=0),
        "ply": node("GLDExportPLY", **room, **selection, voxel=0.0, axes="upright"),
        "mesh": node("GLDExportGLB", **room, **selection, kind="mesh", show_cameras=True),
        "dataset": node("GLDExportDataset", **room, **selection, format="nerfstudio", filename_prefix="f/d"),
        "check": node("GLDCheckDepth", **room, tolerance=0.02),
        "ordered": node("GLDOrderViews", images=["rgb", 0], views=["views", 0], sources="woven in"),
        "conditioning": node("GLDConditioning", views=["views", 0]),
        "scheduler": node("GLDScheduler", model=["model1", 0], latent=["conditioning", 2], steps=4, shift=0.0),
        "fast": node("GLDFast", model=["model1", 0], guidance_from=0.0, guidance_to=0.9, share=2),
        "evaluate": node("GLDEvaluateViews", images=["rgb", 0], truth=["scene", 0]),
        "small": node("EmptyImage", width=30, height=20, batch_size=3, color=0),
        "other": node("TestRoom", **{**room_of, "views": 3, "height": 56, "width": 28}),
        "plain": node("EmptyLatentImage", width=64, height=64, batch_size=2),
    }
    prompt["set"]["inputs"] |= {f"motion.{name}": value for name, value in orbit.items()}
    prompt["load"]["inputs"]["source.text"] = EXAMPLE
    prompt["mesh"]["inputs"]["kind.voxel"] = 0.0
    for name in (
        "set",
        "estimate",
        "ply",
        "check",
        "ordered",
        "conditioning",
        "scheduler",
        "fast",
        "backbone",
        "model1",
    ):
        prompt[f"see {name}"] = node("PreviewAny", source=[name, 0])
    return prompt


@pytest.fixture(scope="module")
def outcome(server, only, everything):
    """outcome(prompt, node) -> None where what the node makes was made, else the sentence; AssertionError otherwise."""
    ends = {"views": "save level1", "level1": "save level1", "level0": "save level0", "rgb": "save rgb"}
    ends |= {"scene": "save level1", "model0": "save level0", "depth": "save depth", "glb": "save glb"}

    def run(prompt: dict, name: str) -> str | None:
        end = ends.get(name, f"see {name}" if f"see {name}" in prompt else name)
        try:
            result = server.run(only(prompt, end))
        except Exception as refused:
            assert type(refused).__name__ == "Refused", refused
            return str(refused)
        if result.error is None:
            return None
        error = dict(result.history["status"]["messages"])["execution_error"]
        sentence = error["exception_message"].strip()
        assert error["exception_type"] in ("ValueError", "FileNotFoundError"), error["traceback"][-2:] + [sentence]
        assert "\n" not in sentence and sentence.endswith(".") and len(sentence) < 900, sentence
        return sentence

    return run


@pytest.fixture(autouse=True)
def nothing_else_is_written(server):
    """Every file of the server's base directory, what is beside it and the plugin's files, before and after."""

    def listing() -> dict:
        found = {path: None for path in server.base.parent.glob("*escaped*")}
        for top in (server.base, *(ROOT / name for name in ("nodes", "gld_core", "web", "workflows"))):
            for path in top.rglob("*"):
                if path.is_file() and not set(path.relative_to(top).parts) & set(OWN) and path.suffix != ".log":
                    # Whoever works on the plugin may save a file meanwhile.
                    found[path] = path.stat().st_mtime_ns if top == server.base else None
        return found

    before = listing()
    yield
    assert listing() == before


def copied(prompt: dict) -> dict:
    return {name: {**value, "inputs": dict(value["inputs"])} for name, value in prompt.items()}


def test_everything_runs_as_it_is(server, everything):
    assert server.run(everything).error is None


def test_wrong_values_in_widgets(everything, outcome):
    """Seeded; what is taken in spite of its value has to run to its end."""
    widgets = [
        (name, key)
        for name, value in everything.items()
        if value["class_type"].startswith("GLD")
        for key, given in value["inputs"].items()
        if not isinstance(given, list) and key not in ("filename_prefix", "download")
    ]
    failures = []
    for case in range(40):
        choose = random.Random(case)
        (name, key), junk = choose.choice(widgets), choose.choice(JUNK)
        prompt = copied(everything)
        prompt[name]["inputs"][key] = junk
        try:
            outcome(prompt, name)
        except AssertionError as error:
            failures.append(f"case {case}, {key} of {name} = {str(junk)[:30]!r}: {str(error)[:400]}")
    assert not failures, "\n".join(failures)


@pytest.mark.parametrize("node_name, key", [("level1", "cfg"), ("level1", "shift"), ("fast", "guidance_from")])
def test_not_a_number_in_a_widget(everything, outcome, node_name, key):
    prompt = copied(everything)
    prompt[node_name]["inputs"][key] = math.nan
    assert key in outcome(prompt, node_name)


def test_wires_from_other_views_sizes_and_kinds(everything, outcome):
    """Each input gets the value of another node of its type, one at a time."""
    wrong = {
        ("scene", 0): ["small", 0],
        ("rgb", 0): ["small", 0],
        ("scene", 1): ["other", 1],
        ("room", 1): ["other", 1],
        ("room", 0): ["other", 0],
        ("depth", 0): ["other", 0],
        ("level1", 0): ["plain", 0],
        ("level0", 0): ["plain", 0],
        ("conditioning", 2): ["plain", 0],
        ("model1", 0): ["model0", 0],
        ("model0", 0): ["model1", 0],
    }
    # Any pictures have cameras, any model can be sped up or scheduled, any cameras have a path.
    taken = {("estimate", "images"), ("fast", "model"), ("set", "cameras")}
    failures = []
    for name, value in everything.items():
        for key, given in value["inputs"].items():
            if not isinstance(given, list) or not value["class_type"].startswith("GLD") or tuple(given) not in wrong:
                continue
            prompt = copied(everything)
            prompt[name]["inputs"][key] = wrong[tuple(given)]
            try:
                said = outcome(prompt, name)
                assert (said is None) == ((name, key) in taken), f"said {said}"
            except AssertionError as error:
                failures.append(f"{key} of {name}: {str(error)[:400]}")
    assert not failures, "\n".join(failures)


@pytest.mark.parametrize("name", HOSTILE)
def test_names_that_lead_elsewhere(server, tmp_path, everything, outcome, name):
    """As a result's name, a scene, a file of cameras and a model; with a link out of each of the folders."""
    shutil.copytree(server.base / "input" / "room", tmp_path / "escaped")
    (tmp_path / "escaped" / "cameras.json").write_text(EXAMPLE, encoding="utf-8")
    links = [server.base / folder / "link" for folder in ("input", "output")]
    for link in links:
        link.symlink_to(tmp_path, target_is_directory=True)
    try:
        name = name.format(outside=tmp_path, base=server.base)
        for place in ("saved", "dataset", "scene", "file", "model1"):
            prompt = copied(everything)
            if place == "file":
                inputs = {"source.path": f"{name}/cameras.json", "source.width": 0, "source.height": 0}
                prompt["load"]["inputs"] = {"source": "file", "views": "", "long_side": 0, **inputs}
                prompt["load"]["inputs"]["source.ignore_distortion"] = False
                said = outcome(prompt, "saved")
            else:
                key = {"scene": "scene", "model1": "model_name"}.get(place, "filename_prefix")
                prompt[place]["inputs"][key] = name
                said = outcome(prompt, place)
            assert said is not None, place
        assert sorted(path.name for path in tmp_path.iterdir()) == ["escaped"]
        assert len(list((tmp_path / "escaped").iterdir())) == 13
    finally:
        for link in links:
            link.unlink()


def test_a_result_that_is_in_the_way_is_not_written_over(server, tmp_path, everything, outcome):
    """A dangling link in the place of the next result does not become a file elsewhere."""
    outcome(everything, "saved")
    folder = server.base / "output" / "f"
    number = max(int(path.name.split("_")[1]) for path in folder.glob("c_*")) + 1
    way = folder / f"c_{number:05}_"
    way.symlink_to(tmp_path / "elsewhere")
    try:
        prompt = copied(everything)
        prompt["load"]["inputs"]["source.text"] = json.dumps({**json.loads(EXAMPLE), "names": ["a"]})
        outcome(prompt, "saved")
        assert way.is_symlink() and not list(tmp_path.iterdir())
    finally:
        way.unlink()
