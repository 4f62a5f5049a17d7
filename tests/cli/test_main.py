# SPDX-License-Identifier: GPL-2.0-or-later
"""The entry point: exit statuses, one-line errors, lazy loading."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from pathlib import Path

import click
import pytest

import xenograft
from xenograft.cli import main as main_module
from xenograft.cli.group import Choice, Lazy
from xenograft.cli.main import COMMANDS, run
from xenograft.toolstack.errors import UserError

SOURCE = Path(__file__).parents[2] / "src"


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch) -> None:
    """A command called `frob`, which does what `ACTION` says."""
    monkeypatch.setitem(COMMANDS, "frob", Lazy(__name__, "frob", "Frob."))


ACTION: list[BaseException | int | None] = [None]


@click.command()
@click.option("--size", type=int, default=1)
@click.option("--kind", type=Choice(["pvh", "pv", "hvm"], "type"), default="pvh")
def frob(size: int, kind: str) -> int | None:
    action = ACTION[0]
    if isinstance(action, BaseException):
        raise action
    return action


@pytest.mark.parametrize(
    ("action", "status", "text"),
    [
        (None, 0, ""),
        (3, 3, ""),
        (UserError("bad thing: do this"), 2, "xg: bad thing: do this\n"),
        (click.ClickException("odd."), 2, "xg: odd (xg --help tells more)\n"),
        (KeyboardInterrupt(), 130, ""),
        (click.exceptions.Exit(7), 7, ""),
    ],
)
def test_statuses(
    command: None,
    capsys: pytest.CaptureFixture[str],
    action: BaseException | int | None,
    status: int,
    text: str,
) -> None:
    ACTION[0] = action
    assert run(["frob"]) == status
    captured = capsys.readouterr()
    assert captured.err.lstrip("\n") == text
    assert captured.out == ""


def test_a_fault_of_ours_is_one_line(
    command: None, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("XG_DEBUG", raising=False)
    ACTION[0] = ZeroDivisionError("division\nby zero")
    assert run(["frob"]) == 1
    error = capsys.readouterr().err
    assert error.startswith("xg: internal error: ZeroDivisionError: division by zero (")
    assert error.count("\n") == 1


@pytest.mark.parametrize("name", ["", "/some/file"])
def test_a_full_disk_is_no_fault_of_ours(name: str) -> None:
    script = f"""
import errno, os, sys
from xenograft.cli import main
def fail(*args, **more):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), {name or None!r})
main.xg.main = fail
sys.exit(main.run(["modes"]))
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False
    )
    what = name or "the output can't be written"
    assert done.stderr == f"xg: {what}: No space left on device\n"
    assert done.returncode == 1


def test_output_that_can_not_be_written() -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-c", "from xenograft.cli.main import main; main(['modes'])"],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert done.stderr == "xg: the output can't be written: No space left on device\n"
    assert done.returncode == 1


def test_xg_debug_shows_the_traceback(command: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XG_DEBUG", "1")
    ACTION[0] = ZeroDivisionError()
    with pytest.raises(ZeroDivisionError):
        run(["frob"])


@pytest.mark.parametrize(
    ("argv", "nearest"),
    [
        (["frb"], "did you mean frob?"),
        (["frob", "--sze", "1"], "'--size'"),
        (["frob", "--kind", "phv"], "no type is called 'phv': did you mean pvh?"),
        (["frob", "--kind", "zzz"], "known are pvh, pv, hvm"),
        (["frob", "--size", "x"], "'x' is not a valid int"),
        (["image", "lst"], "'list'"),
        (["--vrsion"], "'--version'"),
    ],
)
def test_bad_usage_names_the_nearest(
    command: None, capsys: pytest.CaptureFixture[str], argv: list[str], nearest: str
) -> None:
    assert run(argv) == 2
    error = capsys.readouterr().err
    assert nearest in error
    assert error.startswith("xg: ")
    assert error.count("\n") == 1


def test_without_a_command_the_help_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    assert run([]) == 2
    assert "Commands:" in capsys.readouterr().err


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--version"]) == 0
    assert capsys.readouterr().out == f"xg {xenograft.__version__}\n"


def test_help_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--help"]) == 0
    output = capsys.readouterr().out
    for name, entry in COMMANDS.items():
        assert name in output
        assert not entry.summary or entry.summary.split()[0] in output


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_loads_and_helps(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    entry = COMMANDS[name]
    found = getattr(importlib.import_module(entry.module), entry.attribute)
    assert isinstance(found, click.Command)
    assert run([name, "--help"]) == 0
    assert f"xg {name}" in capsys.readouterr().out


def test_help_imports_little() -> None:
    """Start-up stays quick because what commands need isn't imported before they run."""
    program = (
        "import sys; from xenograft.cli.main import run; run(['--help'])\n"
        "heavy = {'rich', 'perfetto', 'capstone', 'elftools', 'msgspec', 'asyncio', 'ssl'}\n"
        "heavy |= {'xenograft.toolstack.machine', 'xenograft.engine', 'xenograft.hypervisor'}\n"
        "sys.exit(' '.join(sorted(heavy & set(sys.modules))) or 0)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(SOURCE)},
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_a_reader_that_went_away() -> None:
    """`xg --help | head -0`: no traceback, no complaint."""
    reader, writer = os.pipe()
    os.close(reader)
    program = "from xenograft.cli.main import main; main(['version'])"
    done = subprocess.run(
        [sys.executable, "-u", "-c", program],
        stdout=writer,
        stderr=subprocess.PIPE,
        check=False,
        env={**os.environ, "PYTHONPATH": str(SOURCE)},
    )
    os.close(writer)
    assert done.returncode == 1
    assert done.stderr == b""


def test_main_exits_with_the_status(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(main_module, "run", lambda argv: 5)
    with pytest.raises(SystemExit) as stop:
        main_module.main(["x"])
    assert stop.value.code == 5
