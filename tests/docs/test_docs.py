# SPDX-License-Identifier: GPL-2.0-or-later
"""The documents name things that exist."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "src" / "xenograft"
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])

_LINK = re.compile(r"\]\(([^)#:]+)\)")
_PATH = re.compile(r"`((?:[a-z_0-9]+/)*[a-z_0-9]+\.(?:py|toml|pyi|c)|(?:[a-z_0-9]+/)+)`")
_COMMAND = re.compile(r"\bmake ([a-z]+)\b")


def names(pattern: re.Pattern[str]) -> list[tuple[str, str]]:
    found = []
    for document in DOCUMENTS:
        found += [(document.name, name) for name in pattern.findall(document.read_text())]
    return sorted(set(found))


@pytest.mark.parametrize(("document", "link"), names(_LINK))
def test_links_lead_somewhere(document: str, link: str) -> None:
    folder = next(path.parent for path in DOCUMENTS if path.name == document)
    assert (folder / link).exists()


@pytest.mark.parametrize(("document", "path"), names(_PATH))
def test_paths_exist(document: str, path: str) -> None:
    places = (ROOT, PACKAGE, ROOT / "src")
    assert any((place / path).exists() for place in places), f"{document} names {path}"


@pytest.mark.parametrize(("document", "target"), names(_COMMAND))
def test_make_targets_exist(document: str, target: str) -> None:
    makefile = (ROOT / "Makefile").read_text()
    assert re.search(rf"^{target}:", makefile, re.MULTILINE), f"{document} says make {target}"


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_documents_name_no_place_of_one_machine(document: Path) -> None:
    assert not re.search(r"(?<![\w.])/(home|root|work|Users)/", document.read_text())


def test_layers_are_those_of_the_import_rules() -> None:
    rules = (ROOT / "pyproject.toml").read_text()
    architecture = (ROOT / "docs" / "architecture.md").read_text()
    layers = {path.name for path in PACKAGE.iterdir() if (path / "__init__.py").exists()}
    for layer in layers:
        assert re.search(rf'"[^"]*\b{layer}\b[^"]*"', rules), layer
        assert f"| `{layer}/` |" in architecture, layer


def test_every_source_file_names_its_licence() -> None:
    listed = subprocess.run(
        ["git", "ls-files", "*.py", "*.c", "*.h", "*.S", "*.sh", "Makefile", ".ci/run"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if listed.returncode:
        pytest.skip("this is no git checkout")
    bare = []
    for name in listed.stdout.split():
        path = ROOT / name
        if path.exists() and path.stat().st_size:
            head = path.read_text().splitlines()[:2]
            if not any("SPDX-License-Identifier: GPL-2.0-or-later" in line for line in head):
                bare.append(name)
    assert bare == []
