# SPDX-License-Identifier: GPL-2.0-or-later
"""Real guests on networks: Debian's kernel with its xen-netfront, busybox above it."""

from __future__ import annotations

import hashlib
import shutil
import socket
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.backends.net.test_pcap import read as read_pcap
from tests.network.conftest import Lab, Shell, WebServer, numbers
from xenograft.backends.net.vif import VifDevice
from xenograft.toolstack.config.options import from_options
from xenograft.toolstack.config.vif import parse_vif
from xenograft.toolstack.devices.capture import Capture
from xenograft.toolstack.errors import UserError

MakeLab = Callable[..., Lab]


def data_of(size: int) -> bytes:
    return hashlib.shake_128(b"network").digest(size)


def test_a_guest_fetches_from_the_hosts_loopback(
    lab: MakeLab, web: WebServer, tmp_path: Path
) -> None:
    web.files["/data"] = data_of(1 << 20)
    bench = lab()
    domain = bench.create("guest", "bridge=user", net="dhcp")
    capture = Capture(tmp_path / "net.pcap", bench.machine.hypervisor.clock)
    domain.devices.capture(capture)
    shell = Shell(domain)
    assert "inet 10.0.2.15/24" in shell.run("ip address show eth0")
    assert shell.run("cat /etc/resolv.conf") == "nameserver 10.0.2.3\n"
    digest = hashlib.md5(web.files["/data"], usedforsecurity=False).hexdigest()
    url = f"http://10.0.2.2:{web.port}"
    assert digest in shell.run(f"wget -q -O - {url}/data | md5sum")
    status, _ = shell.try_(f"wget -q -O - {url}/nonesuch")
    assert status != 0
    # And out: what busybox posts is text.
    web.files["/text"] = data_of(1 << 19).hex().encode()
    shell.run(f"wget -q -O /tmp/text {url}/text")
    shell.run(f"wget -q -O - --post-file /tmp/text {url}/")
    assert web.posted == [web.files["/text"]]
    shell.run("ping -c 2 -W 5 10.0.2.2")
    capture.close()
    packets = [packet for _, packet in read_pcap(tmp_path / "net.pcap")]
    assert any(b"GET /data HTTP" in packet for packet in packets)
    # Two transfers in, one out, with each byte in a packet of TCP.
    assert sum(len(packet) - 66 for packet in packets if len(packet) > 66) >= 3 << 20
    # In large segments both ways, which is what makes it quick.
    assert max(map(len, packets)) > 16384
    assert domain.devices.find("vif", 0) is not None


def test_two_guests_on_one_bridge(lab: MakeLab) -> None:
    bench = lab(bridges=["lan,mtu=9000"])
    a = bench.guest("a", "bridge=lan", net="10.9.0.1/24", vcpus=2)
    b = bench.guest("b", "bridge=lan", net="10.9.0.2/24")
    # A queue per vCPU, as Linux has it.
    device = bench.machine.services.devices(a.domain.domid)[0]
    assert isinstance(device, VifDevice)
    assert device.queues == 2
    for mtu in (1500, 9000):
        for shell in (a, b):
            shell.run(f"ip link set eth0 mtu {mtu}")
        output = a.run("ping -c 3 -W 5 10.9.0.2")
        assert numbers(r"(\d+) packets transmitted, (\d+) packets received", output) == (3, 3)
        # The largest that goes through whole, and one that's in pieces.
        for size in (mtu - 28, 20000):
            assert "2 packets received" in a.run(f"ping -c 2 -W 5 -s {size} 10.9.0.2")
        a.run("head -c 1000000 /dev/urandom > /tmp/data")
        b.console.send("nc -l -p 4000 | md5sum; echo received\n")
        a.run("while ! nc 10.9.0.2 4000 < /tmp/data; do sleep 0.1; done")
        digest = b.console.expect(r"([0-9a-f]{32})  -\r\nreceived\r\n", timeout=60)[1]
        assert a.run("md5sum < /tmp/data").startswith(digest)


