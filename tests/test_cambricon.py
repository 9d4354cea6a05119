"""Cambricon's twins files: real ones and damaged ones."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from acccmp.core.tensor import DTYPES
from acccmp.errors import FormatError
from acccmp.models import cambricon

# inputs, outputs as (shape, dtype), cores
REAL = {
    "*yolov5s*": ([([1, 640, 640, 3], "float32")], [([1, 1, 1, 7232], "float16")], 4),
    "*headpose*": ([([1, 48, 48, 3], "float32")], [([1, 1, 1, 10], "float32"), ([1, 1, 1, 3], "float32")], 1),
    "*retinaface*": (
        [([1, 640, 640, 3], "float32")],
        [([1, 4, 1, 16800], "float32"), ([1, 2, 1, 16800], "float32"), ([1, 10, 1, 16800], "float32")], 1,
    ),
}


@pytest.mark.parametrize("pattern", REAL)
def test_real_twins_files(shared: Path, pattern: str) -> None:
    inputs, outputs, cores = REAL[pattern]
    facts = cambricon.describe(next((shared / "cambricon").glob(pattern)))
    json.dumps(facts)
    assert [(t["shape"], t["dtype"]) for t in facts["inputs"]] == inputs
    assert [(t["shape"], t["dtype"]) for t in facts["outputs"]] == outputs
    assert {t["layout"] for t in (*facts["inputs"], *facts["outputs"])} == {"NHWC"}
    assert facts["cores"] == cores
    assert facts["quantised"] == []  # what stands there is uninitialised memory unless the type is quantised


TEXT = '''This is the Twins File of "net.cambricon".
Function number: 2
---------------kernel graph--------------------

Function #0 {
Kernel num:1
Name: subnet0
Input number: 2
    Input #0.
        Mask: 1
        Shape(dim): 1 224 224 4
        Name:
        Id: 1
        Data type: CNRT_UINT8        Dim Order: CNRT_NHWC
        Quantize position: 1886413614
        Quantize scale: 0.0
    Input #1.
        Shape(dim): 1 8
        Data type: CNRT_INT8        Dim Order: CNRT_NHWC
        Quantize position: -5
        Quantize scale: 1.25
Output number: 2
    Output #0.
        Shape(dim): 1 10
        Data type: CNRT_FUTURE        Dim Order: CNRT_NHWC
Kernel header #0:
    Name: subnet0_k
    Core limit: 4
    Model Parallelism: 1
}
Function #1 {
Name: subnet0
Input number: 1
    Input #0.
        Shape(dim): 1 x 3
        Data type: CNRT_FLOAT16        Dim Order: CNRT_NCHW
Output number: 0
}
'''


def test_two_functions_two_keys_on_a_line_and_what_is_odd(tmp_path: Path) -> None:
    path = tmp_path / "net.cambricon_twins"
    path.write_text(TEXT)
    graph = cambricon.load(path)
    assert [node.name for node in graph.nodes] == ["subnet0#0", "subnet0#1"]
    spec = graph.spec("subnet0#0:input:0")
    assert (spec.shape, spec.dtype, spec.layout, spec.nbytes) == (
        (1, 224, 224, 4), DTYPES["uint8"], "NHWC", 200704,
    )
    assert graph.spec("subnet0#1:input:0").shape is None
    assert graph.meta["cores"] == 4
    notes = " | ".join(graph.notes)
    assert "'CNRT_FUTURE' is not known" in notes
    assert "'1 x 3' cannot be read" in notes
    assert "Output number is given as 2, 1 are described" in notes
    assert cambricon.describe(path)["quantised"] == [
        {"name": "subnet0#0:input:1", "position": "-5", "scale": "1.25"},
    ]


@pytest.mark.parametrize(("raw", "message"), [
    (b"\x7fMEF" + b"\0" * 64, "machine code"), (b"some text", "not a Cambricon twins"), (b"", "not a Cambricon twins"),
    (b'This is the Twins File of "a".\n', "without a function"),
])
def test_what_is_no_twins_file_is_refused(tmp_path: Path, raw: bytes, message: str) -> None:
    path = tmp_path / "a.cambricon_twins"
    path.write_bytes(raw)
    with pytest.raises(FormatError, match=message):
        cambricon.load(path)
