"""Cases: what one is, how it is played, and how the fixed list was drawn."""

from __future__ import annotations

import json
import math
import zlib
from collections import Counter
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from encoder import Writer
from faults import INSERTED_TOO, PLANTED, SETUP, alike
from faults_input import wrong_input
from habits import HABITS, Array
from nets import FEEDS, NETS, Net
from program import Program, Run, Twist, compiled, exact_outputs, relative, run, run_op
from site_of_fault import EPS, KINDS, Site

LIST = Path(__file__).with_name("list.json")
NET_SEEDS = (1, 2, 3)
SUMS = ("Conv", "ConvTranspose", "MatMul", "Gemm", "ReduceMean", "InstanceNormalization", "Add", "Sub")
ALL_KINDS = (*PLANTED, *sorted(SETUP))


@dataclass(frozen=True)
class Case:
    """One line of the list; everything else follows from it."""

    name: str
    net: str
    net_seed: int
    habit: str
    input_seed: int
    gain: float
    dump: str  # "all" or "output"
    kind: str  # a kind of fault or "healthy"
    op: str = ""
    fault_seed: int = 0


@dataclass
class Played:
    """A case that has been run."""

    case: Case
    program: Program
    fed: dict[str, Array]  # what the network should have been fed
    healthy: Run
    run: Run
    twist: Twist
    answer: dict[str, Any]


@lru_cache(maxsize=4)
def built(net: str, seed: int) -> Net:
    return NETS[net](seed)


def feed(net: str, seed: int, gain: float) -> dict[str, Array]:
    found = FEEDS[net](np.random.default_rng([seed, 101]))
    return {n: (v * np.float32(gain)).astype(np.float32) if v.dtype.kind == "f" else v for n, v in found.items()}


@lru_cache(maxsize=4)
def healthy_run(net: str, net_seed: int, habit: str, input_seed: int, gain: float) -> tuple[Program, Run]:
    program = compiled(built(net, net_seed), HABITS[habit])
    return program, run(program, feed(net, input_seed, gain))


def site_of(case: Case) -> Site:
    program, healthy = healthy_run(case.net, case.net_seed, case.habit, case.input_seed, case.gain)

    def another() -> Run:
        return healthy_run(case.net, case.net_seed, case.habit, case.input_seed + 50_000, case.gain)[1]

    rng = np.random.default_rng([case.fault_seed, zlib.crc32(case.kind.encode())])
    return Site(program, program.op(case.op), healthy, rng, another)


def measured(site: Site, inputs: list[Array], good: list[Array], bad: list[Array]) -> dict[str, Any]:
    """How large and how visible a change of one op's results is; `good` is healthy on the same inputs."""
    which = next((i for i, (a, b) in enumerate(zip(good, bad, strict=True)) if a.tobytes() != b.tobytes()), None)
    if which is None:
        return {"visible": False}
    a, b = good[which], bad[which]
    exact = exact_outputs(site.program, site.op, inputs)[which]
    own = max(relative(exact, a), EPS.get(site.program.tensors[site.op.outputs[which]].dtype, 0.0) / 4)
    size = relative(a, b)
    with np.errstate(invalid="ignore"):
        wide_a, wide_b = a.astype(np.float64), b.astype(np.float64)
    both = np.isfinite(wide_a) & np.isfinite(wide_b)
    apart = np.abs(wide_a - wide_b)[both]
    noise = np.abs(exact.astype(np.float64) - wide_a)[both]
    changed = int(np.sum(~((wide_a == wide_b) | (np.isnan(wide_a) & np.isnan(wide_b)))))
    eps = EPS.get(site.program.tensors[site.op.outputs[which]].dtype, 0.0)
    sums = bool(site.nodes(*SUMS))  # their noise does not shrink with the result, so small results prove nothing
    large = 0 if sums else changed
    if eps and not sums:
        large = int(np.sum(apart > (32 if site.habit.saturates else 16) * eps * np.abs(wide_a[both])))
    lost = int(np.sum(~np.isfinite(wide_b) & np.isfinite(wide_a)))
    peak = float(apart.max() / max(noise.max(), 1e-30)) if apart.size else 0.0
    return {
        "visible": bool(size >= 1.5 * own or peak >= 8 or large >= 16 or lost),
        "output": which,
        "size": float(f"{size:.4g}"),
        "own_rounding": float(f"{own:.4g}"),
        "size_over_rounding": float(f"{size / own:.4g}") if own else None,
        "changed_elements": changed,
        "elements": int(a.size),
        "nonfinite_elements": lost,
    }


def planted(case: Case) -> tuple[Site, Twist, dict[str, Any]] | None:
    """The fault of a case in its op and its measures, or None if the op cannot have it."""
    site = site_of(case)
    if site.op.kind != "compute" and case.kind not in INSERTED_TOO:
        return None
    twist = KINDS[case.kind](site)
    if twist is None:
        return None
    values = dict(site.run.values)
    bad = run_op(site.program, site.op, values, twist)
    good = run_op(site.program, site.op, values)
    return site, twist, measured(site, good.inputs, good.outputs, bad.outputs)


