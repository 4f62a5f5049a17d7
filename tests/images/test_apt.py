# SPDX-License-Identifier: GPL-2.0-or-later
"""Packages by name: against stand-ins for apt-get and apt-cache, with the real dpkg-deb."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.images.conftest import FakeApt, needs_dpkg
from xenograft.toolstack.errors import UserError
from xenograft.toolstack.images.apt import Apt, extract, unpack

pytestmark = needs_dpkg


@pytest.fixture
def lines() -> list[str]:
    return []


@pytest.fixture
def apt(tmp_path: Path, lines: list[str]) -> Apt:
    return Apt(tmp_path / "state", lines.append)


def test_download_leaves_the_archive(
    fake_apt: FakeApt, apt: Apt, tmp_path: Path, lines: list[str]
) -> None:
    fake_apt.package("tool", {"bin/tool": b"binary"})
    deb = apt.download("tool", tmp_path / "into")
    assert deb.parent == tmp_path / "into"
    unpack(deb, tmp_path / "out")
    assert (tmp_path / "out/bin/tool").read_bytes() == b"binary"
    assert any("fetching tool" in line for line in lines)
    assert fake_apt.calls("update") == 0


def test_a_metapackage_is_followed(fake_apt: FakeApt, apt: Apt) -> None:
    fake_apt.package("meta", {}, "libc6 (>= 2), kernel-6.1-rt:any | other, kernel-6.1-cloud (= 1)")
    assert apt.depends("meta") == ["libc6", "kernel-6.1-rt", "kernel-6.1-cloud"]
    assert apt.resolve("meta", r"kernel-.*-cloud") == "kernel-6.1-cloud"
    assert apt.resolve("meta", None) == "meta"
    with pytest.raises(UserError, match="depends on nothing"):
        apt.resolve("meta", "kernel-.*-xen")


def test_without_lists_they_are_fetched_into_a_private_place(
    fake_apt: FakeApt, apt: Apt, tmp_path: Path
) -> None:
    fake_apt.package("tool", {"bin/tool": b"x"})
    (fake_apt.root / "lists").unlink()
    apt.download("tool", tmp_path / "into")
    assert fake_apt.calls("update") == 1
    private = f"Dir::State={tmp_path / 'state/state'}"
    updates = [line for line in fake_apt.log() if " update" in line]
    assert all(private in line for line in updates)
    assert private in fake_apt.log()[-1]


def test_lists_of_an_earlier_run_are_used(
    fake_apt: FakeApt, apt: Apt, tmp_path: Path, lines: list[str]
) -> None:
    fake_apt.package("tool", {"bin/tool": b"x"})
    (fake_apt.root / "lists").rename(fake_apt.root / "private-lists")
    Apt(tmp_path / "state", lines.append).download("tool", tmp_path / "one")
    apt.download("tool", tmp_path / "two")
    assert fake_apt.calls("update") == 0


def test_stale_lists_are_fetched_anew(fake_apt: FakeApt, apt: Apt, tmp_path: Path) -> None:
    fake_apt.package("tool", {"bin/tool": b"x"})
    (fake_apt.root / "stale").touch()
    assert apt.download("tool", tmp_path / "into").exists()
    assert fake_apt.calls("update") == 1


def test_an_unknown_package_is_one_clear_line(fake_apt: FakeApt, apt: Apt, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="package nosuch isn't in the package lists"):
        apt.download("nosuch", tmp_path)


def test_offline_tells_apts_own_reason(fake_apt: FakeApt, apt: Apt) -> None:
    (fake_apt.root / "lists").unlink()
    (fake_apt.root / "offline").touch()
    with pytest.raises(UserError, match="apt-get update failed: Failed to fetch lists"):
        apt.show("tool")


def test_without_apt(no_apt: None, apt: Apt) -> None:
    with pytest.raises(UserError, match="apt-get"):
        apt.show("tool")


def test_extract_takes_what_matches_and_flattens(
    fake_apt: FakeApt, apt: Apt, tmp_path: Path
) -> None:
    files = {"boot/vmlinuz-6": b"k" * 5000, "boot/config-6": b"c", "lib/modules/6/a.ko": b"m"}
    fake_apt.package("kernel", files)
    written = extract(fake_apt.root / "kernel.deb", ["boot/vmlinuz-*"], tmp_path / "out")
    assert [path.name for path in written] == ["vmlinuz-6"]
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["vmlinuz-6"]
    assert written[0].read_bytes() == b"k" * 5000


@pytest.mark.parametrize("content", [b"", b"!<arch>\n", b"\0" * 4096])
def test_a_broken_archive_is_one_clear_line(tmp_path: Path, content: bytes) -> None:
    deb = tmp_path / "broken.deb"
    deb.write_bytes(content)
    with pytest.raises(UserError, match=r"can't unpack broken\.deb"):
        unpack(deb, tmp_path / "out")
    with pytest.raises(UserError, match=r"can't unpack broken\.deb"):
        extract(deb, ["*"], tmp_path / "out")


def test_the_module_needs_the_standard_library_alone() -> None:
    """The set-up script imports it before anything is installed."""
    source = Path(__file__).parents[2] / "src"
    program = (
        f"import sys; sys.path.insert(0, {str(source)!r})\n"
        "import xenograft.toolstack.images.apt\n"
        "loaded = {name.split('.')[0] for name in sys.modules}\n"
        "print(*sorted(loaded - sys.stdlib_module_names - {'__main__', 'xenograft'}))\n"
    )
    # -S leaves site-packages out, -I the environment.
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", program], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout.strip()) == (0, ""), done.stderr
