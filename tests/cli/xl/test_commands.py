# SPDX-License-Identifier: GPL-2.0-or-later
"""Commands with a service: output, errors, exit statuses."""

from __future__ import annotations

import json
import os
import re
import stat
import subprocess
from pathlib import Path

import pytest

from tests.cli.xl.conftest import Xg
from tests.toolstack.service.support import Running, read_until, until
from xenograft.cli.main import COMMANDS
from xenograft.cli.xl.cannot import REASONS
from xenograft.cli.xl.table import CANNOT_COMMANDS, XL_COMMANDS
from xenograft.toolstack.service.messages import AttachConsole

XL_NAMES = """
create config-update list destroy shutdown reboot pci-attach pci-detach pci-list pci-assignable-add
pci-assignable-remove pci-assignable-list pause unpause console vncviewer save migrate restore
migrate-receive dump-core cd-insert cd-eject mem-max mem-set button-press vcpu-list vcpu-pin
vcpu-set vm-list info sharing sched-credit sched-credit2 sched-rtds domid domname rename trigger
sysrq debug-keys set-parameters dmesg top network-attach network-list network-detach channel-list
block-attach block-list block-detach vtpm-attach vtpm-list vtpm-detach vkb-attach vkb-list
vkb-detach vdispl-attach vdispl-list vdispl-detach vsnd-attach vsnd-list vsnd-detach uptime claims
cpupool-create cpupool-list cpupool-destroy cpupool-rename cpupool-cpu-add cpupool-cpu-remove
cpupool-migrate cpupool-numa-split getenforce setenforce loadpolicy remus devd psr-hwinfo
psr-cmt-attach psr-cmt-detach psr-cmt-show psr-cat-set psr-cat-show psr-mba-set psr-mba-show
usbctrl-attach usbctrl-detach usbdev-attach usbdev-detach usb-list qemu-monitor-command
"""
"""`xl help` of Xen 4.17."""


@pytest.mark.parametrize("name", XL_NAMES.split())
def test_every_name_of_xl_exists(name: str) -> None:
    assert name in COMMANDS


def test_what_cannot_be_done_has_a_reason() -> None:
    assert set(CANNOT_COMMANDS) <= set(REASONS)
    assert not set(CANNOT_COMMANDS) & set(XL_COMMANDS)


