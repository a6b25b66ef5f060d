"""The evaluation node, over the API: the core's numbers, as sockets, as a report in the node, and its mistakes."""

import json

import pytest

from gld_core.evaluation.metrics import psnr, ssim
from gld_core.evaluation.report import pose_row
from gld_core.io.cameras import read_scene


@pytest.fixture
def prompt(graph, only):
    """Decoded views beside the photographs of the targets 1 to 4, in a part of the whole graph."""

    def build(**inputs) -> dict:
        nodes = graph()
        photographs = {"scene": "room", "sources": "1, 2, 3, 4", "targets": "0", "long_side": 84}
        nodes["photographs"] = {"class_type": "GLDLoadScene", "inputs": photographs}
        wired = {"images": ["rgb", 0], "truth": ["photographs", 0], **inputs}
        nodes["evaluate"] = {"class_type": "GLDEvaluateViews", "inputs": wired}
        nodes["shown"] = {"class_type": "PreviewAny", "inputs": {"source": ["evaluate", 0]}}
        nodes["json"] = {"class_type": "PreviewAny", "inputs": {"source": ["evaluate", 3]}}
        return only(nodes, "evaluate", "shown", "json")

    return build


def text(result, node: str) -> str:
    assert result.error is None, result.error
    return result.history["outputs"][node]["text"][0]


@pytest.fixture(scope="module")
def decoded(core, core_views, host_noise):
    """Pictures and geometry that the core makes of the same graph."""
    views = core_views()
    level1 = core.sample_level1(views, steps=3, noise=host_noise(views, 7))
    latents = level1, core.cascade_level0(views, level1, steps=3, noise=host_noise(views, 7))
    return core.decode_rgb(views, *latents), core.decode_geometry(views, *latents).align_to(views.cameras)[0]


def test_pictures_of_the_targets_are_measured_as_the_core_does(server, prompt, decoded, scene):
    result = server.run(prompt())
    found = json.loads(text(result, "json"))
    truth = read_scene(scene, 84).photographs([1, 2, 3, 4])
    images = decoded[0][2:]
    assert found["mean"]["psnr"] == pytest.approx(psnr(images, truth).mean().item(), abs=1e-4)
    assert found["mean"]["ssim"] == pytest.approx(ssim(images, truth).mean().item(), abs=1e-4)
    assert list(found["views"]) == ["view 2", "view 3", "view 4", "view 5"]
    assert found["views"]["view 5"]["psnr"] == pytest.approx(psnr(images, truth)[3].item(), abs=1e-4)
    assert float(text(result, "shown")) == found["mean"]["psnr"]
    report = text(result, "evaluate")
    assert f"| mean   | {found['mean']['psnr']:7.2f} | {found['mean']['ssim']:.3f} |" in report
    assert "LPIPS is not measured" in report and "AbsRel" not in report and "ATE" not in report


def test_depth_and_cameras_are_measured_where_they_are_wired(server, prompt, decoded, core_views):
    geometry = {"geometry": ["depth", 0], "true_geometry": ["depth", 0]}
    cameras = {"cameras": ["depth", 2], "true_cameras": ["scene", 1]}
    mean = json.loads(text(server.run(prompt(**geometry, **cameras)), "json"))["mean"]
    assert mean["abs_rel"] == mean["rmse_median"] == 0 and mean["delta1"] == 1
    # Sources 0 and 5 come first, the path begins and ends with them.
    meant = pose_row(decoded[1].cameras, core_views().cameras, [0, 2, 3, 4, 5, 1])
    assert {name: mean[name] for name in meant} == pytest.approx(meant, rel=1e-2)


def test_cameras_of_the_generated_views_alone_are_measured(server, prompt):
    cameras = {"cameras": ["photographs", 1], "true_cameras": ["photographs", 1]}
    built = prompt(images=["rgb", 0], **cameras)
    built["photographs"]["inputs"] |= {"sources": "1, 2", "targets": "3"}
    built["evaluate"]["inputs"]["truth"] = ["photographs", 0]
    mean = json.loads(text(server.run(built), "json"))["mean"]
    assert mean["ate"] == pytest.approx(0, abs=1e-6)


def test_equal_pictures_have_no_number_in_json(server, prompt):
    result = server.run(prompt(images=["photographs", 0]))
    assert json.loads(text(result, "json"))["mean"] == {"psnr": None, "ssim": pytest.approx(1)}
    assert text(result, "shown") == "inf"


@pytest.mark.parametrize(
    "inputs, message",
    [
        ({"truth": ["small", 0]}, "'truth' has 4 of 56x42"),
        ({"images": ["photographs", 0], "truth": ["rgb", 0]}, "'images' has 4 pictures of 84x56 pixels, 'truth' has 6"),
        ({"cameras": ["scene", 1]}, "Only one of the inputs 'cameras' and 'true_cameras'"),
        ({"true_geometry": ["depth", 0]}, "Only one of the inputs 'geometry' and 'true_geometry'"),
        (
            {"cameras": ["photographs", 1], "true_cameras": ["scene", 1]},
            "'cameras' has 5 cameras, 'true_cameras' has 6",
        ),
    ],
)
def test_wrong_wiring_is_a_sentence(server, graph, only, inputs, message):
    nodes = graph()
    for name, size in (("photographs", 84), ("small", 56)):
        photographs = {"scene": "room", "sources": "1, 2, 3, 4", "targets": "0", "long_side": size}
        nodes[name] = {"class_type": "GLDLoadScene", "inputs": photographs}
    wired = {"images": ["rgb", 0], "truth": ["photographs", 0], **inputs}
    nodes["evaluate"] = {"class_type": "GLDEvaluateViews", "inputs": wired}
    assert message in server.run(only(nodes, "evaluate")).error
