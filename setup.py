# SPDX-License-Identifier: GPL-2.0-or-later
"""Build the native core: our C sources linked statically with the CPU engine's archive.

Some functions of the engine are replaced by ours.  Which ones isn't listed anywhere: each global
function that both our objects and the archive define is an override.  In its archive member it
gets a second name (``real_*``, so that ours can call it) and becomes weak, so that ours wins
everywhere, calls from within the member included.  An engine build whose hash isn't known is
refused, since the core relies on the layout of its structures (native/layout.h).
"""

from __future__ import annotations

import hashlib
import importlib.util
import re
import subprocess
import sysconfig
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

NATIVE = Path("src/xenograft/engine/native")
KNOWN_ENGINES = {
    "bb556269ec90752e3b3ded2f3fc6a397427ca73e30ca4818d3cfb05621b5e210": "2.1.4, x86-64 Linux",
}
CFLAGS = ["-O2", "-g0", "-fvisibility=hidden", "-Wall", "-Wextra", "-std=gnu11"]
# The engine steers its TLB by this clock; ours keeps runs repeatable.
RENAMED = {"gettimeofday": "xg_engine_gettimeofday"}


def engine_archive() -> Path:
    """The engine's static library, from its package in the build environment."""
    spec = importlib.util.find_spec("unicorn")
    if spec is None or spec.origin is None:
        raise SystemExit("error: the package 'unicorn' isn't installed in the build environment")
    archive = Path(spec.origin).parent / "lib" / "libunicorn.a"
    if not archive.exists():
        raise SystemExit(
            "error: this machine's 'unicorn' package has no static library; "
            "Xenograft's native core builds on x86-64 Linux (glibc)"
        )
    digest = hashlib.sha256(archive.read_bytes()).hexdigest()
    if digest not in KNOWN_ENGINES:
        raise SystemExit(
            f"error: unknown build of the CPU engine (sha256 {digest[:16]}…); "
            f"known: {', '.join(KNOWN_ENGINES.values())}. Install unicorn==2.1.4"
        )
    return archive


def members(archive: Path, folder: Path) -> list[Path]:
    """Unpack an ar archive; its member names aren't unique, so ours are numbered."""
    data = archive.read_bytes()
    position, paths, names = 8, [], b""
    while position + 60 <= len(data):
        header = data[position : position + 60]
        name, size = header[:16].rstrip(), int(header[48:58])
        body = data[position + 60 : position + 60 + size]
        position += 60 + size + size % 2
        if name == b"//":
            names = body
        elif name != b"/":
            paths.append(folder / f"{len(paths):04}.o")
            paths[-1].write_bytes(body)
    assert names or paths
    return paths


def defined_globals(path: Path) -> dict[str, tuple[str, int]]:
    """Global functions of an object file: name to (section, offset)."""
    listing = subprocess.run(["objdump", "-t", path], check=True, capture_output=True, text=True)
    rows = re.findall(
        r"^([0-9a-f]+) (.{7}) (\.\S+)\t\S+ (?:\.hidden )?(\S+)$", listing.stdout, re.M
    )
    return {n: (s, int(o, 16)) for o, kind, s, n in rows if kind[0] == "g" and "F" in kind}


def symbols_of(paths: list[Path]) -> dict[Path, tuple[set[str], set[str]]]:
    """Per object file: the names that it defines and the names that it needs."""
    listing = subprocess.run(["nm", "-A", "-g", *paths], check=True, capture_output=True, text=True)
    table: dict[Path, tuple[set[str], set[str]]] = {path: (set(), set()) for path in paths}
    for path, kind, name in re.findall(r"^([^:]+):.{16} (\w) (\S+)$", listing.stdout, re.M):
        table[Path(path)][kind == "U"].add(name)
    return table