def test_a_forwarded_port_reaches_the_guest(lab: MakeLab) -> None:
    bench = lab()
    spec = "bridge=user,forward=tcp:0:80"
    one = bench.guest("one", spec, net="dhcp")
    two = bench.guest("two", spec, net="dhcp")
    for shell, name in ((one, "one"), (two, "two")):
        shell.run(f"mkdir /www; echo I am {name} > /www/name; httpd -h /www")
    for shell, name in ((one, "one"), (two, "two")):
        (tcp,) = shell.domain.devices.forwards()
        with socket.create_connection(("127.0.0.1", tcp.host_port), 60) as client:
            client.sendall(b"GET /name HTTP/1.0\r\n\r\n")
            client.setblocking(False)
            got = bytearray()

            def received(client: socket.socket = client, got: bytearray = got) -> bool:
                try:
                    got.extend(client.recv(65536))
                except BlockingIOError:
                    return False
                return got.endswith(b"\n") and b"I am" in got

            bench.until(received)
        assert got.endswith(f"\r\n\r\nI am {name}\n".encode())
    port = one.domain.devices.forwards()[0].host_port
    one.domain.destroy()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port), 60)


def test_attached_and_detached_while_running(lab: MakeLab, web: WebServer) -> None:
    web.files["/data"] = data_of(100_000)
    bench = lab()
    shell = bench.guest("guest")
    assert shell.try_("ls /sys/class/net/eth0")[0] != 0
    devices = shell.domain.devices
    for _ in range(2):
        devices.attach_vif(parse_vif("bridge=user,mac=00:16:3e:11:22:33"))
        shell.run("while ! ip link set eth0 up; do sleep 0.1; done 2> /dev/null")
        assert "00:16:3e:11:22:33" in shell.run("ip link show eth0")
        shell.run("udhcpc -q -n -i eth0")
        output = shell.run(f"wget -q -O - http://10.0.2.2:{web.port}/data | md5sum")
        assert hashlib.md5(web.files["/data"], usedforsecurity=False).hexdigest() in output
        # While packets are on their way.
        shell.run("(ping -i 0.01 -q 10.0.2.2 > /tmp/ping 2>&1 &)")
        gone: list[bool] = []
        devices.detach("vif", 0, lambda gone=gone: gone.append(True))
        bench.until(lambda gone=gone: bool(gone))
        shell.run("while [ -e /sys/class/net/eth0 ]; do sleep 0.1; done; killall ping; true")
    assert bench.machine.services.devices(shell.domain.domid) == []
    assert bench.machine.control.grants.maptrack.keys() == {
        mapping for mapping, track in bench.machine.control.grants.maptrack.items() if track.ref < 8
    }


def test_names_addresses_and_routes(image: Callable[[str], Path], tmp_path: Path) -> None:
    """The host's name server answers the guest; DHCP and IPv6's advertisements do their work."""
    unshare = shutil.which("unshare")
    if unshare is None or subprocess.run([unshare, "-rmn", "true"], check=False).returncode:
        pytest.skip("no namespaces of our own to be had")
    command = [unshare, "-rmn", sys.executable, "-m", "tests.network.own_host", str(tmp_path)]
    done = subprocess.run(
        [*command, str(image("debian-cloud")), str(image("driver-initrd"))],
        capture_output=True,
        text=True,
        check=False,
        timeout=200,
    )
    assert done.stdout == "as it should be\n", done.stdout + done.stderr


def test_a_guest_keeps_to_its_rate(lab: MakeLab) -> None:
    """On the virtual clock, where times are the guest's own."""
    bench = lab(clock="virtual")
    limited = bench.guest("limited", "rate=1MB/s", net="10.9.0.1/24")
    free = bench.guest("free", "", net="10.9.0.2/24")
    took = []
    for sender, receiver, address in ((free, limited, "10.9.0.1"), (limited, free, "10.9.0.2")):
        sender.run("head -c 1000000 /dev/urandom > /tmp/data")
        receiver.console.send("nc -l -p 4000 | wc -c; echo received\n")
        receiver.domain.machine.run(timeout=0.2, until=lambda: False)
        begun = bench.machine.now
        sender.run(f"nc {address} 4000 < /tmp/data", timeout=300)
        # Its end has handed everything to its kernel; the other end has to have it.
        receiver.console.expect(r"1000000\r\nreceived\r\n")
        took.append(bench.machine.now - begun)
        receiver.console.expect("guest:~# ")
    # What comes to it isn't limited. What it sends may go over the limit by a burst at the end,
    # which real back ends make 128 KiB long.
    assert took[0] < 0.5 < 0.85 < took[1] < 1.5, took


