"""All kinds of faults: each is a function that plants it in one device op, or says (None) that the op cannot have it.

A fault changes what the op computes, reads, keeps as constants or writes. Where a size exists it is drawn from 2 to
1,000 times the op's own rounding. Importing the modules below registers their functions.
"""

from __future__ import annotations

from typing import Any

import faults_arithmetic  # noqa: F401
import faults_functions  # noqa: F401
import faults_geometry  # noqa: F401
import faults_memory  # noqa: F401
import faults_result  # noqa: F401
import faults_weights  # noqa: F401
from site_of_fault import KINDS, Site

INSERTED_TOO = {"layout", "shifted", "stale", "zero", "partly_written", "bit_flip", "dtype_cast"}
SETUP = {"input_channel_order", "input_mean", "input_scale", "input_layout", "input_resize"}
PLANTED = tuple(sorted(KINDS))


def alike(site: Site, name: str, params: dict[str, Any]) -> list[str]:
    """Other kinds that leave exactly the same mark in this op, so that no dump could tell them apart."""
    cube = site.nodes("Conv", "ConvTranspose", "MatMul", "Gemm")
    ends_linear = bool(cube) and site.op.nodes[-1].kind in ("Conv", "ConvTranspose", "MatMul", "Gemm", "Add",
                                                            "BatchNormalization")  # fmt: skip
    weighted = ends_linear and cube[0].inputs[1] in site.program.net.consts
    normed = bool(site.nodes("BatchNormalization"))
    shifted_too = normed or len(cube[0].inputs) > 2 or bool(site.nodes("Add")) if cube else False
    marks: dict[str, list[str]] = {}
    if weighted:
        if shifted_too:
            marks["channel_offset"] = ["bias", *(["batch_norm_mean"] if normed else [])]
            marks["bias"] = ["channel_offset", *(["batch_norm_mean"] if normed else [])]
            marks["batch_norm_mean"] = ["channel_offset", "bias"]
        else:
            marks |= {"scale": ["weight_scale"], "weight_scale": ["scale"], "channel_scale": ["weight_rows"]}
            marks["weight_rows"] = ["channel_scale"] if params.get("manner") == "scaled" else []
    if name == "operands_exchanged":
        marks[name] = {"Concat": ["permuted"], "Sub": ["scale"]}.get(params["node"], [])
    marks |= {"zero": ["constant"], "slice_offset": ["shifted"], "quantisation_zero_point": ["offset"]}
    return marks.get(name, [])