def absent(ours: list[Path], parts: list[Path]) -> list[str]:
    """Entry points of other architectures that linked members name but never call."""
    table = symbols_of([*ours, *parts])
    other = re.compile(r"_(arm|aarch64|mips\w*|ppc\w*|riscv\w*|s390x|sparc\w*|m68k|tricore)$")
    foreign = {p for p in parts if any(other.search(n) for n in table[p][0])}
    home = {name: path for path in [*parts, *ours] for name in table[path][0]}
    wanted, seen, stubs = list(ours), set(ours), set()
    while wanted:
        for name in table[wanted.pop()][1]:
            path = home.get(name)
            if path in foreign:
                stubs.add(name)
            elif path is not None and path not in seen:
                seen.add(path)
                wanted.append(path)
    return sorted(stubs)


class BuildCore(build_ext):
    """Compiles, finds the overrides, rewrites the archive, links."""

    def build_extension(self, extension: Extension) -> None:
        folder = Path(self.build_temp) / "engine"
        folder.mkdir(parents=True, exist_ok=True)
        archive = engine_archive()
        ours = [
            Path(path)
            for path in self.compiler.compile(
                extension.sources,
                output_dir=self.build_temp,
                include_dirs=[sysconfig.get_path("include"), *self.include_dirs],
                extra_postargs=CFLAGS,
                depends=extension.depends,
            )
        ]
        replaced = {name for path in ours for name in defined_globals(path)}
        found = set()
        parts = []
        for path in members(archive, folder):
            symbols = defined_globals(path)
            options = []
            for name in sorted(replaced & symbols.keys()):
                section, offset = symbols[name]
                found.add(name)
                options += [f"--weaken-symbol={name}"]
                options += [f"--add-symbol=real_{name}={section}:{offset:#x},global,function"]
            options += [
                f"--redefine-sym={old}={new}"
                for old, new in RENAMED.items()
                if old.encode() in path.read_bytes()
            ]
            if options:
                subprocess.run(["objcopy", *options, path], check=True)
            parts.append(path)
        self.check(ours, found)
        stubs = folder / "stubs.c"
        stubs.write_text(
            "".join(f"void {name}(void) {{ __builtin_trap(); }}\n" for name in absent(ours, parts))
        )
        ours += map(Path, self.compiler.compile([str(stubs)], extra_postargs=CFLAGS))
        library = folder / "engine.a"
        library.unlink(missing_ok=True)
        subprocess.run(["ar", "rcs", library, *parts], check=True)
        target = Path(self.get_ext_fullpath(extension.name))
        target.parent.mkdir(parents=True, exist_ok=True)
        self.compiler.link_shared_object(
            [*map(str, ours), str(library)],
            str(target),
            libraries=["pthread", "m"],
            extra_postargs=["-Wl,--exclude-libs,ALL", "-Wl,-s", "-Wl,--gc-sections"],
        )
        self.check_complete(target)

    @staticmethod
    def check(ours: list[Path], found: set[str]) -> None:
        """Each original that we call must have been found, or an override is silently none."""
        listing = subprocess.run(["nm", "-u", *ours], check=True, capture_output=True, text=True)
        wanted = set(re.findall(r"\breal_(\S+)", listing.stdout))
        if missing := wanted - found:
            raise SystemExit(f"error: the CPU engine lacks {', '.join(sorted(missing))}")

    @staticmethod
    def check_complete(target: Path) -> None:
        """What is still undefined must come from Python or, versioned, from the C library."""
        listing = subprocess.run(
            ["nm", "-D", "-u", target], check=True, capture_output=True, text=True
        )
        names = re.findall(r"\bU (\S+)", listing.stdout)
        if missing := [n for n in names if "@" not in n and not n.startswith(("Py", "_Py"))]:
            raise SystemExit(f"error: undefined in the native core: {', '.join(missing)}")


setup(
    ext_modules=[
        Extension(
            "xenograft.engine._core",
            sources=sorted(map(str, NATIVE.glob("*.c"))),
            depends=sorted(map(str, NATIVE.glob("*.h"))),
        )
    ],
    cmdclass={"build_ext": BuildCore},
)
