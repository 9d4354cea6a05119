"""The suite under every other Python from 3.11 up that is on this machine, each in an environment of its own.

    python .ci/pythons.py [--list] [TESTS ...]      (all tests by default)

Where TensorFlow has no wheel for a Python, its tests are skipped there; a Python for which nothing can be installed is
left out. Both are said at the end, and so is where there is no other Python at all.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
OLDEST = (3, 11)
PLACES = ("/usr/bin", "/usr/local/bin", "~/.pyenv/versions/*/bin", "/opt/python/*/bin", "/opt/python*/bin")
EXTRAS = ("all,dev", "ort,caffe,plot,images,dev")  # with TensorFlow, and without


def pythons() -> dict[tuple[int, int], Path]:
    """Version -> an interpreter of it that runs; the newest patch where there are several."""
    found: dict[tuple[int, int], tuple[tuple[int, ...], Path]] = {}
    for path in _candidates():
        ran = subprocess.run(
            [path, "-c", "import sys, ensurepip, venv; print(*sys.version_info[:3])"], capture_output=True, text=True,
            check=False,
        )
        version = tuple(map(int, ran.stdout.split())) if ran.returncode == 0 else (0, 0, 0)
        minor = (version[0], version[1])
        if minor >= OLDEST and version > found.get(minor, ((), path))[0]:
            found[minor] = (version, path)
    return {minor: path for minor, (_, path) in sorted(found.items())}


def _candidates() -> Iterator[Path]:
    folders = [Path(folder) for folder in os.get_exec_path()]
    for place in PLACES:
        pattern = Path(place).expanduser()
        folders += Path(pattern.anchor).glob(str(pattern.relative_to(pattern.anchor)))
    for folder in dict.fromkeys(folders):
        if "shims" not in folder.parts:  # they answer for other versions than their names say
            yield from sorted(path for path in folder.glob("python3.*") if re.fullmatch(r"python3\.\d+", path.name))


def install(python: Path, folder: Path) -> tuple[Path | None, str]:
    """A fresh environment with this tree in it, and what is missing there, in words; None where nothing could be
    installed."""
    subprocess.run([python, "-m", "venv", folder], check=True)
    new = folder / "bin" / "python"
    missing = ""
    for extras in EXTRAS:
        ran = subprocess.run(
            [new, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-c", ROOT / "constraints.txt",
             f"{ROOT}[{extras}]"], capture_output=True, text=True, check=False,
        )
        if ran.returncode == 0:
            return new, missing
        why = next((line for line in ran.stderr.splitlines() if line.startswith("ERROR")), "pip failed")
        missing = f"TensorFlow could not be installed ({why}): its tests were skipped"
    return None, f"nothing could be installed: {why}"


def main(arguments: Sequence[str] = ()) -> tuple[list[str], list[str]]:
    """Versions under which tests failed, and what was not tried."""
    here = sys.version_info[:2]
    others = {minor: path for minor, path in pythons().items() if minor != here}
    failed: list[str] = []
    left_out = [] if others else [f"other Pythons than {here[0]}.{here[1]}: there is none on this machine"]
    for minor, python in others.items():
        version = f"Python {minor[0]}.{minor[1]}"
        print(f"== {version}: {python}", flush=True)
        folder = Path(tempfile.mkdtemp(prefix="acccmp-python-"))
        try:
            new, missing = install(python, folder / "venv")
            left_out += [f"{version}: {missing}"] if missing else []
            if new is not None and subprocess.run(
                [new, "-m", "pytest", "-n", "2", "--dist", "loadfile", "-p", "no:cacheprovider", *arguments], cwd=ROOT,
                check=False,
            ).returncode:
                failed.append(version)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
    return failed, left_out


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--list", action="store_true", help="Only say which Pythons there are.")
    parser.add_argument("tests", nargs="*")
    options = parser.parse_args()
    if options.list:
        print("\n".join(f"{major}.{minor}  {path}" for (major, minor), path in pythons().items()))
        sys.exit(0)
    bad, skipped = main(options.tests)
    print("\n".join([f"NOT TRIED: {line}" for line in skipped]))
    print(f"failed under: {', '.join(bad) or 'none'}")
    sys.exit(1 if bad else 0)
