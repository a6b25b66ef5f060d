"""What ComfyUI's own model nodes do to a GLD model: every row of the table in the loader's help page, by running it."""

import re
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from gld_core import checkpoints

PAGE = Path(__file__).resolve().parents[2] / "web/docs/GLDLoadDiffusionModel.md"
STEPS = 3
# What comes of a node: the result as without it, another one, or the sentence that refuses it.
SAME, OTHER = "same", "other"
NO_FLOW = "is not for GLD, which samples a rectified flow"
NO_U_NET = "This node is for U-Nets, and a GLD model is none"
CUT = "Context Windows and Conditioning (Set Area) do not work with GLD"
SHORT_WINDOW = {"context_overlap": 0, "freenoise": False}
TWICE = ("q", "k", "v", "out")
# Entry of the list: its nodes, with what is not as the node has it by itself, and what comes of them.
PATCHES = {
    "Select Model Device, MultiGPU CFG Split": [("SelectModelDevice", {}, SAME), ("MultiGPU_WorkUnits", {}, SAME)],
    "Model Compute Dtype": [
        ("ModelComputeDtype", {"dtype": "fp32"}, SAME),
        ("ModelComputeDtype", {"dtype": "bf16"}, OTHER),
    ],
    "ModelSamplingSD3, AuraFlow, Flux, LTXV, MiniMax H3 Sigma Shift": [
        ("ModelSamplingSD3", {}, SAME),
        ("ModelSamplingAuraFlow", {}, SAME),
        ("ModelSamplingFlux", {}, SAME),
        ("ModelSamplingLTXV", {}, SAME),
        ("MiniMaxH3SigmaShift", {}, SAME),
    ],
    "ModelNoiseScale": [("ModelNoiseScale", {}, SAME), ("ModelNoiseScale", {"noise_scale": 2.0}, OTHER)],
    "ModelSamplingDiscrete, ContinuousEDM, ContinuousV, StableCascade": [
        ("ModelSamplingDiscrete", {"sampling": "v_prediction"}, NO_FLOW),
        ("ModelSamplingDiscrete", {"sampling": "lcm"}, NO_FLOW),
        ("ModelSamplingDiscrete", {"sampling": "img_to_img_flow"}, NO_FLOW),
        ("ModelSamplingContinuousEDM", {}, NO_FLOW),
        ("ModelSamplingContinuousV", {}, NO_FLOW),
        ("ModelSamplingStableCascade", {}, NO_FLOW),
    ],
    "RescaleCFG, RenormCFG, CFGNorm, CFGZeroStar, CFG Override, APG, TCFG, Mahiro, FreSca, Epsilon Scaling, TSR, "
    "LatentApplyOperationCFG": [
        ("RescaleCFG", {}, OTHER),
        ("RenormCFG", {"renorm_cfg": 0.9}, OTHER),
        ("CFGNorm", {}, OTHER),
        ("CFGZeroStar", {}, OTHER),
        ("CFGOverride", {}, OTHER),
        ("APG", {}, OTHER),
        ("TCFG", {}, OTHER),
        ("Mahiro", {}, OTHER),
        ("FreSca", {"scale_low": 1.5, "freq_cutoff": 1}, OTHER),
        ("Epsilon Scaling", {}, OTHER),
        ("TemporalScoreRescaling", {}, OTHER),
        ("LatentApplyOperationCFG", {"operation": ["tonemap", 0]}, OTHER),
    ],
    "Video Linear CFG Guidance, Video Triangle CFG Guidance": [
        ("VideoLinearCFGGuidance", {"min_cfg": 1.5}, SAME),
        ("VideoTriangleCFGGuidance", {"min_cfg": 1.5}, SAME),
        ("VideoLinearCFGGuidance", {"min_cfg": 1.0}, OTHER),
    ],
    "Perp-Neg (deprecated)": [("PerpNeg", {"empty_conditioning": ["conditioning", 1]}, SAME)],
    "Differential Diffusion": [("DifferentialDiffusion", {}, SAME)],
    "Context Windows": [
        ("ContextWindowsManual", SHORT_WINDOW | {"context_length": 2, "dim": 2}, CUT),
        ("WanContextWindowsManual", SHORT_WINDOW | {"context_length": 5}, CUT),
        ("LTXVContextWindows", SHORT_WINDOW | {"context_length": 9}, CUT),
    ],
    "FreeU, FreeU V2": [("FreeU", {}, NO_U_NET), ("FreeU_V2", {}, NO_U_NET)],
    "Skip Layer Guidance, Perturbed-Attention Guidance, Self-Attention Guidance, Normalized Attention Guidance": [
        ("SkipLayerGuidanceDiT", {"double_layers": "0, 1, 2", "single_layers": "0, 1, 2", "start_percent": 0.0}, SAME),
        ("SkipLayerGuidanceDiTSimple", {"double_layers": "0, 1, 2", "single_layers": "0, 1, 2"}, SAME),
        ("SkipLayerGuidanceSD3", {"layers": "0, 1, 2", "start_percent": 0.0, "end_percent": 1.0}, SAME),
        ("PerturbedAttentionGuidance", {}, SAME),
        ("SelfAttentionGuidance", {}, SAME),
        ("NAGuidance", {}, SAME),
    ],
    "HyperTile, ToMe, Deep Shrink, ScaleROPE, the attention multipliers, Flux KV Cache and others for one network": [
        ("HyperTile", {}, SAME),
        ("TomePatchModel", {"ratio": 0.5}, SAME),
        ("PatchModelAddDownscale", {}, SAME),
        ("ScaleROPE", {"scale_x": 2.0, "shift_y": 1.0}, SAME),
        ("UNetSelfAttentionMultiply", dict.fromkeys(TWICE, 2.0), SAME),
        ("UNetCrossAttentionMultiply", dict.fromkeys(TWICE, 2.0), SAME),
        ("UNetTemporalAttentionMultiply", {"self_temporal": 2.0, "cross_structural": 2.0}, SAME),
        ("FluxKVCache", {}, SAME),
        ("wanBlockSwap", {}, SAME),
        ("ChromaRadianceOptions", {}, SAME),
    ],
}
# Rows with a test of their own, below or in test_results.py.
TESTED = {
    "Load LoRA, Load LoRA (Bypass), Create Hook LoRA": ["LoraLoaderModelOnly", "LoraLoaderBypassModelOnly"],
    "ModelMergeSimple, ModelMergeBlocks, ModelMergeAdd, ModelMergeSubtract": [
        "ModelMergeSimple", "ModelMergeBlocks", "ModelMergeAdd", "ModelMergeSubtract",
    ],
    "Torch Compile Model": ["TorchCompileModel"],
    "Model Save": [],
    "EasyCache, LazyCache": ["EasyCache", "LazyCache"],
    "Perp-Neg Guider, Basic Guider, Dual CFG Guider, Dual Model CFG Guider": [],
    "Conditioning (Set Area), (Set Mask), (Set Timestep Range)": [],
    "ControlNet, T2I-Adapter": [],
}  # fmt: skip
# Nodes that need a file, a part or the inputs of another network. The table leaves them out.
OF_OTHER_NETWORKS = {
    "ARVideoI2V", "AnimaLLLiteApply", "HiDreamO1PatchSeamSmoothing", "HypernetworkLoader",
    "LTXVReferenceAudio", "LoraLoader", "LoraLoaderBypass",
    "LoraModelLoader", "QwenImageDiffsynthControlnet", "SUPIRApply", "TripoSplatSamplingPreview", "USOStyleReference",
    "WanInfiniteTalkToVideo", "WanUni3CControlnetApply", "ZImageFunControlnet",
}  # fmt: skip


