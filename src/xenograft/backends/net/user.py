# SPDX-License-Identifier: GPL-2.0-or-later
"""User networking: a port of a switch behind which lies the host's network, without any rights.

libslirp plays a router with NAT, a DHCP and a DNS server, and turns the guests' connections into
sockets of this process::

    10.0.2.2    the router; connections to it go to the host's 127.0.0.1
    10.0.2.3    the name server: the host's own
    10.0.2.15   the first address that DHCP gives out, and whom forwarded ports mean
    fec0::/64   the same for IPv6

Its sockets are watched through one epoll descriptor at the machine's door, and its timers run on
the machine's clock.
"""

from __future__ import annotations

import contextlib
import ctypes
import ipaddress
import os
import select
import socket
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from xenograft.backends.net import libslirp
from xenograft.backends.net.forward import Forward, ForwardError
from xenograft.backends.net.headers import locate
from xenograft.backends.net.packet import Packet, complete
from xenograft.backends.net.segments import LINK_MTU, PEER_MTU, fit, join, suited
from xenograft.backends.net.switch import Port

if TYPE_CHECKING:
    from xenograft.hypervisor.door import Door
    from xenograft.hypervisor.timers import Timer, TimerQueue

NETWORK = ipaddress.IPv4Network("10.0.2.0/24")
NETWORK6 = ipaddress.IPv6Network("fec0::/64")
ROUTER = NETWORK[2]
NAMESERVER = NETWORK[3]
FIRST_GUEST = NETWORK[15]

_IPV4, _ARP = b"\x08\x00", b"\x08\x06"
_NOT_GUESTS = (NETWORK.network_address, ROUTER, NAMESERVER, NETWORK.broadcast_address)

_AGAIN = 4
"""How often sockets are looked at before the guest has its turn."""

_WORTH_JOINING = 4096
"""Bytes of a frame that waits for its continuation, while libslirp is at work."""

BACKLOG = 128
"""Connections to a forwarded port that wait to be accepted at most."""

QUEUE_PACKETS = 2048
"""Packets for the host that wait for their turn."""

_EVENTS = (
    (libslirp.SLIRP_POLL_IN, select.EPOLLIN),
    (libslirp.SLIRP_POLL_OUT, select.EPOLLOUT),
    (libslirp.SLIRP_POLL_PRI, select.EPOLLPRI),
    (libslirp.SLIRP_POLL_ERR, select.EPOLLERR),
    (libslirp.SLIRP_POLL_HUP, select.EPOLLHUP),
)


@dataclass(slots=True)
class _Opened:
    """A forward that is open, and where it leads at the moment."""

    forward: Forward
    mac: bytes
    target: ipaddress.IPv4Address
    fixed: bool
    """The guest's address was given: it isn't looked for in its packets."""


class _Timer:
    """A timer that libslirp has asked for."""

    __slots__ = ("call", "running")

    def __init__(self, call: Callable[[], None]) -> None:
        self.call = call
        self.running: Timer | None = None


