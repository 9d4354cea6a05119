"""What every test may ask for: the real models and dumps of `../shared/data`, and the samples of this repository."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

ROOT = Path(__file__).parent.parent
SHARED = Path(os.environ.get("ACCCMP_SHARED_DATA", ROOT.parent / "shared" / "data"))



def with_path(*folders: Path) -> dict[str, str]:
    """The environment of a process that finds this tree's package, and before it what lies in `folders`; what stood in
    PYTHONPATH already stays behind them."""
    before = os.environ.get("PYTHONPATH", "")
    return {**os.environ, "PYTHONPATH": os.pathsep.join([*map(str, folders), str(ROOT), *([before] if before else [])])}


settings.register_profile("acccmp", deadline=None, max_examples=60, derandomize=True)
settings.load_profile("acccmp")


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real models; tests that need it are skipped where it is missing."""
    if not SHARED.is_dir():
        pytest.skip("the folder of real models (../shared/data) is not here")
    return SHARED


@pytest.fixture(scope="session")
def tf() -> Any:
    """TensorFlow, quiet and with the same sums on every machine; tests that need it are skipped without."""
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    return pytest.importorskip("tensorflow")


@pytest.fixture(scope="session")
def samples() -> Path:
    return ROOT / "sample_dumps"
