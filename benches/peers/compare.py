"""Times Spikeshade beside PyTorch + SpikingJelly on the same weights and inputs; see README.md."""

import argparse
import fnmatch
import json
import os
import platform
import re
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from statistics import median

import torch
from safetensors.torch import load_file

import model as peers
import report
import weights
from contestant import Contestant, Failed, race

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
# glibc gives memory back to the system after each large tensor otherwise, and PyTorch looks slower than it is.
MALLOC = {"MALLOC_MMAP_THRESHOLD_": str(2**32), "MALLOC_TRIM_THRESHOLD_": str(2**33)}
# Batch norms as layers of their own, PyTorch's usual layout, the allocator as it comes.
AS_WRITTEN = "SpikingJelly, as written"


@dataclass
class Case:
    name: str
    preset: str
    batch: int
    train: bool = False
    rate: float = 0.15
    steps: int = 4
    size: int | None = None

    @property
    def title(self):
        size = f", {self.size} × {self.size} pixels" if self.size else ""
        return f"{'training step' if self.train else 'inference'}, {self.preset}, batch {self.batch}, T {self.steps}{size}"


C256, C512 = "cifar10-2-256", "cifar10-2-512"
CASES = [
    *(Case(f"2-256/b{batch}", C256, batch) for batch in (1, 16, 64)),
    *(Case(f"2-512/b{batch}", C512, batch) for batch in (1, 16, 64)),
    Case("8-384/224px/b1", "imagenet-8-384", 1),
    Case("2-256/b16/train", C256, 16, train=True),
    *(Case(f"2-256/b16/rate{percent}", C256, 16, rate=percent / 100) for percent in (5, 30, 50)),
    *(Case(f"2-256/b16/T{steps}", C256, 16, steps=steps) for steps in (1, 2, 8)),
    *(Case(f"2-256/{size}px/b1", C256, 1, size=size) for size in (64, 128, 224)),
]
QUICK = ("2-256/b1", "2-256/b16")


def peer_commands(args, train):
    """{name: (flags of peer.py, whether its arithmetic is f32)}: for each, what was fastest of what a user could choose; and, if
    asked for, the model as it is usually written and run."""
    plain = ["--neurons", "spikingjelly"]
    jelly = [*plain, *([] if train else ["--channels-last", "--fold"])]
    compiled = ["--neurons", "loop", "--compile", "--channels-last"]
    found = {"SpikingJelly": (jelly, True), "torch.compile": (compiled, True)}
    if args.torch_device == "cuda":
        # Which of them is fastest depends on the card and the batch.
        found["torch.compile, CUDA graphs"] = ([*compiled, "--graphs"], True)
        found |= {f"{name}, AMP": ([*flags, "--amp"], False) for name, (flags, _) in found.items()}
    if args.as_written:
        found[AS_WRITTEN] = (plain, True)
    # SpikingJelly is what outputs are compared with.
    wanted = lambda name: not args.peer or name == "SpikingJelly" or any(fnmatch.fnmatch(name, pattern) for pattern in args.peer)
    return {name: how for name, how in found.items() if wanted(name)}


