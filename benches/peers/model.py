"""The spiking transformer with A²OS²A (arXiv 2503.00226) in PyTorch, as a SpikingJelly user would write it for speed.

    SPS -> U;  per block: U += proj(A2OS2A(SN(U))), U += MLP(SN(U));  logits = mean_t FC(mean_n SN(U))

Parameters are named and shaped as in Spikeshade's checkpoints, so that `load_state_dict(strict=True)` takes one.
Timesteps are folded into the batch for everything that has no state, tensors are [T, B, C, H, W] in between.
"""

import json
import math

import torch
import torch.nn.functional as F
from safetensors import safe_open
from spikingjelly.activation_based import functional, neuron, surrogate
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval


# ------------------------------------------------------------------------------------------------------------ neurons
def surrogate_gradient(x, kind, alpha):
    """The surrogate's derivative at x = h - threshold."""
    if kind == "sigmoid":
        s = torch.sigmoid(alpha * x)
        return alpha * s * (1 - s)
    if kind == "atan":
        return alpha / 2 / (1 + (math.pi / 2 * alpha * x) ** 2)
    if kind == "rectangular":
        return alpha * (x.abs() < 1 / (2 * alpha)).to(x.dtype)
    if kind == "triangular":
        return alpha * (1 - alpha * x.abs()).clamp_min(0)
    raise ValueError(f"surrogate {kind!r}: expected sigmoid, atan, rectangular or triangular")


class Spike(torch.autograd.Function):
    """[x >= 0], with the surrogate's derivative backward."""

    @staticmethod
    def forward(ctx, x, kind, alpha):
        ctx.save_for_backward(x)
        ctx.kind, ctx.alpha = kind, alpha
        return (x >= 0).to(x.dtype)

    @staticmethod
    def backward(ctx, grad):
        (x,) = ctx.saved_tensors
        return grad * surrogate_gradient(x, ctx.kind, ctx.alpha), None, None


class LoopLIF(nn.Module):
    """LIF, binary or ternary, as a plain loop over T without state, which torch.compile unrolls and fuses whole."""

    def __init__(self, config, threshold, ternary):
        super().__init__()
        self.tau, self.decay_input, self.reset_to = config["tau"], config["decay_input"], config["v_reset"]
        self.surrogate, self.alpha, self.detach = config["surrogate"], config["alpha"], config["detach_reset"]
        self.threshold, self.ternary = threshold, ternary

    def forward(self, x):
        rest = 0.0 if self.reset_to is None else self.reset_to
        v, spikes = torch.full_like(x[0], rest), []
        for x_t in x.unbind(0):
            leak = (v - rest) / self.tau
            h = v + (x_t - (v - rest)) / self.tau if self.decay_input else v - leak + x_t
            s = fired = Spike.apply(h - self.threshold, self.surrogate, self.alpha)
            if self.ternary:
                down = Spike.apply(-h - self.threshold, self.surrogate, self.alpha)
                s, fired = s - down, s + down
            r_s, r_fired = (s.detach(), fired.detach()) if self.detach else (s, fired)
            v = h - self.threshold * r_s if self.reset_to is None else h * (1 - r_fired) + rest * r_fired
            spikes.append(s)
        return torch.stack(spikes)


def jelly_lif(config, threshold, ternary):
    """SpikingJelly's multi-step neuron. Version 2 picks its fastest implementation for the device by itself."""
    kind, alpha = config["surrogate"], config["alpha"]
    if kind in ("sigmoid", "atan"):
        spike = {"sigmoid": surrogate.Sigmoid, "atan": surrogate.ATan}[kind](alpha=alpha)
    else:
        spike = lambda x: Spike.apply(x, kind, alpha)
    return (neuron.TernaryLIFNode if ternary else neuron.LIFNode)(
        tau=float(config["tau"]), decay_input=config["decay_input"], v_threshold=float(threshold),
        v_reset=config["v_reset"], surrogate_function=spike, detach_reset=config["detach_reset"], step_mode="m")


NEURONS = {"spikingjelly": jelly_lif, "loop": LoopLIF}


# -------------------------------------------------------------------------------------------------------------- layers
def fold(layer, x):
    """A stateless layer on [T, B, ...], T folded into the batch."""
    return layer(x.flatten(0, 1)).unflatten(0, x.shape[:2])


