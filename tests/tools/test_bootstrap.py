# SPDX-License-Identifier: GPL-2.0-or-later
"""The set-up script: what it does again, and what it refuses, without fetching anything."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "tools" / "bootstrap.py"


@pytest.fixture
def bootstrap(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The script as a module; what it does to the interpreter is undone."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys, "dont_write_bytecode", sys.dont_write_bytecode)
    spec = importlib.util.spec_from_file_location("bootstrap_under_test", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A small project."""
    (tmp_path / "src/pkg").mkdir(parents=True)
    (tmp_path / "src/pkg/core.c").write_text("int x;")
    (tmp_path / "src/pkg/module.py").write_text("")
    (tmp_path / "setup.py").write_text("")
    (tmp_path / "pyproject.toml").write_text(
        '[build-system]\nrequires = ["a"]\n'
        '[project]\nname = "p"\ndependencies = ["b"]\n'
        '[project.optional-dependencies]\ndev = ["c"]\n'
        "[tool.ruff]\nline-length = 100\n"
    )
    return tmp_path


@pytest.fixture
def tracked(
    bootstrap: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> tuple[ModuleType, list[str]]:
    """The script with its steps replaced by notes of them."""
    done: list[str] = []
    venv = tmp_path / "venv"

    def note(name: str) -> None:
        done.append(name)
        (venv / "bin").mkdir(parents=True, exist_ok=True)
        for tool in ("python", "xg"):
            (venv / "bin" / tool).touch()

    monkeypatch.setattr(bootstrap, "VENV", venv)
    monkeypatch.setattr(bootstrap, "PYTHON", venv / "bin/python")
    monkeypatch.setattr(bootstrap, "MARKS", venv / "marks.json")
    monkeypatch.setattr(bootstrap, "usable_venv", lambda: False)
    monkeypatch.setattr(bootstrap, "make_venv", lambda: note("venv"))
    monkeypatch.setattr(bootstrap, "install_package", lambda: note("package"))
    monkeypatch.setattr(bootstrap, "build_guest", lambda: note("guest"))
    monkeypatch.setattr(bootstrap, "install_development_tools", lambda: note("tools"))
    return bootstrap, done


def test_each_step_is_done_once(tracked: tuple[ModuleType, list[str]]) -> None:
    bootstrap, done = tracked
    bootstrap.set_up(development=False)
    assert done == ["venv", "package", "guest"]
    bootstrap.set_up(development=False)
    assert done == ["venv", "package", "guest"]
    bootstrap.set_up(development=True)
    assert done == ["venv", "package", "guest", "tools"]
    bootstrap.set_up(development=True)
    assert done == ["venv", "package", "guest", "tools"]


def test_a_missing_environment_is_made_again(tracked: tuple[ModuleType, list[str]]) -> None:
    bootstrap, done = tracked
    bootstrap.set_up(development=False)
    bootstrap.PYTHON.unlink()
    bootstrap.set_up(development=False)
    assert done == ["venv", "package", "guest", "venv"]


def test_a_step_that_fails_is_not_marked(
    tracked: tuple[ModuleType, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    bootstrap, done = tracked

    def fail() -> None:
        raise bootstrap.UserError("no network")

    works = bootstrap.install_package
    monkeypatch.setattr(bootstrap, "install_package", fail)
    with pytest.raises(bootstrap.UserError):
        bootstrap.set_up(development=False)
    monkeypatch.setattr(bootstrap, "install_package", works)
    bootstrap.set_up(development=False)
    assert done == ["venv", "package", "guest"]


@pytest.mark.parametrize(
    ("path", "text", "changes"),
    [
        ("src/pkg/core.c", "int y;", True),
        ("src/pkg/new.h", "", True),
        ("setup.py", "import os", True),
        ("src/pkg/module.py", "x = 1", False),
        ("README.md", "words", False),
    ],
)
def test_what_the_package_is_built_from(
    bootstrap: ModuleType, checkout: Path, path: str, text: str, changes: bool
) -> None:
    before = bootstrap.package_digest(checkout)
    (checkout / path).write_text(text)
    assert (bootstrap.package_digest(checkout) != before) == changes


@pytest.mark.parametrize(
    ("old", "new", "changes"),
    [
        ('["a"]', '["a2"]', True),
        ('["b"]', '["b2"]', True),
        ('["c"]', '["d"]', False),
        ("100", "99", False),
    ],
)
def test_what_of_the_project_file_counts(
    bootstrap: ModuleType, checkout: Path, old: str, new: str, changes: bool
) -> None:
    before = bootstrap.package_digest(checkout)
    project = checkout / "pyproject.toml"
    project.write_text(project.read_text().replace(old, new))
    assert (bootstrap.package_digest(checkout) != before) == changes


def test_digest_keeps_borders(bootstrap: ModuleType) -> None:
    assert bootstrap.digest([b"ab", b"c"]) != bootstrap.digest([b"a", b"bc"])


@pytest.mark.parametrize("content", ["", "{", "[1]", "null"])
def test_damaged_marks_count_as_none(bootstrap: ModuleType, tmp_path: Path, content: str) -> None:
    path = tmp_path / "marks"
    path.write_text(content)
    marks = bootstrap.Marks(path)
    assert not marks.current("venv", "x")
    marks.set("venv", "x")
    assert bootstrap.Marks(path).current("venv", "x")


@pytest.mark.parametrize(
    ("tools", "message"), [([], "no C compiler"), (["gcc"], "install binutils")]
)
def test_missing_tools_are_named(
    bootstrap: ModuleType,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    tools: list[str],
    message: str,
) -> None:
    for tool in tools:
        (tmp_path / tool).write_text("#!/bin/sh\n")
        (tmp_path / tool).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CC", raising=False)
    with pytest.raises(bootstrap.UserError, match=message):
        bootstrap.compiler_environment()


def fake_tools(folder: Path, monkeypatch: pytest.MonkeyPatch, gcc: str) -> None:
    """A PATH with nothing but a gcc that does `gcc`, and the rest of what is looked for."""
    for tool, text in (("gcc", gcc), ("objcopy", "exit 0"), ("nm", "exit 0")):
        (folder / tool).write_text(f"#!/bin/sh\n{text}\n")
        (folder / tool).chmod(0o755)
    monkeypatch.setenv("PATH", str(folder))
    for name in ("CC", "LIBRARY_PATH", "C_INCLUDE_PATH"):
        monkeypatch.delenv(name, raising=False)


def test_a_compiler_that_works_needs_nothing(
    bootstrap: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_tools(tmp_path, monkeypatch, "exit 0")
    assert bootstrap.compiler_environment() == {}


def test_a_compiler_without_a_c_library(
    bootstrap: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_tools(tmp_path, monkeypatch, "exit 1")
    with pytest.raises(bootstrap.UserError, match="install libc6-dev"):
        bootstrap.compiler_environment()


def test_the_c_library_is_taken_from_its_packages(
    bootstrap: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A gcc that fails until it's told where the library's parts are."""
    fake_tools(tmp_path, monkeypatch, '[ -n "$LIBRARY_PATH" ]')
    asked: list[str] = []

    class Packages:
        def download(self, package: str, into: Path) -> Path:
            asked.append(package)
            return into / package

    def unpack(deb: Path, into: Path) -> None:
        libraries = into / "usr" / "lib" / bootstrap.sysconfig.get_config_var("MULTIARCH")
        libraries.mkdir(parents=True, exist_ok=True)
        system = f"/usr/lib/{libraries.name}"
        for name in ("libc.so", "libm.so"):
            (libraries / name).write_text(f"GROUP ( /lib/x.so.6 {system}/libc_nonshared.a )\n")

    monkeypatch.setattr(bootstrap, "SUPPORT", tmp_path / "support")
    monkeypatch.setattr(bootstrap, "have_apt", lambda: True)
    monkeypatch.setattr(bootstrap, "apt", Packages)
    monkeypatch.setattr(bootstrap, "unpack", unpack)
    environment = bootstrap.compiler_environment()
    assert asked == list(bootstrap.LIBC_PACKAGES)
    libraries = Path(environment["LIBRARY_PATH"])
    assert f" {libraries}/libc_nonshared.a" in (libraries / "libc.so").read_text()
    assert environment["C_INCLUDE_PATH"].startswith(str(tmp_path / "support"))


def test_bad_usage_is_refused() -> None:
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "--frob"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert "--frob" in done.stderr
