"""The diffusion model's formulas, evaluated as they are written: what the benchmark compares with.

One guidance branch at a time, everything recomputed at every step, the attention matrix in full. DA3 only, float32.
spec: condition encoder and velocity decoder of the multi-view DiT, PRoPE.
"""

import math

import torch
import torch.nn.functional as F

HEADS = 16


def rms_norm(x, weight):
    return x / torch.sqrt(x.square().mean(dim=-1, keepdim=True) + 1e-6) * weight


def rotate(x, positions, inverse):
    """x (heads, V, L, d/4) by angles of positions (L,)."""
    n = x.shape[-1] // 2
    angles = positions[:, None] * 100.0 ** (-torch.arange(n) / n)
    cos, sin = angles.cos(), angles.sin() * (-1 if inverse else 1)
    a, b = x[..., :n], x[..., n:]
    return torch.cat([cos * a + sin * b, -sin * a + cos * b], dim=-1)


def prope(x, matrices, h, w, inverse=False):
    """x (heads, V*L, d); matrices (V, 4, 4) act on groups of four channels as column vectors."""
    V, d = len(matrices), x.shape[-1]
    x = x.reshape(HEADS, V, h * w, d)
    groups = x[..., : d // 2].reshape(HEADS, V, h * w, d // 8, 4)
    projective = torch.einsum("vij,hvlgj->hvlgi", matrices, groups).reshape(HEADS, V, h * w, d // 2)
    rows, columns = torch.arange(h).repeat_interleave(w), torch.arange(w).repeat(h)
    across = rotate(x[..., d // 2 : 3 * d // 4], columns, inverse)
    down = rotate(x[..., 3 * d // 4 :], rows, inverse)
    return torch.cat([projective, across, down], dim=-1).reshape(HEADS, V * h * w, d)


def velocity(weights, x, t, source, camera_map, w2c, K, level1=None):
    """x (V, C, h, w) noisy, t a number, source (N, C, h, w), camera_map (V, 7, H, W), w2c (V, 4, 4), normalised K
    (V, 3, 3), level1 (V, C, h, w) for the cascade. weights under their released names. (V, C, h, w)."""

    def linear(name, x):
        return F.linear(x, weights[f"{name}.weight"].flatten(1), weights[f"{name}.bias"])

    V, C, h, w = x.shape
    N = len(source)
    lift = torch.eye(4).repeat(V, 1, 1)
    lift[:, :3, :3] = K
    P = lift @ w2c

    def block(i, x, condition):
        name = f"blocks.{i}"
        modulation = linear(f"{name}.adaLN_modulation.1", F.silu(condition))
        shift1, scale1, gate1, shift2, scale2, gate2 = modulation.chunk(6, dim=-1)
        y = rms_norm(x, weights[f"{name}.norm1.weight"]) * (1 + scale1) + shift1
        q, k, v = linear(f"{name}.attn.qkv", y).reshape(V * h * w, 3, HEADS, -1).permute(1, 2, 0, 3)
        q = prope(q, P.transpose(1, 2), h, w)
        k, v = (prope(z, torch.linalg.inv(w2c) @ lift, h, w) for z in (k, v))
        out = torch.softmax(q @ k.transpose(1, 2) / math.sqrt(q.shape[-1]), dim=-1) @ v
        out = prope(out, P, h, w, inverse=True).permute(1, 0, 2).reshape(V * h * w, -1)
        x = x + gate1 * linear(f"{name}.attn.proj", out)
        y = rms_norm(x, weights[f"{name}.norm2.weight"]) * (1 + scale2) + shift2
        a, b = linear(f"{name}.mlp.w12", y).chunk(2, dim=-1)
        return x + gate2 * linear(f"{name}.mlp.w3", F.silu(a) * b)

    def embed(part, pair):
        tokens = pair.flatten(2).transpose(1, 2)
        if f"{part}.proj.weight" in weights:
            return linear(f"{part}.proj", tokens)
        return torch.cat([linear(f"{part}_ref.proj", tokens[:N]), linear(f"{part}_tgt.proj", tokens[N:])])

    padded = torch.cat([source, torch.zeros(V - N, C, h, w)])
    angles = 2 * math.pi * t * weights["t_embedder.W"]
    features = torch.cat([angles.sin(), angles.cos()])
    T = linear("t_embedder.mlp.2", F.silu(linear("t_embedder.mlp.0", features)))
    rays = F.conv2d(camera_map, weights["camera_embedder.proj.weight"], weights["camera_embedder.proj.bias"], stride=14)

    s = embed("s_embedder", torch.cat([padded, x if level1 is None else level1], dim=1))
    s = (s + rays.flatten(2).transpose(1, 2)).flatten(0, 1)
    y = embed("x_embedder", torch.cat([padded, x], dim=1)).flatten(0, 1)
    blocks = 1 + max(int(name.split(".")[1]) for name in weights if name.startswith("blocks."))
    encoder = [i for i in range(blocks) if weights[f"blocks.{i}.norm1.weight"].shape[0] == s.shape[1]]
    for i in encoder:
        s = block(i, s, F.silu(T))
    s = linear("s_projector", F.silu(T + s))
    for i in range(len(encoder), blocks):
        y = block(i, y, s)
    shift, scale = linear("final_layer.adaLN_modulation.1", F.silu(s)).chunk(2, dim=-1)
    y = rms_norm(y, weights["final_layer.norm_final.weight"]) * (1 + scale) + shift
    return linear("final_layer.linear", y).reshape(V, h * w, C).transpose(1, 2).reshape(V, C, h, w)
