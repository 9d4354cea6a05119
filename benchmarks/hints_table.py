"""How often each hint sentence is true: planted faults of every kind, large and small, on the sample networks.

    python -m benchmarks.hints_table [N] [--planted ../shared/data/planted]

N faults (300) are drawn from a seed: network, kind, op and factor, small factors too, so that the layer where error
first crosses its limit is often a later one than the planted one. A sentence is held against the same port of the
healthy device: true means that the error which the fault made (faulty minus healthy) lies where the sentence says, or
is gone by what it says, but for 1 %. With --planted, the dumps of a foreign device are compared in the same way, with
golden in place of the healthy device's tensor. Prints a Markdown table.
"""

from __future__ import annotations

import argparse
import json
import re
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import acccmp
from acccmp.diagnosis.causes.hints import explained
from acccmp.emulator.emulate import Fault
from acccmp.emulator.faults import KINDS
from acccmp.emulator.fusion import plan
from acccmp.errors import InputError
from acccmp.reports.report import Report
from benchmarks.faults_table import Network, judged, networks

FACTORS: dict[str, tuple[float, ...]] = {
    "overflow": (0.01, 0.2), "scale": (0.5, 1.002, 1.01, 1.1), "zero": (0.1, 0.25, 1.0), "stale": (0.3, 1.0),
    "bitflip": (5, 9, 12, 14, 15), "noise": (0.002, 0.01, 0.05, 0.5), "bn-eps": (1e-4, 1e-3, 1e-1),
    "bad-weight": (0.06, 0.25),
}
DEVICE = {"summation": 1}  # not the one that the floors come from
# The words of a sentence -> what it is called in the table.
SENTENCES = {
    "is 0$": "every element is 0", "^every element": "every element is V", "golden x": "golden x F",
    r"golden \+": "golden + F", "axes in the order": "axes in another order", "shifted": "shifted",
    "wrong of": "only N elements are wrong", "border": "only at the border", "channels .* all 0": "channels all 0",
    "channels": "only some channels are wrong", "right up to": "right up to an element", "each channel":
    "a factor and an offset for each channel", "outgrow": "golden outgrows the type",
}


@dataclass(frozen=True)
class Said:
    """What was said of the first bad layer after one fault: the sentence ("" for none), whether it is true, and
    whether that layer is the planted one."""

    kind: str
    sentence: str
    is_true: bool
    is_planted: bool


def drawn(count: int, seed: int = 1) -> Iterator[tuple[Network, Fault]]:
    """`count` faults that can be planted, as far as that shows before."""
    random, nets = np.random.default_rng(seed), networks()
    for _ in range(count):
        network = nets[random.integers(len(nets))]
        kind = str(random.choice(list(KINDS)))
        ops = [step.nodes[0].name for step in plan(network.device).steps if not step.folded]
        factors = FACTORS.get(kind)
        factor = float(random.choice(factors)) if factors is not None else None
        yield network, Fault(ops[random.integers(len(ops))], kind, factor, int(random.integers(1000)))


def measure(count: int, seed: int = 1) -> Iterator[Said]:
    healthy: dict[str, Report] = {}
    with tempfile.TemporaryDirectory() as folder:
        for place, (network, fault) in enumerate(drawn(count, seed)):
            if network.name not in healthy:
                healthy[network.name] = judged(network, [], Path(folder) / network.name, True, DEVICE)
            try:
                report = explained(judged(network, [fault], Path(folder) / str(place), True, DEVICE))
            except InputError:
                continue  # this kind does not fit this op
            planted = plan(network.device).step_of(fault.op).name
            said = heard(report, fault.kind, lambda node, planted=planted: node == planted, healthy[network.name])
            if said is not None:
                yield said


def foreign(folder: Path) -> Iterator[Said]:
    """The same for dumps that a foreign device left, with their answers."""
    models = {"trans": folder / "trans.onnx", "mnist": next((folder.parent / "onnx").glob("*mnist.onnx")),
              "slim": next((folder.parent / "onnx").glob("*slim-320.onnx"))}
    for case in sorted(folder.glob("*_*")):
        answer = json.loads((case / "answer.json").read_text())
        inputs = {name: str(case / file) for name, file in answer["inputs"].items()}
        report = acccmp.compare(models[answer["model"]], case / "npu", mapping=case / "mapping.json", inputs=inputs)
        names = {name for fault in answer["planted"] for name in (*fault["names"], *fault["originals"])}
        kind = ", ".join(fault["kind"] for fault in answer["planted"]) or "healthy"
        said = heard(report, kind, names.__contains__, None)
        if said is not None:
            yield said


