"""What is typed into a notebook: paths or nouns everywhere, containers that behave as such, answers that print well."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from report_factory import HOSTILE, hostile_report
from test_html import KNOWN_TAGS, Page

import acccmp
from acccmp import InputError, Port, UnknownName, Verdict

BAD = "block2/conv2block2/bn2:output:0"  # where the fault of the sample is planted


@pytest.fixture
def net(tmp_path: Path, samples: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the ONNX sample to write beside, as the current folder."""
    here = shutil.copytree(samples / "digits_resnet", tmp_path / "digits_resnet")
    monkeypatch.chdir(here)
    return here


@pytest.fixture(scope="module")
def report(samples: Path) -> acccmp.Report:
    net = samples / "digits_resnet"
    return acccmp.compare(net / "resnet.onnx", net / "npu_faulty", mapping=net / "mapping.json")


# -- paths or nouns ----------------------------------------------------------------------------------------------

TAKES_A_MODEL: dict[str, Callable[[Any], object]] = {
    "run": lambda model: acccmp.run(model, "inputs/image.npy")["prob:output:0"].numpy().tolist(),
    "golden_run": lambda model: len(acccmp.golden_run(model, "inputs/image.npy", "again")),
    "emulate": lambda model: acccmp.emulate(model, "inputs/image.npy", f"made{len(list(Path().iterdir()))}").notes,
    "read_inputs": lambda model: acccmp.read_inputs(model, "inputs/image.npy")["image"].shape,
    "random_inputs": lambda model: acccmp.random_inputs(model)["image"].tolist(),
    "slice_model": lambda model: repr(acccmp.slice_model(model, "block2/conv1", "block2/relu2")),
    "compare": lambda model: repr(acccmp.compare(model, "npu", mapping="mapping.json")),
    "compare_weights": lambda model: repr(acccmp.compare_weights(model, model)),
    "fits": lambda model: acccmp.fits(model, "inputs/image.npy")[0].fits,
    "draw": lambda model: acccmp.draw(model, "net.dot").read_text(),
}


@pytest.mark.parametrize("name", TAKES_A_MODEL)
def test_a_model_is_given_as_a_text_a_path_or_a_graph(name: str, net: Path) -> None:
    ask = TAKES_A_MODEL[name]
    assert ask("resnet.onnx") == ask(Path("resnet.onnx")) == ask(acccmp.load("resnet.onnx"))


def test_dump_mapping_golden_and_thresholds_are_given_as_paths_or_nouns(net: Path) -> None:
    device = acccmp.load("mapping.json")
    said = [
        repr(acccmp.compare(golden, npu, mapping=mapping, thresholds=limits))
        for golden, npu, mapping, limits in (
            ("golden", "npu_faulty", "mapping.json", "vendor"),
            (acccmp.read_dump("golden"), acccmp.read_dump("npu_faulty"), device, acccmp.Thresholds.vendor()),
            (Path("golden"), Path("npu_faulty"), acccmp.DeviceMap(device), "vendor"),
        )
    ]
    assert said[0] == said[1] == said[2]
    Path("wide.toml").write_text("[fixed]\nfloat16 = 0.9\n")
    wide = acccmp.compare("golden", "npu_faulty", mapping="mapping.json", thresholds="wide.toml", floor=False)
    assert wide[BAD].verdict is Verdict.MATCH
    with pytest.raises(InputError, match=r"thresholds vendors: no such file.*there are default, vendor"):
        acccmp.compare("golden", "npu_faulty", thresholds="vendors")


@pytest.mark.parametrize("give", [
    lambda image: {"image": image}, lambda image: image, lambda image: {"image": "inputs/image.npy"},
    lambda image: "inputs/image.npy", lambda image: Path("inputs/image.npy"), lambda image: image.tolist(),
    lambda image: {"image": acccmp.read_dump("golden")["image:output:0"]},
], ids=["dict of arrays", "array", "dict of files", "text", "path", "list", "tensor of a dump"])
def test_inputs_are_arrays_or_files_by_name_or_the_only_one(give: Callable[[Any], Any], net: Path) -> None:
    image = np.load("inputs/image.npy")
    wanted = acccmp.run("resnet.onnx", {"image": image})["prob:output:0"].numpy()
    inputs = give(image)
    if isinstance(inputs, list):
        inputs = np.asarray(inputs, np.float32)
    assert np.array_equal(acccmp.run("resnet.onnx", inputs)["prob:output:0"], wanted)
    acccmp.emulate("resnet.onnx", inputs, "made", faults=["op=fc,kind=zero", acccmp.Fault("stem/conv", "noise")])
    assert not acccmp.compare("resnet.onnx", "made/npu", mapping="made/mapping.json", inputs=inputs).passed


