# SPDX-License-Identifier: GPL-2.0-or-later
"""`xg image`, on a cache that holds one image."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from xenograft.cli.main import run
from xenograft.toolstack.images.catalogue import CATALOGUE


@pytest.fixture(autouse=True)
def cached_kernel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache that holds debian-cloud, and a system without apt."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    directory = tmp_path / "xenograft/images/debian-cloud"
    directory.mkdir(parents=True)
    (directory / "vmlinuz").write_bytes(b"kernel")
    entry = {"file": "vmlinuz", "size": 6, "sha256": ""}
    manifest = {
        "source": "linux-image-6",
        "version": "6.1",
        "files": {"kernel": entry},
        "modules": list(CATALOGUE["debian-cloud"].modules),
    }
    (directory / "image.json").write_text(json.dumps(manifest))
    return directory / "vmlinuz"


def test_list(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["image", "list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[1:]] == list(CATALOGUE)
    assert lines[1].split()[1] == "6.1"
    assert lines[2].split()[1] == "-"


def test_list_as_json(capsys: pytest.CaptureFixture[str], cached_kernel: Path) -> None:
    assert run(["image", "list", "--json"]) == 0
    records = {record["name"]: record for record in json.loads(capsys.readouterr().out)}
    assert records["debian-cloud"]["path"] == str(cached_kernel)
    assert records["debian-cloud"]["cached"] is True
    assert records["debian"]["cached"] is False


def test_get_prints_the_path_alone(capsys: pytest.CaptureFixture[str], cached_kernel: Path) -> None:
    assert run(["image", "get", "debian-cloud"]) == 0
    captured = capsys.readouterr()
    assert captured.out == f"{cached_kernel}\n"
    assert captured.err == ""


def test_get_as_json(capsys: pytest.CaptureFixture[str], cached_kernel: Path) -> None:
    assert run(["image", "get", "--json", "debian-cloud"]) == 0
    (record,) = json.loads(capsys.readouterr().out)
    assert record["files"] == {"kernel": str(cached_kernel)}
    assert record["version"] == "6.1"


@pytest.mark.parametrize(
    ("name", "message"),
    [("debian-clud", "did you mean debian-cloud?"), ("busybox", "apt isn't here")],
)
def test_get_refuses_in_one_line(
    capsys: pytest.CaptureFixture[str], name: str, message: str
) -> None:
    assert run(["image", "get", name]) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.err.count("\n") == 1
    assert captured.out == ""


def test_names_are_completed() -> None:
    import click

    from xenograft.cli.image import _complete, get

    context = click.Context(get)
    assert _complete(context, get.params[0], "grub-pv6") == ["grub-pv64"]
