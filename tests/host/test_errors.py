"""Wrong wiring and bad files are sentences that name the cure, before anything is computed; the queue goes on."""

import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import save_file


def latent_file(server, name: str, tensor: torch.Tensor) -> dict:
    content = {"latent_tensor": tensor, "latent_format_version_0": torch.tensor([])}
    save_file(content, server.base / "input" / name)
    return {"class_type": "LoadLatent", "inputs": {"latent": name}}


def test_cascade_weights_in_level_1(message, graph, only):
    prompt = only(graph(level1_model="checkpoints/da3_cascade.pt"), "save level1")
    assert "'model' has the weights of a cascade model, but a level-1 model is needed" in message(prompt)


def test_level_1_weights_in_the_cascade(message, graph, only):
    prompt = only(graph(level0_model="checkpoints/da3_level1.pt"), "save level0")
    assert "'model' has the weights of a level-1 model, but a cascade model is needed" in message(prompt)


def test_level_1_weights_in_the_cascade_by_a_stock_sampler(message, graph, only):
    prompt = graph()
    conditioning = {"views": ["views", 0], "level1": ["level1", 0]}
    prompt["conditioning"] = {"class_type": "GLDConditioning", "inputs": conditioning}
    prompt["level0"] = {
        "class_type": "KSampler",
        "inputs": {
            "model": ["model1", 0],
            "positive": ["conditioning", 0],
            "negative": ["conditioning", 1],
            "latent_image": ["conditioning", 2],
            "seed": 0,
            "steps": 2,
            "cfg": 1.5,
            "sampler_name": "euler",
            "scheduler": "simple",
            "denoise": 1.0,
        },
    }
    assert "a cascade model is needed" in message(only(prompt, "save level0"))


def test_swapped_latents(message, graph, only):
    prompt = graph()
    prompt["rgb"]["inputs"] |= {"level1": ["level0", 0], "level0": ["level1", 0]}
    assert "has level-0 features, but level 1 is needed; swap the connections" in message(only(prompt, "save rgb"))


def test_latent_of_other_views(message, graph, only):
    prompt = graph()
    other = graph(targets="1, 2")
    prompt["other scene"] = other["scene"]
    prompt["other views"] = other["views"]
    prompt["other views"]["inputs"] |= {"images": ["other scene", 0], "cameras": ["other scene", 1]}
    prompt["rgb"]["inputs"]["views"] = ["other views", 0]
    assert "these views need (1, 256, 4, 4, 6)" in message(only(prompt, "save rgb"))


def test_a_vggt_latent_in_a_da3_decoder(server, message, graph, only):
    prompt = graph()
    prompt["level1"] = latent_file(server, "vggt.latent", torch.zeros(1, 256, 6, 5 + 24, 1))
    assert "another backbone" in message(only(prompt, "save rgb"))


def test_two_samples_in_one_latent(message, graph, only):
    prompt = graph()
    prompt["twice"] = {"class_type": "RepeatLatentBatch", "inputs": {"samples": ["level1", 0], "amount": 2}}
    prompt["rgb"]["inputs"]["level1"] = ["twice", 0]
    assert "holds 2 samples; choose one with Get Latent From Batch" in message(only(prompt, "save rgb"))


def test_another_packs_conditioning(message, graph, only):
    prompt = graph()
    prompt["conditioning"] = {"class_type": "GLDConditioning", "inputs": {"views": ["views", 0]}}
    prompt["empty"] = {"class_type": "TestPlainConditioning", "inputs": {}}
    prompt["level1"] = {
        "class_type": "KSampler",
        "inputs": {
            "model": ["model1", 0],
            "positive": ["empty", 0],
            "negative": ["empty", 0],
            "latent_image": ["conditioning", 2],
            "seed": 0,
            "steps": 2,
            "cfg": 1.5,
            "sampler_name": "euler",
            "scheduler": "simple",
            "denoise": 1.0,
        },
    }
    assert "needs conditioning from GLD Conditioning" in message(only(prompt, "save level1"))


def test_a_size_that_is_not_a_multiple_of_14(message, graph, only):
    prompt = graph()
    scaled = {"image": ["scene", 0], "upscale_method": "bilinear", "width": 80, "height": 56, "crop": "disabled"}
    prompt["scaled"] = {"class_type": "ImageScale", "inputs": scaled}
    prompt["views"]["inputs"]["images"] = ["scaled", 0]
    assert "multiples of 14" in message(only(prompt, "save level1"))


def test_pictures_that_scaling_has_left_outside_the_range_are_clamped(server, graph, only):
    """As the host does where it saves them."""
    prompt = graph(steps=1)
    prompt["small"] = graph(long_side=42)["scene"]
    scaled = {"image": ["small", 0], "upscale_method": "bicubic", "width": 84, "height": 56, "crop": "disabled"}
    prompt["scaled"] = {"class_type": "ImageScale", "inputs": scaled}
    prompt["views"]["inputs"]["images"] = ["scaled", 0]
    assert server.run(only(prompt, "save level1")).error is None


def test_pictures_that_are_no_numbers(message, graph, only):
    prompt = graph(steps=1)
    room = {"seed": 0, "views": 2, "height": 56, "width": 84, "sources": 2, "broken": True}
    prompt["room"] = {"class_type": "TestRoom", "inputs": room}
    prompt["views"]["inputs"]["images"] = ["room", 2]
    assert "The input 'images' has values that are infinite or no numbers (NaN)" in message(only(prompt, "save level1"))