def test_a_caffe_model_takes_its_weights_as_a_path(samples: Path) -> None:
    net = samples / "digits_lenet"
    image = np.load(next((net / "inputs").iterdir()))
    ran = acccmp.run(net / "lenet.prototxt", image, weights=net / "lenet.caffemodel")
    assert np.array_equal(ran["prob:output:0"], acccmp.read_dump(net / "golden")["prob:output:0"])


def test_an_input_of_several_must_be_named(net: Path) -> None:
    part = acccmp.slice_model("resnet.onnx", "block2/conv1", "block2/relu2").graph
    with pytest.raises(InputError, match="has the inputs pool1_output, block2/bnp_output: say which one this is"):
        acccmp.run(part, np.zeros((1, 16, 4, 4), np.float32))


def test_how_a_file_is_read_means_nothing_for_a_noun(net: Path) -> None:
    graph, dump = acccmp.load("resnet.onnx"), acccmp.read_dump("npu")
    for ask, word in (
        (lambda: acccmp.run(graph, "inputs/image.npy", weights="w.caffemodel"), "weights"),
        (lambda: acccmp.compare(graph, dump, step="3"), "step"),
        (lambda: acccmp.slice_model(graph, "stem/conv", run="2026"), "run"),
        (lambda: acccmp.compare("golden", "npu", weights="w.caffemodel"), "weights"),
        (lambda: acccmp.compare("golden", "npu", runner="opencv"), "runner"),
        (lambda: acccmp.compare("resnet.onnx", "npu", model="resnet.onnx"), "model"),
    ):
        with pytest.raises(InputError, match=rf"^{word}\b.*leave it out"):
            ask()


def test_what_is_neither_a_path_nor_the_noun_is_said(net: Path) -> None:
    with pytest.raises(InputError, match="a path or a Graph is wanted here, found int"):
        acccmp.run(3, "inputs/image.npy")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="a path or a DeviceMap or Graph is wanted here, found Dump"):
        acccmp.compare("golden", "npu", mapping=acccmp.read_dump("npu"))  # type: ignore[arg-type]
    with pytest.raises(InputError, match="save it, and give what"):
        acccmp.compare_slice(acccmp.slice_model("resnet.onnx", "fc", "prob"), "npu")  # type: ignore[arg-type]


def test_threads_are_counted_from_one(net: Path) -> None:
    with pytest.raises(InputError, match="jobs=0"):
        acccmp.compare("golden", "npu", jobs=0)


# -- a report ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sample", ["digits_resnet", "digits_lenet", "digits_cnn"])
@pytest.mark.parametrize("npu", ["npu", "npu_faulty"])
def test_a_report_that_is_read_back_is_written_with_the_same_bytes(
    sample: str, npu: str, samples: Path, tmp_path: Path,
) -> None:
    net = samples / sample
    report = acccmp.compare(net / "golden", net / npu, mapping=net / "mapping.json")
    report.save(tmp_path)
    back = acccmp.read_report(tmp_path)
    assert back.to_json() == (tmp_path / "report.json").read_text() == report.to_json()
    assert back.to_csv() == (tmp_path / "report.csv").read_text() == report.to_csv()
    assert (repr(back), back.exit_code) == (repr(report), report.exit_code)
    last = report.outputs[0].port
    assert np.array_equal(back[last].npu, report[last].npu), "tensors in files are read where they lie"


def test_tensors_that_were_in_memory_do_not_come_back_and_say_so(report: acccmp.Report, tmp_path: Path) -> None:
    report.save(tmp_path)
    back = acccmp.read_report(tmp_path / "report.json")
    assert back[BAD].golden is not None
    for ask in (lambda: back[BAD].golden.numpy(), lambda: np.asarray(back[BAD].golden), lambda: back.plot_layer(BAD)):
        with pytest.raises(acccmp.FormatError, match=r"<onnxruntime>: this tensor was in memory only.*compare again"):
            ask()
    with pytest.raises(InputError, match=r"was read from a file, which has no model: acccmp.slice_model"):
        back.slice(BAD)