class Part(nn.Module):
    def __init__(self, config, make):
        super().__init__()
        self.config, self.make = config, make

    def add(self, name, inputs, outputs, size, bias):
        """A convolution and its batch norm, as `{name[0]}_conv{name[1]}` and `…_bn…`."""
        conv = nn.Conv2d(inputs, outputs, size, padding=size // 2, bias=bias)
        setattr(self, "_conv".join(name), conv)
        # An f32, as in the checkpoint's definition; PyTorch would take the f64 in f64 arithmetic.
        setattr(self, "_bn".join(name), nn.BatchNorm2d(outputs, eps=float(torch.tensor(self.config["bn_eps"]))))

    def lif(self, threshold=None, ternary=False):
        return self.make(self.config, self.config["v_threshold"] if threshold is None else threshold, ternary)

    def conv_bn(self, name, x):
        return fold(lambda y: getattr(self, "_bn".join(name))(getattr(self, "_conv".join(name))(y)), x)


class PatchEmbed(Part):
    STAGES = ("", "1", "2", "3")

    def __init__(self, config, make):
        super().__init__(config, make)
        dim = config["embed_dim"]
        widths = [config["in_chans"], dim // 8, dim // 4, dim // 2, dim]
        for i, stage in enumerate(self.STAGES):
            self.add(("proj", stage), widths[i], widths[i + 1], 3, False)
            setattr(self, f"proj_lif{stage}", self.lif())
        self.add(("rpe", ""), dim, dim, 3, False)
        self.pool = nn.MaxPool2d(3, 2, 1)

    def first(self, x):
        """Stage 0's batch norm output. A static image [B, C, H, W] goes through the convolution once, not T times."""
        if x.dim() == 5:
            return self.conv_bn(("proj", ""), x)
        y, steps = self.proj_conv(x), self.config["T"]
        if self.training:  # the statistics are those of the T copies
            return fold(self.proj_bn, y.expand(steps, *y.shape))
        y = self.proj_bn(y)
        return y.expand(steps, *y.shape)

    def forward(self, x):
        for i, stage in enumerate(self.STAGES):
            x = self.first(x) if i == 0 else self.conv_bn(("proj", stage), x)
            pooled = self.config["pooling_stat"][i] == "1"
            if i == 3:  # the last stage pools membrane inputs, the others spikes
                x = real = fold(self.pool, x) if pooled else x
            x = getattr(self, f"proj_lif{stage}")(x)
            if i < 3 and pooled:
                x = fold(self.pool, x)
        return real + self.conv_bn(("rpe", ""), x)


class Attention(Part):
    def __init__(self, config, make):
        super().__init__(config, make)
        dim = config["embed_dim"]
        self.shortcut_lif = self.lif()
        for name in "qkv":
            self.add((name, ""), dim, dim, 1, False)
        self.q_lif, self.v_lif = self.lif(), self.lif(ternary=True)
        self.attn_lif = self.lif(config["attn_v_threshold"])
        self.add(("proj", ""), dim, dim, 1, True)

    def forward(self, u):
        s = self.shortcut_lif(u)
        q = self.q_lif(self.conv_bn(("q", ""), s))
        k = F.relu(self.conv_bn(("k", ""), s))
        v = self.v_lif(self.conv_bn(("v", ""), s))
        # [T, B, heads, d, N]; there is no softmax, so both orders are the same function and the cheaper one is taken
        q, k, v = (y.flatten(3).unflatten(2, (self.config["num_heads"], -1)) for y in (q, k, v))
        width, tokens = q.shape[-2:]
        if width < tokens:
            out = (v @ k.transpose(-1, -2)) @ q
        else:
            out = v @ (k.transpose(-1, -2) @ q)
        return self.conv_bn(("proj", ""), self.attn_lif(out.reshape(u.shape))) + u


class Mlp(Part):
    def __init__(self, config, make):
        super().__init__(config, make)
        dim = config["embed_dim"]
        hidden = dim * config["mlp_ratio"]
        self.fc1_lif, self.fc2_lif = self.lif(), self.lif()
        self.add(("fc1", ""), dim, hidden, 1, True)
        self.add(("fc2", ""), hidden, dim, 1, True)

    def forward(self, u):
        x = self.conv_bn(("fc1", ""), self.fc1_lif(u))
        return self.conv_bn(("fc2", ""), self.fc2_lif(x)) + u


class Block(nn.Module):
    def __init__(self, config, make):
        super().__init__()
        self.attn, self.mlp = Attention(config, make), Mlp(config, make)

    def forward(self, u):
        return self.mlp(self.attn(u))


class SpikingTransformer(nn.Module):
    """x f32 [B, C, H, W], or a sequence [T, B, C, H, W] -> logits f32 [B, classes]. `neurons` is a key of NEURONS."""

    def __init__(self, config, neurons="spikingjelly"):
        super().__init__()
        self.config, make = config, NEURONS[neurons]
        self.patch_embed = PatchEmbed(config, make)
        self.block = nn.ModuleList(Block(config, make) for _ in range(config["depth"]))
        self.head_lif = make(config, config["v_threshold"], False)
        self.head = nn.Linear(config["embed_dim"], config["num_classes"])
        self.stateful = neurons == "spikingjelly"

    def forward(self, x):
        if self.stateful:
            functional.reset_net(self)
        u = self.patch_embed(x)
        for block in self.block:
            u = block(u)
        return self.head(self.head_lif(u).flatten(3).mean(3)).mean(0)

    def folded(self):
        """Batch norms folded into their convolutions, for inference."""
        self.eval()
        for part in self.modules():
            for bn, norm in list(part.named_children()):
                if isinstance(norm, nn.BatchNorm2d):
                    conv = bn.replace("_bn", "_conv")
                    setattr(part, conv, fuse_conv_bn_eval(getattr(part, conv), norm))
                    setattr(part, bn, nn.Identity())
        return self


def read(path):
    """A checkpoint's (config, state_dict in f32). A test fixture is one, with other tensors beside its parameters."""
    with safe_open(path, "pt") as file:
        config = json.loads(file.metadata()["config"])
        state = {name: file.get_tensor(name) for name in file.keys() if name.split(".")[0] in ("patch_embed", "block", "head")}
    return config, {name: t.float() if t.is_floating_point() else t for name, t in state.items()}


def load(path, neurons="spikingjelly", steps=None):
    """The model of a checkpoint, in eval mode; `steps` in place of its own T."""
    config, state = read(path)
    config["T"] = steps or config["T"]
    model = SpikingTransformer(config, neurons)
    for name, buffer in model.named_buffers():  # checkpoints of inference have no batch counters
        if name.endswith("num_batches_tracked"):
            state.setdefault(name, buffer)
    model.load_state_dict(state, strict=True)
    return model.eval()
