# SPDX-License-Identifier: GPL-2.0-or-later
"""Schedulers and pools, as a real Xen 4.17 answered the same commands on four CPUs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cli.xl.conftest import Xg
from tests.toolstack.service.support import Running, read_until
from xenograft.toolstack.service.messages import AttachConsole

POOL_CFG = 'name="pool-{sched}"\nsched="{sched}"\ncpus=["1"]\n'


@pytest.fixture
def web(xg: Xg, cfg: Path) -> str:
    assert xg("create", "-q", str(cfg))[0] == 0
    return "web"


@pytest.fixture
def pool(xg: Xg, tmp_path: Path) -> Path:
    path = tmp_path / "pool.cfg"
    path.write_text(POOL_CFG.format(sched="credit"))
    return path


def out(xg: Xg, *words: str) -> str:
    status, output, errors = xg(*words)
    assert (status, errors) == (0, ""), words
    return output


def fails(xg: Xg, *words: str) -> str:
    status, _, errors = xg(*words)
    assert status == 1, words
    return errors.rstrip("\n")


class TestPools:
    def test_lists(self, xg: Xg) -> None:
        assert out(xg, "cpupool-list") == (
            "Name               CPUs   Sched     Active   Domain count\n"
            "Pool-0               4   credit2       y          1\n"
        )
        assert out(xg, "cpupool-list", "-c") == (
            "Name               CPU list\nPool-0             0,1,2,3\n"
        )
        (pool,) = json.loads(out(xg, "cpupool-list", "--json"))
        assert (pool["name"], pool["cpus"]) == ("Pool-0", [0, 1, 2, 3])
        assert fails(xg, "cpupool-list", "nosuch") == "unknown cpupool 'nosuch'"

    def test_a_life_of_a_pool(self, xg: Xg, web: str, pool: Path, service: Running) -> None:
        assert fails(xg, "cpupool-create", str(pool)) == "cpu 1 illegal or not free"
        assert out(xg, "cpupool-cpu-remove", "Pool-0", "1") == ""
        assert out(xg, "cpupool-create", str(pool)) == (
            f'Using config file "{pool}"\n'
            "cpupool name:   pool-credit\nscheduler:      credit\nnumber of cpus: 1\n"
        )
        assert service.machine is not None
        store = service.machine.services.client
        assert store.read("/local/pool/1/name") == "pool-credit"
        assert out(xg, "cpupool-list", "-c").endswith(
            "Pool-0             0,2,3\npool-credit        1\n"
        )
        assert out(xg, "cpupool-migrate", web, "pool-credit") == ""
        assert out(xg, "list", "-c", web).endswith("     pool-credit\n")
        assert out(xg, "vcpu-list", web).splitlines()[1].split()[3] == "1"
        assert fails(xg, "cpupool-destroy", "pool-credit") == "Can't destroy cpupool 'pool-credit'"
        assert out(xg, "cpupool-migrate", web, "Pool-0") == ""
        assert out(xg, "cpupool-destroy", "pool-credit") == ""
        assert not store.exists("/local/pool/1")
        assert out(xg, "cpupool-cpu-add", "Pool-0", "1") == ""
        assert out(xg, "cpupool-list", "-c").endswith("Pool-0             0,1,2,3\n")

    @pytest.mark.parametrize("sched", ["credit", "credit2", "rtds", "arinc653", "null"])
    def test_every_scheduler(self, xg: Xg, tmp_path: Path, sched: str) -> None:
        path = tmp_path / "p.cfg"
        path.write_text(POOL_CFG.format(sched=sched))
        xg("cpupool-cpu-remove", "Pool-0", "1")
        assert f"scheduler:      {sched}\n" in out(xg, "cpupool-create", str(path))
        assert f"pool-{sched:<14}  1 {sched:>9}       y          0" in out(xg, "cpupool-list")

    def test_what_is_refused(self, xg: Xg, tmp_path: Path) -> None:
        path = tmp_path / "p.cfg"
        path.write_text(POOL_CFG.format(sched="bogus"))
        assert "Unknown scheduler" in fails(xg, "cpupool-create", str(path))
        assert fails(xg, "cpupool-migrate", "nosuch", "Pool-0") == "unknown domain 'nosuch'"
        for words in (
            ("cpupool-destroy", "x"),
            ("cpupool-cpu-add", "x", "1"),
            ("cpupool-cpu-remove", "x", "1"),
            ("cpupool-rename", "x", "y"),
        ):
            assert fails(xg, *words) == "unknown cpupool 'x'"
        # These two end with 0, as xl's do.
        assert out(xg, "cpupool-cpu-add", "Pool-0", "99") == ""
        status, _, errors = xg("cpupool-cpu-remove", "Pool-0", "0")
        assert status == 0
        assert errors.splitlines()[0].startswith("Error removing cpu 0 from cpupool")
        assert errors.splitlines()[1:] == [
            "Some cpus may have not or only partially been removed from 'Pool-0'.",
            "If a cpu can't be added to another cpupool, add it to 'Pool-0' again and retry.",
        ]

    def test_rename_and_split(self, xg: Xg) -> None:
        assert out(xg, "cpupool-rename", "Pool-0", "P0") == ""
        assert out(xg, "cpupool-list").splitlines()[1].split()[0] == "P0"
        assert out(xg, "cpupool-rename", "P0", "Pool-0") == ""
        assert out(xg, "cpupool-numa-split") == ""
        assert out(xg, "cpupool-list").splitlines()[1].split()[0] == "Pool-node0"

    def test_from_the_command_line_and_dry(self, xg: Xg) -> None:
        assert "number of cpus: 2" in out(
            xg, "cpupool-create", "-n", "name=dry", 'cpus=["2", "3"]', "sched=rtds"
        )
        assert len(json.loads(out(xg, "cpupool-list", "--json"))) == 1
        xg("cpupool-cpu-remove", "Pool-0", "2-3")
        assert "number of cpus: 2" in out(xg, "cpupool-create", "name=p", "nodes=0")
        assert json.loads(out(xg, "cpupool-list", "--json"))[1]["cpus"] == [2, 3]


class TestCredit:
    def test_weights_and_caps(self, xg: Xg, web: str, pool: Path) -> None:
        xg("cpupool-cpu-remove", "Pool-0", "1")
        xg("cpupool-create", str(pool))
        xg("cpupool-migrate", web, "pool-credit")
        header = "Name                                ID Weight  Cap\n"
        row = "web                                  1    256    0\n"
        line = "Cpupool pool-credit: tslice=30ms ratelimit=1000us migration-delay=0us\n"
        assert out(xg, "sched-credit") == line + header + row
        assert out(xg, "sched-credit", "-d", web) == header + row
        assert out(xg, "sched-credit", "-d", web, "-w", "512", "-c", "50") == ""
        assert out(xg, "sched-credit", "-d", web).endswith("1    512   50\n")
        assert out(xg, "sched-credit", "-s", "-p", "pool-credit") == line
        assert out(xg, "sched-credit", "-s", "-p", "pool-credit", "-t", "10", "-r", "500") == ""
        assert out(xg, "sched-credit", "-s", "-p", "pool-credit") == (
            "Cpupool pool-credit: tslice=10ms ratelimit=500us migration-delay=0us\n"
        )
        assert "Cpu weight out of range, valid values are within range from 1 to 65535" in fails(
            xg, "sched-credit", "-d", web, "-w", "0"
        )
        (shown,) = json.loads(out(xg, "sched-credit", "--json", "-d", web))
        assert (shown["weight"], shown["cap"]) == (512, 50)
        rows = json.loads(out(xg, "sched-credit", "--json"))
        assert rows[0]["domains"][0]["weight"] == 512

    def test_credit2(self, xg: Xg, web: str) -> None:
        assert out(xg, "sched-credit2") == (
            "Cpupool Pool-0: ratelimit=1000us\n"
            "Name                                ID Weight  Cap\n"
            "web                                  1    256    0\n"
        )
        assert out(xg, "sched-credit2", "-d", web, "-w", "100") == ""
        assert out(xg, "sched-credit2", "-d", web).endswith("1    100    0\n")

    def test_another_scheduler(self, xg: Xg, web: str) -> None:
        assert out(xg, "sched-credit") == ""
        status, output, errors = xg("sched-credit", "-d", web)
        assert status == 1
        assert output == "Name                                ID Weight  Cap\n"
        assert errors == "libxl_domain_sched_params_get returned credit2 not credit.\n"

    @pytest.mark.parametrize(
        ("words", "says"),
        [
            (("-w", "5"), "Must specify a domain."),
            (("-t", "5"), "Must specify schedparam to set schedule parameter values."),
            (
                ("-d", "web", "-s"),
                "Specifying a cpupool or schedparam is not allowed with domain options.",
            ),
        ],
    )
    def test_options_that_do_not_fit(self, xg: Xg, words: tuple[str, ...], says: str) -> None:
        assert fails(xg, "sched-credit", *words) == says


class TestRtds:
    def test_reservations(self, xg: Xg, web: str, tmp_path: Path) -> None:
        path = tmp_path / "p.cfg"
        path.write_text(POOL_CFG.format(sched="rtds"))
        xg("cpupool-cpu-remove", "Pool-0", "1")
        xg("cpupool-create", str(path))
        xg("cpupool-migrate", web, "pool-rtds")
        text = out(xg, "sched-rtds", "-d", web, "-v", "all")
        assert text.splitlines()[0] == (
            "Name                                ID VCPU    Period    Budget  Extratime"
        )
        assert len(text.splitlines()) == 3
        options = ("-v", "0", "-p", "20000", "-b", "5000", "-e", "1")
        assert out(xg, "sched-rtds", "-d", web, *options) == ""
        row = out(xg, "sched-rtds", "-d", web, "-v", "0").splitlines()[1].split()
        assert row == ["web", "1", "0", "20000", "5000", "yes"]
        (shown,) = json.loads(out(xg, "sched-rtds", "--json", "-d", web, "-v", "0"))
        assert shown == {
            "domid": 1, "name": "web", "vcpu": 0, "period_us": 20000, "budget_us": 5000,
            "extratime": True,
        }  # fmt: skip
        assert "sched=RTDS" in out(xg, "sched-rtds")
        assert "period is out of range" in fails(
            xg, "sched-rtds", "-d", web, "-v", "0", "-p", "5", "-b", "4", "-e", "0"
        )
        assert "VCPU index is out of range" in fails(xg, "sched-rtds", "-d", web, "-v", "9")

    def test_what_runs_is_analyzed(self, xg: Xg, web: str, tmp_path: Path) -> None:
        """`xg sched analyze` without a file: the service's own pools."""
        assert xg("sched", "analyze") == (
            1, "", "there is nothing to analyze: no cpupool has rtds or arinc653\n"
        )  # fmt: skip
        path = tmp_path / "p.cfg"
        path.write_text(POOL_CFG.format(sched="rtds"))
        xg("cpupool-cpu-remove", "Pool-0", "1")
        xg("cpupool-create", str(path))
        xg("cpupool-migrate", web, "pool-rtds")
        assert out(xg, "sched", "analyze").startswith(
            "pool pool-rtds (rtds, 1 CPUs): utilization 0.800: schedulable\n"
        )
        xg("sched-rtds", "-d", web, "-v", "1", "-p", "10000", "-b", "7000", "-e", "0")
        status, output, _ = xg("sched", "analyze")
        assert status == 1
        assert "utilization 1.100: NOT schedulable" in output
        assert "CPU 1 is overloaded" in output

    @pytest.mark.parametrize(
        ("words", "says"),
        [
            (("-d", "web"), "libxl_domain_sched_params_get returned credit2 not rtds."),
            (("-d", "web", "-p", "10000", "-b", "4000"), "Must specify VCPU."),
            (("-p", "1"), "Missing parameters."),
            (
                ("-d", "web", "-v", "0", "-p", "10", "-b", "400"),
                "Incorrect number of period, budget and extratime",
            ),
        ],
    )
    def test_what_is_refused(self, xg: Xg, web: str, words: tuple[str, ...], says: str) -> None:
        assert fails(xg, "sched-rtds", *words) == says


