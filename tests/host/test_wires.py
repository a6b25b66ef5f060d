"""Values that come by wire instead of a widget: they work as the widget's do, and wrong ones are as clearly refused."""

import json

import pytest


def wired(value) -> dict:
    """A node whose output is a value of any type."""
    return {"class_type": "TestValue", "inputs": {"json": json.dumps(value)}}


@pytest.fixture
def everything(graph):
    """A prompt with a node of every kind of input that a widget bounds."""
    prompt = graph(steps=1)
    room, selection = {"geometry": ["room", 0], "cameras": ["room", 1]}, {"min_confidence": 1.0, "keep_at_least": 0.0}
    room_of = {"seed": 0, "views": 4, "height": 28, "width": 42, "sources": 2, "broken": False}
    prompt["room"] = {"class_type": "TestRoom", "inputs": room_of}
    exported = {**room, **selection, "confirmed_by": 0, "max_points": 1000}
    prompt |= {
        "mesh": {
            "class_type": "GLDExportGLB",
            "inputs": {**exported, "kind": "points", "kind.voxel": 0.0, "show_cameras": False},
        },
        "ply": {"class_type": "GLDExportPLY", "inputs": {**exported, "voxel": 0.0, "axes": "upright"}},
        "dataset": {
            "class_type": "GLDExportDataset",
            "inputs": {**exported, "format": "nerfstudio", "filename_prefix": "wires/d"},
        },
        "preview": {
            "class_type": "GLDPreviewCameras",
            "inputs": {**room, "sources": 2, "min_confidence": 1.0, "max_points": 1000},
        },
        "saved": {
            "class_type": "GLDSaveCameras",
            "inputs": {"cameras": ["room", 1], "filename_prefix": "wires/c", "format": "COLMAP text", "view": 0},
        },
        "set": {
            "class_type": "GLDSetCameras",
            "inputs": {"cameras": ["scene", 1], "sources": 2, "motion": "orbit", "motion.degrees": 30.0},
        },
        "fast": {
            "class_type": "GLDFast",
            "inputs": {"model": ["model1", 0], "guidance_from": 0.1, "guidance_to": 0.9, "share": 2},
        },
        "save ply": {"class_type": "SaveGLB", "inputs": {"mesh": ["ply", 0], "filename_prefix": "p"}},
    }
    prompt["level1"]["inputs"]["model"] = ["fast", 0]
    return prompt


@pytest.mark.parametrize(
    "node, values",
    [
        ("fast", {"guidance_from": 0.2, "guidance_to": 0.8, "share": 1}),
        ("scene", {"scene": "room", "sources": "2", "targets": "2", "long_side": 84}),
        ("model1", {"model_name": "checkpoints/da3_level1.pt", "weight_dtype": "fp32", "download": False}),
        ("backbone", {"backbone": "da3", "weight_dtype": "default", "download": False}),
        ("level1", {"steps": 2, "cfg": 1.2, "sampler_name": "euler", "scheduler": "gld", "shift": 0.5, "window": 5}),
    ],
)
def test_a_wired_value_does_what_the_widget_does(server, everything, only, node, values):
    prompt = only(everything, "save level1")
    prompt[node]["inputs"] |= values
    meant = server.run(prompt).latent("save level1")
    for name, value in values.items():
        prompt[f"wire {name}"] = wired(value)
        prompt[node]["inputs"][name] = [f"wire {name}", 0]
    prompt["save level1"]["inputs"]["filename_prefix"] = "wired"
    assert (server.run(prompt).latent("save level1") - meant).abs().max() == 0


