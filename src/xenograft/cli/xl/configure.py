# SPDX-License-Identifier: GPL-2.0-or-later
"""From the words of `xg create` to a configuration whose paths mean the same everywhere."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path

import msgspec

from xenograft.toolstack.config.disk import Disk
from xenograft.toolstack.config.domain import DomainConfig
from xenograft.toolstack.config.syntax import MAX_SIZE
from xenograft.toolstack.config.xlcfg import parse_config
from xenograft.toolstack.config.xlconf import apply_defaults, user_conf
from xenograft.toolstack.errors import UserError

_ASSIGNMENT = re.compile(r"[a-z][._0-9a-z]*\s*\+?=")
_LITERAL = re.compile(r"""\s*(["'\[]|[0-9][0-9a-fx]*\s*\Z)""")
_URI = re.compile(r"[a-z][a-z0-9+]*:")


def split_words(words: tuple[str, ...], file: str | None) -> tuple[str | None, list[str]]:
    """The configuration file, and the settings as lines of a configuration.

    Raises UserError.
    """
    settings = []
    for word in words:
        if _ASSIGNMENT.match(word):
            settings.append(_setting(word))
        elif file is None:
            file = word
        else:
            raise UserError(f"{word[:80]!r} is neither a setting (KEY=VALUE) nor the first file")
    return file, settings


def _setting(word: str) -> str:
    """A setting as a line: a shell has taken the quotes that a text would need."""
    key, equals, value = word.partition("=")
    if _LITERAL.match(value):
        return word
    if '"' in value and "'" in value:
        raise UserError(f"{word[:80]!r}: write the value in quotes, as in a configuration")
    quote = "'" if '"' in value else '"'
    value = value.replace("\\", "\\\\")
    return f"{key}{equals}{quote}{value}{quote}"


def load_with_words(
    words: tuple[str, ...],
    file: str | None,
    say: Callable[[str], None],
    quiet: bool = False,
) -> DomainConfig:
    """The configuration; `say` is told what is read and what is ignored.  Raises UserError."""
    path, settings = split_words(words, file)
    text, source = "", "command line"
    if path is not None:
        if not quiet:
            say(f"Parsing config from {path}")
        text, source = _read(path), path
    elif not settings:
        raise UserError("no configuration: name a file, or give settings as KEY=VALUE")
    if settings:
        text += "\n" + "\n".join(settings) + "\n"
    config, warnings = parse_config(text, source)
    conf, more = user_conf()
    for warning in (*more, *warnings):
        say(f"xg: warning: {warning}")
    return with_absolute_paths(apply_defaults(config, conf), Path.cwd())


def _read(path: str) -> str:
    try:
        data = os.fsencode(path)
        with open(data, "rb") as stream:  # noqa: PTH123  # also what isn't UTF-8
            content = stream.read(MAX_SIZE + 1)
    except OSError as error:
        raise UserError(f"{path}: {(error.strerror or str(error)).lower()}") from None
    if b"\0" in content:
        raise UserError(f"{path}: not a configuration (it holds NUL bytes)")
    return content.decode("utf-8", "surrogateescape")


def with_absolute_paths(config: DomainConfig, folder: Path) -> DomainConfig:
    """The same with paths that don't depend on a working directory.

    A kernel or ramdisk may be an image by its name (xg image list).
    """
    return msgspec.structs.replace(
        config,
        kernel=_file(config.kernel, folder),
        ramdisk=_file(config.ramdisk, folder),
        disk=tuple(absolute_disk(disk, folder) for disk in config.disk),
    )


def _file(text: str | None, folder: Path) -> str | None:
    if text is None:
        return None
    if "/" not in text and not (folder / text).exists():
        from xenograft.toolstack.images.cache import ImageCache, kernel_or_image

        path = kernel_or_image(text, ImageCache())
        if path.is_absolute():
            return str(path)
    return str(folder / text)


def absolute_disk(disk: Disk, folder: Path) -> Disk:
    """A disk whose target is no relative path (those of URIs stay as they are)."""
    if not disk.target or _URI.match(disk.target) or disk.script:
        return disk
    return msgspec.structs.replace(disk, target=str(folder / disk.target))
