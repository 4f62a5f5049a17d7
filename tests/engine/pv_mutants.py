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
MMU = "../../hypervisor/pv/mmu.py"
PORTS = "../../hypervisor/pv/ports.py"
# fmt: off
TESTS = (
    "tests/engine/test_pv_pages.py", "tests/engine/test_pv_cpu.py",
    "tests/guests/test_pv_attacker.py",
)

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
    ("pv_pages.c", "        pv_type_flush(d, f->stamp);", ";", "what becomes a table leaves TLBs"),
    (
        "pv_pages.c",
        "        pv_type_flush(d, UINT32_MAX);",
        ";",
        "another's page leaves TLBs with its mapping",
    ),
    (
        "pv_pages.c",
        "            if (v->pv)\n                pv_drop_ldt(v);",
        ";",
        "an LDT's page goes with its mapping",
    ),
    (
        "pv_call.c",
        "pv_type(m, mfn) != PGT_level(1) ||",
        "",
        "update_va_mapping changes L1 tables alone",
    ),
    (
        "pv_call.c",
        "user && !mfn ? 0 : pv_get_page_and_type(p->domain, mfn, PGT_level(4));",
        "user && !mfn ? 0 : pv_get_page(m, mfn, p->domain->domid) ? 0 : -22;",
        "a root is a checked L4 table",
    ),
    ("pv_call.c", "entries > 8192 ||", "", "an LDT has 8192 entries at most"),
    ("pv_call.c", "base & (PAGE_SIZE - 1) || far", "far", "an LDT begins with a page"),
    (
        "pv_segment.c",
        "pv_get_page_and_type(p->domain, PTE_MFN(*entry), PGT_seg_desc_page))",
        "!pv_get_page(m, PTE_MFN(*entry), p->domain->domid))",
        "an LDT's pages are checked",
    ),
    (
        "pv_segment.c",
        "(kind & 4 ? dpl > rpl : dpl != rpl) ||",
        "",
        "code segments have the privilege that the selector names",
    ),
    ("pv_segment.c", "dpl != rpl || rpl !=", "rpl !=", "so have stack segments"),
    (
        "pv_python.c",
        "if (pv_get_page_and_type(p->domain, mfn[i], PGT_seg_desc_page)) {",
        "if (!pv_get_page(p->domain->memory, mfn[i], p->domain->domid)) {",
        "a GDT's pages are checked",
    ),
    (
        "pv_walk.c",
        "rc = pv_mod_l1(p->domain, pte, mfn, entry, MMU_NORMAL_PT_UPDATE, p->domain->domid);",
        "*pte = entry, rc = 0;",
        "stores to tables are checked",
    ),
    (
        "pv_walk.c",
        "!(p->domain->vm_assist & VMASST_writable_pagetables) || ",
        "",
        "they are carried out for those who asked for it",
    ),
    ("pv_walk.c", "!pv_in_kernel(v) ||", "", "and for kernels alone"),
    (
        "pv_walk.c",
        "pv_entry(v, pv_root(v), gva, write);",
        "pv_entry(v, pv_root(v), gva, false);",
        "hypercalls write where the guest may",
    ),
    (
        "pv_walk.c",
        "    if (!pv_address_fine(v, gva))\n        return ~0ull;\n",
        "",
        "Xen's addresses are no pointers of a guest's",
    ),
    ("pv_trap.c", "(uint32_t)(saved.cs | 3)", "(uint32_t)(saved.cs)", "IRET gives no privilege"),
    ("pv_trap.c", "(t->flags & 3u) < least", "0", "INT n asks the handler's privilege"),
    (
        "pv_update.c",
        "segment ? !pv_get_type(d, mfn, PGT_seg_desc_page) : pv_get_writable(m, mfn)",
        "(m->table[mfn].types++, 1)",
        "descriptors aren't written into tables",
    ),
    (
        "pv_update.c",
        "bool fine = pv_get_writable(m, mfn);",
        "bool fine = true; m->table[mfn].types++;",
        "tables aren't cleared",
    ),
    (
        "pv_update.c",
        "if (pv_get_writable(m, to)) {",
        "if (m->table[to].types++, 1) {",
        "nor copied to",
    ),
    (
        "pv_update.c",
        "if (!pv_get_page(m, mfn, owner))\n        return -PV_EINVAL;\n    memory_set_m2p",
        "if (!pv_get_page(m, mfn, m->table[mfn].owner))\n        return 0;\n    memory_set_m2p",
        "names are given to one's own frames",
    ),
    (
        "pv_update.c",
        "if (!pv_get_page(m, mfn, d->domid))\n        return -PV_EINVAL;\n    uint64_t *pte",
        "if (mfn >= m->frames || !pv_get_page(m, mfn, m->table[mfn].owner))\n"
        "        return -PV_EINVAL;\n    uint64_t *pte",
        "tables that are changed are one's own",
    ),
    (
        MMU,
        "    if owner is not None and owner is not call.domain:\n        check(Xsm.TARGET",
        "    if False:\n        check(Xsm.TARGET",
        "pages of others take permission",
    ),
    (
        MMU,
        "    if tables is not call.domain:\n        check(Xsm.TARGET, call.domain, tables)\n",
        "",
        "so do tables of others",
    ),
    (
        MMU,
        "    check(Xsm.TARGET, call.domain, owner)\n    count",
        "    count",
        "and pinning for them",
    ),
    (
        "pv_walk.c",
        "            pv_flush(v);\n        else\n            v->pv->flush = true;",
        "            pv_flush(v);",
        "what becomes a table leaves the TLBs of other vCPUs",
    ),
    ("pv_walk.c", "            other->pv->flush = true;", ";", "flushes reach other vCPUs"),
    (PORTS, "    if port + size > ports:\n", "    if False:\n", "a bitmap of ports has an end"),
    (
        PORTS,
        "return not bits >> (port & 7) & ((1 << size) - 1)",
        "return not bits >> (port & 7) & 1",
        "all bytes of an access have to be allowed",
    ),
    (PORTS, "cpu.write(address, ", "cpu.read(address, len", "INS writes where the guest may"),
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