@pytest.mark.parametrize("text", ["", "{}", "[1]", '{"schema": "acccmp.report/99"}'])
def test_what_is_no_report_is_not_read(text: str, tmp_path: Path) -> None:
    (tmp_path / "report.json").write_text(text)
    with pytest.raises(acccmp.FormatError, match=re.escape(f"{tmp_path / 'report.json'}: ")):
        acccmp.read_report(tmp_path)


def test_rows_are_filtered_by_verdict_type_and_any_of_their_names(report: acccmp.Report) -> None:
    assert list(report.filter("drift")) == [row for row in report if row.verdict is Verdict.DRIFT]
    assert list(report.filter(["fused", Verdict.INSERTED])) == [
        row for row in report if row.verdict in (Verdict.FUSED, Verdict.INSERTED)
    ]
    assert {row.op_type for row in report.filter(op_type="Conv2D")} == {"Conv2D"}
    assert [str(row.port) for row in report.filter("drift", op_type="Conv*", name="block2/bn2")] == [BAD]
    drifted = [str(row.port) for row in report.filter("drift", name="block?/conv2*:output:0")]
    assert drifted == [BAD, "block3/conv2block3/bn2:output:0"]
    assert report.filter(name="nobody") == ()
    assert report.filter() == report.comparisons
    with pytest.raises(UnknownName, match="no verdict named 'drifts' in acccmp; did you mean drift"):
        report.filter("drifts")


def test_a_report_is_cut_with_its_own_model_dump_and_mapping(report: acccmp.Report, samples: Path) -> None:
    net = samples / "digits_resnet"
    part = report.slice("block2/conv1", "block2/relu2")
    same = acccmp.slice_model(net / "resnet.onnx", "block2/conv1", "block2/relu2", dump=net / "npu_faulty",
                              mapping=net / "mapping.json")
    assert repr(part) == repr(same)
    assert list(part.inputs) == list(same.inputs)
    assert all(np.array_equal(part.inputs[port], same.inputs[port]) for port in same.inputs)
    end = "block2/relu2:output:0"
    assert np.linalg.norm(np.asarray(part.golden[end]) - np.asarray(part.npu[end])) > 1, "it holds what it should give"
    one = report.slice(report.first_bad)
    assert [node.name for node in one.graph] == ["block2/conv2", "block2/bn2"]
    assert list(report.slice("block2/conv2").graph) == list(one.graph), "a fused op is cut whole"
    with pytest.raises(UnknownName, match="did you mean block2/conv2"):
        report.slice("block2/conv9")


def test_a_report_without_a_model_is_not_cut(net: Path) -> None:
    (net / "golden" / "manifest.json").unlink()
    report = acccmp.compare("golden", "npu_faulty", mapping="mapping.json")
    with pytest.raises(InputError, match=r"was made without the original model: acccmp.slice_model"):
        report.slice(BAD)


# -- containers --------------------------------------------------------------------------------------------------


def test_nouns_are_walked_and_asked_like_containers(report: acccmp.Report, samples: Path) -> None:
    graph = acccmp.load(samples / "digits_resnet" / "resnet.onnx")
    assert list(graph) == list(graph.nodes)
    assert list(report) == list(report.comparisons)
    dump = acccmp.read_dump(samples / "digits_resnet" / "npu_faulty")
    port = Port.parse(BAD)
    assert dump[BAD] is dump[port]
    assert dump[BAD] is dump[tuple(port)]  # type: ignore[index]
    assert BAD in dump
    assert port in dump
    for missing in ("conv1:output:0", "no port at all", BAD.replace("output", "input") + "9", 7, None):
        assert missing not in dump
        assert dump.get(missing) is None  # type: ignore[call-overload]


def test_flat_names_are_found_by_text_too(net: Path) -> None:
    acccmp.convert("npu", "arrays")
    for beside in ("acccmp_converted.json", "mapping.csv"):
        Path("arrays", beside).unlink(missing_ok=True)
    for file in Path("arrays").glob("*.json"):
        file.unlink()
    dump = acccmp.read_dump("arrays")
    assert dump.flat_names
    assert dump["block2/conv2block2/bn2:output:0"] is dump["block2_conv2block2_bn2:output:0"]