def play(case: Case) -> Played:
    """Runs a case. ValueError if its fault does not exist or changes nothing."""
    program, healthy = healthy_run(case.net, case.net_seed, case.habit, case.input_seed, case.gain)
    fed = feed(case.net, case.input_seed, case.gain)
    answer: dict[str, Any] = {**asdict(case), "nodes": [], "params": {}, "also": [], "alike": []}
    if case.kind == "healthy":
        return Played(case, program, fed, healthy, healthy, Twist(), answer)
    if case.kind in SETUP:
        rng = np.random.default_rng([case.fault_seed, zlib.crc32(case.kind.encode())])
        found = wrong_input(case.kind, fed[case.op], rng)
        if found is None:
            raise ValueError(f"{case.name}: the input {case.op} cannot have the fault {case.kind}")
        wrong, params = found
        size = relative(fed[case.op], wrong)
        readers = [op.name for op in program.ops if f"{case.op}:0" in op.inputs]
        answer.update(params=params, visible=size > 0, size=float(f"{size:.4g}"), also=readers)
        return Played(case, program, fed, healthy, run(program, {**fed, case.op: wrong}), Twist(params), answer)
    result = planted(case)
    if result is None or not result[2]["visible"]:
        raise ValueError(f"{case.name}: {case.kind} cannot be planted in {case.op} or changes nothing")
    site, twist, measures = result
    answer.update(nodes=[n.name for n in site.op.nodes], params=twist.params, also=twist.also, **measures)
    answer["alike"] = alike(site, case.kind, twist.params)
    return Played(case, program, fed, healthy, run(program, fed, case.op, twist, healthy), twist, answer)


def write(played: Played, folder: Path) -> None:
    """model.onnx, device.json, dump/, input/ and answer.json of one case."""
    params = played.twist.params
    same = {params["writer output"]: params["tensor"]} if played.case.kind == "overwritten" else {}
    seed = zlib.crc32(played.case.name.encode())
    Writer(played.program, played.run, seed, played.case.dump == "output", same).write(folder)
    (folder / "input").mkdir(exist_ok=True)
    for name, value in played.fed.items():
        np.save(folder / "input" / f"{name}.npy", value)
    (folder / "answer.json").write_text(json.dumps(played.answer, indent=1) + "\n")


def listed() -> list[Case]:
    """The fixed list."""
    return [Case(**entry) for entry in json.loads(LIST.read_text())["cases"]]


# --- drawing the list -------------------------------------------------------------------------------------------


def draw(seed: int, per_kind: int, healthy_per_pair: int) -> list[Case]:
    """A list with `per_kind` cases of every kind and some healthy ones of every network and habit."""
    rng = np.random.default_rng(seed)
    used: Counter[str] = Counter()
    cases: list[Case] = []
    for name in ALL_KINDS:
        have = 0
        pairs = [(net, habit) for net in NETS for habit in HABITS]
        order = [pairs[int(i)] for i in rng.permutation(len(pairs))]
        while have < per_kind and order:
            order.sort(key=lambda pair: sum(used[p] + 12 * used[name + p] for p in pair))
            net, habit = order.pop(0)
            case = _drawn(rng, f"f{len(cases):03d}", net, habit, name)
            if case is not None:
                cases.append(case)
                have += 1
                used.update([net, habit, name + net, name + habit])
        if have < per_kind:
            raise ValueError(f"only {have} cases of {name} could be drawn")
    healthy: list[Case] = []
    for net in NETS:
        for habit in HABITS:
            for _ in range(healthy_per_pair):
                healthy.append(_setting(rng, f"h{len(healthy):03d}", net, habit, "healthy"))
    return cases + healthy


def _setting(rng: np.random.Generator, name: str, net: str, habit: str, kind: str) -> Case:
    gain = 1.0 if rng.random() < 0.7 else float([0.25, 3.0][int(rng.integers(2))])
    dump = "output" if rng.random() < 0.2 and kind != "overwritten" else "all"
    seeds = rng.integers(1, 50_000, size=2)
    return Case(name, net, int(NET_SEEDS[int(rng.integers(3))]), habit, int(seeds[0]), gain, dump, kind, "",
                int(seeds[1]))  # fmt: skip


def _drawn(rng: np.random.Generator, name: str, net: str, habit: str, kind: str) -> Case | None:
    """A case of this kind with this network and habit, or None if none of its ops can have it."""
    case = _setting(rng, name, net, habit, kind)
    program = healthy_run(case.net, case.net_seed, case.habit, case.input_seed, case.gain)[0]
    if kind in SETUP:
        case = Case(**{**asdict(case), "op": program.net.inputs[0]})
        return case if wrong_input(kind, feed(net, case.input_seed, case.gain)[case.op], rng) else None
    wanted = ("cast", "trans") if kind in INSERTED_TOO and rng.random() < 0.25 else ("compute",)
    ops = [op for op in program.ops if op.kind in wanted]
    ops = [ops[int(i)] for i in rng.permutation(len(ops))]
    if rng.random() < 0.85:  # small tensors come last
        ops.sort(key=lambda op: math.prod(program.tensors[op.outputs[0]].shape) < 1000)
    for op in ops:
        trial = Case(**{**asdict(case), "op": op.name, "fault_seed": int(rng.integers(1, 1_000_000))})
        found = planted(trial)
        if found is not None and found[2]["visible"]:
            return trial
    return None
