# SPDX-License-Identifier: GPL-2.0-or-later
"""Breaks each rule of page types in turn, and sees that a test notices.

Not part of the test run, since every mutant is a build of the native core:
``python -m tests.engine.pv_mutants [NUMBER…]`` in a checkout with its environment.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
NATIVE = Path("src/xenograft/engine/native")
# fmt: off
TESTS = ("tests/engine/test_pv_pages.py", "tests/engine/test_pv_cpu.py")

# (file, what stands there, what the mutant has, the rule that it breaks)
MUTANTS = (
    ("pv_pages.c", "|| m->table[mfn].owner != owner", "", "a page has to be its owner's"),
    ("pv_pages.c", " && f->refs && f->refs", " && f->refs", "a free frame can't be had"),
    ("pv_pages.c", "!(f->flags & FRAME_ZOMBIE) && ", "", "nor one that is about to be free"),
    (
        "pv_pages.c",
        "(count && (f->types & PGT_type_mask) != PGT_writable_page)",
        "false",
        "a table can't be mapped writable",
    ),
    (
        "pv_pages.c",
        "if ((old & (PGT_type_mask | PGT_pae_xen_l2)) != type || !(old & PGT_validated))",
        "if (0)",
        "one type at a time",
    ),
    ("pv_pages.c", "int rc = validate(d, mfn, type);", "int rc = 0;", "tables are validated"),
    (
        "pv_pages.c",
        "devalidate(d, mfn, f->types & (PGT_type_mask | PGT_pae_xen_l2));",
        ";",
        "what a table holds is dropped with it",
    ),
    (
        "pv_pages.c",
        "if (entry & pv_disallowed(d, 1))\n        return -PV_EINVAL;\n    if (mfn >=",
        "if (mfn >=",
        "flags of L1 entries in whole tables",
    ),
    (
        "pv_pages.c",
        "if (entry & pv_disallowed(d, level))",
        "if (0)",
        "flags of higher entries in whole tables",
    ),
    (
        "pv_pages.c",
        "return PTE_FLAGS & ~(allowed | PTE_G);",
        "return PTE_FLAGS & ~(allowed | PTE_G | PTE_PAT);",
        "no PSE in L1",
    ),
    (
        "pv_pages.c",
        "return PTE_FLAGS & ~allowed;",
        "return PTE_FLAGS & ~(allowed | PTE_PAT);",
        "no superpages",
    ),
    (
        "pv_pages.c",
        "if (entry & PTE_RW)\n        return false;\n    if (mfn == table)",
        "if (mfn == table)",
        "linear mappings are read-only",
    ),
    ("pv_pages.c", "target->linear > 0 ||", "", "no chains of linear tables (target)"),
    ("pv_pages.c", "source->linear < 0 ||", "", "no chains of linear tables (source)"),
    (
        "pv_pages.c",
        "(PGT_level(level) | PGT_validated) ||",
        "(PGT_level(level) | PGT_validated) && 0 ||",
        "linear tables are tables of that level",
    ),
    (
        "pv_pages.c",
        "PGT_level(level - 1));\n    if (rc ==",
        "PGT_level(level));\n    if (rc ==",
        "levels go down",
    ),
    (
        "pv_pages.c",
        "i < L4_FIRST_XEN_SLOT || i > L4_LAST_XEN_SLOT;",
        "true;",
        "Xen's slots aren't the guest's",
    ),
    (
        "pv_pages.c",
        "    if (level == 4)\n        xen_l4_slots(d, mfn);\n",
        "",
        "Xen's slots are filled",
    ),
    ("pv_pages.c", "for (; rc && i > 0; i--)", "for (; 0; i--)", "a refused L1 leaves no trace"),
    (
        "pv_pages.c",
        "return i < COMPAT_L2_FIRST_XEN_SLOT;",
        "return true;",
        "Xen's slots of a 32-bit guest",
    ),
    (
        "pv_pages.c",
        "if (!rc && pv_count(m, PTE_MFN(entry)) != 1) {",
        "if (0) {",
        "they are in one table alone",
    ),
    (
        "pv_pages.c",
        "memset(table + 4, 0, 508 * sizeof(*table));",
        ";",
        "a 32-bit root has four entries",
    ),
    (
        "pv_pages.c",
        "if (!(entry & PTE_P) || entry & pv_disallowed(d, 3))",
        "if (0)",
        "the last of them is there",
    ),
    ("pv_pages.c", "b = (b & ~(3u << 13)) | dpl << 13;", ";", "descriptors have the guest's DPL"),
    ("pv_pages.c", "(b & SEGMENT_TYPE) != 0xc00u ||", "", "no system descriptors but call gates"),
    ("pv_pages.c", "!gate_selector_fine(d, a >> 16) ||", "", "gates lead to the guest's code"),
    ("pv_pages.c", "b &= ~(3u << 13);\n        a =", "a =", "gates fault"),
    (
        "pv_pages.c",
        "if (b & SEGMENT_L)\n                return false;",
        "",
        "no long mode for 32-bit guests",
    ),
    (
        "pv_update.c",
        "if (!((old ^ entry) & ~SAME_PAGE_FLAGS)) {\n            put_entry(d, pte, table,"
        " entry, cmd);",
        "if (!((old ^ entry) & ~(SAME_PAGE_FLAGS | PTE_RW))) {\n            "
        "put_entry(d, pte, table, entry, cmd);",
        "a flag can't make a mapping writable",
    ),
    (
        "pv_update.c",
        "~SAME_PAGE_FLAGS)) {\n            put_entry(d, pte, table, pv_adjust",
        "~(SAME_PAGE_FLAGS | PTE_RW))) {\n            put_entry(d, pte, table, pv_adjust",
        "XSA-182: nor a linear one",
    ),
    (
        "pv_update.c",
        "        if (entry & pv_disallowed(d, level))\n            return -PV_EINVAL;\n",
        "",
        "flags of a single higher entry",
    ),
    (
        "pv_update.c",
        "slot >= L4_FIRST_XEN_SLOT && slot <= L4_LAST_XEN_SLOT",
        "false",
        "Xen's slots can't be updated",
    ),
    (
        "pv_update.c",
        "if (level == 3 && d->compat && slot >= 3)",
        "if (0)",
        "nor the last entry of a 32-bit root",
    ),
    (
        "pv_update.c",
        "slot >= COMPAT_L2_FIRST_XEN_SLOT)",
        "false)",
        "nor Xen's entries of a 32-bit guest",
    ),
    ("pv_update.c", "    pv_put_l1e(d, old);\n", "", "the old L1 entry's page is dropped"),
    (
        "pv_update.c",
        "    pv_put_lne(d, old, level, table);\n",
        "",
        "the old higher entry's table is dropped",
    ),
    (
        "pv_update.c",
        "else if (level <= 4 && owner == d->domid)",
        "else if (level <= 4)",
        "only data pages of others are mapped",
    ),
    (
        "pv_update.c",
        "if (pv_count(m, mfn) && type != PGT_writable_page) {",
        "if (0) {",
        "tables are updated by their rules",
    ),
    (
        "pv_update.c",
        "if (m->table[mfn].types & PGT_pinned) {\n        pv_put",
        "if (0) {\n        pv_put",
        "a table is pinned once",
    ),
    ("pv_update.c", "if (maddr & 7 || !pv_check", "if (!pv_check", "descriptors are aligned"),
    ("pv_update.c", "!pv_check_descriptor(d, &descriptor) ||", "", "descriptors are checked"),
)
# fmt: on


def _tests(tree: Path) -> int:
    present = [test for test in TESTS if (tree / test).exists()]
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *present]
    environment = {"PYTHONPATH": f"{tree / 'src'}:{tree}", "PATH": "/usr/bin:/bin"}
    done = subprocess.run(
        command, cwd=tree, env=environment, capture_output=True, check=False, timeout=600
    )
    return done.returncode


def _requirements(tree: Path) -> Path:
    """What the build needs, in a folder of its own."""
    project = tomllib.loads((tree / "pyproject.toml").read_text())
    folder = tree.parent / "build-requirements"
    command = [sys.executable, "-m", "pip", "install", "-q", "--target", str(folder)]
    subprocess.run([*command, *project["build-system"]["requires"]], check=True)
    return folder


def _build(tree: Path, requirements: Path) -> None:
    command = [sys.executable, "setup.py", "-q", "build_ext", "--inplace"]
    environment = {"PYTHONPATH": str(requirements), "PATH": "/usr/bin:/bin"}
    subprocess.run(command, cwd=tree, env=environment, check=True, capture_output=True)


def main(numbers: list[int]) -> int:
    """Returns how many mutants lived."""
    lived = 0
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder) / "tree"
        skip = shutil.ignore_patterns(".git", ".venv", "build", "*.so", "__pycache__", ".mypy*")
        shutil.copytree(ROOT, tree, ignore=skip)
        requirements = _requirements(tree)
        for number, (name, old, new, rule) in enumerate(MUTANTS):
            if not rule or (numbers and number not in numbers):
                continue
            path = tree / NATIVE / name
            original = path.read_text()
            if original.count(old) != 1:
                print(f"{number:3} ?     {rule}: {original.count(old)} places", flush=True)
                lived += 1
                continue
            path.write_text(original.replace(old, new))
            try:
                _build(tree, requirements)
                killed = _tests(tree) != 0
            finally:
                path.write_text(original)
            lived += not killed
            print(f"{number:3} {'killed' if killed else 'LIVED ':6} {rule}", flush=True)
    return lived


if __name__ == "__main__":
    sys.exit(1 if main([int(text) for text in sys.argv[1:]]) else 0)
