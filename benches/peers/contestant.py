"""A process that answers `run` and `logits` in JSON lines, and its memory as seen from outside."""

import json
import queue
import subprocess
import threading
import time
from pathlib import Path
from statistics import median

CLOSED = object()
# Seconds of a turn at least, and between two turns: threads that wait for more work spin that long.
TURN, PAUSE = 0.2, 0.05


class Failed(Exception):
    """A contestant that could not start, run or answer in time."""


class Contestant:
    """`command` prints {"ready": true, "device": …} once it holds the model and the batch."""

    def __init__(self, name, command, log, limit, ours=False, exact=True, environment=None):
        self.name, self.ours, self.exact, self.limit = name, ours, exact, limit
        self.log = Path(log)
        self.process = subprocess.Popen(
            [str(part) for part in command], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.log.open("w"), text=True,
            env=environment)
        self.lines = queue.Queue()
        threading.Thread(target=self.listen, daemon=True).start()
        self.device = self.answer()["device"]
        self.idle = self.memory("VmRSS")
        self.reset_peak()

    def listen(self):
        for line in self.process.stdout:
            self.lines.put(line)
        self.lines.put(CLOSED)

    def answer(self):
        try:
            line = self.lines.get(timeout=self.limit)
        except queue.Empty:
            self.close()
            raise Failed(f"no answer within {self.limit:.0f} s")
        if line is CLOSED:
            lines = self.log.read_text(errors="replace").strip().splitlines()
            # Spikeshade's message begins with "error", a traceback ends with one.
            why = next((line for line in lines if line.startswith("error")), lines[-1] if lines else "no message")
            raise Failed(f"ended with code {self.process.wait()}: {why}")
        answer = json.loads(line)
        if "error" in answer:
            raise Failed(answer["error"])
        return answer

    def ask(self, command):
        try:
            self.process.stdin.write(command + "\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            pass  # the answer says why it ended
        return self.answer()

    def run(self):
        return self.ask("run")["seconds"]

    def turn(self):
        """The median of as many runs as take a fifth of a second, one at least: the first of them wakes threads and caches."""
        seconds = []
        while not seconds or sum(seconds) < TURN:
            seconds.append(self.run())
        return median(seconds)

    def logits(self):
        return self.ask("logits")["logits"]

    def device_memory(self):
        """Peak bytes of CUDA memory since it was ready, less what it held then; a peer's only."""
        return None if self.ours else self.ask("memory")["bytes"]

    def memory(self, field):
        """Bytes of `field` in /proc/PID/status; None where there is no such file."""
        try:
            status = Path(f"/proc/{self.process.pid}/status").read_text()
        except OSError:
            return None
        values = [line.split()[1] for line in status.splitlines() if line.startswith(field + ":")]
        return int(values[0]) * 1024 if values else None

    def reset_peak(self):
        try:
            Path(f"/proc/{self.process.pid}/clear_refs").write_text("5")
        except OSError:
            pass  # the peak then counts from the process's start

    def peak(self):
        """Bytes of resident memory at its peak since reset_peak, less those with the model loaded and nothing run."""
        peak = self.memory("VmHWM")
        return None if peak is None or self.idle is None else peak - self.idle

    def close(self):
        """Ends the process, by force where closing its input does not."""
        try:
            self.process.stdin.close()
        except BrokenPipeError:
            pass
        try:
            self.process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def race(contestants, warmups, runs, budget, failed, progress):
    """Times a turn of each in every round, `runs` rounds or as many as fit in `budget` seconds, at least three; each round
    begins with the next contestant, so that none always follows the same one.

    Who fails is closed and goes from the list `contestants` to `failed`, by name with the reason. Returns (seconds by name, peak
    bytes of everything before the timed runs by name, peak bytes of timed runs by name)."""
    first, warm, seconds = {}, {}, {c.name: [] for c in contestants}

    def attempt(contestant, action):
        try:
            return action()
        except Failed as error:
            failed[contestant.name] = str(error)
            contestants.remove(contestant)
            contestant.close()

    for contestant in list(contestants):
        for i in range(warmups):
            progress(f"{contestant.name}: warm-up {i + 1} of {warmups}")
            if attempt(contestant, contestant.run) is None:
                break
        if contestant not in contestants:
            continue
        first[contestant.name] = contestant.peak()
        contestant.reset_peak()
    start = time.monotonic()
    for i in range(runs):
        if i >= 3 and time.monotonic() - start > budget:
            break
        progress(f"round {i + 1} of {runs}")
        first_of_round = i % max(len(contestants), 1)
        for contestant in contestants[first_of_round:] + contestants[:first_of_round]:
            time.sleep(PAUSE)
            seconds[contestant.name].append(attempt(contestant, contestant.turn))
    for contestant in contestants:
        warm[contestant.name] = contestant.peak()
    return seconds, first, warm
