"""Which weights a prototxt gets: those given, if they fit; else the only ones beside it that do. Both are said."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from caffe_nets import random_weights, write_net

SHAPES = {
    "conv1": [(20, 1, 3, 3), (20,)], "bn1": [(20,), (20,), (1,)], "scale1": [(20,), (20,)],
    "conv2": [(32, 20, 3, 3), (32,)], "ip1": [(64, 128), (64,)], "ip2": [(10, 64), (10,)],
}
TAKEN = "note: its weights are those of lenet.caffemodel, the only caffemodel beside it that fits"
NONE_GIVEN = "no weights were given (the .caffemodel): the graph can be seen, not run"

pytest.importorskip("cv2")


def acccmp_says(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "acccmp", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)


def flat(text: str) -> str:
    """A screen without its line breaks."""
    return " ".join(text.split())


@pytest.fixture
def net(tmp_path: Path, samples: Path) -> Path:
    """The prototxt of LeNet, alone in its folder."""
    folder = tmp_path / "net"
    folder.mkdir()
    return Path(shutil.copy(samples / "digits_lenet" / "lenet.prototxt", folder))


def another(folder: Path, stem: str = "another", **other: list[tuple[int, ...]] | None) -> Path:
    """A caffemodel for LeNet whose layers `other` have these shapes (None: no weights at all)."""
    shapes = {name: sizes for name, sizes in {**SHAPES, **other}.items() if sizes}
    text, weights = write_net(folder, "", random_weights(shapes), stem)
    text.unlink()
    return weights


def commands(samples: Path, net: Path, weights: Path | None, out: Path) -> Mapping[str, list[object]]:
    """Every command that takes a caffemodel, asked about this net."""
    sample = samples / "digits_lenet"
    given: list[object] = ["--weights", weights] if weights else []
    mapped = ["--mapping", sample / "mapping.json"]
    return {
        "inspect": ["inspect", net, *given],
        "inspect --graph": ["inspect", net, *given, "--graph", out / "net.dot"],
        "run": ["run", net, *given, "--input", f"data={sample / 'inputs' / 'data.npy'}", "--out", out / "golden"],
        "compare": ["compare", net, sample / "npu", *mapped, *given, "--out", out / "report"],
        "compare --weights-only": ["compare", "--weights-only", net, sample / "mapping.json", *given],
        "check": ["check", net, sample / "npu", *mapped, *given, "--baseline", out / "a.baseline", "--update"],
        "slice": [
            "slice", net, "--start", "pool1", "--end", "relu2", "--dump", sample / "npu", *mapped, *given,
            "--out", out / "slice",
        ],
    }


COMMANDS = (
    "inspect", "inspect --graph", "run", "compare", "compare --weights-only", "check", "slice",
)
OTHERS = {
    "other sizes": (
        {"conv2": [(16, 20, 3, 3), (16,)]},
        "the weight conv2.0 is stored with shape (16, 20, 3, 3), the net needs (32, 20, 3, 3) (and 1 more)",
    ),
    "too few blobs": ({"ip2": [(10, 64)]}, "'ip2' (InnerProduct) has 1 weight where 2 are due"),
    "too many blobs": ({"conv1": [(20, 1, 3, 3), (20,), (20,)]},
                       "'conv1' (Convolution) has 3 weights where 2 are due"),
    "other layers": (
        {**dict.fromkeys(SHAPES), "conv1": SHAPES["conv1"], "conv9": [(32, 20, 3, 3), (32,)]},
        "it has weights for conv1, conv9, the net needs them for bn1, scale1, conv2, ip1, ...",
    ),
}


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("which", OTHERS)
def test_weights_of_another_net_are_refused_by_every_command_with_one_sentence(
    tmp_path: Path, samples: Path, net: Path, command: str, which: str,
) -> None:
    shapes, told = OTHERS[which]
    out = tmp_path / "out"
    out.mkdir()
    weights = another(tmp_path, **shapes)
    ran = acccmp_says(*commands(samples, net, weights, out)[command])
    assert ran.stderr == (
        f"acccmp: another.caffemodel does not fit lenet.prototxt: {told}; do the two belong together?\n"
    )
    assert (ran.returncode, ran.stdout) == (2, "")
    assert list(out.iterdir()) == []


def test_real_nets_refuse_each_others_weights(tmp_path: Path, shared: Path) -> None:
    """The two nets of one author have layers of the same names."""
    net, weights = shared / "caffe/MTCNNv2__det1.prototxt", shared / "caffe/MTCNNv2__det2.caffemodel"
    for ran in (
        acccmp_says("run", net, "-w", weights, "--out", tmp_path / "golden"),
        acccmp_says("slice", net, "-w", weights, "-s", "conv2", "-e", "PReLU2", "--out", tmp_path / "slice"),
        acccmp_says("inspect", net, "-w", weights),
    ):
        assert (ran.returncode, ran.stdout) == (2, "")
        assert ran.stderr.startswith(
            "acccmp: MTCNNv2__det2.caffemodel does not fit MTCNNv2__det1.prototxt: the weight conv1.0 is stored with "
            "shape (28, 3, 3, 3), the net needs (10, 3, 3, 3) (and "
        )
    assert list(tmp_path.iterdir()) == []


def test_a_prototxt_alone_takes_the_only_weights_beside_it_that_fit_and_every_command_says_so(
    tmp_path: Path, samples: Path, net: Path,
) -> None:
    weights = Path(shutil.copy(samples / "digits_lenet" / "lenet.caffemodel", net.parent))
    another(net.parent, "a_small_one", conv2=[(16, 20, 3, 3), (16,)])
    (net.parent / "damaged.caffemodel").write_bytes(b"\x0a\x05lenet\xa2")
    (net.parent / "folder.caffemodel").mkdir()
    alone, given = tmp_path / "alone", tmp_path / "given"
    for out in (alone, given):
        out.mkdir()
    for name, asked in commands(samples, net, None, alone).items():
        ran = acccmp_says(*asked)
        if name == "compare --weights-only":  # a mapping as JSON has none: the original's were read before
            assert "NPU holds no weights to compare" in ran.stderr
            continue
        assert ran.returncode == 0, (name, ran.stderr)
        if name != "check":  # its screen is the verdict
            assert TAKEN.removeprefix("note: ") in flat(ran.stdout), name
        assert acccmp_says(*commands(samples, net, weights, given)[name]).returncode == 0, name
    told = json.loads((alone / "golden" / "manifest.json").read_text())
    assert told["notes"] == [TAKEN.removeprefix("note: ")]
    assert "only caffemodel" not in (given / "golden" / "manifest.json").read_text()
    arrays = {path.name.split(".", 1)[0]: path for path in (alone / "golden").glob("*.npy")}
    assert len(arrays) == 13
    for name, path in arrays.items():
        (same,) = (given / "golden").glob(f"{name}.*.npy")
        assert path.read_bytes() == same.read_bytes()
    cut = [next(out.glob("slice/dump_result_*/dump.caffemodel")).read_bytes() for out in (alone, given)]
    assert cut[0] == cut[1]


def test_two_that_fit_are_named_and_none_is_taken(tmp_path: Path, samples: Path, net: Path) -> None:
    shutil.copy(samples / "digits_lenet" / "lenet.caffemodel", net.parent)
    another(net.parent, "iter_5000")
    seen = acccmp_says("inspect", net)
    assert seen.returncode == 0
    assert f"{NONE_GIVEN}; iter_5000.caffemodel, lenet.caffemodel beside it fit: say which, --weights FILE" in flat(
        seen.stdout
    )
    ran = acccmp_says(*commands(samples, net, None, tmp_path)["run"])
    assert ran.returncode == 2
    assert "digits_lenet has no weights: give the .caffemodel too (--weights FILE)" in ran.stderr
    assert not (tmp_path / "golden").exists()


def test_what_lies_beside_and_does_not_fit_is_said_and_not_taken(net: Path) -> None:
    another(net.parent, "small", conv2=[(16, 20, 3, 3), (16,)])
    seen = acccmp_says("inspect", net)
    assert seen.returncode == 0
    assert f"{NONE_GIVEN}; small.caffemodel beside it does not fit" in flat(seen.stdout)
    another(net.parent, "head", ip1=None)
    assert f"{NONE_GIVEN}; head.caffemodel, small.caffemodel beside it do not fit" in flat(
        acccmp_says("inspect", net).stdout
    )


def test_a_link_to_weights_outside_of_the_folder_is_not_taken(tmp_path: Path, samples: Path, net: Path) -> None:
    (net.parent / "lenet.caffemodel").symlink_to(samples / "digits_lenet" / "lenet.caffemodel")
    told = flat(acccmp_says("inspect", net).stdout)
    assert NONE_GIVEN in told
    assert "beside" not in told


def test_layers_that_are_new_in_a_net_may_be_missing_from_its_weights_and_a_note_says_so(
    tmp_path: Path, samples: Path, net: Path,
) -> None:
    weights = another(tmp_path, ip2=None)
    ran = acccmp_says(*commands(samples, net, weights, tmp_path)["run"])
    assert ran.returncode == 0
    assert "note: another.caffemodel has no weights for the layer 'ip2'" in flat(ran.stdout)
    (ip1,) = (tmp_path / "golden").glob("ip1.*.npy")
    assert np.load(ip1).shape == (4, 64)
    assert list((tmp_path / "golden").glob("ip2.*")) == []


def test_a_net_that_needs_no_weights_takes_none(tmp_path: Path) -> None:
    text = """layer { name: "x" type: "Input" top: "x" input_param { shape { dim: 1 dim: 2 dim: 3 dim: 4 } } }
      layer { name: "r" type: "ReLU" bottom: "x" top: "r" }"""
    net, _ = write_net(tmp_path, text, random_weights(SHAPES))
    np.save(tmp_path / "x.npy", np.ones((1, 2, 3, 4), "f4"))
    ran = acccmp_says("run", net, "--input", f"x={tmp_path / 'x.npy'}", "--out", tmp_path / "golden")
    assert (ran.returncode, ran.stdout.count("note:")) == (0, 0)
