"""One PyTorch contestant: answers `run`, `logits` and `memory` on standard input, as `spikeshade bench --serve` does.

Prints {"ready": …} once the model and the batch are loaded and nothing has run. `memory` gives the peak of CUDA memory since
`ready`, less what was held then, in bytes.
"""

import argparse
import json
import os
import sys
import time

import torch
import torch.nn.functional as F
from safetensors.torch import load_file

import model as peers

# What `spikeshade bench --train` takes, too.
ADAMW = dict(lr=1e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.06)


class Peer:
    def __init__(self, args):
        self.device, self.train = torch.device(args.torch_device), args.train
        self.cuda = self.device.type == "cuda"
        inputs = load_file(args.input)
        model = peers.load(args.model, args.neurons, args.timesteps)
        layout = torch.channels_last if args.channels_last else torch.contiguous_format
        if args.train:
            model.train()
            self.label = inputs["label"].to(self.device)
        elif args.fold:
            model = model.folded()
        model = model.to(self.device, memory_format=layout)
        x = inputs["x"]
        x = x.to(memory_format=layout) if x.dim() == 4 else x
        self.x = x.pin_memory() if self.cuda else x
        if args.train:
            self.optimizer = torch.optim.AdamW(model.parameters(), fused=True, **ADAMW)
        mode = "reduce-overhead" if args.graphs else "default"
        self.call = torch.compile(model, mode=mode) if args.compile else model
        self.amp = torch.autocast(self.device.type, torch.float16, enabled=args.amp)
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=args.amp)
        self.last = None
        self.held = torch.cuda.memory_allocated() if self.cuda else 0
        if self.cuda:
            torch.cuda.reset_peak_memory_stats()

    def infer(self, x):
        with torch.inference_mode(), self.amp:
            return self.call(x)

    def step(self, x):
        with self.amp:
            logits = self.call(x)
            loss = F.cross_entropy(logits, self.label)
        self.scaler.scale(loss).backward()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        return logits.detach()

    def run(self):
        start = time.perf_counter()
        # As in Spikeshade's time, the batch comes from the host and the logits go back there.
        x = self.x.to(self.device, non_blocking=True)
        self.last = (self.step(x) if self.train else self.infer(x)).float().cpu()
        if self.cuda:
            torch.cuda.synchronize()
        return {"seconds": time.perf_counter() - start}

    def logits(self):
        if self.last is None:
            self.run()
        return {"logits": self.last.tolist()}

    def memory(self):
        return {"bytes": torch.cuda.max_memory_allocated() - self.held if self.cuda else None}


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True)
    parser.add_argument("--input", required=True)
    parser.add_argument("--neurons", default="spikingjelly", choices=peers.NEURONS)
    parser.add_argument("--timesteps", type=int)
    parser.add_argument("--torch-device", default="cpu")
    for flag in ("train", "compile", "graphs", "fold", "channels-last", "amp"):
        parser.add_argument(f"--{flag}", action="store_true")
    args = parser.parse_args()

    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # whatever libraries print goes to standard error
    torch.backends.cudnn.benchmark = True  # shapes stay the same
    peer = Peer(args)
    name = torch.cuda.get_device_name() if peer.cuda else f"cpu, {torch.get_num_threads()} threads"
    print(json.dumps({"ready": True, "device": name, "batch": peer.x.shape[-4]}), file=answers)
    for line in sys.stdin:
        command = {"run": peer.run, "logits": peer.logits, "memory": peer.memory}.get(line.strip())
        try:
            answer = command() if command else {"error": f"no command {line.strip()!r}; there are run, logits and memory"}
        except Exception as error:  # a peer that runs out of memory says so, and the comparison goes on
            answer = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer), file=answers)


if __name__ == "__main__":
    main()
