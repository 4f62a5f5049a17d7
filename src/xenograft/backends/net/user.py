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

import ctypes
import ipaddress
import select
import socket
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from xenograft.backends.net import libslirp
from xenograft.backends.net.packet import Packet, complete
from xenograft.backends.net.switch import Port

if TYPE_CHECKING:
    from xenograft.hypervisor.door import Door
    from xenograft.hypervisor.timers import Timer, TimerQueue

NETWORK = ipaddress.IPv4Network("10.0.2.0/24")
NETWORK6 = ipaddress.IPv6Network("fec0::/64")
ROUTER = NETWORK[2]
NAMESERVER = NETWORK[3]
FIRST_GUEST = NETWORK[15]

QUEUE_PACKETS = 2048
"""Packets for the host that wait for their turn."""

_EVENTS = (
    (libslirp.SLIRP_POLL_IN, select.EPOLLIN),
    (libslirp.SLIRP_POLL_OUT, select.EPOLLOUT),
    (libslirp.SLIRP_POLL_PRI, select.EPOLLPRI),
    (libslirp.SLIRP_POLL_ERR, select.EPOLLERR),
    (libslirp.SLIRP_POLL_HUP, select.EPOLLHUP),
)


class Forward(msgspec.Struct, frozen=True):
    """A port of the host that leads to a port of the guest."""

    protocol: str
    """tcp or udp."""
    host_address: str
    host_port: int
    """0: any that is free; see `UserNetwork.forwards` for which."""
    guest_port: int
    guest_address: str = str(FIRST_GUEST)

    def __str__(self) -> str:
        return (
            f"{self.protocol}:{self.host_address}:{self.host_port}"
            f":{self.guest_address}:{self.guest_port}"
        )


class ForwardError(Exception):
    """A port of the host can't be had: one line."""


class _Timer:
    """A timer that libslirp has asked for."""

    __slots__ = ("call", "running")

    def __init__(self, call: Callable[[], None]) -> None:
        self.call = call
        self.running: Timer | None = None


class UserNetwork(Port):
    """The port.  `clock` is the machine's time in ns.

    Raises libslirp.LibraryMissing, and ForwardError.
    """

    def __init__(
        self,
        name: str,
        door: Door,
        timers: TimerQueue,
        clock: Callable[[], int],
        *,
        forwards: tuple[Forward, ...] = (),
        mtu: int = 1500,
        restricted: bool = False,
        library: tuple[Path, ...] = (),
        log: Callable[[str], None] = lambda _line: None,
    ) -> None:
        """`restricted`: guests reach nothing of the host's but the forwarded ports."""
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
        self._tick: Timer | None = None
        self._own_timers: dict[int, _Timer] = {}
        self._next_timer = 1
        self.forwards: list[Forward] = []
        """The forwards that are open, with the host ports that were found."""
        self._callbacks = self._make_callbacks()
        self._add_poll = libslirp.AddPollCb(self._on_add_poll)
        self._get_revents = libslirp.GetREventsCb(self._on_get_revents)
        self._open(restricted)
        try:
            for forward in forwards:
                self.add_forward(forward)
        except ForwardError:
            self.close()
            raise
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
            if_mtu=self._mtu,
            if_mru=self._mtu,
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
            unregister_poll_fd=lib.PollFdCb(lambda _fd, _opaque: None),
            notify=lib.NotifyCb(lambda _opaque: None),
        )

    def _on_send_packet(self, buffer: int, length: int, _opaque: Any) -> int:
        """A packet for the guests.  Its checksums are right: libslirp has computed them."""
        self.send(Packet(ctypes.string_at(buffer, length), validated=True))
        return length

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

    def _on_add_poll(self, fd: int, events: int, _opaque: Any) -> int:
        self._wanted[fd] = self._wanted.get(fd, 0) | events
        return fd

    def _on_get_revents(self, fd: int, _opaque: Any) -> int:
        return self._ready.get(fd, 0)

    # -- into libslirp, and out again ------------------------------------------------------------
    def _enter(self, work: Callable[[], None]) -> None:
        """Do something in libslirp, then see what it waits for and bring on what it has sent."""
        if self._slirp is None or self._inside:
            return
        self._inside = True
        try:
            work()
            self._refresh()
        finally:
            self._inside = False
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
        self._timers.cancel(self._tick)
        self._tick = None
        if timeout.value != libslirp.TIMEOUT_INFINITE:
            deadline = self._clock() + max(timeout.value, 1) * 1_000_000
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
        self._enter(self._poll)

    def _poll(self) -> None:
        self._ready = {fd: _from_epoll(mask) for fd, mask in self._epoll.poll(0)}
        self._library.slirp_pollfds_poll(self._slirp, 0, self._get_revents, None)

    # -- the switch's side -------------------------------------------------------------------------
    def deliver(self, packet: Packet) -> bool:
        if self._slirp is None or len(self._queue) >= QUEUE_PACKETS:
            return False
        self._queue.append(packet)
        return True

    def flush(self) -> None:
        self._enter(self._input)

    def _input(self) -> None:
        while self._queue:
            packet = complete(self._queue.popleft())
            # Segmentation is left undone here too: TCP data is TCP data.
            self._library.slirp_input(self._slirp, packet.data, len(packet.data))

    # -- forwards --------------------------------------------------------------------------------
    def add_forward(self, forward: Forward) -> Forward:
        """Open a port of the host; returns what was opened.  Raises ForwardError."""
        udp = forward.protocol == "udp"
        if not forward.host_port:
            forward = msgspec.structs.replace(forward, host_port=_free_port(forward))
        of = libslirp.in_addr.of
        done = self._library.slirp_add_hostfwd(
            self._slirp,
            udp,
            of(ipaddress.IPv4Address(forward.host_address).packed),
            forward.host_port,
            of(ipaddress.IPv4Address(forward.guest_address).packed),
            forward.guest_port,
        )
        if done < 0:
            raise ForwardError(
                f"can't listen on {forward.host_address} {forward.protocol} port"
                f" {forward.host_port}: it's in use, or not allowed"
            )
        self.forwards.append(forward)
        if not self._inside:
            self._refresh()
        return forward

    def remove_forward(self, forward: Forward) -> None:
        """Close a port that `add_forward` returned.  Raises ForwardError if it isn't open."""
        if forward not in self.forwards:
            raise ForwardError(f"{forward} isn't open")
        self.forwards.remove(forward)
        self._library.slirp_remove_hostfwd(
            self._slirp,
            forward.protocol == "udp",
            libslirp.in_addr.of(ipaddress.IPv4Address(forward.host_address).packed),
            forward.host_port,
        )
        self._refresh()

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
        self.forwards.clear()
        self._epoll.close()


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


def _to_epoll(events: int) -> int:
    return sum(theirs for ours, theirs in _EVENTS if events & ours)


def _from_epoll(mask: int) -> int:
    return sum(ours for ours, theirs in _EVENTS if mask & theirs)
