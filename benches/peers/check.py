"""Checks the PyTorch model against tests/fixtures, and Spikeshade's logits and gradients against the PyTorch model.

`python benches/peers/check.py` takes seconds. Without Spikeshade's program only the fixtures are checked.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors import safe_open
from safetensors.torch import load_file

import model as peers
import weights
from compare import ROOT
from contestant import Contestant

VARIANTS = {
    "spikingjelly": lambda path: peers.load(path, "spikingjelly"),
    "loop": lambda path: peers.load(path, "loop"),
    "loop, folded, channels last": lambda path: peers.load(path, "loop").folded().to(memory_format=torch.channels_last),
}


class Checks:
    def __init__(self):
        self.failed = 0

    def expect(self, passed, what):
        print(f"{'ok    ' if passed else 'FAILED'} {what}", flush=True)
        self.failed += not passed

    def gradients(self, found, wanted, bound, what):
        """Every gradient within `bound` of its tensor's largest."""
        # Not Python's max, which passes over NaN.
        worst = float(torch.stack([(found[n] - g).abs().max() / g.abs().max().clamp_min(1e-12) for n, g in wanted.items()]).max())
        self.expect(worst <= bound, f"{what}: gradients to {worst:.1e} of {len(wanted)} tensors' largest")


def spikes(model, x):
    """(logits, every neuron's output by its name)."""
    found, hooks = {}, []
    for name, module in model.named_modules():
        if name.rsplit(".", 1)[-1].rstrip("0123456789").endswith("lif"):
            hooks.append(module.register_forward_hook(lambda module, inputs, out, name=name: found.__setitem__(name, out.detach())))
    logits = model(x)
    for hook in hooks:
        hook.remove()
    return logits, found


def backward(model, x, label):
    F.cross_entropy(model(x), label).backward()
    return {name: p.grad for name, p in model.named_parameters()}


def check_fixture(checks, path):
    data = load_file(path)
    train = "traingrad" in path.name
    with safe_open(path, "pt") as file:  # biases ahead of batch statistics, whose gradients are rounding alone
        zero = json.loads(file.metadata().get("zero_grads", "[]"))
    for name, make in VARIANTS.items():
        if train and "folded" in name:
            continue
        model = make(path).train(train)
        with torch.no_grad():
            logits, found = spikes(model, data["in.x"])
        different = sum(int((found[n[2:]].float() != s.float()).sum()) for n, s in data.items() if n.startswith("s."))
        largest = float((logits - data["out.logits"]).abs().max() / data["out.logits"].abs().max())
        traced = sum(n.startswith("s.") for n in data)
        checks.expect(traced > 0 and different == 0 and largest <= (1e-4 if train else 1e-6),
                      f"{path.stem}, {name}: {different} spikes of {traced} layers differ, logits to {largest:.0e}")
        wanted = {n[2:]: g for n, g in data.items() if n.startswith("g.") and n[2:] not in zero}
        if wanted and "folded" not in name:
            checks.gradients(backward(make(path).train(train), data["in.x"], data["in.label"]), wanted, 1e-4, f"{path.stem}, {name}")


def check_binary(checks, binary, folder):
    source, path, batch, out = (folder / f"{name}.safetensors" for name in ("source", "model", "input", "grad"))
    subprocess.run([binary, "init", "--preset", "tiny", "--out", source], check=True, capture_output=True)
    weights.make(source, path, 0.15)
    weights.write_input(batch, peers.read(path)[0], 3)
    data = load_file(batch)
    model = peers.load(path)
    with torch.no_grad():
        wanted = model(data["x"])
    contestant = Contestant("Spikeshade", [binary, "bench", "--serve", "--model", path, "--input", batch], folder / "log", 60, ours=True)
    logits = torch.tensor(contestant.logits())
    contestant.close()
    largest = float((logits - wanted).abs().max() / wanted.abs().max())
    checks.expect(largest <= 1e-6, f"Spikeshade on {contestant.device}, tiny: logits to {largest:.0e}")
    grad = [binary, "grad", "--model", path, "--input", batch, "--output", out]
    subprocess.run(grad, check=True, capture_output=True)
    found = {n[2:]: g for n, g in load_file(out).items() if n.startswith("g.")}
    checks.gradients(found, backward(model, data["x"], data["label"]), 1e-4, "Spikeshade, tiny")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--binary", type=Path, default=ROOT / "target" / "release" / "spikeshade")
    args = parser.parse_args()
    checks = Checks()
    fixtures = sorted((ROOT / "tests" / "fixtures").glob("*.safetensors"))
    checks.expect(bool(fixtures), f"{len(fixtures)} fixtures found")
    for path in fixtures:
        check_fixture(checks, path)
    if args.binary.is_file():
        with tempfile.TemporaryDirectory() as folder:
            check_binary(checks, args.binary, Path(folder))
    else:
        print(f"there is no {args.binary}: only the fixtures are checked")
    print(f"{checks.failed} checks failed" if checks.failed else "all passed")
    return 1 if checks.failed else 0


if __name__ == "__main__":
    sys.exit(main())
