# SPDX-License-Identifier: GPL-2.0-or-later
"""The tutorial of docs/testing.md, as its reader would follow it: green, and red when broken."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TUTORIAL = (ROOT / "docs" / "testing.md").read_text()
EXAMPLE = ROOT / "docs" / "examples" / "testing-driver"


@pytest.fixture
def project(image: Callable[[str], Path], tmp_path: Path) -> Path:
    """The example, copied."""
    image("debian-cloud")
    image("driver-initrd")
    return Path(shutil.copytree(EXAMPLE, tmp_path / "project"))


def build(project: Path, *options: str) -> None:
    """As the tutorial has it."""
    assert "cc -static -O2 -o diary diary.c" in TUTORIAL
    command = ["cc", "-static", "-O2", *options, "-o", "diary", "diary.c"]
    subprocess.run(command, cwd=project, check=True)


def pytest_in(project: Path, *options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *options],
        cwd=project,
        capture_output=True,
        text=True,
        check=False,
        timeout=280,
    )


def test_the_ten_lines_are_the_example(project: Path) -> None:
    shown = re.findall(r"^```python\n(.*?)^```$", TUTORIAL, re.MULTILINE | re.DOTALL)[0]
    assert (project / "test_diary.py").read_text().partition("\n")[2] == shown
    assert len(shown.splitlines()) <= 10


def test_green(project: Path) -> None:
    build(project, "-Wall", "-Wextra", "-Werror")
    done = pytest_in(project)
    assert "5 passed" in done.stdout, done.stdout
    assert done.returncode == 0


def test_red_for_the_right_reason(project: Path) -> None:
    """The driver is broken on purpose: one test says so, in the tutorial's words."""
    build(project, "-DBROKEN")
    done = pytest_in(project, "test_diary.py")
    assert done.returncode == 1
    assert "1 failed" in done.stdout, done.stdout
    told = re.search(r"^```text\n(.*?)^```$", TUTORIAL, re.MULTILINE | re.DOTALL)
    assert told is not None
    for line in told[1].splitlines():
        words = line.strip("-").strip()
        if words != "…":
            assert words in done.stdout, words