class TestAffinity:
    def test_pinning(self, xg: Xg, web: str) -> None:
        def affinity(vcpu: int = 0) -> str:
            return " ".join(out(xg, "vcpu-list", web).splitlines()[1 + vcpu].split()[6:])

        assert affinity() == "all / all"
        assert out(xg, "vcpu-pin", web, "0", "0") == ""
        assert affinity() == "0 / all"
        assert out(xg, "vcpu-pin", web, "all", "all") == ""
        assert out(xg, "vcpu-pin", web, "0", "all", "1") == ""
        assert affinity() == "all / 1"
        assert out(xg, "vcpu-pin", "--force", web, "0", "1", "-") == ""
        assert affinity() == "1 / 1"
        assert out(xg, "vcpu-pin", web, "all", "0-3,^2", "node:0") == ""
        assert affinity(1) == "0-1,3 / all"
        row = json.loads(out(xg, "vcpu-list", "--json", web))[0]
        assert row["hard_affinity"] == "0-1,3"

    @pytest.mark.parametrize(
        ("words", "says"),
        [
            (("0", "99"), "vcpu hard affinity map is empty"),
            (("7", "0"), "Could not set affinity for vcpu `7'."),
            (("0", "none"), "Invalid pcpu range: none."),
            (("x", "0"), "Error: Invalid argument."),
        ],
    )
    def test_what_is_refused(self, xg: Xg, web: str, words: tuple[str, ...], says: str) -> None:
        assert fails(xg, "vcpu-pin", web, *words) == says


