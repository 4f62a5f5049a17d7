# SPDX-License-Identifier: GPL-2.0-or-later
"""What the documents and docstrings show is run; commands as far as their options.

Where an example names ``vmlinuz`` and ``initrd``, these are Debian's kernel and our ramdisk.
"""

from __future__ import annotations

import ast
import contextlib
import doctest
import importlib
import io
import pkgutil
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import click
import pytest

import xenograft
from xenograft.cli.main import COMMANDS

ROOT = Path(__file__).parents[2]
DOCUMENTS = sorted([ROOT / "README.md", *(ROOT / "docs").glob("*.md")])
Image = Callable[[str], Path]

_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_COMMAND = re.compile(r"^(?:\$ )?(?:.*\| )?(?:\.venv/bin/)?xg (.*?)(?: +#.*)?$", re.MULTILINE)


def modules() -> list[str]:
    """All modules that have examples."""
    found = ["xenograft"]
    for module in pkgutil.walk_packages(xenograft.__path__, "xenograft."):
        spec = module.module_finder.find_spec(module.name, None)  # type: ignore[call-arg]
        if spec is not None and spec.origin is not None and spec.origin.endswith(".py"):
            found.append(module.name)
    sources = {name: Path(_file(name)).read_text() for name in found}
    return [name for name, text in sources.items() if ">>> " in text]


def _file(name: str) -> str:
    path = ROOT / "src" / name.replace(".", "/")
    return str(path / "__init__.py" if path.is_dir() else path.with_suffix(".py"))


@pytest.fixture
def here(image: Image, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with a kernel and a ramdisk."""
    (tmp_path / "vmlinuz").symlink_to(image("debian-cloud"))
    (tmp_path / "initrd").symlink_to(image("demo-initrd"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def check_module(name: str) -> None:
    module: ModuleType = importlib.import_module(name)
    result = doctest.testmod(module, optionflags=doctest.ELLIPSIS)
    assert result.attempted > 0
    assert result.failed == 0


BOOTING = {
    "xenograft",
    "xenograft.observe.session",
    "xenograft.toolstack.console",
    "xenograft.toolstack.machine",
}


@pytest.mark.parametrize("name", sorted(set(modules()) - BOOTING))
def test_docstrings(name: str) -> None:
    check_module(name)


@pytest.mark.parametrize("name", sorted(BOOTING))
def test_docstrings_that_boot_a_guest(here: Path, name: str) -> None:
    check_module(name)


def test_no_example_is_skipped() -> None:
    for name in modules():
        assert "doctest: +" + "SKIP" not in Path(_file(name)).read_text(), name


def blocks(language: str) -> list[tuple[str, str]]:
    return [
        (document.name, text)
        for document in DOCUMENTS
        for found, text in _FENCE.findall(document.read_text())
        if found == language
    ]


def test_python_of_the_readme(here: Path) -> None:
    for name, text in blocks("python"):
        if name == "README.md" and "def test_" in text:
            file = here / "test_readme.py"
            file.write_text(text)
            command = [sys.executable, "-m", "pytest", "-q", str(file)]
            done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=here)
            assert "1 passed" in done.stdout, done.stdout + done.stderr
        elif name == "README.md":
            output = io.StringIO()
            with contextlib.redirect_stdout(output):
                exec(compile(text, name, "exec"), {})
            assert output.getvalue().startswith("poweroff ")
            assert re.search(r"\n\d+\.\d+ \d+\.\d+\r", output.getvalue())  # /proc/uptime


@pytest.mark.parametrize(("name", "text"), blocks("python"))
def test_python_parses(name: str, text: str) -> None:
    ast.parse(text, name)


def commands() -> list[tuple[str, str]]:
    found = [(name, line) for name, text in blocks("") for line in _COMMAND.findall(text)]
    assert len(found) > 3
    return found


@pytest.mark.parametrize(("name", "line"), commands())
def test_commands_have_these_options(name: str, line: str) -> None:
    command, *argv = shlex.split(line)
    entry = COMMANDS[command]
    found = getattr(importlib.import_module(entry.module), entry.attribute)
    assert isinstance(found, click.Command)
    found.make_context(command, argv)