def test_a_tensor_is_an_array_where_numpy_wants_one(samples: Path) -> None:
    ref = acccmp.read_dump(samples / "digits_resnet" / "npu_faulty")[BAD]
    assert np.array_equal(np.asarray(ref), ref.numpy())
    assert np.asarray(ref).shape == ref.own_shape != ref.shape
    assert np.asarray(ref, dtype="float64").dtype == np.float64
    assert np.abs(ref).max() == np.abs(ref.numpy()).max()
    with pytest.raises(ValueError, match="leave out copy=False"):
        np.array(ref, copy=False)
    held = np.arange(4, dtype=np.float32)
    inside = acccmp.TensorRef.of(held)
    assert np.shares_memory(np.array(inside, copy=False), held)
    assert not np.shares_memory(np.array(inside, copy=True), held)


def test_unknown_names_are_key_errors_with_close_matches(report: acccmp.Report, samples: Path) -> None:
    net = samples / "digits_resnet"
    graph, dump = acccmp.load(net / "resnet.onnx"), acccmp.read_dump(net / "npu")
    for noun, name, close in (
        (graph, "block2/conv9", "block2/conv2"), (dump, "block2/conv2block2/bn9:output:0", BAD),
        (report, "block2/conv9", "block2/conv2"), (dump, "pool1", "pool1:input:0"),
    ):
        with pytest.raises(KeyError) as caught:
            noun[name]
        said = str(caught.value)
        assert said.startswith("no ")
        assert repr(name) in said
        assert close in said.partition("did you mean ")[2]


def test_jupyter_completes_names(report: acccmp.Report, samples: Path) -> None:
    net = samples / "digits_resnet"
    for noun in (acccmp.load(net / "resnet.onnx"), acccmp.read_dump(net / "npu"), report):
        names = noun._ipython_key_completions_()
        assert len(names) == len(set(names)) > 10
        for name in names:
            assert noun[name] is not None
    assert {BAD, "block2/conv2", "block2/bn2:output:0"} <= set(report._ipython_key_completions_())


# -- how they print ----------------------------------------------------------------------------------------------


def test_nouns_print_on_a_line(report: acccmp.Report, net: Path) -> None:
    made = acccmp.convert("npu", "arrays")
    checked = acccmp.check(report)
    part = report.slice("block2/conv1", "block2/relu2")
    for noun in (report, report.first_bad, report.source.model, report.source.npu, report.source.mapping, part,
                 part.graph["block2/conv2"], checked, made, part.save("slices")):
        assert len(repr(noun)) < 330, repr(noun)
        assert "\n" not in repr(noun)
    assert repr(report) == f"Report(not passed: 31 drift, 24 match, 12 fused, 18 inserted; first bad {BAD})"
    assert repr(report.first_bad) == f"Comparison({BAD}, drift, error 0.75, limit 0.00395)"


def test_rows_print_as_a_table(report: acccmp.Report) -> None:
    rows = report.worst(5)
    lines = repr(rows).splitlines()
    assert len(repr(rows)) < 600
    assert lines[0].split() == ["port", "type", "verdict", "error", "limit", "says"]
    assert len(lines) == 6
    assert all(line.startswith(str(row.port)) for line, row in zip(lines[1:], rows, strict=True))
    assert repr(report.comparisons).splitlines()[-1] == f"... and {len(report) - 20} more"
    assert type(rows[1:3]) is acccmp.Rows
    assert rows[1:3] == (rows[1], rows[2])
    assert repr(rows[:0]) == "no rows"
    for all_rows in (report.judged, report.outputs, report.find(BAD), report.warnings, report.filter("match")):
        assert type(all_rows) is acccmp.Rows


def test_rows_show_themselves_in_a_notebook(report: acccmp.Report) -> None:
    for rows, count in ((report.worst(5), 5), (report.first_bad, 1), (report.comparisons, len(report))):
        assert rows is not None
        page = Page(rows._repr_html_())
        assert set(page.tags) <= KNOWN_TAGS
        assert page.tags["tr"] == count + 1
        assert len(rows._repr_html_()) < 2_000 + 800 * count


def test_rows_with_hostile_names_print_as_text() -> None:
    rows = hostile_report().comparisons
    told = repr(rows)
    assert len(told.splitlines()) <= 23
    assert not any(ord(c) < 32 and c != "\n" for c in told)
    assert "\u202e" not in told
    for row in rows:
        assert "\n" not in repr(row)
        page = Page(row._repr_html_())  # type: ignore[attr-defined]
        assert set(page.tags) <= KNOWN_TAGS
    assert any(HOSTILE[0] in repr(row) for row in rows)