@pytest.mark.parametrize(
    "node, name, value, words",
    [
        ("fast", "guidance_to", 7.0, "The input 'guidance_to' is 7.0; give a number from 0.0 to 1.0"),
        ("fast", "guidance_from", 0.95, "so the time range is empty"),
        ("fast", "share", 0, "The input 'share' is 0; give a whole number from 1 to 100"),
        ("level1", "steps", -1, "The input 'steps' is -1; give a whole number from 0 to 1000"),
        ("level1", "steps", "three", "The input 'steps' is 'three'; give a whole number from 0 to 1000"),
        ("level1", "cfg", "nan", "The input 'cfg' is nan; give a number from 0.0 to 20.0"),
        ("level1", "scheduler", "fast", "The input 'scheduler' is 'fast'; give one of the options in its list"),
        ("scene", "scene", "no such room", "There is no scene 'no such room'"),
        ("scene", "long_side", 9000, "The input 'long_side' is 9000; give a whole number from"),
        ("backbone", "backbone", "da4", "The input 'backbone' is 'da4'; give one of the options in its list"),
        ("model1", "model_name", "no.pt", "no.pt is not in models/gld"),
        ("mesh", "max_points", 0, "The input 'max_points' is 0; give a whole number from 1000 to 20000000"),
        ("mesh", "max_points", -5, "The input 'max_points' is -5; give a whole number from 1000 to 20000000"),
        ("mesh", "kind.voxel", -1.0, "The input 'voxel' is -1.0; give a number from 0.0 to 1000.0"),
        ("mesh", "kind", "mesh", "The input 'kind' needs one of its options; choose mesh, textured mesh, points"),
        ("ply", "max_points", 0, "The input 'max_points' is 0; give a whole number from 1000"),
        ("ply", "axes", "sideways", "The input 'axes' is 'sideways'; give one of the options in its list"),
        ("dataset", "filename_prefix", "/".join("a" * 4000), "is too long: more than 32 folders"),
        ("preview", "max_points", 0, "The input 'max_points' is 0; give a whole number from 1000"),
        ("set", "motion.degrees", 1e9, "The input 'degrees' is 1000000000.0; give a number from -1440.0 to 1440.0"),
        ("saved", "filename_prefix", "../escaped", "this is not in the output folder"),
    ],
)
def test_a_wired_value_that_no_widget_would_take_is_a_sentence(message, everything, only, node, name, value, words):
    everything["wire"] = wired(float("nan") if value == "nan" else value)
    everything[node]["inputs"][name] = ["wire", 0]
    everything["views"]["inputs"]["cameras"] = ["set", 0]
    ends = {"mesh": "mesh", "ply": "save ply", "dataset": "dataset", "preview": "preview", "saved": "saved"}
    assert words in message(only(everything, ends.get(node, "save level1")))


@pytest.mark.parametrize(
    "node, name, value, words",
    [
        ("glb", "kind", "mush", "The input 'kind' needs one of its options; choose mesh, textured mesh, points"),
        ("glb", "kind", None, "The input 'kind' needs one of its options"),
        ("dataset", "format", "nerf", "The input 'format' needs one of its options; choose COLMAP, nerfstudio"),
        ("dataset", "filename_prefix", "/".join("a" * 4000), "is too long: more than 32 folders"),
        ("dataset", "filename_prefix", "a\tb", "this is not a file name"),
        ("saved", "filename_prefix", "..", "this is not in the output folder"),
        ("fast", "guidance_to", 1.5, "The input 'guidance_to' is 1.5; give a number from 0.0 to 1.0"),
        ("scene", "scene", "no such room", "There is no scene 'no such room'"),
    ],
)
def test_a_wrong_constant_is_refused_before_anything_runs(server, everything, only, node, name, value, words):
    """A misspelt word at the end of a graph used to be named only after all the sampling."""
    if value is None:
        del everything[node]["inputs"][name]
    else:
        everything[node]["inputs"][name] = value
    ends = {"glb": "save glb", "dataset": "dataset", "saved": "saved"}
    with pytest.raises(Exception, match="prompt_outputs_failed_validation") as refused:
        server.queue(only(everything, ends.get(node, "save level1")))
    assert words in str(refused.value)