def relative(found: torch.Tensor, meant: torch.Tensor) -> float:
    return float((found - meant).norm() / meant.norm())


@pytest.fixture(scope="module")
def prompt(graph):
    """prompt(...) -> level 1 of one photograph and two targets, with what nodes for conditioning and models need."""

    def build(**inputs) -> dict:
        built = graph(**{"sources": "0,", "targets": "1, 2", "steps": STEPS} | inputs)
        built["conditioning"] = {"class_type": "GLDConditioning", "inputs": {"views": ["views", 0]}}
        built["tonemap"] = {"class_type": "LatentOperationTonemapReinhard", "inputs": {"multiplier": 0.5}}
        return built

    return build


@pytest.fixture(scope="module")
def sample(server, only, prompt):
    """sample(nodes, ...) -> level 1 with these nodes in the graph, the last of them before the sampler, or the sentence
    that the run ends with."""

    def run(nodes: dict[str, tuple[str, dict]] | None = None, **inputs):
        built = prompt(**inputs)
        for name, (kind, given) in (nodes or {}).items():
            built[name] = {"class_type": kind, "inputs": given}
            built["level1"]["inputs"]["model"] = [name, 0]
        result = server.run(only(built, "save level1"))
        return result.latent("save level1") if result.error is None else result.error

    return run


