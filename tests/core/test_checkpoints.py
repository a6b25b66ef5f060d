"""Loading: every variant of the released layout loads to the same networks, every damage is one clear sentence."""

import json
import pickle
import re
import shutil

import pytest
import safetensors.torch
import torch
from safetensors import safe_open

import gld_core
from gld_core import checkpoints

LEVEL1 = "checkpoints/da3_level1.pt"
CASCADE = "checkpoints/da3_cascade.pt"
HEAD = "pretrained_models/da3/dpt_decoder.pt"
RGB = "pretrained_models/mae_decoder.pt"
BACKBONE = "pretrained_models/da3/model.safetensors"


@pytest.fixture
def models(random_models, tmp_path):
    shutil.copytree(random_models, tmp_path / "models")
    return tmp_path / "models"


def rewrite(path, change):
    content = torch.load(path, weights_only=True)
    path.unlink()
    torch.save(change(content), path)


def weights(gld):
    networks = {**gld.autoencoder.networks, "level1": gld.diffusion[1], "level0": gld.diffusion[0]}
    return {f"{name}.{key}": value for name, net in networks.items() for key, value in net.state_dict().items()}


def same_weights(a, b):
    a, b = weights(a), weights(b)
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


VARIANTS = {
    "diffusion under model": (LEVEL1, lambda c: {"model": c["ema"], "optimizer": {"lr": 1.0}, "step": 7}),
    "diffusion bare": (CASCADE, lambda c: c["ema"]),
    "diffusion from data parallel training": (
        LEVEL1,
        lambda c: {"ema": {f"module.{k}": v for k, v in c["ema"].items()}},
    ),
    "ema before model": (LEVEL1, lambda c: {"model": {k: v + 1 for k, v in c["ema"].items()}, "ema": c["ema"]}),
    "surplus keys": (LEVEL1, lambda c: {"ema": {**c["ema"], "loss.weight": torch.zeros(3)}}),
    "rgb decoder under model": (RGB, lambda c: {"model": c["ema"]}),
    "rgb decoder bare with an encoder beside": (RGB, lambda c: {**c["ema"], "encoder.weight": torch.zeros(2)}),
    "head as pred": (HEAD, lambda c: {"model": {k.replace("decoder.", "pred.", 1): v for k, v in c["model"].items()}}),
    "head with other modules": (HEAD, lambda c: {"model": {**c["model"], "disc.weight": torch.zeros(2)}, "epoch": 3}),
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_variant_loads_to_the_same_networks(random_models, models, variant):
    file, change = VARIANTS[variant]
    rewrite(models / file, change)
    assert same_weights(gld_core.load(models, keep=True), gld_core.load(random_models, keep=True))


def test_a_head_file_that_covers_part_of_the_head_overwrites_that_part(random_models, models):
    name = "scratch.output_conv1.weight"
    rewrite(models / HEAD, lambda c: {"model": {f"decoder.{name}": c["model"][f"decoder.{name}"] + 1}})
    partial, whole = (gld_core.load(folder, keep=True).autoencoder.networks for folder in (models, random_models))
    own = whole["da3_head"].state_dict()
    for key, value in partial["gld_head"].state_dict().items():
        expected = (whole["gld_head"].state_dict()[key].half() + 1).float() if key == name else own[key]
        torch.testing.assert_close(value, expected)


def test_number_of_blocks_comes_from_the_keys(models):
    def one_more(content):
        ema = content["ema"]
        last = 1 + max(int(key.split(".")[1]) for key in ema if key.startswith("blocks."))
        ema |= {
            re.sub(r"^blocks\.\d+", f"blocks.{last}", k): v
            for k, v in ema.items()
            if k.startswith(f"blocks.{last - 1}.")
        }
        return {"ema": ema}

    rewrite(models / CASCADE, one_more)
    assert gld_core.load(models).diffusion[0].config.decoder_depth == 2


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_converted_folder_loads_to_what_the_released_one_does(random_models, tmp_path, dtype):
    checkpoints.convert(random_models, tmp_path / "converted", dtype=dtype)
    converted, released = (
        gld_core.load(folder, dtype=dtype, keep=True) for folder in (tmp_path / "converted", random_models)
    )
    assert same_weights(converted, released)


def test_a_converted_folder_can_be_converted_again(random_models, tmp_path):
    """The small model that is shipped is one."""
    checkpoints.convert(random_models, tmp_path / "once", dtype=torch.float16)
    checkpoints.convert(tmp_path / "once", tmp_path / "twice", dtype=torch.float16)
    once, twice = (gld_core.load(tmp_path / name, keep=True) for name in ("once", "twice"))
    assert same_weights(once, twice)
    files = [safe_open(tmp_path / name / BACKBONE, "pt").metadata() for name in ("once", "twice")]
    assert files[0][checkpoints.STATISTICS_KEY] == files[1][checkpoints.STATISTICS_KEY]


def test_converted_files_say_where_they_come_from(random_models, tmp_path):
    checkpoints.convert(random_models, tmp_path, dtype=torch.bfloat16)
    with safe_open(tmp_path / "checkpoints/da3_level1.safetensors", "pt") as file:
        metadata = file.metadata()
    assert metadata["gld.source"] == "da3_level1.pt"
    assert metadata["gld.source_sha256"] == checkpoints.sha256(random_models / LEVEL1)
    with safe_open(tmp_path / BACKBONE, "pt") as file:
        assert "normalization1" in json.loads(file.metadata()[checkpoints.STATISTICS_KEY])


def test_converted_files_are_as_readable_as_any_new_file(random_models, tmp_path):
    (tmp_path / "other").touch()
    checkpoints.convert(random_models, tmp_path / "converted")
    modes = {path.stat().st_mode for path in tmp_path.rglob("*") if path.is_file()}
    assert modes == {(tmp_path / "other").stat().st_mode}


def test_cameras_and_time_stay_float32_in_half_precision(random_models):
    net = gld_core.load(random_models, dtype=torch.bfloat16).network(1)
    assert net.t_embedder.W.dtype == net.camera_embedder.proj.weight.dtype == torch.float32
    assert net.blocks[0].attn.qkv.weight.dtype == torch.bfloat16


def mapped_ranges(name: str) -> list[tuple[int, int]]:
    """Where this process has a file of that name in memory."""
    with open("/proc/self/maps", encoding="utf-8") as maps:
        ranges = [line.split()[0].split("-") for line in maps if line.rstrip().endswith(name)]
    return [(int(low, 16), int(high, 16)) for low, high in ranges]


@pytest.fixture
def float32_level1(models):
    """The models, level 1 kept in the type it is used in."""
    rewrite(models / LEVEL1, lambda c: {"ema": {k: v.float() for k, v in c["ema"].items()}})
    return models


def test_weights_of_the_wanted_type_are_mapped_not_copied(float32_level1):
    weight = gld_core.load(float32_level1).network(1).blocks[0].attn.qkv.weight
    assert any(low <= weight.data_ptr() < high for low, high in mapped_ranges("da3_level1.pt"))


def test_without_mmap_no_file_stays_mapped(float32_level1):
    gld = gld_core.load(float32_level1, keep=True, mmap=False)
    assert mapped_ranges("da3_level1.pt") == mapped_ranges("model.safetensors") == []
    assert same_weights(gld, gld_core.load(float32_level1, keep=True))


def test_a_mapped_file_that_is_replaced_in_place_is_refused_before_it_is_read(float32_level1):
    """Reading a mapped page that the file no longer has ends the process with a bus error."""
    gld = gld_core.load(float32_level1)
    assert gld.network(1).blocks
    with open(float32_level1 / LEVEL1, "r+b") as file:
        file.truncate(1000)
    with pytest.raises(ValueError, match="da3_level1.pt was changed after it was loaded; load it again"):
        gld.network(1)


class Malicious:
    def __reduce__(self):
        return (exec, ("raise SystemExit('code in a checkpoint was run')",))


def truncate(path):
    path.write_bytes(path.read_bytes()[:-1000])


def without(key):
    def change(content):
        next(iter(content.values())).pop(key)
        return content

    return lambda path: rewrite(path, change)


def with_value(key, change_tensor):
    def change(content):
        state = next(iter(content.values()))
        state[key] = change_tensor(state[key])
        return content

    return lambda path: rewrite(path, change)


def spoil(tensor):
    tensor.view(-1)[3] = float("nan")
    return tensor


DAMAGES = {
    "truncated pt": (LEVEL1, truncate, ["da3_level1.pt", "truncated", "download"]),
    "truncated safetensors": (BACKBONE, truncate, ["model.safetensors", "truncated", "download"]),
    "cascade where level 1 is meant": (
        LEVEL1,
        lambda path: shutil.copy(path.with_name("da3_cascade.pt"), path),
        ["da3_level1.pt", "holds the DA3 cascade", "DA3 level-1 diffusion model is meant"],
    ),
    "level 1 where the cascade is meant": (
        CASCADE,
        lambda path: shutil.copy(path.with_name("da3_level1.pt"), path),
        ["da3_cascade.pt", "holds the DA3 level-1 diffusion model", "DA3 cascade is meant"],
    ),
    "VGGT where DA3 is meant": (
        LEVEL1,
        lambda path: rewrite(path, lambda c: {"ema": {**c["ema"], "special_x_embedder.weight": torch.zeros(2)}}),
        ["da3_level1.pt", "holds a VGGT diffusion model"],
    ),
    "missing tensor": (
        LEVEL1,
        without("blocks.1.attn.qkv.weight"),
        ["da3_level1.pt", "lacks blocks.1.attn.qkv.weight"],
    ),
    "missing tensor that gives a dimension": (
        CASCADE,
        without("s_embedder.proj.weight"),
        ["lacks s_embedder", "download"],
    ),
    "misshapen tensor": (
        LEVEL1,
        with_value("x_embedder_ref.proj.weight", lambda t: t[:-1]),
        ["da3_level1.pt", "x_embedder_ref.proj.weight", "shape", "download"],
    ),
    "non-finite weights": (
        RGB,
        with_value("decoder.decoder_layers.1.output.dense.weight", spoil),
        ["mae_decoder.pt", "decoder_layers.1.output.dense.weight", "non-finite", "download"],
    ),
    "missing file": (CASCADE, lambda path: path.unlink(), ["da3_cascade", "missing", "download"]),
    "code in a file": (LEVEL1, lambda path: path.write_bytes(pickle.dumps(Malicious())), ["more than tensors"]),
    "missing statistics": (
        "model_stats/da3/normalization_stats_level1.pt",
        lambda path: path.unlink(),
        ["normalization_stats_level1.pt", "missing"],
    ),
    "RGB decoder of another backbone": (
        RGB,
        with_value("decoder.decoder_embed.weight", lambda t: t[:, :512]),
        ["mae_decoder.pt", "128 channels", "256"],
    ),
    "statistics of another backbone": (
        "model_stats/da3/normalization_stats_level0.pt",
        lambda path: rewrite(path, lambda c: {"mean": torch.zeros(1, 7, 1, 1), "var": torch.ones(1, 7, 1, 1)}),
        ["normalization_stats_level0.pt", "7 channels", "256"],
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_is_named_with_file_key_and_cure(models, damage):
    file, inflict, words = DAMAGES[damage]
    inflict(models / file)
    with pytest.raises((ValueError, FileNotFoundError)) as error:
        gld_core.load(models)
    for word in words:
        assert word.lower() in str(error.value).lower()
    assert "\n" not in str(error.value)


def test_networks_have_the_released_names_and_shapes(shared):
    manifest = json.loads((shared / "spec" / "manifest.json").read_text(encoding="utf-8"))

    def meta(file, *prefixes):
        tensors = {name: torch.empty(shape, device="meta") for name, shape in manifest[file].items()}
        return checkpoints.without_prefix(tensors, *prefixes or ("",))

    da3 = checkpoints.da3
    cases = [
        (da3.Backbone, meta(BACKBONE, "model.backbone.pretrained.")),
        (da3.CameraEncoder, meta(BACKBONE, "model.cam_enc.")),
        (da3.CameraDecoder, meta(BACKBONE, "model.cam_dec.")),
        (checkpoints.GeometryHead, meta(BACKBONE, "model.head.")),
        (checkpoints.GeometryHead, meta(HEAD, "decoder.")),
        (checkpoints.RGBDecoder, meta(RGB, "decoder.")),
        (checkpoints.MultiViewDiT, checkpoints.split_pair_embedders(meta(LEVEL1))),
        (checkpoints.MultiViewDiT, checkpoints.split_pair_embedders(meta(CASCADE))),
    ]
    for network, tensors in cases:
        own = network.from_tensors(tensors, device="meta").state_dict()
        assert {name: value.shape for name, value in own.items()} == {name: t.shape for name, t in tensors.items()}


@pytest.mark.parametrize("file", [LEVEL1, "model_stats/da3/normalization_stats_level1.pt"])
def test_a_tensor_that_claims_more_than_it_stores_is_refused_at_once(models, file):
    """A stride of 0 in a file of a kilobyte claims any size; making it real takes all memory."""
    content = torch.load(models / file)
    values = content.get("ema", content)
    name = next(iter(values))
    values[name] = torch.zeros(1).expand(2**40)
    (models / file).unlink()
    torch.save(content, models / file)
    with pytest.raises(ValueError, match=f"{name} claims 4398046511104 bytes and stores 4; download the file again"):
        gld_core.load(models)


def test_what_comfyui_saves_of_a_model_loads_again(random_models, models):
    """Its names are those in memory, after a prefix."""
    released = gld_core.load(random_models, keep=True)
    tensors = {f"model.diffusion_model.{name}": value for name, value in released.diffusion[1].state_dict().items()}
    (models / LEVEL1).unlink()
    safetensors.torch.save_file(tensors, (models / LEVEL1).with_suffix(".safetensors"))
    assert same_weights(gld_core.load(models, keep=True), released)