class UserNetwork(Port):
    """The port.  `clock` is the machine's time in ns.

    Raises libslirp.LibraryMissing.
    """

    def __init__(
        self,
        name: str,
        door: Door,
        timers: TimerQueue,
        clock: Callable[[], int],
        *,
        mtu: int = 1500,
        restricted: bool = False,
        library: Callable[[], Sequence[Path]] = tuple,
        log: Callable[[str], None] = lambda _line: None,
    ) -> None:
        """`restricted`: guests reach nothing outside; forwarded ports still lead to them.

        `library` finds libslirp's files, if the system has none (see libslirp.load).
        """
        super().__init__(name)
        self._library = libslirp.load(library)
        self._door = door
        self._timers = timers
        self._clock = clock
        self._log = log
        self._mtu = mtu
        self._slirp: int | None = None
        self._epoll = select.epoll()
        self._watching = False
        self._registered: dict[int, int] = {}
        self._wanted: dict[int, int] = {}
        self._ready: dict[int, int] = {}
        self._queue: deque[Packet] = deque()
        self._inside = False
        self._held = b""
        self._tick: Timer | None = None
        self._own_timers: dict[int, _Timer] = {}
        self._next_timer = 1
        self._opened: list[_Opened] = []
        self._followed: set[bytes] = set()
        """Guests whose addresses are looked for in their packets."""
        self._callbacks = self._make_callbacks()
        self._add_poll = libslirp.AddPollCb(self._on_add_poll)
        self._get_revents = libslirp.GetREventsCb(self._on_get_revents)
        self._open(restricted)
        self._refresh()

    # -- libslirp ------------------------------------------------------------------------------
    def _open(self, restricted: bool) -> None:
        of, of6 = libslirp.in_addr.of, libslirp.in6_addr.of
        config = libslirp.SlirpConfig(
            version=1,
            restricted=restricted,
            in_enabled=True,
            vnetwork=of(NETWORK.network_address.packed),
            vnetmask=of(NETWORK.netmask.packed),
            vhost=of(ROUTER.packed),
            in6_enabled=True,
            vprefix_addr6=of6(NETWORK6.network_address.packed),
            vprefix_len=NETWORK6.prefixlen,
            vhost6=of6(NETWORK6[2].packed),
            vnameserver6=of6(NETWORK6[3].packed),
            # The host name that DHCP gives out: none.  Left away, it would be read through NULL.
            vhostname=b"",
            vdhcp_start=of(FIRST_GUEST.packed),
            vnameserver=of(NAMESERVER.packed),
            if_mtu=PEER_MTU,
            if_mru=LINK_MTU,
        )
        self._slirp = self._library.slirp_new(
            ctypes.byref(config), ctypes.byref(self._callbacks), None
        )
        if not self._slirp:
            raise libslirp.LibraryMissing("libslirp doesn't take our configuration")

    def _make_callbacks(self) -> libslirp.SlirpCb:
        lib = libslirp
        return lib.SlirpCb(
            send_packet=lib.WriteCb(self._on_send_packet),
            guest_error=lib.MessageCb(self._on_guest_error),
            clock_get_ns=lib.ClockCb(lambda _opaque: self._clock()),
            timer_new=lib.TimerNewCb(self._on_timer_new),
            timer_free=lib.TimerFreeCb(self._on_timer_free),
            timer_mod=lib.TimerModCb(self._on_timer_mod),
            register_poll_fd=lib.PollFdCb(lambda _fd, _opaque: None),
            unregister_poll_fd=lib.PollFdCb(self._on_unregister),
            notify=lib.NotifyCb(lambda _opaque: None),
        )

    def _on_send_packet(self, buffer: int, length: int, _opaque: Any) -> int:
        """A packet for the guests.  Its checksums are right: libslirp has computed them."""
        data = ctypes.string_at(buffer, length)
        if self._held:
            joined = join(self._held, data, self._mtu)
            if joined is not None:
                self._held = b""
                self.send(joined)
                return length
            self._send_held()
        if self._inside and length >= _WORTH_JOINING:
            self._held = data
        else:
            self._send_on(data)
        return length

    def _send_held(self) -> None:
        """The frame that has waited for its continuation goes on its way."""
        data, self._held = self._held, b""
        if data:
            self._send_on(data)

    def _send_on(self, data: bytes) -> None:
        if _false_reply(data):
            return
        for packet in fit(data, self._mtu):
            self.send(packet)

    def _on_guest_error(self, message: bytes, _opaque: Any) -> None:
        self._log(f"{self.name}: {message.decode('utf-8', 'replace').strip()}")

    def _on_timer_new(self, callback: int, argument: int | None, _opaque: Any) -> int:
        function = libslirp.TimerCb(callback)
        handle, self._next_timer = self._next_timer, self._next_timer + 1
        self._own_timers[handle] = _Timer(lambda: function(argument))
        return handle

    def _on_timer_free(self, handle: int, _opaque: Any) -> None:
        timer = self._own_timers.pop(handle, None)
        if timer is not None:
            self._timers.cancel(timer.running)

    def _on_timer_mod(self, handle: int, expire_ms: int, _opaque: Any) -> None:
        timer = self._own_timers.get(handle)
        if timer is None:
            return
        self._timers.cancel(timer.running)
        timer.running = self._timers.add(expire_ms * 1_000_000, lambda: self._enter(timer.call))

    def _on_unregister(self, fd: int, _opaque: Any) -> None:
        """A socket is about to be closed: the next one may have its number."""
        if fd in self._registered:
            self._forget(fd)

    def _on_add_poll(self, fd: int, events: int, _opaque: Any) -> int:
        self._wanted[fd] = self._wanted.get(fd, 0) | events
        return fd

    def _on_get_revents(self, fd: int, _opaque: Any) -> int:
        return self._ready.get(fd, 0)

    # -- into libslirp, and out again ------------------------------------------------------------
    def _enter(self, work: Callable[[], object]) -> None:
        """Do something in libslirp, then see what it waits for and bring on what it has sent."""
        if self._slirp is None or self._inside:
            return
        self._inside = True
        try:
            work()
            self._refresh()
            # What the guest has just made room for is often there already.
            for _ in range(_AGAIN):
                if not self._poll():
                    break
                self._refresh()
        finally:
            self._inside = False
        self._send_held()
        if self.switch is not None:
            self.switch.run()

    def _refresh(self) -> None:
        """Find out which sockets libslirp waits for, and how long."""
        timeout = ctypes.c_uint32(libslirp.TIMEOUT_INFINITE)
        self._wanted = {}
        self._library.slirp_pollfds_fill(self._slirp, ctypes.byref(timeout), self._add_poll, None)
        wanted = {fd: _to_epoll(events) for fd, events in self._wanted.items()}
        for fd in list(self._registered):
            if fd not in wanted:
                self._forget(fd)
        for fd, mask in wanted.items():
            if self._registered.get(fd) != mask:
                self._register(fd, mask)
        if bool(self._registered) is not self._watching:
            self._watching = bool(self._registered)
            if self._watching:
                self._door.watch(self._epoll.fileno(), self._on_ready)
            else:
                self._door.unwatch(self._epoll.fileno())
        self._tick_by(timeout.value)

    def _tick_by(self, timeout_ms: int) -> None:
        """See that libslirp is entered in this time.  One look too early does no harm."""
        tick = self._tick
        if timeout_ms == libslirp.TIMEOUT_INFINITE:
            self._timers.cancel(tick)
            return
        deadline = self._clock() + max(timeout_ms, 1) * 1_000_000
        if tick is None or not tick.active or tick.deadline > deadline:
            self._timers.cancel(tick)
            self._tick = self._timers.add(deadline, self._on_ready)

    def _register(self, fd: int, mask: int) -> None:
        # A descriptor that was closed and opened again has left the set without our knowing.
        try:
            if fd in self._registered:
                self._epoll.modify(fd, mask)
            else:
                self._epoll.register(fd, mask)
        except FileNotFoundError:
            self._epoll.register(fd, mask)
        except FileExistsError:
            self._epoll.modify(fd, mask)
        self._registered[fd] = mask

    def _forget(self, fd: int) -> None:
        del self._registered[fd]
        # It has left the set by itself if it was closed.
        try:
            self._epoll.unregister(fd)
        except OSError:
            return

    def _on_ready(self) -> None:
        """Sockets are ready, or time has gone by."""
        self._enter(lambda: self._poll(always=True))

    def _poll(self, always: bool = False) -> bool:
        """Serve the sockets that are ready; whether there were any."""
        self._ready = {fd: _from_epoll(mask) for fd, mask in self._epoll.poll(0)}
        if self._ready or always:
            self._library.slirp_pollfds_poll(self._slirp, 0, self._get_revents, None)
        return bool(self._ready)

    # -- the switch's side -------------------------------------------------------------------------
    def deliver(self, packet: Packet) -> bool:
        if self._slirp is None or len(self._queue) >= QUEUE_PACKETS:
            return False
        self._queue.append(packet)
        return True

    def flush(self) -> None:
        self._enter(self._input)

    def _input(self) -> None:
        resolved = False
        while self._queue:
            packet = self._queue.popleft()
            resolved = resolved or packet.data[12:14] == _ARP
            if packet.source in self._followed:
                self._follow(packet.data)
            # Segmentation is left undone here too: TCP data is TCP data.
            headers = locate(packet.data)
            if headers is not None:
                packet = complete(suited(packet, headers), headers)
            self._library.slirp_input(self._slirp, packet.data, len(packet.data))
        if resolved:
            # What has waited for that address (a second at most) is sent when it looks next.
            self._poll(always=True)

    # -- forwards --------------------------------------------------------------------------------
    @property
    def forwards(self) -> list[Forward]:
        """The forwards that are open, with the host ports that were found."""
        return [one.forward for one in self._opened]

    def open_forward(
        self, forward: Forward, mac: bytes, address: ipaddress.IPv4Address | None = None
    ) -> Forward:
        """Open a port of the host for the guest behind `mac`; returns what was opened.

        Without its `address`, that is the next one of the DHCP server's, until a packet of the
        guest's tells which it has.  Raises ForwardError.
        """
        if not forward.host_port:
            forward = msgspec.structs.replace(forward, host_port=_free_port(forward))
        macs = dict.fromkeys(one.mac for one in self._opened)
        known = next((one.target for one in self._opened if one.mac == mac), None)
        target = address or known or FIRST_GUEST + len(macs)
        opened = _Opened(forward, mac, target, address is not None)
        self._listen(opened)
        self._opened.append(opened)
        self._note_followed()
        return forward

    def close_forward(self, forward: Forward) -> None:
        """Close a port that `open_forward` returned; nothing happens if it isn't open."""
        for opened in self._opened:
            if opened.forward == forward:
                self._opened.remove(opened)
                self._deafen(opened)
                self._note_followed()
                if not self._inside:
                    self._refresh()
                return

    def _note_followed(self) -> None:
        self._followed = {one.mac for one in self._opened if not one.fixed}

    def _listen(self, opened: _Opened) -> None:
        forward = opened.forward
        of = libslirp.in_addr.of
        done = self._library.slirp_add_hostfwd(
            self._slirp,
            forward.protocol == "udp",
            of(ipaddress.IPv4Address(forward.host_address).packed),
            forward.host_port,
            of(opened.target.packed),
            forward.guest_port,
        )
        if done < 0:
            raise ForwardError(
                f"can't listen on {forward.host_address}, {forward.protocol} port"
                f" {forward.host_port}: it's in use, or not allowed"
            )
        self._refresh()
        for fd in self._registered:
            _lengthen(fd)

    def _deafen(self, opened: _Opened) -> None:
        forward = opened.forward
        self._library.slirp_remove_hostfwd(
            self._slirp,
            forward.protocol == "udp",
            libslirp.in_addr.of(ipaddress.IPv4Address(forward.host_address).packed),
            forward.host_port,
        )

    def _follow(self, data: bytes) -> None:
        """Let the forwards of a guest lead to the address that its packet comes from."""
        kind = data[12:14]
        source = data[26:30] if kind == _IPV4 else data[28:32] if kind == _ARP else b""
        if len(source) != 4:
            return
        address = ipaddress.IPv4Address(source)
        if address not in NETWORK or address in _NOT_GUESTS:
            return
        for opened in self._opened:
            if opened.mac == data[6:12] and not opened.fixed and opened.target != address:
                self._deafen(opened)
                opened.target = address
                try:
                    self._listen(opened)
                except ForwardError as error:
                    self._log(f"{self.name}: {error}")

    def close(self) -> None:
        """Close all sockets; a second time does nothing."""
        if self._slirp is None:
            return
        self.unplug()
        slirp, self._slirp = self._slirp, None
        if self._watching:
            self._watching = False
            self._door.unwatch(self._epoll.fileno())
        self._timers.cancel(self._tick)
        self._library.slirp_cleanup(slirp)
        for timer in self._own_timers.values():
            self._timers.cancel(timer.running)
        self._own_timers.clear()
        self._queue.clear()
        self._opened.clear()
        self._epoll.close()