@pytest.fixture(scope="module")
def plain(sample):
    return sample()


def check(found, meant: str, plain: torch.Tensor) -> None:
    if meant == SAME:
        assert relative(found, plain) < 2e-6
    elif meant == OTHER:
        assert torch.isfinite(found).all() and relative(found, plain) > 1e-4
    else:
        assert meant in found


def defaults(info: dict) -> dict:
    """Values that the page gives to the inputs of a node that has none yet."""
    found = {}
    for name, (kind, *rest) in info["input"]["required"].items():
        settings = rest[0] if rest else {}
        options = kind if isinstance(kind, list) else settings.get("options")
        if options or "default" in settings:
            found[name] = settings["default"] if "default" in settings else options[0]
    return found


@pytest.mark.parametrize(
    "node, inputs, meant", [patch for row in PATCHES.values() for patch in row], ids=lambda value: str(value)[:30]
)
def test_a_model_patch_does_what_the_table_says(server, sample, plain, node, inputs, meant):
    given = defaults(server.get(f"/object_info/{node.replace(' ', '%20')}")[node]) | {"model": ["model1", 0]} | inputs
    check(sample({"patch": (node, given)}), meant, plain)


def test_the_list_has_every_entry_and_every_model_node_of_the_host(server):
    page = PAGE.read_text(encoding="utf-8").split("What ComfyUI's")[1].replace("\n  ", " ")
    rows = re.findall(r"^- \*\*(.+?)\*\*: [a-z].+$", page, re.M)
    assert rows == [*TESTED, *PATCHES]
    known = {node for row in PATCHES.values() for node, *_ in row} | {node for row in TESTED.values() for node in row}
    found = set()
    for node, info in server.get("/object_info").items():
        given = [kind for group in info["input"].values() for kind, *_ in group.values()]
        # Merges for one network list its blocks.
        if "MODEL" in info["output"] and "MODEL" in given and "model specific" not in info["category"]:
            found |= {node}
    assert {node for node in found if not node.startswith(("GLD", "Test"))} == known | OF_OTHER_NETWORKS


@pytest.fixture(scope="module")
def lora(server, models) -> str:
    """A LoRA for one matrix of the level-1 model; its file's name."""
    weight = checkpoints.open_tensors(models / "checkpoints/da3_level1.pt")["blocks.1.mlp.w3.weight"]
    generator = torch.Generator().manual_seed(0)
    up, down = (torch.randn(shape, generator=generator) for shape in ((weight.shape[0], 4), (4, weight.shape[1])))
    (server.base / "models/loras").mkdir(exist_ok=True)
    names = {f"diffusion_model.blocks.1.mlp.w3.lora_{part}.weight": t for part, t in (("up", up), ("down", down))}
    save_file(names, server.base / "models/loras/stock.safetensors")
    return "stock.safetensors"


def test_a_lora_is_the_same_in_the_weights_beside_them_and_by_hooks(server, only, prompt, sample, plain, lora):
    """test_results.py compares the first with a changed weight."""
    given = {"model": ["model1", 0], "lora_name": lora, "strength_model": 0.01}
    meant = sample({"lora": ("LoraLoaderModelOnly", given)})
    assert relative(meant, plain) > 1e-3
    assert relative(sample({"lora": ("LoraLoaderBypassModelOnly", given)}), meant) < 1e-5

    hooks = {"lora_name": lora, "strength_model": 0.01}
    nodes = {"hook": ("CreateHookLoraModelOnly", hooks)}
    for output, name in enumerate(("positive", "negative")):
        props = {
            "cond_NEW": ["conditioning", output],
            "strength": 1.0,
            "set_cond_area": "default",
            "hooks": ["hook", 0],
        }
        nodes[name] = ("ConditioningSetProperties", props)
    found = guided(server, only, prompt, CFG | {"positive": ["positive", 0], "negative": ["negative", 0]}, **nodes)
    assert relative(found, meant) < 1e-5