def test_more_photographs_than_cameras(message, graph, only):
    prompt = graph()
    prompt["many"] = {"class_type": "RepeatImageBatch", "inputs": {"image": ["scene", 0], "amount": 4}}
    prompt["views"]["inputs"]["images"] = ["many", 0]
    assert "give the sources' cameras first" in message(only(prompt, "save level1"))


def break_camera(server, name: str, change) -> None:
    """A copy of the room whose third camera is changed."""
    folder = server.base / "input" / name
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(server.base / "input" / "room", folder)
    path = sorted(folder.glob("*.npz"))[2]
    with np.load(path) as file:
        arrays = dict(file)
    change(arrays)
    np.savez(path, **arrays)


@pytest.mark.parametrize(
    "name, change, sentence",
    [
        ("infinite", lambda a: a["pose"].__setitem__((0, 3), np.inf), "not finite"),
        ("mirrored", lambda a: a["pose"].__setitem__((slice(0, 3), 0), -a["pose"][:3, 0]), "mirrored"),
        ("sheared", lambda a: a["pose"].__setitem__((0, 0), 3.0), "not orthonormal"),
        ("other size", lambda a: a["intrinsic"][:2].__imul__(2), "another image size"),
    ],
)
def test_a_bad_camera(server, message, graph, only, name, change, sentence):
    break_camera(server, name, change)
    assert sentence in message(only(graph(scene=name, targets="2"), "save level1"))


def test_a_truncated_file(server, message, graph, only):
    whole = server.base / "models/gld/checkpoints/da3_level1.pt"
    (server.base / "models/gld/checkpoints/half_level1.pt").write_bytes(whole.read_bytes()[: 2**20])
    sentence = message(only(graph(level1_model="checkpoints/half_level1.pt"), "save level1"))
    assert "half_level1.pt cannot be read" in sentence and sentence.endswith("; download it again.")
    assert len(sentence.split(". ")) == 1


def test_a_web_page_saved_as_a_file(server, message, graph, only):
    """Nothing of PyTorch's advice to load files that may run code."""
    (server.base / "models/gld/page.pt").write_text("<html>Not found</html>", encoding="utf-8")
    sentence = message(only(graph(level1_model="page.pt"), "save level1"))
    assert "page.pt cannot be read" in sentence and "weights_only" not in sentence


def test_a_file_of_another_network(server, message, graph, only):
    shutil.copy(server.base / "models/gld/pretrained_models/mae_decoder.pt", server.base / "models/gld/strange.pt")
    sentence = message(only(graph(level1_model="strange.pt"), "save level1"))
    assert "holds an RGB decoder and not a diffusion model of GLD" in sentence


def test_a_missing_model_says_where_to_put_it(server, message, graph, only):
    sentence = message(only(graph(level1_model="checkpoints/vggt_level1.pt"), "save level1"))
    assert "checkpoints/vggt_level1.pt in" in sentence and "3.1 GB" in sentence and "download" in sentence


def test_a_download_without_a_connection_says_where_to_put_the_file(message, graph, only):
    """The server runs with HF_HUB_OFFLINE."""
    prompt = graph(level1_model="checkpoints/vggt_level1.pt")
    prompt["model1"]["inputs"]["download"] = True
    sentence = message(only(prompt, "save level1"))
    assert "resolve/main/checkpoints/vggt_level1.pt cannot be reached" in sentence
    assert "models/gld/checkpoints/vggt_level1.pt yourself" in sentence


def test_a_missing_backbone_says_where_to_put_it(message, graph, only):
    prompt = graph()
    prompt["backbone"]["inputs"]["backbone"] = "vggt"
    sentence = message(only(prompt, "save level1"))
    assert "VGGT-1B/model" in sentence and "download" in sentence


def test_names_never_leave_their_folders(server, message, graph, only):
    outside = server.base / "outside"
    shutil.copytree(server.base / "input" / "room", outside, dirs_exist_ok=True)
    assert "There is no scene '../outside'" in message(only(graph(scene="../outside"), "save level1"))
    shutil.copy(server.base / "models/gld/checkpoints/da3_level1.pt", server.base / "models" / "stray.pt")
    assert "is not in models/gld" in message(only(graph(level1_model="../stray.pt"), "save level1"))


@pytest.mark.parametrize("value", [5, {"a": 1}, ["room"]], ids=["number", "object", "list"])
@pytest.mark.parametrize("node, name", [("scene", "scene"), ("model1", "model_name"), ("backbone", "backbone")])
def test_a_name_that_is_no_text_is_said_at_its_node(server, graph, only, node, name, value):
    prompt = only(graph(), "save level1")
    prompt[node]["inputs"][name] = value
    with pytest.raises(Exception, match=f"The input '{name}' is .* no text") as refused:
        server.queue(prompt)
    assert "Exception" not in str(refused.value)


def test_views_that_are_not_there(message, graph, only):
    assert "There is no target view 9; the scene has views 0 to 5" in message(only(graph(targets="9"), "save level1"))
    assert "give view numbers such as '0, 3-5'" in message(only(graph(targets="all"), "save level1"))


def test_a_count_of_sources_that_was_meant_as_a_number_says_how_to_write_one(server, message, graph, only):
    sentence = message(only(graph(sources="0"), "save level1"))
    assert "how many of the 6 views; give 1 to 5, or write '0,' with a comma" in sentence
    assert server.run(only(graph(sources="0,"), "save level1")).error is None


def test_the_queue_goes_on(server, graph, only):
    assert server.run(only(graph(seed=4321), "save level1")).error is None