def parse():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--out", type=Path, default=ROOT / "out" / "peers", help="folder for compare.json, .md and .svg")
    parser.add_argument("--binary", type=Path, default=ROOT / "target" / "release" / "spikeshade", help="Spikeshade's program")
    parser.add_argument("--model", type=Path, help="compare on this checkpoint, as it is, instead of the built-in cases")
    parser.add_argument("--only", action="append", metavar="PATTERN", help="only cases whose name matches, e.g. '2-256/*' (repeatable)")
    parser.add_argument("--device", action="append", metavar="D", help="Spikeshade's device (repeatable): auto, cpu, gpu, llvmpipe, …")
    parser.add_argument("--torch-device", choices=("cpu", "cuda"), default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--peer", action="append", metavar="PATTERN",
                        help="beside SpikingJelly only contestants whose name matches, e.g. '*CUDA graphs*' (repeatable)")
    parser.add_argument("--as-written", action="store_true", help="SpikingJelly without our tuning, too")
    parser.add_argument("--runs", type=int, default=15, help="timed rounds, at most")
    parser.add_argument("--warmups", type=int, default=2, help="runs of each before them")
    parser.add_argument("--budget", type=float, default=40, metavar="SECONDS", help="no new round of a case after this time; at least three")
    parser.add_argument("--limit", type=float, default=600, metavar="SECONDS", help="the longest wait for one answer, compiling included")
    parser.add_argument("--quick", action="store_true", help="two cases, three rounds")
    parser.add_argument("--list", action="store_true", help="list the cases and end")
    args = parser.parse_args()
    args.device = args.device or ["auto"]
    if args.quick:
        args.runs, args.only = min(args.runs, 3), args.only or list(QUICK)
    if not args.list and not args.binary.is_file():
        parser.error(f"there is no {args.binary}; run `cargo build --release` first, or give --binary")
    return args


def chosen(args):
    cases = CASES
    if args.model:
        config, _ = peers.read(args.model)
        shape = dict(preset=args.model.stem, steps=config["T"])
        cases = [Case(f"{args.model.stem}/b{batch}", batch=batch, **shape) for batch in (1, 16, 64)]
        cases.append(Case(f"{args.model.stem}/b16/train", batch=16, train=True, **shape))
    return [case for case in cases if not args.only or any(fnmatch.fnmatch(case.name, pattern) for pattern in args.only)]


def prepare(case, args, folder):
    """The case's (checkpoint, input) on disk, and its measured firing rate."""
    folder.mkdir(parents=True, exist_ok=True)
    model, batch = args.model, folder / "input.safetensors"
    if not model:
        source, config_file, model = folder / "source.safetensors", folder / "config.json", folder / "model.safetensors"
        init = [args.binary, "init", "--out", source, "--force"]
        run([*init, "--preset", case.preset])
        config, _ = peers.read(source)
        wanted = dict(config, T=case.steps, img_size=case.size or config["img_size"])
        if wanted != config:
            config_file.write_text(json.dumps(wanted))
            run([*init, "--config", config_file])
        weights.make(source, model, case.rate)
    config, _ = peers.read(model)
    weights.write_input(batch, config, case.batch)
    found = weights.rates(model, load_file(batch)["x"][:4])
    return model, batch, sum(found.values()) / len(found)


def run(command, limit=None):
    try:
        done = subprocess.run([str(part) for part in command], capture_output=True, text=True, timeout=limit)
    except subprocess.TimeoutExpired:
        raise Failed(f"{' '.join(map(str, command[1:3]))}: no end within {limit:.0f} s") from None
    if done.returncode:
        why = (done.stderr.strip().splitlines() or [f"ended with code {done.returncode}"])[-1]
        raise Failed(f"{' '.join(map(str, command[1:3]))}: {why}")
    return done.stdout


def start(case, args, model, batch, folder, failed):
    """Every contestant that starts, the reference first; the others' reasons go to `failed`."""
    train = ["--train"] if case.train else []
    specs = [(name, [sys.executable, HERE / "peer.py", "--model", model, "--input", batch, "--torch-device", args.torch_device, *flags, *train],
              dict(exact=exact, environment=os.environ | ({} if name == AS_WRITTEN else MALLOC)))
             for name, (flags, exact) in peer_commands(args, case.train).items()]
    specs += [(f"Spikeshade {device}", [args.binary, "bench", "--serve", "--model", model, "--input", batch, "--device", device, *train],
               dict(ours=True)) for device in args.device]

    def begin(spec):
        name, command, options = spec
        progress(f"{case.name}: starting {name}")
        try:
            return Contestant(name, command, folder / f"{re.sub(r'[^A-Za-z0-9.]+', '-', name)}.log", args.limit, **options)
        except (Failed, OSError, ValueError, KeyError) as error:
            failed[name] = str(error)

    return [contestant for contestant in together(args, begin, specs) if contestant]


