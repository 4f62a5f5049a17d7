# SPDX-License-Identifier: GPL-2.0-or-later
"""A back end's device: its nodes in the store, its state, and what it does at each step.

A kind of device (block, net …) is a subclass that says what `offer`, `connect`, `disconnect` and
`release` mean to it.  This class writes the `state` node, watches the front end's, keeps the
steps in order, and turns whatever goes wrong into the device's error node and the state Closing:
a front end that writes nonsense hurts its own device alone.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar

from xenograft.abi.errno import Errno, XenError
from xenograft.abi.io.xenbus import XenbusState
from xenograft.backends.ring import RingError
from xenograft.backends.xenbus.state import Step, next_step, parse_state
from xenograft.hypervisor.grants.status import GrantError

if TYPE_CHECKING:
    from xenograft.backends.xenbus.host import BackendHost, EventChannel
    from xenograft.store.client import StoreView

_NUMBER_DIGITS = 20


class DeviceError(Exception):
    """A device can't be had, or its front end is wrong: `errno` and one line."""

    def __init__(self, errno: Errno, message: str) -> None:
        super().__init__(message)
        self.errno = errno


class XenbusDevice(ABC):
    """One device of one back end.

    `path` is the back end's directory in the store, ``/local/domain/0/backend/vbd/3/51712``.
    Hooks run on the machine's thread, and raise DeviceError, XenError, GrantError or RingError.
    """

    kind: ClassVar[str]
    """The device class in paths: ``vbd``, ``vif`` …"""

    saved: ClassVar[Any] = None
    """The type of what `save` returns; None: a device of this kind keeps nothing of its own."""

    def __init__(self, host: BackendHost, path: str, domid: int, devid: int) -> None:
        self._adopting = False
        self.host = host
        self.path = path
        self.domid = domid
        """The front end's domain."""
        self.devid = devid
        self.state = XenbusState.Initialising
        self.frontend_state = XenbusState.Unknown
        self.frontend = ""
        """The front end's directory in the store."""
        self.error: str | None = None
        """What went wrong last, as in the device's error node."""
        self.removed = False
        self.delay_ns = 0
        """How much later than need be a disk answers and packets reach the guest: a fault that
        tests inject, in ns of the machine's time."""
        self.on_removed: Callable[[XenbusDevice], None] | None = None
        self._watches: list[tuple[str, str]] = []
        self._held = False

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.path} {self.state.name}>"

    # -- what kinds of devices do ------------------------------------------------------------
    @abstractmethod
    def offer(self) -> None:
        """Open what stands behind the device; publish its features.  Before InitWait."""

    @abstractmethod
    def connect(self) -> None:
        """Map the rings, bind the ports, publish the device's properties.  Before Connected."""

    def connected(self) -> None:  # noqa: B027  # most devices have nothing more to do
        """The state Connected has been written."""

    def channels(self) -> list[EventChannel]:
        """The event channels to the front end, while it's connected."""
        return []

    def reconfigure(self) -> None:  # noqa: B027  # most kinds have nothing to change
        """Take over what the front end has changed while connected.  Before Reconfigured."""

    @abstractmethod
    def disconnect(self) -> None:
        """Let go of the front end's rings and ports.  May be called at any time, repeatedly."""

    @abstractmethod
    def release(self) -> None:
        """Let go of what `offer` opened.  May be called at any time, repeatedly."""

    def busy(self) -> bool:
        """Whether something of the front end's is still under way after `disconnect`.

        The device calls `settled` when it isn't any more.
        """
        return False

    # -- another life ------------------------------------------------------------------------
    def quiesce(self) -> None:  # noqa: B027  # most devices show their answers at once
        """Show the front end all answers that there are; called when nothing is under way."""

    def save(self) -> Any:
        """What isn't in the store or the front end's pages, or None; call `quiesce` before."""
        return None

    def restore(self, state: Any) -> None:  # noqa: B027  # nothing is kept, nothing comes back
        """Go on with a saved device's `state`; the front end is connected already.

        It comes out of a file: only its types can be trusted.  Raises DeviceError, RingError.
        """

    def lend(self) -> None:  # noqa: B027  # most kinds hold nothing that's there only once
        """Let go of what another back end of this device needs, which may be another process's.

        Nothing may be under way, and the guest has to stand still.  Raises OSError.
        """

    def take_back(self) -> None:  # noqa: B027  # nothing was lent, nothing comes back
        """Go on with what was lent.  Raises DeviceError if it isn't to be had."""

    # -- the store ---------------------------------------------------------------------------
    def read(self, name: str, default: str | None = None) -> str | None:
        """A node of the back end's directory."""
        return self.host.store.get(f"{self.path}/{name}", default)

    def write(self, name: str, value: str | int) -> None:
        self.host.store.write(f"{self.path}/{name}", value)

    def read_frontend(self, name: str, default: str | None = None) -> str | None:
        """A node of the front end's directory."""
        return self.host.store.get(f"{self.frontend}/{name}", default)

    def frontend_number(self, name: str, default: int | None = None, limit: int = 1 << 32) -> int:
        """A number below `limit` that the front end has written.

        Raises DeviceError if it's missing (without `default`) or no such number.
        """
        value = self.read_frontend(name)
        if value is None:
            if default is None:
                raise DeviceError(Errno.ENOENT, f"reading {self.frontend}/{name}")
            return default
        text = value.strip()
        if not (text.isascii() and text.isdigit() and len(text) <= _NUMBER_DIGITS):
            raise DeviceError(Errno.EINVAL, f"{self.frontend}/{name} is no number")
        if int(text) >= limit:
            raise DeviceError(Errno.EINVAL, f"{self.frontend}/{name} is {text}, not < {limit}")
        return int(text)

    def publish(self, nodes: dict[str, str | int]) -> None:
        """Write several nodes of the back end's directory at once."""
        if self._adopting:
            # The one before has said it all; nobody is to hear it again.
            nodes = {name: value for name, value in nodes.items() if self.read(name) != str(value)}
            if not nodes:
                return

        def work(view: StoreView) -> None:
            for name, value in nodes.items():
                view.write(f"{self.path}/{name}", value)

        self.host.store.transact(work)

    def watch(self, path: str, callback: Callable[[str], None]) -> None:
        """Call `callback` with paths that change at or below `path`, until the device goes."""

        def changed(where: str, _token: str) -> None:
            if not self.removed:
                self.guard(lambda: callback(where))

        self._watches.append((path, self.host.store.watch(path, changed)))

    # -- states ------------------------------------------------------------------------------
    def start(self) -> None:
        """Begin: find the front end and follow its state."""

        def begin() -> None:
            self._find_frontend()
            self._follow_frontend()

        self.guard(begin)

    def adopt(self, state: Any) -> None:
        """Begin where another back end of this device has stopped, as the store's nodes say.

        The front end has set up everything long ago, and notices nothing: no state is written.
        `state` is what the other one's `save` returned.  What goes wrong is in `error`.
        """

        def take_over() -> None:
            self._find_frontend()
            self.state = parse_state(self.read("state"))
            self.frontend_state = parse_state(self.read_frontend("state"))
            running = self.state in (XenbusState.Connected, XenbusState.Reconfigured)
            if running or self.state is XenbusState.InitWait:
                self.offer()
            if running:
                self.connect()
                if state is not None:
                    self.restore(state)
                self.connected()

        self._adopting = True
        self.guard(take_over)
        self._adopting = False
        if self.error is None:
            self.guard(self._follow_frontend)

    def _find_frontend(self) -> None:
        frontend = self.read("frontend")
        if not frontend:
            raise DeviceError(Errno.ENOENT, f"reading {self.path}/frontend")
        self.frontend = frontend

    def _follow_frontend(self) -> None:
        self.watch(f"{self.frontend}/state", lambda _path: self._follow())

    @property
    def online(self) -> bool:
        """Whether the toolstack wants the device to stay when the front end closes."""
        return self.read("online", "0") == "1"

    def switch(self, state: XenbusState) -> None:
        """Write our state, unless the toolstack has removed the device."""
        self.state = state
        path = f"{self.path}/state"

        def work(view: StoreView) -> None:
            if view.get(path) is not None:
                view.write(path, int(state))

        self.host.store.transact(work)

    def _follow(self) -> None:
        """The front end's state may have changed."""
        self.frontend_state = parse_state(self.read_frontend("state"))
        step = next_step(self.state, self.frontend_state, self.online)
        if step is Step.REMOVE:
            self.remove()
            return
        if step is Step.STOP:
            self.switch(XenbusState.Closing)
        if step is Step.RECONFIGURE:
            self.reconfigure()
            self.switch(XenbusState.Reconfigured)
        if step in (Step.NOTHING, Step.STOP, Step.RECONFIGURE):
            return
        # What was under way for the front end's last life has to end before the next one.
        self.disconnect()
        self._held = self.busy()
        if self._held:
            return
        match step:
            case Step.OFFER:
                self.error = None
                self.offer()
                self.switch(XenbusState.InitWait)
            case Step.CONNECT:
                self.connect()
                self.switch(XenbusState.Connected)
                self.connected()
            case Step.CLOSE:
                self.switch(XenbusState.Closed)

    def settled(self) -> None:
        """What was under way is done: called by the device once `busy` is false again."""
        if self.removed:
            self._gone()
        elif self._held:
            self._held = False
            self.guard(self._follow)

    def remove(self) -> None:
        """The device goes for good, as soon as nothing is under way."""
        if self.removed:
            return
        self.disconnect()
        self.removed = True
        for path, token in self._watches:
            self.host.store.unwatch(path, token)
        self._watches.clear()
        if not self.busy():
            self._gone()

    def _gone(self) -> None:
        self.release()
        self.switch(XenbusState.Closed)
        if self.on_removed is not None:
            self.on_removed(self)

    # -- errors ------------------------------------------------------------------------------
    def guard(self, work: Callable[[], None]) -> None:
        """Do something on behalf of the front end; what it gets wrong ends the device only."""
        try:
            work()
        except DeviceError as error:
            self.fail(error.errno, str(error))
        except XenError as error:
            self.fail(error.errno, f"the hypervisor or the store answered {error.errno.name}")
        except GrantError as error:
            self.fail(Errno.EINVAL, f"mapping grants: {error}")
        except RingError as error:
            self.fail(Errno.EIO, str(error))

    def fail(self, errno: Errno, message: str) -> None:
        """A fatal error: note it, let go of the front end, and say Closing (xenbus_dev_fatal)."""
        self.error = f"{-int(errno)} {message}"
        self.host.log(f"{self.path}: {message}")
        node = self.path.removeprefix(f"/local/domain/{self.host.domid}/")
        self.host.store.write(f"/local/domain/{self.host.domid}/error/{node}/error", self.error)
        self.disconnect()
        if not self.removed and self.state is not XenbusState.Closed:
            self.switch(XenbusState.Closing)