def test_two_with_one_address(lab: MakeLab) -> None:
    """As on a real switch: frames follow whoever spoke last, and nothing breaks."""
    bench = lab()
    same = "bridge=xenbr0,mac=00:16:3e:00:00:01"
    one = bench.guest("one", same, net="10.9.0.1/24")
    two = bench.guest("two", same, net="10.9.0.2/24")
    other = bench.guest("other", "bridge=xenbr0", net="10.9.0.3/24")
    for shell in (one, two, one):
        assert " 2 packets received" in shell.run("ping -c 2 -W 5 10.9.0.3")
    assert other.run("echo alive") == "alive\n"


def test_a_run_of_two_guests_that_talk_repeats(lab: MakeLab, tmp_path: Path) -> None:
    def run(name: str) -> tuple[list[tuple[int, bytes]], bytes, bytes, int]:
        bench = lab(clock="virtual", bridges=["lan"])
        path = tmp_path / name
        capture = Capture(path, bench.machine.hypervisor.clock)
        domains = [
            bench.create(letter, "bridge=lan", net=f"10.9.0.{index}/24")
            for index, letter in ((1, "a"), (2, "b"))
        ]
        domains[0].devices.capture(capture)
        a, b = (Shell(domain) for domain in domains)
        b.console.send("nc -l -p 4000 | md5sum; echo received\n")
        a.run("ping -c 2 10.9.0.2; while ! nc 10.9.0.2 4000 < /bin/busybox; do sleep 0.1; done")
        b.console.expect("received\r\n")
        capture.close()
        now = bench.machine.hypervisor.clock.now()
        bench.machine.close()
        return read_pcap(path), a.console.raw, b.console.raw, now

    first = run("first")
    assert len(first[0]) > 100
    assert run("second") == first


# -- what's wrong is told in one line --------------------------------------------------------------
@pytest.mark.parametrize(
    ("vif", "message"),
    [
        ("bridge=nonesuch", "vif 0: there's no bridge 'nonesuch'; there is user, xenbr0"),
        ("bridge=xenbr0,forward=tcp:0:22", "vif 0: forward: bridge xenbr0 has no user network"),
        ("bridge=user,forward=tcp:{port}:22", "vif 0: can't listen on 127.0.0.1, tcp port {port}"),
        ("bridge=user,ip=10.0.2,forward=tcp:0:22", "vif 0: .*10.0.2"),
        ("backend=nobody", "vif 0: there is no domain 'nobody' to serve it; start it first"),
    ],
)
def test_interfaces_that_cannot_be_had(
    guest: Callable[[str], Path], vif: str, message: str
) -> None:
    from xenograft import Machine

    with socket.create_server(("127.0.0.1", 0)) as other, Machine() as machine:
        port = other.getsockname()[1]
        config = from_options(
            None,
            kernel=str(guest("demo-64")),
            memory="32M",
            vif=[vif.format(port=port)],
        )
        with pytest.raises(UserError, match=message.format(port=port)) as caught:
            machine.create(config)
        assert "\n" not in str(caught.value)
        assert machine.domains == []
        assert machine.services.buses["vif"].devices == {}


@pytest.mark.parametrize(
    ("bridge", "message"),
    [
        ("lan,mtu=9k", "bridge lan: '9k' isn't an MTU"),
        ("xenbr0", "there is a bridge xenbr0 already"),
        ("lan,uplink=tap:lo", "bridge lan: tap lo: "),
    ],
)
def test_bridges_that_cannot_be_had(bridge: str, message: str) -> None:
    from xenograft import Machine

    with pytest.raises(UserError, match=message):
        Machine(bridges=[bridge])


def test_a_capture_that_cannot_be_written(guest: Callable[[str], Path], tmp_path: Path) -> None:
    from xenograft import Machine

    with Machine() as machine:
        clock = machine.hypervisor.clock
        with pytest.raises(UserError, match=r"can't write .*/x/y: No such file"):
            Capture(tmp_path / "x" / "y", clock)
        config = from_options(None, kernel=str(guest("demo-64")), memory="32M")
        domain = machine.create(config, paused=True)
        capture = Capture(tmp_path / "z", clock)
        with pytest.raises(UserError, match="guest has no network interface 0"):
            domain.devices.capture(capture)
        capture.close()
    assert struct.unpack_from("<I", (tmp_path / "z").read_bytes())[0] == 0xA1B23C4D
