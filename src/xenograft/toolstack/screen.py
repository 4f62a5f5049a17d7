# SPDX-License-Identifier: GPL-2.0-or-later
"""A domain's screen, keyboard and pointer, as programs and people use them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from xenograft.backends.display.keys import BUTTONS, NAMED, SHIFT, TYPED
from xenograft.backends.xenbus.device import DeviceError
from xenograft.toolstack.config.values import nearest
from xenograft.toolstack.errors import UserError

if TYPE_CHECKING:
    from xenograft.backends.display.framebuffer import FramebufferDevice
    from xenograft.backends.display.keyboard import KeyboardDevice
    from xenograft.backends.display.picture import Picture
    from xenograft.backends.xenbus.device import XenbusDevice
    from xenograft.toolstack.machine import Domain


class Screen:
    """What belongs to a domain's first `vfb=` (and `vkb=`).

    All methods raise UserError: there's none, or the guest hasn't set it up yet.
    """

    def __init__(self, domain: Domain) -> None:
        self._domain = domain

    def _device(self, kind: str, key: str) -> XenbusDevice:
        bus = self._domain.machine.services.buses[kind]
        devices = bus.of_domain(self._domain.domid)
        if not devices:
            raise UserError(f"{self._domain.name} has no {key}=; give it one in its configuration")
        return devices[0]

    @property
    def framebuffer(self) -> FramebufferDevice:
        """The back end's device."""
        from xenograft.backends.display.framebuffer import FramebufferDevice

        device = self._device("vfb", "vfb")
        assert isinstance(device, FramebufferDevice)  # its bus makes no other
        return device

    @property
    def keyboard(self) -> KeyboardDevice:
        """The back end's device."""
        from xenograft.backends.display.keyboard import KeyboardDevice

        device = self._device("vkbd", "vkb")
        assert isinstance(device, KeyboardDevice)  # its bus makes no other
        return device

    def _do(self, work: Callable[[], object]) -> None:
        try:
            work()
        except DeviceError as error:
            raise UserError(f"{self._domain.name}: {error}") from None

    # -- looking -----------------------------------------------------------------------------
    def picture(self) -> Picture:
        """What the screen shows now."""
        from xenograft.abi.errno import XenError

        try:
            return self.framebuffer.picture()
        except DeviceError as error:
            raise UserError(f"{self._domain.name}: {error}") from None
        except XenError:
            raise UserError(
                f"{self._domain.name}: its frame buffer lies where there's no memory"
            ) from None

    def screenshot(self, path: str | Path) -> Picture:
        """The same, written to a PNG file as well."""
        picture = self.picture()
        try:
            Path(path).write_bytes(picture.png())
        except OSError as error:
            raise UserError(f"screenshot {path}: {error.strerror or error}") from None
        return picture

    # -- typing ------------------------------------------------------------------------------
    def press(self, *names: str) -> None:
        """Press keys together and let them go, by name: ``press("ctrl", "alt", "delete")``."""
        codes = []
        for name in names:
            if name.lower() not in NAMED:
                raise UserError(f"{name[:40]!r} is no key{nearest(name.lower(), NAMED)}")
            codes.append(NAMED[name.lower()])
        for code in codes:
            self.key(code, True)
        for code in reversed(codes):
            self.key(code, False)

    def type(self, text: str) -> None:
        """Type a text on a US keyboard."""
        unknown = next((char for char in text if char not in TYPED), None)
        if unknown is not None:
            raise UserError(f"{unknown!r} isn't on a US keyboard")
        for char in text:
            code, shifted = TYPED[char]
            if shifted:
                self.key(SHIFT, True)
            self.key(code, True)
            self.key(code, False)
            if shifted:
                self.key(SHIFT, False)

    def key(self, code: int, pressed: bool) -> None:
        """Press or release a key by Linux's key code."""
        self._do(lambda: self.keyboard.key(code, pressed))

    # -- pointing ----------------------------------------------------------------------------
    def move_to(self, x: int, y: int) -> None:
        """Put the pointer to a place of the screen."""
        self._do(lambda: self.keyboard.place(x, y))

    def move(self, x: int, y: int, wheel: int = 0) -> None:
        """Move the pointer, and turn its wheel."""
        self._do(lambda: self.keyboard.move(x, y, wheel))

    def click(self, button: str = "left") -> None:
        """Press and release a button: left, right or middle."""
        if button not in BUTTONS:
            raise UserError(f"{button[:40]!r} is no button; there are {', '.join(BUTTONS)}")
        self.key(BUTTONS[button], True)
        self.key(BUTTONS[button], False)