def test_a_configuration_with_pool_and_pins(xg: Xg, cfg: Path, pool: Path) -> None:
    xg("cpupool-cpu-remove", "Pool-0", "1")
    xg("cpupool-create", str(pool))
    out_ = xg("create", "-q", str(cfg), "pool=pool-credit", "cpu_weight=300")
    assert out_ == (0, "", "")
    assert out(xg, "list", "-c", "web").endswith("     pool-credit\n")
    assert out(xg, "sched-credit", "-d", "web").endswith("1    300    0\n")


def test_what_was_changed_outlives_a_reboot(
    xg: Xg, cfg: Path, tmp_path: Path, service: Running
) -> None:
    """As with xl: the pool, the pins and the parameters are part of what's built again."""
    path = tmp_path / "p.cfg"
    path.write_text(POOL_CFG.format(sched="rtds").replace('["1"]', '["1", "2"]'))
    xg("cpupool-cpu-remove", "Pool-0", "1-2")
    xg("cpupool-create", str(path))
    assert xg("create", "-q", str(cfg), "cpu_weight=300")[0] == 0
    out(xg, "cpupool-migrate", "web", "pool-rtds")
    out(xg, "cpupool-rename", "pool-rtds", "rt")
    out(xg, "sched-rtds", "-d", "web", "-v", "all", "-p", "20000", "-b", "9000", "-e", "0")
    out(xg, "vcpu-pin", "web", "0", "2", "1")
    with service.connect() as client:
        client.call(AttachConsole("web", follow=True))
        client.sock.sendall(b"reboot")
        read_until(client.sock, b"<reboot>\nhello\n")
    assert out(xg, "domid", "web") == "2\n"
    config = json.loads(out(xg, "list", "-l", "web"))[0]["config"]
    assert config["c_info"]["pool_name"] == "rt"
    params = {"sched": "rtds", "period": 20000, "extratime": False, "budget": 9000}
    assert config["b_info"]["sched_params"] == params
    assert out(xg, "list", "-c", "web").endswith("              rt\n")
    row = out(xg, "sched-rtds", "-d", "web", "-v", "1").splitlines()[1].split()
    assert row == ["web", "2", "1", "20000", "9000", "no"]
    text = out(xg, "vcpu-list", "web").splitlines()
    assert text[1].endswith("2 / 1")


def test_overcommitment_is_told(xg: Xg, web: str) -> None:
    assert fails(xg, "vcpu-set", web, "9") == (
        "You are overcommmitting! You have 4 physical CPUs and want 9 vCPUs! Aborting,"
        " use --ignore-host to continue"
    )