@pytest.mark.parametrize(
    "node, name, value",
    [
        ("scene", "sources", 2),
        ("scene", "backbone", "da3"),
        ("views", "images", "picture.png"),
        ("views", "cameras", {"c2w": []}),
        ("level1", "views", 5),
        ("level1", "model", "da3_level1.pt"),
        ("rgb", "level1", [1, 2]),
        ("depth", "images", {}),
        ("set", "cameras", "orbit"),
        ("set", "geometry", {"depth": "deep", "image": 3}),
        ("set", "geometry", 7),
        ("move", "geometry", "deep"),
        ("mesh", "geometry", {}),
        ("mesh", "geometry", 7),
        ("mesh", "show_cameras", "no"),
        ("place", "cameras", []),
        ("place", "keyframes", "camera"),
        ("place", "keyframes", {"position": 5}),
        ("place", "images", 3),
        ("place", "path", 5),
        ("place", "path", [1]),
        ("splats", "geometry", "room"),
        ("splats", "cameras", 1),
        ("move", "cameras", {}),
        ("order", "views", "views"),
        ("order", "images", 2),
        ("sample", "level1_model", {}),
        ("sample", "views", []),
        ("load cameras", "images", "a"),
    ],
)
def test_a_wire_that_carries_another_kind_is_a_sentence(message, everything, only, node, name, value):
    """As outputs of any type may, which the host lets into every input."""
    room = {"geometry": ["room", 0], "cameras": ["room", 1]}
    selection = {"min_confidence": 1.0, "keep_at_least": 0.0, "confirmed_by": 0}
    sampling = {"seed": 0, "steps": 1, "cfg": 1.0, "quality": "quick", "sampler_name": "euler", "scheduler": "gld"}
    models = {"level1_model": ["model1", 0], "level0_model": ["model0", 0]}
    given = {"source": "json", "source.text": '{"c2w": [], "K": []}', "views": "", "long_side": 0}
    everything |= {
        "place": {"class_type": "GLDPlaceCameras", "inputs": {**room, "path": {"version": 1}}},
        "splats": {"class_type": "GLDMakeSplats", "inputs": {**room, **selection, "max_splats": 1000, "steps": 0}},
        "move": {
            "class_type": "GLDMoveCamera",
            "inputs": {"cameras": ["room", 1], "motion": "orbit", "amount": 1.0, "number": 2},
        },
        "order": {
            "class_type": "GLDOrderViews",
            "inputs": {"images": ["rgb", 0], "views": ["views", 0], "sources": "woven in"},
        },
        "sample": {"class_type": "GLDSample", "inputs": {"views": ["views", 0], **models, **sampling, "shift": 0.0}},
        "load cameras": {"class_type": "GLDLoadCameras", "inputs": given},
        "wire": wired(value),
        "see": {"class_type": "PreviewAny", "inputs": {"source": [node, 0]}},
    }
    everything["place"]["inputs"] |= {"sources": 0, "min_confidence": 1.0}
    everything[node]["inputs"][name] = ["wire", 0]
    sentence = message(only(everything, node if node in ("mesh", "place") else "see"))
    assert name.upper() in sentence.upper() or "3D camera" in sentence, sentence
    assert sentence.endswith(".") and "\n" not in sentence and "' object" not in sentence, sentence


def test_a_missing_scene_is_reported_at_its_own_input(server, graph, only):
    with pytest.raises(Exception, match="failed_validation") as refused:
        server.queue(only(graph(scene="no such room"), "save rgb"))
    errors = json.loads(str(refused.value))["node_errors"]
    assert [error["extra_info"]["input_name"] for error in errors["scene"]["errors"]] == ["scene"]


@pytest.mark.parametrize(
    "node, name",
    [
        ("scene", "scene"),
        ("backbone", "backbone"),
        ("backbone", "download"),
        ("model1", "model_name"),
        ("model1", "download"),
        ("fast", "guidance_from"),
        ("saved", "filename_prefix"),
        ("dataset", "max_points"),
    ],
)
def test_a_required_input_that_is_left_out_is_the_hosts_own_message(server, everything, only, node, name):
    del everything[node]["inputs"][name]
    ends = {"dataset": "dataset", "saved": "saved"}
    with pytest.raises(Exception, match="failed_validation") as refused:
        server.queue(only(everything, ends.get(node, "save level1")))
    errors = json.loads(str(refused.value))["node_errors"][node]["errors"]
    assert [(error["message"], error["details"]) for error in errors] == [("Required input is missing", name)]


@pytest.mark.parametrize("prefix", ["部屋\u3000一", "\U0001f468\u200d\U0001f469\u200d\U0001f467/家族"])
def test_names_of_any_language_can_be_prefixes(server, everything, only, prefix):
    everything["saved"]["inputs"]["filename_prefix"] = prefix
    assert server.run(only(everything, "saved")).error is None
    assert list((server.base / "output").glob(f"{prefix}*"))
