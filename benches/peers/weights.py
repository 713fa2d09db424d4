"""Weights and inputs on which every order of summation gives the same f32, calibrated to a firing rate.

Ordinary weights would make the comparison's check a matter of luck: a sum that rounds differently moves a membrane across its
threshold now and then. So weights are rounded to integers of -7..7 times a power of two, inputs to sixteenths, and batch norms
scale and shift by numbers of few bits. Sums then fit the 24 bits of an f32, and logits agree to the rounding of the last means.
"""

import json
import math

import torch
from safetensors.torch import save_file
from torch import nn

import model as peers

EPS = float(torch.tensor(1e-5))
# Exact in f32, and with batch norm's epsilon exactly 2^-14: batch norm multiplies by its weight times 2^7.
VARIANCE = float(torch.tensor(2.0**-14)) - EPS
WEIGHT_BITS, BIAS_BITS, IMAGE_BITS = 12, 6, 4
# Scales that cost one bit at most.
SCALES = [mantissa * 2.0**e for e in range(-16, 8) for mantissa in (1, 1.5)]


def snap(x, bits):
    return torch.round(x * 2.0**bits) / 2.0**bits


def images(batch, config, seed):
    """Smooth noise about as large as normalised pictures, in sixteenths: f32 [batch, channels, size, size]."""
    generator, size = torch.Generator().manual_seed(seed), config["img_size"]
    x = torch.zeros(batch, config["in_chans"], size, size)
    for coarse, weight in ((1, 1 / 3), (4, 2 / 3), (8, 1.0)):
        side = max(size // coarse, 1)
        noise = torch.randn(batch, config["in_chans"], side, side, generator=generator)
        x += weight * nn.functional.interpolate(noise, size=(size, size), mode="bilinear")
    return snap(x, IMAGE_BITS).clamp(-4, 4)


class Calibration:
    """Hooks that set batch norms and firing rates layer by layer, while the model runs once."""

    def __init__(self, model, rate):
        self.rate, self.norm, self.keys, self.hooks = rate, None, None, []
        for name, module in model.named_modules():
            if isinstance(module, (nn.Conv2d, nn.Linear)):
                self.round(module)
            elif isinstance(module, nn.BatchNorm2d):
                self.hook(module, self.set_norm, name)
            elif isinstance(module, peers.LoopLIF):
                self.hook(module, self.set_rate, name)

    def hook(self, module, function, name):
        self.hooks.append(module.register_forward_pre_hook(lambda module, inputs: function(name, module, *inputs)))

    @staticmethod
    def round(layer):
        integers = torch.round(layer.weight / layer.weight.std() * 2.5).clamp(-7, 7)
        if isinstance(layer, nn.Linear):
            layer.weight.copy_(integers / 32)
            layer.bias.copy_(snap(layer.bias, BIAS_BITS))
        else:
            layer.weight.copy_(integers * 2.0**-WEIGHT_BITS)
            if layer.bias is not None:
                layer.bias.zero_()

    def set_norm(self, name, norm, y):
        """Zero mean and a deviation near 1, or near 1/2 on the residual's branches."""
        branch = name.endswith(("attn.proj_bn", "fc2_bn", "rpe_bn"))
        scale = (0.5 if branch else 1.0) / (max(y.std().item(), 2.0**-WEIGHT_BITS) * 2.0**7)
        norm.running_mean.copy_(snap(y.mean((0, 2, 3)), WEIGHT_BITS))
        norm.running_var.fill_(VARIANCE)
        norm.weight.fill_(2.0 ** round(math.log2(scale)))
        norm.bias.zero_()
        self.norm = norm
        if name.endswith("k_bn"):
            self.keys = norm

    def set_rate(self, name, lif, x):
        # In place, so that a residual that the neuron reads has it, too.
        if name.endswith(("v_lif", "attn_lif")):
            # Ternary neurons fire on both sides of zero, and so does attention's input, whose scale is that of the keys.
            norm = self.keys if name.endswith("attn_lif") else self.norm
            scale = min(SCALES, key=lambda scale: abs(firing(lif.forward(x * scale)) - self.rate))
            x *= scale
            norm.weight *= scale
            norm.bias *= scale
        else:
            low, high = -16.0, 16.0
            while high - low > 2.0**-BIAS_BITS:
                shift = (low + high) / 2
                low, high = (shift, high) if firing(lif.forward(x + shift)) < self.rate else (low, shift)
            x += high
            self.norm.bias += high


def firing(spikes):
    """The share of neurons that fire, whatever the sign."""
    return spikes.abs().mean().item()


@torch.inference_mode()
def make(source, path, rate):
    """Writes `source`'s weights, made exact and calibrated to `rate`, to `path`."""
    config, _ = peers.read(source)
    model = peers.load(source, "loop")
    calibration = Calibration(model, rate)
    x = images(2, config, seed=1)
    # As a sequence: hooks change it in place, which a picture expanded to T timesteps does not allow.
    model(x.expand(config["T"], *x.shape).contiguous())
    for hook in calibration.hooks:
        hook.remove()
    state = {name: t.contiguous() for name, t in model.state_dict().items() if not name.endswith("num_batches_tracked")}
    save_file(state, path, {"config": json.dumps(config), "format": "pt"})


@torch.inference_mode()
def rates(path, x, steps=None):
    """Every layer's firing rate on x, by its name."""
    model, found = peers.load(path, "loop", steps), {}
    for name, module in model.named_modules():
        if isinstance(module, peers.LoopLIF):
            module.register_forward_hook(lambda module, inputs, spikes, name=name: found.__setitem__(name, firing(spikes)))
    model(x)
    return found


def write_input(path, config, batch):
    """`x` and random `label`s."""
    label = torch.randint(config["num_classes"], (batch,), generator=torch.Generator().manual_seed(2))
    save_file({"x": images(batch, config, seed=3), "label": label}, path)
