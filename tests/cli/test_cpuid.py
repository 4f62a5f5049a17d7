# SPDX-License-Identifier: GPL-2.0-or-later
"""`xg cpuid`."""

from __future__ import annotations

import json

import pytest

from xenograft.cli.main import main


def run(capsys: pytest.CaptureFixture[str], *args: str) -> tuple[int, str, str]:
    """Exit status, standard output, standard error."""
    status = 0
    try:
        main(["cpuid", *args])
    except SystemExit as ended:
        status = int(ended.code or 0)
    captured = capsys.readouterr()
    return status, captured.out, captured.err


def test_the_policy_in_words(capsys: pytest.CaptureFixture[str]) -> None:
    status, out, err = run(capsys)
    assert (status, err) == (0, "")
    assert "vendor            GenuineIntel" in out
    assert "family 6, model 54, stepping 1" in out
    assert "cx16" in out
    assert "erms" not in out


def test_hidden_features_with_their_reasons(capsys: pytest.CaptureFixture[str]) -> None:
    status, out, _ = run(capsys, "--all")
    assert status == 0
    line = next(line for line in out.splitlines() if " erms " in line)
    assert line.startswith("-")
    assert "(hidden: " in line


def test_raw_leaves(capsys: pytest.CaptureFixture[str]) -> None:
    status, out, _ = run(capsys, "--raw", "--vcpus", "2", "--vcpu", "1")
    assert status == 0
    assert "0x40000000        0 -> 40000005 566e6558 65584d4d 4d4d566e" in out
    (leaf_1,) = [line for line in out.splitlines() if line.startswith("0x00000001")]
    assert leaf_1.split("->")[1].split()[1].startswith("02")


def test_json(capsys: pytest.CaptureFixture[str]) -> None:
    status, out, err = run(capsys, "--json", "--cpuid", "host,sse3=0,avx=1", "--type", "hvm")
    assert status == 0
    record = json.loads(out)
    assert record["ignored"] == ["avx"]
    assert err == "xg: cpuid: avx isn't available to this guest; left out\n"


def test_both_syntaxes_may_be_mixed(capsys: pytest.CaptureFixture[str]) -> None:
    bits = "x" * 31 + "0"
    args = ("--json", "--cpuid", "host,popcnt=0", "--cpuid", f"1:ecx={bits}")
    record = json.loads(run(capsys, *args)[1])
    shown = {feature["name"]: feature["shown"] for feature in record["features"]}
    assert not shown["sse3"]
    # xend's x is the default, also for what was turned off before.
    assert shown["popcnt"]


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("--cpuid", "host,ssse4=1"), 'did you mean "ssse3"?'),
        (("--cpuid", "nonsense"), 'cpuid: "nonsense" has no ":"'),
        (("--vcpu", "1"), "the guest has 1 vCPU(s)"),
        (("--type", "phv"), "did you mean pvh?"),
        (("--vcpus", "0"), "0"),
    ],
)
def test_bad_usage_is_one_line_and_status_2(
    capsys: pytest.CaptureFixture[str], args: tuple[str, ...], message: str
) -> None:
    status, out, err = run(capsys, *args)
    assert status == 2
    assert out == ""
    assert message in err
    assert "Traceback" not in err