@pytest.mark.parametrize("name", CANNOT_COMMANDS)
def test_reasons_are_a_line(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    from xenograft.cli.main import run

    assert run([name, "web", "--some-option"]) == 1
    output, errors = capsys.readouterr()
    assert output == ""
    assert errors.startswith(f"xg {name} can't be done: ")
    assert errors.count("\n") == 1


class TestLife:
    def test_create_and_destroy(self, xg: Xg, cfg: Path) -> None:
        assert xg("create", str(cfg)) == (0, "", f"Parsing config from {cfg}\n")
        status, output, _ = xg("list")
        assert status == 0
        assert re.search(
            r"^web {42}1 {4}32 {5}1 {5}[r-][b-]---- {5,9}\d+\.\d$", output, re.MULTILINE
        )
        assert xg("domid", "web") == (0, "1\n", "")
        assert xg("domname", "1") == (0, "web\n", "")
        assert xg("destroy", "web") == (0, "", "")
        assert xg("destroy", "web") == (
            1,
            "",
            "web is an invalid domain identifier (rc=-6)\n",
        )

    @pytest.mark.parametrize("command", ["list", "pause", "unpause", "destroy", "shutdown"])
    def test_no_such_domain(self, xg: Xg, command: str) -> None:
        assert xg(command, "nosuch") == (1, "", "nosuch is an invalid domain identifier (rc=-6)\n")

    def test_no_such_name_or_number(self, xg: Xg) -> None:
        assert xg("domid", "nosuch") == (
            1,
            "",
            "Can't get domid of domain name 'nosuch', maybe this domain does not exist.\n",
        )
        status, _, errors = xg("domname", "77")
        assert status == 1
        assert "maybe this domain does not exist" in errors

    def test_settings_on_the_command_line(self, xg: Xg, cfg: Path) -> None:
        words = ('name="db"', "memory=48", "on_crash=preserve")
        assert xg("create", "-q", "-p", str(cfg), *words) == (0, "", "")
        (_, db) = json.loads(xg("list", "--json")[1])
        assert (db["name"], db["memory"], db["state"]) == ("db", 48, "-" + db["state"][1] + "p---")
        long = json.loads(xg("list", "-l", "db")[1])
        assert long[0]["config"]["on_crash"] == "preserve"

    def test_without_a_file(self, xg: Xg, kernel: Path) -> None:
        assert xg("create", "name=only", "type=pvh", f"kernel={kernel}", "memory=32")[0] == 0
        assert "only" in xg("list")[1]

    def test_a_relative_path_is_the_users(
        self, xg: Xg, cfg: Path, kernel: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(kernel.parent)
        assert xg("create", cfg.name, f"kernel={kernel.name}")[0] == 0
        assert json.loads(xg("list", "-l", "web")[1])[0]["config"]["b_info"]["kernel"] == str(
            kernel
        )

    @pytest.mark.parametrize(
        ("words", "says"),
        [
            ((), "no configuration"),
            (("/nosuch.cfg",), "/nosuch.cfg: no such file or directory"),
            (("a.cfg", "b.cfg"), "neither a setting"),
            (("name=x", "memroy=3"), "unknown key memroy; did you mean memory?"),
            (("name=x", "type=pvh", "kernel=/nosuch"), "kernel /nosuch: no such file"),
            (("name=x", "type=pvh"), "no kernel"),
        ],
    )
    def test_what_cannot_be_created(self, xg: Xg, words: tuple[str, ...], says: str) -> None:
        status, output, errors = xg("create", *words)
        assert (status, output) == (1, "")
        assert says in errors
        assert "Traceback" not in errors
        assert len(json.loads(xg("list", "--json")[1])) == 1

    def test_dry_run(self, xg: Xg, cfg: Path) -> None:
        for words in (("create", "-n", str(cfg)), ("-N", "create", str(cfg))):
            status, output, _ = xg(*words)
            assert status == 0
            assert json.loads(output)["c_info"]["name"] == "web"
        assert len(json.loads(xg("list", "--json")[1])) == 1

    def test_pause_as_in_the_reference(self, xg: Xg, cfg: Path) -> None:
        xg("create", str(cfg))
        assert xg("pause", "web") == (0, "", "")
        assert xg("list", "web")[1].splitlines()[1].split()[4][2] == "p"
        assert xg("unpause", "web") == (0, "", "")
        status, output, errors = xg("unpause", "web")
        assert (status, output) == (0, "")
        assert errors == "Domain 1:Unpausing domain: Invalid argument\n"
        assert xg("rename", "web", "www") == (0, "", "")
        assert xg("domid", "www")[1] == "1\n"
        assert xg("rename", "www", "a b")[0] == 1

    def test_domain_0(self, xg: Xg) -> None:
        status, _, errors = xg("destroy", "0")
        assert status == 1
        assert errors.startswith("Not destroying domain 0; use -f to force.\n")

    def test_create_F_waits_for_the_end(self, xg: Xg, cfg: Path, service: Running) -> None:
        import threading

        def poweroff() -> None:
            until(lambda: len(service.ask(_list())) > 1)
            with service.connect() as client:
                client.call(AttachConsole("web"))
                client.sock.sendall(b"poweroff")
                read_until(client.sock, b"<poweroff>")

        thread = threading.Thread(target=poweroff)
        thread.start()
        assert xg("create", "-F", str(cfg))[0] == 0
        thread.join()
        assert len(json.loads(xg("list", "--json")[1])) == 1

    def test_config_update(self, xg: Xg, cfg: Path, service: Running) -> None:
        xg("create", str(cfg))
        assert xg("config-update", "web", str(cfg), "memory=40", "name=other")[0] == 0
        with service.connect() as client:
            client.call(AttachConsole("web", follow=True))
            client.sock.sendall(b"reboot")
            read_until(client.sock, b"<reboot>\nhello\n")
        (_, web) = json.loads(xg("list", "--json")[1])
        assert (web["name"], web["memory"], web["domid"]) == ("web", 40, 2)

    def test_shutdown_needs_a_domain(self, xg: Xg) -> None:
        assert xg("shutdown")[0] == 2
        assert xg("shutdown", "-a", "web")[0] == 2
        assert xg("shutdown", "-a", "-w")[0] == 0

    def test_shutdown_without_pv_drivers(self, xg: Xg, cfg: Path) -> None:
        xg("create", str(cfg))
        status, _, errors = xg("shutdown", "web")
        assert status == 1
        assert errors.startswith("PV control interface not available: external graceful shutdown")
        status, _, errors = xg("reboot", "-a")
        assert status == 1
        assert "weren't asked" in errors


def _list() -> object:
    from xenograft.toolstack.service.messages import ListDomains

    return ListDomains()


class TestResources:
    def test_memory(self, xg: Xg, cfg: Path, service: Running) -> None:
        xg("create", str(cfg), "maxmem=64")
        assert service.machine is not None
        store = service.machine.services.client
        assert store.read("/local/domain/1/memory/static-max") == "65536"
        assert xg("mem-set", "web", "48") == (0, "", "")
        assert store.read("/local/domain/1/memory/target") == "49152"
        assert json.loads(xg("list", "--json", "web")[1])[0]["maxmem"] == 49
        status, _, errors = xg("mem-set", "web", "999")
        assert status == 1
        assert "memory_dynamic_max must be less than or equal to memory_static_max" in errors
        assert errors.endswith("cannot set domid 1 dynamic max memory to : 999\n")
        assert xg("mem-max", "web", "50m") == (0, "", "")
        status, _, errors = xg("mem-max", "web", "1")
        assert status == 1
        assert errors.endswith("cannot set domid 1 static max memory to : 1\n")
        assert xg("mem-set", "web", "0")[0] == 1
        assert xg("mem-set", "web", "lots")[0] == 1

    def test_the_target_outlives_a_reboot(self, xg: Xg, cfg: Path, service: Running) -> None:
        xg("create", str(cfg), "maxmem=64")
        xg("mem-set", "web", "48")
        config = json.loads(xg("list", "-l", "web")[1])[0]["config"]["b_info"]
        assert (config["target_memkb"], config["max_memkb"]) == (49152, 65536)

    def test_vcpus(self, xg: Xg, cfg: Path, service: Running) -> None:
        xg("create", str(cfg))
        assert service.machine is not None
        store = service.machine.services.client
        assert store.read("/local/domain/1/cpu/1/availability") == "offline"
        assert xg("vcpu-set", "-i", "web", "2") == (0, "", "")
        assert store.read("/local/domain/1/cpu/1/availability") == "online"
        assert xg("vcpu-set", "web", "1") == (0, "", "")
        assert store.read("/local/domain/1/cpu/1/availability") == "offline"
        status, _, errors = xg("vcpu-set", "web", "9000")
        assert status == 1
        assert "You are overcommmitting!" in errors
        assert "maxcpus is 2" in xg("vcpu-set", "-i", "web", "3")[2]
        assert xg("vcpu-set", "web", "none")[0] == 1
        lines = xg("vcpu-list", "web")[1].splitlines()
        assert len(lines) == 3
        assert lines[2].split()[3:5] == ["-", "--p"]


class TestDevices:
    @pytest.fixture
    def disk(self, tmp_path: Path) -> Path:
        path = tmp_path / "disk.img"
        path.write_bytes(bytes(1 << 16))
        return path

    def test_disks(self, xg: Xg, cfg: Path, disk: Path, tmp_path: Path) -> None:
        xg("create", str(cfg), f"disk=['{disk},raw,xvda,rw']")
        status, output, _ = xg("block-list", "web")
        assert status == 0
        assert output.splitlines()[1].split()[:3] == ["51712", "0", "1"]
        second = tmp_path / "second.img"
        second.write_bytes(bytes(4096))
        assert xg("block-attach", "web", str(second), "raw", "xvdb", "rw") == (0, "", "")
        assert len(xg("block-list", "web")[1].splitlines()) == 3
        again = xg("block-attach", "web", f"{second},raw,xvdb,rw")
        assert again[0] == 1
        assert "already" in again[2]
        rows = json.loads(xg("block-list", "--json", "web")[1])
        assert [row["nodes"]["params"] for row in rows] == [str(disk), str(second)]
        # It's part of what is built again.
        disks = json.loads(xg("list", "-l", "web")[1])[0]["config"]["disks"]
        assert [entry["vdev"] for entry in disks] == ["xvda", "xvdb"]
        assert xg("block-detach", "-f", "web", "xvdb") == (0, "", "")
        assert len(xg("block-list", "web")[1].splitlines()) == 2
        assert xg("block-detach", "web", "xvdq")[0] == 1
        assert xg("block-attach", "web", "/nosuch.img,raw,xvdc,rw")[0] == 1
        assert xg("block-attach", "web", "nonsense=1")[0] == 1
        own = xg("block-attach", "web", "vdev=xvdc,backend=web,target=/dev/xvda")
        assert own == (1, "", "disk xvdc: a domain can't serve a device to itself\n")

    def test_networks(self, xg: Xg, cfg: Path) -> None:
        xg("create", str(cfg), "vif=['mac=00:16:3e:00:00:01']")
        output = xg("network-list", "web")[1]
        assert output.splitlines()[1].startswith("0   0  00:16:3e:00:00:01     0     ")
        assert xg("network-attach", "web", "mac=00:16:3e:00:00:02") == (0, "", "")
        assert len(xg("network-list", "web")[1].splitlines()) == 3
        nics = json.loads(xg("list", "-l", "web")[1])[0]["config"]["nics"]
        assert [nic["devid"] for nic in nics] == [0, 1]
        assert xg("network-attach", "web", "mac=zz")[0] == 1
        assert xg("network-detach", "web", "00:16:3e:00:00:09")[0] == 1
        assert xg("network-detach", "web", "9")[0] == 1
        assert xg("network-detach", "-f", "web", "00:16:3e:00:00:02") == (0, "", "")
        assert len(xg("network-list", "web")[1].splitlines()) == 2

    def test_bridges(self, xg: Xg, cfg: Path) -> None:
        assert xg("create", str(cfg), "vif=['bridge=lan']")[2].endswith("there is user, xenbr0\n")
        assert xg("bridge", "add", "lan,mtu=9000") == (0, "", "")
        assert xg("create", "-q", str(cfg), "vif=['bridge=lan']") == (0, "", "")
        rows = {row["name"]: row for row in json.loads(xg("bridge", "list", "--json")[1])}
        assert sorted(rows) == ["lan", "user", "xenbr0"]
        (name,) = rows["lan"].pop("interfaces")
        assert name.startswith("vif")
        assert rows["lan"] == {"name": "lan", "mtu": 9000, "uplink": "none", "restricted": False}
        assert f"lan              9000 none            {name}\n" in xg("bridge", "list")[1]
        assert xg("bridge", "remove", "lan") == (1, "", f"bridge lan is in use by {name}\n")
        assert xg("destroy", "web") == (0, "", "")
        assert xg("bridge", "remove", "lan") == (0, "", "")
        assert "lan " not in xg("bridge", "list")[1]
        for words, says in (
            (("add", "xenbr0"), "bridge xenbr0 already"),
            (("add", "lan,mtu=9"), "an MTU of 9"),
            (("add", "a/b"), "can't be a bridge's name"),
            (("remove", "lan"), "no bridge 'lan'"),
            (("remove", "user"), "bridge user is always there"),
        ):
            status, _, errors = xg("bridge", *words)
            assert status == 1
            assert says in errors
            assert errors.count("\n") == 1

    def test_lists_of_several_domains(self, xg: Xg, cfg: Path) -> None:
        xg("create", str(cfg))
        status, output, errors = xg("block-list", "nosuch", "web")
        assert status == 1
        assert errors == "nosuch is an invalid domain identifier (rc=-6)\n"
        assert output == ""
        assert xg("channel-list", "web") == (
            0,
            "Idx BE state evt-ch ring-ref connection                               \n",
            "",
        )

    def test_channels_are_listed(self, xg: Xg, cfg: Path) -> None:
        xg("create", str(cfg), "channel=['name=log,connection=pty']")
        (row,) = xg("channel-list", "web")[1].splitlines()[1:]
        assert row.split()[:-1] == ["1", "0", "1", "-1", "-1", "pty"]
        assert stat.S_ISCHR(Path(row.split()[-1]).stat().st_mode)

    def test_keyboards(self, xg: Xg, cfg: Path) -> None:
        xg("create", str(cfg))
        assert xg("vkb-attach", "web", "unique-id=desk", "width=640") == (0, "", "")
        assert xg("vkb-attach", "web") == (0, "", "")
        rows = xg("vkb-list", "web")[1].splitlines()[1:]
        path = "/local/domain/0/backend/vkbd/1/0"
        assert rows[0].split() == ["0", "0", "0", "1", "-1", "-1", "desk", "qemu", path]
        assert rows[1].split()[:3] == ["1", "0", "1"]
        assert xg("vkb-detach", "web", "0") == (0, "", "")
        assert len(xg("vkb-list", "web")[1].splitlines()) == 2
        for words in (
            ("vkb-detach", "web", "0"),
            ("vkb-attach", "web", "width=0"),
            ("vkb-attach", "web", "colour=red"),
            ("vkb-attach", "nosuch"),
        ):
            status, _, errors = xg(*words)
            assert (status, errors.count("\n")) == (1, 1)

    def test_cds(self, xg: Xg, cfg: Path, disk: Path, tmp_path: Path) -> None:
        medium = tmp_path / "a,b.iso"
        medium.write_bytes(bytes(1 << 15))
        xg("create", str(cfg), f"disk=['{disk},raw,xvda,rw', ',,xvdb,cdrom']")

        def params() -> str:
            rows = json.loads(xg("block-list", "--json", "web")[1])
            return str(rows[1]["nodes"]["params"])

        assert params() == ""
        assert xg("cd-insert", "web", "xvdb", str(medium)) == (0, "", "")
        assert params() == str(medium)
        assert "a,b.iso" in xg("list", "-l", "web")[1]
        for words, message in (
            (("cd-insert", "web", "xvdb", "/nosuch.iso"), "/nosuch.iso"),
            (("cd-insert", "web", "xvda", str(medium)), "xvda is no CD drive"),
            (("cd-eject", "web", "xvdc"), "Device xvdc not connected."),
            (("cd-eject", "web", "xvdb,target=/x"), "not connected"),
        ):
            status, _, errors = xg(*words)
            assert (status, errors.count("\n")) == (1, 1)
            assert message in errors
        assert params() == str(medium)
        assert xg("cd-eject", "web", "xvdb") == (0, "", "")
        assert params() == ""

    def test_a_screenshot_needs_a_screen(self, xg: Xg, cfg: Path, tmp_path: Path) -> None:
        xg("create", str(cfg))
        status, _, errors = xg("screenshot", "web", str(tmp_path / "shot.png"))
        assert (status, errors.count("\n")) == (1, 1)
        assert "web has no vfb=" in errors
        assert not (tmp_path / "shot.png").exists()


class TestMachine:
    def test_info_and_dmesg(self, xg: Xg) -> None:
        status, output, _ = xg("info")
        assert status == 0
        assert "xen_version            : 4.17.7\n" in output
        assert "total_memory           : 2048\n" in output
        assert json.loads(xg("info", "--json")[1])["xen_major"] == "4"
        assert xg("debug-keys", "hqega!")[0] == 0
        output = xg("dmesg", "-c")[1]
        assert "(XEN) 'q' pressed -> dumping domain info (now = " in output
        assert "(XEN) Event channel information for domain 0:" in output
        assert xg("dmesg")[1] == ""

    def test_set_parameters(self, xg: Xg) -> None:
        assert xg("set-parameters", "x=1")[0] == 1

    def test_triggers(self, xg: Xg, cfg: Path) -> None:
        xg("create", str(cfg))
        assert xg("trigger", "web", "nmi") == (0, "", "")
        assert xg("trigger", "web", "power")[0] == 0
        assert xg("trigger", "web", "nmi", "77")[0] == 0
        assert xg("trigger", "web", "frob")[0] == 2
        status, _, errors = xg("button-press", "web", "power")
        assert status == 0
        assert errors.startswith('WARNING: "button-press" is deprecated. Please use "trigger"\n')

    def test_sysrq(self, xg: Xg, cfg: Path, service: Running) -> None:
        xg("create", str(cfg))
        assert xg("sysrq", "web", "h") == (0, "", "")
        assert service.machine is not None
        assert service.machine.services.client.read("/local/domain/1/control/sysrq") == "h"
        assert xg("sysrq", "web", "help")[0] == 1

    def test_dump_core(self, xg: Xg, cfg: Path, tmp_path: Path) -> None:
        xg("create", str(cfg))
        core = tmp_path / "core"
        assert xg("dump-core", "web", str(core)) == (0, "", "")
        assert core.read_bytes()[:4] == b"\x7fELF"
        assert xg("dump-core", "web", "/nosuch/core")[0] == 1
        assert not list(tmp_path.glob("*.new"))

    def test_top(self, xg: Xg, cfg: Path, tmp_path: Path, service: Running) -> None:
        disk = tmp_path / "disk.img"
        disk.write_bytes(bytes(4096))
        xg("create", str(cfg), f"disk=['{disk},raw,xvda,rw']", "vif=['', '']")
        assert service.machine is not None
        (device,) = service.machine.services.buses["vbd"].of_domain(1)
        device.metrics.rd_sect = 40  # type: ignore[attr-defined]
        for vif in service.machine.services.buses["vif"].of_domain(1):
            # What the switch receives is what the guest sends.
            vif.port.counters.rx_bytes = 3000  # type: ignore[attr-defined]
            vif.port.counters.tx_bytes = 1100  # type: ignore[attr-defined]
        status, output, _ = xg("top", "-b", "-i", "2", "-d", "0.1")
        assert status == 0
        assert output.count("NAME  STATE") == 2
        assert output.count("       web ") == 2
        _, web = json.loads(xg("top", "--json")[1])
        assert (web["disks"], web["sectors_read"], web["networks"]) == (1, 40, 2)
        assert (web["net_tx"], web["net_rx"]) == (6000, 2200)

    @pytest.mark.parametrize(
        "words",
        [
            ("vm-list",),
            ("claims",),
            ("sharing",),
            ("uptime",),
            ("uptime", "-s"),
            ("list", "-v"),
            ("list", "-c"),
            ("list", "-n"),
            ("list", "-Z"),
            ("vcpu-list",),
        ],
    )
    def test_lists(self, xg: Xg, cfg: Path, words: tuple[str, ...]) -> None:
        xg("create", str(cfg))
        status, output, errors = xg(*words)
        assert (status, errors) == (0, "")
        assert sum("web" in line for line in output.splitlines()) >= 1
        if "-" not in words[-1][0]:
            assert any(row["name"] == "web" for row in json.loads(xg(*words, "--json")[1]))


class TestService:
    def test_status_and_stop(self, xg: Xg, cfg: Path, service: Running) -> None:
        xg("create", str(cfg))
        status, output, _ = xg("service", "status")
        assert status == 0
        assert f"process {os.getpid()}" in output
        assert json.loads(xg("service", "status", "--json")[1])["guests"] == ["web"]
        status, _, errors = xg("service", "stop")
        assert (status, errors) == (0, "xg: destroyed with it: web\n")
        service.join()
        assert xg("service", "status")[0] == 3
        assert json.loads(xg("service", "status", "--json")[1]) == {
            "running": False,
            "folder": str(service.paths.folder),
            "lost": [],
        }
        assert xg("service", "stop") == (0, "", "xg: the service isn't running\n")

    def test_env(self, xg: Xg, service: Running) -> None:
        status, output, _ = xg("env")
        assert status == 0
        found = subprocess.run(
            ["sh", "-c", f'{output}\nprintf %s "$XENSTORED_PATH"'],
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        assert found == str(service.paths.xenstore)
        assert Path(found).is_socket()

    def test_completion_knows_the_domains(self, xg: Xg, cfg: Path) -> None:
        import click

        from xenograft.cli.xl.base import complete_domain
        from xenograft.cli.xl.lifecycle import pause

        xg("create", str(cfg))
        context = click.Context(pause)
        assert complete_domain(context, pause.params[0], "w") == ["web"]
        assert complete_domain(context, pause.params[0], "x") == []
        xg("service", "stop")
        assert complete_domain(context, pause.params[0], "w") == []


class TestConfigCheck:
    def test_text_and_json(self, xg: Xg, cfg: Path) -> None:
        status, output, _ = xg("config", "check", str(cfg))
        assert status == 0
        assert "name      web\n" in output
        assert "on_reboot      restart\n" in output
        report = json.loads(xg("config", "check", str(cfg), "-o", "json")[1])
        assert report["ok"] is True
        assert report["config"]["name"] == "web"
        assert len(json.loads(xg("list", "--json")[1])) == 1

    def test_errors(self, xg: Xg, tmp_path: Path) -> None:
        bad = tmp_path / "bad.cfg"
        bad.write_text('name="x"\nmemroy=4\n')
        status, _, errors = xg("config", "check", str(bad))
        assert status == 1
        assert errors == f"{bad}:2: unknown key memroy; did you mean memory?\n"
        report = json.loads(xg("config", "check", str(bad), "-o", "json")[1])
        assert (report["ok"], "memroy" in report["error"]) == (False, True)

    def test_a_disk_that_nobody_can_serve(self, xg: Xg, cfg: Path) -> None:
        disk = 'disk=["vdev=xvda,format=vhd,target=/a"]'
        assert xg("config", "check", str(cfg), disk)[::2] == (
            1,
            "disk xvda: /a: format vhd isn't supported; convert the image with qemu-img convert"
            " -O qcow2\n",
        )
        disk = 'disk=["vdev=xvda,format=vhd,backend=other,target=/a"]'
        assert xg("config", "check", str(cfg), disk)[0] == 0

    def test_pools_and_xl_conf(self, xg: Xg, tmp_path: Path) -> None:
        pool = tmp_path / "pool.cfg"
        pool.write_text('name="rt"\nsched="rtds"\ncpus=["1-2"]\n')
        assert xg("config", "check", "--kind", "cpupool", str(pool)) == (
            0,
            "pool      rt, scheduler rtds\ncpus      1, 2\n",
            "",
        )
        conf = tmp_path / "xl.conf"
        conf.write_text('vif.default.bridge="br1"\nlockfile="/x"\n')
        status, output, errors = xg("config", "check", "--kind", "xl", str(conf))
        assert (status, output) == (0, "bridge               br1\n")
        assert "lockfile is ignored" in errors


def test_defaults_of_xl_conf(xg: Xg, cfg: Path, tmp_path: Path) -> None:
    (tmp_path / "xl.conf").write_text('vif.default.bridge="xenbr0"\nmax_grant_frames=32\n')
    status, output, _ = xg("create", "-n", str(cfg), "vif=['', 'bridge=other']")
    assert status == 0
    assert [nic["bridge"] for nic in json.loads(output)["nics"]] == ["xenbr0", "other"]


def test_help_of_a_command(xg: Xg) -> None:
    status, output, _ = xg("help", "create")
    assert status == 0
    assert output.startswith("Usage: xg create ")
    assert "create" in xg("help")[1]
    status, output, errors = xg("help", "nosuch")
    assert (status, output) == (2, "")
    assert "nosuch" in errors


def test_names_may_be_shortened(xg: Xg) -> None:
    assert xg("vm-l")[1] == xg("vm-list")[1]
    assert xg("frob")[0] == 2
