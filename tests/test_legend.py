"""The legend in the reports speaks of the metrics that the kernel computes, of all of them."""

from __future__ import annotations

from acccmp.comparison.metrics import FLOATS
from acccmp.comparison.metrics import METRICS as COMPUTED
from acccmp.reports import report_csv
from acccmp.reports.legend import METRICS


def test_every_computed_metric_has_a_blind_spot_in_the_legend_and_a_column() -> None:
    assert {metric.name for metric in COMPUTED} | {"Floor", "ErrorOverFloor"} == set(METRICS)
    assert all(told.says and told.blind_to for told in METRICS.values())
    assert set(FLOATS) == {*report_csv.FLOATS, *report_csv.COUNTS}
