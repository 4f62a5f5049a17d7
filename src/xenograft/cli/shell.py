# SPDX-License-Identifier: GPL-2.0-or-later
"""`xg completion`: the script that teaches a shell to complete `xg`."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

from xenograft.cli.group import Choice


@click.command()
@click.argument("shell", type=Choice(["bash", "zsh", "fish"], "shell"))
def completion(shell: str) -> None:
    """Print the completion script for a shell.

    \b
    bash:  eval "$(xg completion bash)"          (in ~/.bashrc)
    zsh:   eval "$(xg completion zsh)"           (in ~/.zshrc)
    fish:  xg completion fish | source           (in ~/.config/fish/config.fish)
    """
    from xenograft.cli.main import xg

    kind = get_completion_class(shell)
    assert kind is not None
    click.echo(kind(xg, {}, "xg", "_XG_COMPLETE").source())
