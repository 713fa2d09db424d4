"""The results as a table and as a picture."""

import math
from statistics import median

MIB = 2**20


def spread(values, unit=1.0, digits=1):
    return f"{median(values) * unit:.{digits}f} ({min(values) * unit:.{digits}f}–{max(values) * unit:.{digits}f})"


def mebibytes(value):
    return "" if value is None else f"{value / MIB:.0f}"


def ratios(case):
    """Paired ratios, peer's seconds over ours in each round: {ours: {peer: [ratio]}}."""
    times = {c["name"]: c["seconds"] for c in case["contestants"]}
    ours = [c["name"] for c in case["contestants"] if c["ours"]]
    return {name: {peer: [a / b for a, b in zip(times[peer], times[name])] for peer in times if peer not in ours} for name in ours}


def agreement(check):
    if check["reference"]:
        return "reference"
    return f"{'agree' if check['passed'] else 'DIFFER'}: logits to {check['largest']:.0e}, {check['same_class']}/{check['of']} classes"


def table(results):
    """Markdown: one line a contestant, one section a case."""
    lines = []
    if machine := results.get("machine"):
        versions = ", ".join(f"{name} {number}" for name, number in machine["versions"].items())
        devices = dict.fromkeys(f"{c['name']}: {c['device']}" for case in results["cases"] for c in case["contestants"])
        lines += [f"{machine['processor']}, {machine['threads']} threads; {machine['system']}; {machine['spikeshade']}; {versions}.",
                  "", *(f"- {device}" for device in devices)]
    for case in results["cases"]:
        rate = f", {case['rate'] * 100:.0f} % firing" if case.get("rate") else ""
        lines += ["", f"### {case['name']}", "", f"{case['title']}{rate}", ""]
        if case["contestants"]:
            lines += ["| | ms, median (min–max) | images/s | slower than Spikeshade, ×: median (min–max) | peak MiB, first run | peak MiB, warm | outputs |",
                      "|---|---|---|---|---|---|---|"]
        for c in case["contestants"]:
            times = [] if c["ours"] else [f"{spread(r[c['name']], digits=2)}{f' {ours}' if len(case['ratios']) > 1 else ''}"
                                         for ours, r in ratios(case).items()]
            device = "" if c["device_bytes"] is None else f" (+{mebibytes(c['device_bytes'])} on the GPU)"
            lines.append(f"| {c['name']} | {spread(c['seconds'], 1e3)} | {case['batch'] / median(c['seconds']):.1f} | {'<br>'.join(times)} "
                         f"| {mebibytes(c['peak_first'])} | {mebibytes(c['peak_warm'])}{device} | {agreement(c['check'])} |")
        lines += [f"- {name} failed: {why}" for name, why in case["failed"].items()]
    return "\n".join(lines).strip() + "\n"


def picture(results):
    """SVG: a dot for each paired ratio's median, a line from its least to its largest, on a logarithmic axis."""
    rows = [(f"{case['name']}: {peer} / {ours}", values)
            for case in results["cases"] for ours, peers in ratios(case).items() for peer, values in peers.items()]
    if not rows:
        return None
    left, width, step, top = 390, 520, 18, 40
    low = min(0.5, *(min(values) for _, values in rows))
    high = max(4.0, *(max(values) for _, values in rows))

    def x(value):
        return left + width * math.log(value / low) / math.log(high / low)

    height = top + step * len(rows) + 16
    out = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {left + width + 70} {height}" font-family="sans-serif" font-size="12">',
           '<rect width="100%" height="100%" fill="white"/>',
           f'<text x="{left}" y="16">times as fast as the peer: median of paired ratios, least to largest</text>']
    for tick in (2.0**e for e in range(math.ceil(math.log2(low)), math.floor(math.log2(high)) + 1)):
        out.append(f'<path d="M{x(tick):.1f} {top - 6}V{height - 10}" stroke="{"#444" if tick == 1 else "#ddd"}"/>')
        out.append(f'<text x="{x(tick):.1f}" y="{top - 10}" text-anchor="middle">{tick:g}</text>')
    for i, (name, values) in enumerate(rows):
        y, middle = top + step * i + 8, median(values)
        colour = "#1a7f37" if middle >= 1 else "#b3261e"
        out.append(f'<text x="{left - 8}" y="{y + 4}" text-anchor="end">{name}</text>')
        out.append(f'<path d="M{x(min(values)):.1f} {y}H{x(max(values)):.1f}" stroke="{colour}" stroke-width="2"/>')
        out.append(f'<circle cx="{x(middle):.1f}" cy="{y}" r="4" fill="{colour}"/>')
        out.append(f'<text x="{x(max(values)) + 8:.1f}" y="{y + 4}">{middle:.2f}</text>')
    return "\n".join([*out, "</svg>", ""])