@pytest.mark.parametrize("node, inputs, of_first, of_second", [
    ("ModelMergeSimple", {"ratio": 0.25}, 0.25, 0.75),
    ("ModelMergeBlocks", {"input": 0.25, "middle": 0.5, "out": 1.0}, 0.25, 0.75),
    ("ModelMergeAdd", {}, 1, 1),
    ("ModelMergeSubtract", {"multiplier": 0.5}, 0.5, -0.5),
])  # fmt: skip
def test_merged_models_are_sums_of_their_weights(server, models, sample, node, inputs, of_first, of_second):
    first = checkpoints.open_tensors(models / "checkpoints/da3_level1.pt")
    generator = torch.Generator().manual_seed(1)
    second = {name: t + 0.02 * torch.randn(t.shape, generator=generator) for name, t in first.items()}
    merged = {name: of_first * t + of_second * second[name] for name, t in first.items()}
    # Fixed frequencies, which no merge may change.
    merged["t_embedder.W"] = first["t_embedder.W"]
    folder = server.base / "models/gld/checkpoints"
    save_file(second, folder / "second_level1.safetensors")
    save_file({name: t.contiguous() for name, t in merged.items()}, folder / f"{node}_level1.safetensors")
    loader = {"model_name": "checkpoints/second_level1.safetensors", "weight_dtype": "default", "download": False}
    given = {"model1": ["model1", 0], "model2": ["second", 0], **inputs}
    found = sample({"second": ("GLDLoadDiffusionModel", loader), "merged": (node, given)})
    assert relative(found, sample(level1_model=f"checkpoints/{node}_level1.safetensors")) < 1e-4


def test_what_model_save_writes_is_the_model(server, sample, plain, prompt, only):
    built = prompt()
    built["save"] = {"class_type": "ModelSave", "inputs": {"model": ["model1", 0], "filename_prefix": "saved"}}
    assert server.run(only(built, "save")).error is None
    shutil.copy(
        server.base / "output/saved_00001_.safetensors",
        server.base / "models/gld/checkpoints/saved_level1.safetensors",
    )
    assert torch.equal(sample(level1_model="checkpoints/saved_level1.safetensors"), plain)


@pytest.mark.parametrize("node", ["EasyCache", "LazyCache"])
def test_a_cache_leaves_evaluations_out_and_the_result_stays_near(server, prompt, only, sample, node):
    built, steps = prompt(steps=20), 20
    settings = {"reuse_threshold": 0.1, "start_percent": 0.15, "end_percent": 0.95, "verbose": False}
    built["cache"] = {"class_type": node, "inputs": {"model": ["model1", 0], **settings}}
    # Behind the cache, so that only what it lets through is counted.
    built["counted"] = {"class_type": "TestCountCalls", "inputs": {"model": ["cache", 0]}}
    built["level1"]["inputs"]["model"] = ["counted", 0]
    built["report"] = {"class_type": "TestReportCalls", "inputs": {"model": ["counted", 0], "after": ["level1", 0]}}
    result = server.run(only(built, "report", "save level1"))
    assert result.error is None
    (calls,) = result.history["outputs"]["report"]["calls"]
    error = relative(result.latent("save level1"), sample(steps=steps))
    print(f"{node}: {calls['network']} of {steps} evaluations, {error:.4f} off")
    assert calls["network"] <= steps - 5
    assert 1e-5 < error < 0.05


CFG = {"class": "CFGGuider", "model": ["model1", 0], "cfg": 1.5}
CFG |= {"positive": ["conditioning", 0], "negative": ["conditioning", 1]}


