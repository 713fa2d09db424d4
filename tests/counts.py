#!/usr/bin/env python3
"""Counts of the reference fixtures' spike tensors with NumPy alone, to compare the device's with: `fixtures/counts.json`.

    python tests/counts.py > tests/fixtures/counts.json

Everything is counted from the output's side: a convolution is nine shifted sums over outputs that exist, attention two einsums
over who meets whom. Nothing here knows of fan-outs or border classes.
"""

import json
import pathlib
import sys

import numpy as np

DTYPES = {"F32": np.float32, "U8": np.uint8, "I8": np.int8, "I64": np.int64, "F64": np.float64}


def read(path):
    raw = path.read_bytes()
    size = int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8 : 8 + size])
    config = json.loads(header.pop("__metadata__")["config"])
    tensors = {}
    for name, t in header.items():
        begin, end = (8 + size + o for o in t["data_offsets"])
        tensors[name] = np.frombuffer(raw[begin:end], DTYPES[t["dtype"]]).reshape(t["shape"])
    return config, tensors


def pooled(s):
    """3×3 max-pool, stride 2, pad 1, of spikes [T, B, C, H, W]."""
    padded = np.pad(s, [(0, 0)] * 3 + [(1, 1)] * 2)
    h, w = s.shape[3:]
    windows = [padded[..., dy : dy + h : 2, dx : dx + w : 2] for dy in range(3) for dx in range(3)]
    return np.max(windows, axis=0)


def conv_terms(nonzero):
    """By leading axis, how many nonzero inputs the outputs of one channel of a 3×3 convolution (pad 1) see, over all outputs."""
    padded = np.pad(nonzero.astype(np.int64), [(0, 0)] * (nonzero.ndim - 2) + [(1, 1)] * 2)
    h, w = nonzero.shape[-2:]
    seen = sum(padded[..., dy : dy + h, dx : dx + w] for dy in range(3) for dx in range(3))
    return seen.reshape(nonzero.shape[0], -1).sum(1)


def neurons(s):
    fired = s != 0
    return {
        "positive": (s > 0).reshape(len(s), -1).sum(1).tolist(),
        "negative": (s < 0).reshape(len(s), -1).sum(1).tolist(),
        "silent": int((~fired.any((0, 1))).sum()),
        "saturated": int(fired.all((0, 1)).sum()),
    }


def heads(x, count):
    """[T, B, D, H, W] to [T, B, heads, d, N]."""
    t, b, d = x.shape[:3]
    return x.reshape(t, b, count, d // count, -1)


def attention(q, k, v, count):
    q, k, v = (heads((x != 0).astype(np.int64), count) for x in (q, k, v))
    d, n = q.shape[3:]
    ones = np.ones_like(q)

    def terms(spec, *factors):
        return np.einsum(spec, *factors, optimize=True)

    # M[i, j] = Σ_n K[n, i] V[n, j], then O[n, j] = Σ_i Q[n, i] M[i, j] with every M as if it were not zero.
    kv, kv_nonzero = terms("tbhin,tbhjn->t", ones, v), terms("tbhin,tbhjn->t", k, v)
    q_m = terms("tbhin,j->t", q, np.ones(d, np.int64))
    # A[n, m] = Σ_i Q[n, i] K[m, i], then O[n, j] = Σ_m A[n, m] V[m, j] with every A as if it were not zero.
    qk, qk_nonzero = terms("tbhin,tbhim->t", q, ones), terms("tbhin,tbhim->t", q, k)
    a_v = terms("tbhjm,n->t", v, np.ones(n, np.int64))
    return {
        "q_kv": (kv + q_m).tolist(),
        "q_kv_nonzero": (kv_nonzero + q_m).tolist(),
        "qk_v": (qk + a_v).tolist(),
        "qk_v_nonzero": (qk_nonzero + a_v).tolist(),
        "keys": k.reshape(len(k), -1).sum(1).tolist(),
    }


def counts(config, x):
    d, depth, side = config["embed_dim"], config["depth"], config["img_size"]
    pools = [p == "1" for p in config["pooling_stat"]]
    spikes = {name[2:]: s for name, s in x.items() if name.startswith("s.")}
    steps = len(spikes["head_lif"])
    image = x["in.x"]
    image = image if image.ndim == 5 else image[None]
    widths = [d // 8, d // 4, d // 2, d]
    layers = {}

    def synaptic(name, nonzero, taps, outputs):
        ones = np.ones_like(nonzero)
        reach = conv_terms if taps == 9 else (lambda s: s.astype(np.int64).reshape(len(s), -1).sum(1))
        layers[name] = {
            "triggered": (reach(nonzero) * outputs).tolist(),
            "dense": (reach(ones) * outputs).tolist(),
        }

    synaptic("patch_embed.proj_conv", image != 0, 9, widths[0])
    names = ["proj_lif", "proj_lif1", "proj_lif2", "proj_lif3"]
    for i in range(3):
        s = spikes[f"patch_embed.{names[i]}"]
        s = pooled(s) if pools[i] else s
        synaptic(f"patch_embed.proj_conv{i + 1}", s != 0, 9, widths[i + 1])
    synaptic("patch_embed.rpe_conv", spikes["patch_embed.proj_lif3"] != 0, 9, d)
    attentions = {}
    for b in range(depth):
        name = f"block.{b}.attn"
        of = lambda part: spikes[f"{name}.{part}"]
        for part in "qkv":
            synaptic(f"{name}.{part}_conv", of("shortcut_lif") != 0, 1, d)
        attentions[name] = attention(of("q_lif"), x[f"k.{name}"], of("v_lif"), config["num_heads"])
        synaptic(f"{name}.proj_conv", of("attn_lif") != 0, 1, d)
        hidden = spikes[f"block.{b}.mlp.fc2_lif"]
        synaptic(f"block.{b}.mlp.fc1_conv", spikes[f"block.{b}.mlp.fc1_lif"] != 0, 1, hidden.shape[2])
        synaptic(f"block.{b}.mlp.fc2_conv", hidden != 0, 1, d)
    return {
        "images": int(image.shape[1]),
        "timesteps": steps,
        "neurons": {name: neurons(s) for name, s in spikes.items()},
        "layers": layers,
        "attention": attentions,
    }


def main():
    folder = pathlib.Path(__file__).parent / "fixtures"
    out = {}
    for path in sorted(folder.glob("*_eval.safetensors")) + sorted(folder.glob("*_evalgrad.safetensors")):
        config, tensors = read(path)
        if "s.head_lif" in tensors:
            out[path.name] = counts(config, tensors)
        else:
            print(f"{path.name} has no spikes", file=sys.stderr)
    json.dump(out, sys.stdout, separators=(",", ":"), sort_keys=True)
    print()


main()