def heard(report: Report, kind: str, is_planted: Any, healthy: Report | None) -> Said | None:
    row = report.first_bad
    if row is None:
        return None
    planted = is_planted(row.port.node) or any(map(is_planted, row.originals))
    if not row.hint:
        return Said(kind, "", False, planted)
    sentence = next(name for words, name in SENTENCES.items() if re.search(words, row.hint))
    assert row.golden is not None
    assert row.npu is not None
    right = (healthy[row.port].npu if healthy is not None else None) or row.golden
    return Said(kind, sentence, is_true(row.hint, right.numpy(), row.npu.numpy()), planted)


def is_true(hint: str, right: Any, wrong: Any) -> bool:
    """Does the sentence explain all but 1 % of the error between two tensors of one shape?"""
    right, wrong = (np.asarray(array, np.float64) for array in (right, wrong))
    right, wrong = np.nan_to_num(right), np.nan_to_num(wrong).reshape(right.shape)
    error = (wrong - right) ** 2
    numbers = [float(text) for text in re.findall(r"-?\d+\.?\d*(?:e[+-]?\d+)?", hint)]
    if "every element" in hint:
        return bool((wrong == wrong.flat[0]).all())
    if "golden x" in hint or "golden +" in hint:
        told = right * numbers[0] if "x" in hint else right + numbers[0]
        left = (wrong - told) ** 2
    elif "axes in the order" in hint:
        left = (wrong.reshape(-1) - right.transpose([int(n) for n in numbers]).reshape(-1)) ** 2
    elif "shifted" in hint:
        step, axis = (int(n) for n in numbers)
        moved = np.moveaxis((wrong - np.roll(right, step, axis)) ** 2, axis, 0)
        left = moved[max(0, step): len(moved) + min(0, step)]
    elif "wrong of" in hint:
        left = np.sort(error.reshape(-1))[: error.size - int(numbers[0])]
    elif "border" in hint:
        left = error[..., 1:-1, 1:-1]
    elif "channels" in hint:
        axis = int(numbers[2])
        told = [int(n) for n in re.findall(r"\d+", hint.partition(":")[2].partition(")")[0])]
        totals = np.moveaxis(error, axis, 0).reshape(error.shape[axis], -1).sum(axis=1)
        left = np.sort(totals)[: len(totals) - int(numbers[0])] if "..." in hint else np.delete(totals, told)
    elif "right up to" in hint:
        flat = error.reshape(-1)
        if any(not piece.any() for piece in np.array_split(flat[int(numbers[0]):], 4)):
            return False
        left = flat[: int(numbers[0])]
    elif "each channel" in hint:
        y, x = (np.moveaxis(array, 1, 0).reshape(right.shape[1], -1) for array in (right, wrong))
        left = np.concatenate([
            (b - np.polyval(np.polyfit(a, b, 1), a)) ** 2 if a.any() else (b - b.mean()) ** 2
            for a, b in zip(y, x, strict=True)
        ])
    else:
        return "outgrow" in hint
    return bool(left.sum() <= 0.01 * error.sum())


def table(found: list[Said]) -> str:
    lines = ["| sentence | said | true | of the planted layer | kinds |", "|---|---:|---:|---:|---|"]
    for name in dict.fromkeys(SENTENCES.values()):
        rows = [said for said in found if said.sentence == name]
        kinds = ", ".join(f"{kind} {count}" for kind, count in Counter(row.kind for row in rows).most_common())
        lines.append(f"| {name} | {len(rows)} | {sum(r.is_true for r in rows)} | {sum(r.is_planted for r in rows)} | "
                     f"{kinds} |")
    silent = [said for said in found if not said.sentence]
    kinds = ", ".join(f"{kind} {count}" for kind, count in Counter(row.kind for row in silent).most_common())
    lines.append(f"| (none) | {len(silent)} | | {sum(said.is_planted for said in silent)} | {kinds} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("count", nargs="?", type=int, default=300)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--planted", type=Path)
    options = parser.parse_args()
    found = foreign(options.planted) if options.planted is not None else measure(options.count, options.seed)
    print(table(list(found)))


if __name__ == "__main__":
    main()
