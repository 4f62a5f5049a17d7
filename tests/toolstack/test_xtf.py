# SPDX-License-Identifier: GPL-2.0-or-later
"""Tests of the Xen Test Framework: finding them, running them, and what their output says."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.engine.assembler import assemble
from tests.toolstack.build.support import elf, note
from xenograft.cli.main import run
from xenograft.toolstack.errors import UserError
from xenograft.toolstack.xtf import Test as XtfTest
from xenograft.toolstack.xtf import build, find_tests, judge, run_test

BASE = 0x100000
PRINT = """
    mov $18, %eax
    xor %edi, %edi
    mov $end - text, %esi
    mov $text, %edx
    syscall
    mov $29, %eax
    mov $2, %edi
    mov $code, %esi
    syscall
code: .long 0
text: .ascii "{text}"
end:
"""


def pv_test(folder: Path, text: str, name: str = "test-pv64-hello", code: str = PRINT) -> Path:
    """A test that prints a text by console_io, and powers off."""
    binary = assemble(code.replace("{text}", text), 64, BASE)
    notes = [note(8, "generic"), note(5, "xen-3.0"), note(3, 0), note(1, BASE)]
    path = folder / name
    path.write_bytes(elf([(BASE, binary, 0x4000)], notes))
    return path


@pytest.mark.parametrize(
    ("output", "end", "result", "reason"),
    [
        ("Hello\nTest result: SUCCESS\n", "", "SUCCESS", ""),
        ("Fail: no\nFail: why\r\nTest result: FAILURE\r\n", "", "FAILURE", "Fail: no"),
        ("Skip: not here\nTest result: SKIP\n", "", "SKIP", "Skip: not here"),
        ("Test result: SUCCESS\nTest result: ERROR\n", "", "ERROR", ""),
        ("Test result: BANANA\n", "", "CRASH", "Test result: BANANA"),
        ("Hello\nworld", "", "CRASH", "world"),
        ("Hello", "still running", "CRASH", "still running"),
        ("", "", "CRASH", "it printed nothing"),
    ],
)
def test_judge(output: str, end: str, result: str, reason: str) -> None:
    assert judge(output, end) == (result, reason)


def test_find(tmp_path: Path) -> None:
    folder = tmp_path / "tests" / "one"
    folder.mkdir(parents=True)
    for name in ("test-pv64-one", "test-hvm32pae-one", "test-pv64-one.o", "main.c"):
        (folder / name).write_bytes(b"")
    (folder / "test-pv64-one.cfg").write_text('vcpus=2\nmemory=64\ncmdline="a b"\n')
    for vary in ("hap", "shadow"):
        (folder / f"test-hvm32pae-one~{vary}.cfg").write_text('extra="x"\n')
    names = ["test-hvm32pae-one~hap", "test-hvm32pae-one~shadow", "test-pv64-one"]
    tests = find_tests([tmp_path, folder / "test-pv64-one"])
    assert [test.name for test in tests] == names
    assert [test.is_pv for test in tests] == [False, False, True]
    assert (tests[0].cmdline, tests[2].cmdline, tests[2].vcpus) == ("x", "a b", 2)
    for path in (tmp_path / "nothing", folder / "main.c"):
        with pytest.raises(UserError, match="no test of the Xen Test Framework"):
            find_tests([path])
    (folder / "test-pv64-one.cfg").write_text('vcpus="many"\n')
    with pytest.raises(UserError, match="is no number"):
        find_tests([folder])


def test_a_pv_test_runs(tmp_path: Path) -> None:
    path = pv_test(tmp_path, "Hello\\nTest result: SUCCESS\\n")
    (test,) = find_tests([path])
    result = run_test(test)
    assert (result.name, result.result, result.passed) == ("test-pv64-hello", "SUCCESS", True)
    assert result.output.startswith("Hello")


def test_a_crash_and_a_hang(tmp_path: Path) -> None:
    (test,) = find_tests([pv_test(tmp_path, "", code="ud2")])
    result = run_test(test)
    assert (result.result, result.passed) == ("CRASH", False)
    assert "vec 6" in result.reason
    (test,) = find_tests([pv_test(tmp_path, "", code="1: jmp 1b")])
    assert run_test(test, 0.05).reason == "still running after 0.05 s"


def test_what_cannot_be_built_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "test-pv64-bad").write_bytes(b"nonsense")
    (test,) = find_tests([tmp_path])
    result = run_test(test)
    assert result.result == "ERROR"
    assert "not a kernel" in result.reason


def test_hvm_tests_start_at_their_entry(tmp_path: Path) -> None:
    path = tmp_path / "test-hvm32-x"
    path.write_bytes(elf(bits=32))
    built = build(XtfTest(name=path.name, env="hvm32", path=path))
    assert built.kind == "hvm"
    assert built.entry == 0x100000


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pv_test(tmp_path, "Test result: SUCCESS\\n", "test-pv64-good")
    pv_test(tmp_path, "Fail: no\\nTest result: FAILURE\\n", "test-pv64-bad")
    assert run(["xtf", str(tmp_path)]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["test-pv64-bad", "FAILURE", "Fail:", "no"]
    assert lines[1].split() == ["test-pv64-good", "SUCCESS"]
    assert run(["xtf", str(tmp_path), "--only", "*good", "--json"]) == 0
    assert '"result": "SUCCESS"' in capsys.readouterr().out
    assert run(["xtf", str(tmp_path / "none")]) == 2