def _lengthen(fd: int) -> None:
    """Let more clients wait to be accepted than libslirp does: it takes one at a time."""
    with contextlib.suppress(OSError), socket.socket(fileno=os.dup(fd)) as one:
        if one.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
            one.listen(BACKLOG)


def _free_port(forward: Forward) -> int:
    """A port of the host that nobody uses at the moment."""
    kind = socket.SOCK_DGRAM if forward.protocol == "udp" else socket.SOCK_STREAM
    with socket.socket(socket.AF_INET, kind) as probe:
        try:
            probe.bind((forward.host_address, 0))
        except OSError as error:
            raise ForwardError(f"can't listen on {forward.host_address}: {error}") from None
        port: int = probe.getsockname()[1]
        return port


def _false_reply(data: bytes) -> bool:
    """Whether it's an error that libslirp shows as the answer to a ping.

    That happens where it needs a raw socket for ping, and somebody on the way can't reach the
    host that was meant: the error's code is still in it.
    """
    transport = 14 + (data[14] & 15) * 4 if len(data) > 14 else 0
    return (
        data[12:14] == _IPV4
        and data[23:24] == b"\x01"
        and data[transport : transport + 1] == b"\0"
        and data[transport + 1 : transport + 2] != b"\0"
    )


@cache
def _to_epoll(events: int) -> int:
    return sum(theirs for ours, theirs in _EVENTS if events & ours)


@cache
def _from_epoll(mask: int) -> int:
    return sum(ours for ours, theirs in _EVENTS if mask & theirs)