def guided(server, only, prompt, guider: dict, **nodes: tuple[str, dict]):
    """Level 1 by a guider on the released grid, or the sentence that the run ends with. guider: its 'class', inputs."""
    built = prompt()
    for name, (kind, given) in nodes.items():
        built[name] = {"class_type": kind, "inputs": given}
    inputs = {name: value for name, value in guider.items() if name != "class"}
    built["guider"] = {"class_type": guider["class"], "inputs": inputs}
    sigmas = {"model": ["model1", 0], "latent": ["conditioning", 2], "steps": STEPS, "shift": 0.0}
    built["sigmas"] = {"class_type": "GLDScheduler", "inputs": sigmas}
    built["noise"] = {"class_type": "RandomNoise", "inputs": {"noise_seed": 7}}
    built["sampler"] = {"class_type": "KSamplerSelect", "inputs": {"sampler_name": "euler"}}
    wired = {name: [name, 0] for name in ("noise", "guider", "sampler", "sigmas")}
    built["stock"] = {"class_type": "SamplerCustomAdvanced", "inputs": wired | {"latent_image": ["conditioning", 2]}}
    built["save"] = {"class_type": "SaveLatent", "inputs": {"samples": ["stock", 0], "filename_prefix": "guided"}}
    result = server.run(only(built, "save"))
    return result.latent("save") if result.error is None else result.error


def test_guiders_guide(server, only, prompt, sample, plain):
    """With one negative in all places each of them is plain guidance, at a scale that can be said."""
    positive, negative, model = CFG["positive"], CFG["negative"], CFG["model"]
    assert torch.equal(guided(server, only, prompt, CFG), plain)
    basic = {"class": "BasicGuider", "model": model, "conditioning": positive}
    assert relative(guided(server, only, prompt, basic), sample(cfg=1.0)) < 2e-6
    dual = {"class": "DualCFGGuider", "model": model, "cond1": positive, "cond2": negative, "negative": negative}
    dual |= {"cfg_conds": 1.5, "cfg_cond2_negative": 1.0, "style": "regular"}
    assert relative(guided(server, only, prompt, dual), plain) < 2e-6
    two = {"class": "DualModelGuider", "model": model, "positive": positive, "cfg": 1.5}
    two |= {"model_negative": model, "negative": negative}
    assert relative(guided(server, only, prompt, two), plain) < 2e-6


@pytest.mark.parametrize("fast", [False, True], ids=["plain", "sped up"])
def test_perp_neg_guider_guides(server, only, prompt, plain, fast):
    """Its sum is divided by how far the branches differ, so none of them may be left out."""
    nodes = {"fast": ("GLDFast", {"model": ["model1", 0], "guidance_from": 0.0, "guidance_to": 0.5, "share": 1})}
    guider = {"class": "PerpNegGuider", "model": ["fast" if fast else "model1", 0], "cfg": 1.5, "neg_scale": 1.0}
    guider |= {"positive": CFG["positive"], "negative": CFG["negative"], "empty_conditioning": CFG["negative"]}
    assert relative(guided(server, only, prompt, guider, **nodes), plain) < 2e-6


def test_what_nodes_do_to_the_conditioning(server, only, prompt, sample, plain):
    area = {"conditioning": CFG["positive"], "width": 64, "height": 64, "x": 16, "y": 0, "strength": 1.0}
    nodes = {
        "area": ("ConditioningSetArea", area),
        "mask": ("SolidMask", {"value": 1.0, "width": 6, "height": 4}),
        "masked": ("ConditioningSetMask", {"conditioning": CFG["positive"], "mask": ["mask", 0], "strength": 1.0}),
        "times": ("ConditioningSetTimestepRange", {"conditioning": CFG["positive"], "start": 0.0, "end": 1.0}),
    }
    nodes["masked"][1]["set_cond_area"] = "default"
    for name, meant in (("area", CUT), ("masked", SAME), ("times", SAME)):
        check(guided(server, only, prompt, CFG | {"positive": [name, 0]}, **nodes), meant, plain)


def test_a_control_net_is_refused(server, only, prompt, plain):
    control = {"positive": CFG["positive"], "negative": CFG["negative"], "control_net": ["net", 0]}
    control |= {"image": ["scene", 0], "strength": 1.0, "start_percent": 0.0, "end_percent": 1.0}
    nodes = {"net": ("TestControlNet", {}), "control": ("ControlNetApplyAdvanced", control)}
    wired = {"positive": ["control", 0], "negative": ["control", 1]}
    check(guided(server, only, prompt, CFG | wired, **nodes), "A ControlNet is not for GLD", plain)