def together(args, action, items):
    """What `action` gives for each of `items`, in their order. Beside a GPU all at once: what is not timed there is mostly
    compilers on the processor. Without one they would be in each other's way."""
    with ThreadPoolExecutor(max(len(items), 1) if args.torch_device == "cuda" else 1) as pool:
        return list(pool.map(action, items))


def peaks(case, args, model, batch, folder, failed):
    """(Peak bytes up to the second run, of two more) of eager SpikingJelly with the allocator as it comes: the settings that make
    it faster make it larger, too. Where there is no allocator to choose, and where it fails, nothing."""
    if args.torch_device == "cuda":
        return None
    train = ["--train"] if case.train else []
    flags, _ = peer_commands(args, case.train)["SpikingJelly"]
    command = [sys.executable, HERE / "peer.py", "--model", model, "--input", batch, "--torch-device", "cpu", *flags, *train]
    progress(f"{case.name}: memory of SpikingJelly")
    try:
        contestant = Contestant("SpikingJelly", command, folder / "SpikingJelly-memory.log", args.limit)
        try:
            contestant.run(), contestant.run()
            first = contestant.peak()
            contestant.reset_peak()
            contestant.run(), contestant.run()
            return first, contestant.peak()
        finally:
            contestant.close()
    except (Failed, OSError) as error:
        failed["memory of SpikingJelly"] = str(error)
        return None


def check(contestant, logits, reference, tolerance):
    """How its logits compare with the reference's."""
    difference = (logits - reference).abs()
    scale = reference.abs().max()
    same = int((logits.argmax(1) == reference.argmax(1)).sum())
    largest = float(difference.max() / scale)
    if tolerance is not None and contestant.exact:
        passed = largest <= tolerance
    else:  # a membrane near its threshold may fall on either side of it
        passed = bool(logits.isfinite().all()) and float(difference.mean() / scale) <= 0.05
    return dict(reference=contestant.name == "SpikingJelly", passed=passed, largest=largest, mean=float(difference.mean() / scale),
                same_class=same, of=len(logits))


def compare(case, args, folder):
    result = dict(asdict(case), title=case.title, contestants=[], failed={}, ratios={})
    failed, contestants = result["failed"], []
    try:
        progress(f"{case.name}: weights and inputs")
        model, batch, result["rate"] = prepare(case, args, folder)
        contestants = start(case, args, model, batch, folder, failed)
        # The first run's, so that training's are those of the same weights. It warms up, too.
        logits = {}

        def begin(contestant):
            progress(f"{case.name}: first run of {contestant.name}")
            try:
                logits[contestant.name] = torch.tensor(contestant.logits())
            except Failed as error:
                failed[contestant.name] = str(error)
                contestants.remove(contestant)
                contestant.close()

        together(args, begin, list(contestants))
        if "SpikingJelly" not in logits:
            failed["the case"] = "without SpikingJelly there is nothing to compare outputs with"
            return result
        reference = logits["SpikingJelly"]
        # Batch statistics are rounded, so in training, as with a model of one's own, spikes may differ.
        tolerance = None if args.model or case.train else 1e-5
        measured = peaks(case, args, model, batch, folder, failed)
        seconds, first, warm = race(contestants, args.warmups - 1, args.runs, args.budget, failed,
                                    lambda text: progress(f"{case.name}: {text}"))
        if measured and "SpikingJelly" in first:
            first["SpikingJelly"], warm["SpikingJelly"] = measured
        for contestant in contestants:
            name = contestant.name
            checked = check(contestant, logits[name], reference, tolerance)
            if not case.train:  # what was timed gave the same logits to the end
                checked["passed"] &= check(contestant, torch.tensor(contestant.logits()), reference, tolerance)["passed"]
            result["contestants"].append(dict(
                name=name, ours=contestant.ours, device=contestant.device, seconds=seconds[name], median=median(seconds[name]),
                idle=contestant.idle, peak_first=first[name], peak_warm=warm[name],
                device_bytes=contestant.device_memory() if args.torch_device == "cuda" else None,
                check=checked))
        result["ratios"] = {ours: {peer: dict(median=median(r), min=min(r), max=max(r)) for peer, r in found.items()}
                            for ours, found in report.ratios(result).items()}
        if args.torch_device == "cuda":
            for contestant in contestants:  # their memory is the device's, too
                contestant.close()
            result["kernels"] = kernels(case, args, model)
    except Exception as error:  # one case's failure is reported, and the rest goes on
        failed["the case"] = f"{type(error).__name__}: {error}"
    finally:
        for contestant in contestants:
            contestant.close()
    return result