# -- releases ----------------------------------------------------------------------------------------------------


def test_reports_are_checked_and_kept_as_nouns_or_files(report: acccmp.Report, net: Path) -> None:
    good = acccmp.compare("golden", "npu", mapping="mapping.json")
    good.save("good")
    report.save("bad")
    told = acccmp.check("good").save_baseline("net.baseline")
    assert told == "net.baseline was written: 0 lines changed, 55 new, 0 gone"
    assert acccmp.check(good, "net.baseline").passed
    assert acccmp.check({"default": "good/report.json"}, Path("net.baseline")).passed
    checked = acccmp.check("bad/report.json", "net.baseline")
    assert not checked.passed
    assert checked.drifts[0].port == BAD
    assert "block2/conv2" in checked.to_junit()
    assert '"version": "2.1.0"' in checked.to_sarif()
    assert BAD in checked.to_markdown()
    known = acccmp.check(report, "net.baseline", accept=[str(row.port) for row in report.filter("drift")])
    assert known.passed
    known.save_baseline("net.baseline", accepted_only=True)
    assert acccmp.check(report, "net.baseline").passed
    assert acccmp.history.add("drift.db", "good", release="1") == (1,)
    assert acccmp.history.add("drift.db", {"default": report}, release="2") == (2,)
    first, second = acccmp.history.series("drift.db", "block2/conv2")
    assert (first.jumped, second.jumped) == (False, True)
    assert first.run.model == second.run.model or first.run.model
    figure = acccmp.plot_series([first, second])
    assert figure.axes[0].get_title(loc="left") == BAD


def test_a_slice_is_judged_by_what_save_gives(report: acccmp.Report, net: Path) -> None:
    bundle = report.slice("block2/conv1", "block2/relu2").save("handover")
    for given in (bundle, bundle.path, "handover", str(bundle.path)):
        judged = acccmp.compare_slice(given, "npu_faulty", mapping="mapping.json", jobs=2)
        assert judged.device == "DIFFERS"
        assert judged.own.first_bad is not None
        assert str(judged.own.first_bad.port) == BAD
        assert len(repr(judged)) < 400


def test_a_saved_model_is_frozen_by_convert_and_layouts_are_refused_then(net: Path) -> None:
    with pytest.raises(InputError, match=r"resnet.onnx is a model of onnx; --to pb freezes SavedModels"):
        acccmp.convert("resnet.onnx", "out", to="pb")
    with pytest.raises(InputError, match=r"have no effect with to='pb', leave them out"):
        acccmp.convert("resnet.onnx", "out", to="pb", layout="NCHW")


def test_a_graph_is_drawn_with_a_report_or_its_file(report: acccmp.Report, net: Path) -> None:
    report.save("report")
    graph = acccmp.load("resnet.onnx")
    drawn = [graph.plot(given, around="block2/add").axes[0] for given in (report, "report", "report/report.json")]
    legends = [[text.get_text() for text in ax.get_legend().get_texts()] for ax in drawn]
    assert legends[0] == legends[1] == legends[2]
    assert "drift" in legends[0]


def test_a_run_of_a_tree_is_chosen_by_numbers_too(net: Path) -> None:
    acccmp.emulate("resnet.onnx", "inputs/image.npy", "made", tree=True)
    dump = acccmp.read_dump("made/npu")
    chosen = {"device": int(dump.place.device), "step": int(dump.place.step)}
    assert acccmp.compare("resnet.onnx", "made/npu", mapping="made/mapping.json", **chosen).passed
    assert acccmp.inspect("made/npu", **chosen)["tensors"] == len(dump)
    with pytest.raises(InputError, match="99"):
        acccmp.compare("resnet.onnx", "made/npu", step=99)


def test_a_wrong_option_is_said_before_the_model_runs(net: Path) -> None:
    wrongs = (({"thresholds": "gone.toml"}, "gone.toml"), ({"mapping_unfused": "gone.json"}, "--mapping too"))
    for wrong, said in wrongs:
        with pytest.raises(InputError, match=said):
            acccmp.compare("resnet.onnx", "npu", runner="command:false", **wrong)