def kernels(case, args, model):
    """Spikeshade's own account of where a device's time goes: `spikeshade bench --json`, by device; None where it has none."""
    command = [args.binary, "bench", "--json", "--model", model, "--batch", case.batch, *(["--train"] if case.train else [])]
    found = {}
    for device in args.device:
        try:
            found[device] = json.loads(run([*command, "--device", device], args.limit))
        except (Failed, ValueError):
            found[device] = None
    return found


def machine(args):
    """What the figures depend on."""
    found = dict(system=platform.platform(), processor=platform.processor(), cores=os.cpu_count(), python=platform.python_version(),
                 threads=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count())
    try:
        found["processor"] = next(line.split(":", 1)[1].strip() for line in open("/proc/cpuinfo") if line.startswith("model name"))
    except (OSError, StopIteration):
        pass
    found["gpu"] = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    found["versions"] = {name: version(name) for name in ("torch", "spikingjelly", "numpy", "safetensors")}
    found["spikeshade"] = run([args.binary, "--version"]).strip()
    commit = subprocess.run(["git", "-C", str(ROOT), "describe", "--always", "--dirty"], capture_output=True, text=True)
    found["spikeshade"] += f" ({commit.stdout.strip()})" if commit.returncode == 0 else ""
    return found


def load_average():
    return os.getloadavg() if hasattr(os, "getloadavg") else None


def progress(text):
    """On standard error, in place where that is a terminal."""
    end = "\r" if sys.stderr.isatty() else "\n"
    print(f"{text:<100}", end=end, file=sys.stderr, flush=True)


def main():
    args = parse()
    cases = chosen(args)
    if args.list:
        print("\n".join(f"{case.name:24} {case.title}, {case.rate * 100:.0f} % firing" for case in cases))
        return 0
    if not cases:
        print(f"no case matches {args.only}; --list shows them", file=sys.stderr)
        return 2
    args.out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(os.cpu_count())
    results = dict(command=sys.argv, machine=machine(args), torch_device=args.torch_device, cases=[])
    begin = time.monotonic()
    for i, case in enumerate(cases):
        before = load_average()
        result = compare(case, args, args.out / "work")
        results["cases"].append(result | dict(load_average=dict(before=before, after=load_average())))
        results["minutes"] = (time.monotonic() - begin) / 60
        # After each case, so that what is measured stays if the run is ended.
        (args.out / "compare.json").write_text(json.dumps(results, indent=1) + "\n")
        (args.out / "compare.md").write_text(report.table(results))
        if picture := report.picture(results):
            (args.out / "compare.svg").write_text(picture)
        print(report.table(dict(cases=[result])), flush=True)
        progress(f"{i + 1} of {len(cases)} cases, {results['minutes']:.1f} minutes")
    bad = [case["name"] for case in results["cases"] if case["failed"] or not all(c["check"]["passed"] for c in case["contestants"])]
    if bad:
        print(f"failed or with other outputs: {', '.join(bad)}", file=sys.stderr)
    print(f"{args.out}/compare.json, .md and .svg", file=sys.stderr)
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
