# SPDX-License-Identifier: GPL-2.0-or-later
"""xen_version, console_io, vm_assist, physdev_op, and hypercalls of control domains."""

from __future__ import annotations

import pytest

from tests.hypervisor.support import ARG, Bench, errno
from xenograft.abi import features as f
from xenograft.abi import physdev, version, xen
from xenograft.abi.domctl import XEN_DOMCTL_INTERFACE_VERSION
from xenograft.abi.errno import Errno
from xenograft.abi.platform import XENPF_INTERFACE_VERSION
from xenograft.abi.sysctl import XEN_SYSCTL_INTERFACE_VERSION
from xenograft.hypervisor.hypercalls.xen_version import feature_submap
from xenograft.hypervisor.kinds import GuestKind


class TestVersion:
    def text(self, bench: Bench, cmd: int, size: int) -> str:
        assert bench.do("xen_version", cmd, ARG) == 0
        return bench.domain.space.read(ARG, size).rstrip(b"\0").decode()

    def test_numbers_and_strings(self) -> None:
        bench = Bench()
        assert bench.do("xen_version", version.XENVER_version, 0) == 0x40011
        assert self.text(bench, version.XENVER_extraversion, 16) == ".7"
        assert self.text(bench, version.XENVER_changeset, 64) == ""
        assert self.text(bench, version.XENVER_capabilities, 1024).split() == [
            "xen-3.0-x86_64",
            "xen-3.0-x86_32p",
            "hvm-3.0-x86_32",
            "hvm-3.0-x86_32p",
            "hvm-3.0-x86_64",
        ]
        assert bench.do("xen_version", version.XENVER_compile_info, ARG) == 0
        assert bench.got(version.xen_compile_info).compile_by.rstrip(b"\0") == b"xenograft"

    def test_pagesize_takes_no_argument(self) -> None:
        bench = Bench()
        assert bench.do("xen_version", version.XENVER_pagesize, 0) == 4096
        assert errno(bench.do("xen_version", version.XENVER_pagesize, ARG)) is Errno.EINVAL

    def test_where_xen_starts(self) -> None:
        bench = Bench()
        for bits, start in ((64, 0xFFFF800000000000), (32, 0)):
            cmd = version.XENVER_platform_parameters
            assert bench.do("xen_version", cmd, ARG, bits=bits) == 0
            assert bench.got(version.xen_platform_parameters, bits).virt_start == start

    def test_guest_handle_is_the_uuid(self) -> None:
        bench = Bench()
        bench.domain.uuid = bytes(range(16))
        bench.do("xen_version", version.XENVER_guest_handle, ARG)
        assert bench.domain.space.read(ARG, 16) == bytes(range(16))

    def test_what_is_denied_to_guests(self) -> None:
        bench = Bench()
        assert self.text(bench, version.XENVER_commandline, 9) == "<denied>"
        assert errno(bench.do("xen_version", version.XENVER_build_id, 0)) is Errno.EPERM

    def test_what_a_control_domain_reads(self) -> None:
        bench = Bench(privileged=True)
        assert self.text(bench, version.XENVER_commandline, 1024) == ""
        ident = bench.xen.xen_version.build_id
        cmd = version.XENVER_build_id
        assert bench.do("xen_version", cmd, 0) == len(ident) == 20
        for size, expected in ((0, Errno.EINVAL), (19, Errno.ENOBUFS), (20, 20)):
            bench.domain.space.write(ARG, size.to_bytes(4, "little"))
            assert errno(bench.do("xen_version", cmd, ARG)) == expected
        assert bench.domain.space.read(ARG + 4, 20) == ident

    def test_unknown(self) -> None:
        bench = Bench()
        assert errno(bench.do("xen_version", 11, 0)) is Errno.ENOSYS
        for cmd in (1, 2, 3, 4, 5, 6, 8, 9):
            assert errno(bench.do("xen_version", cmd, 1 << 46)) is Errno.EFAULT


class TestFeatures:
    PVH = (
        1 << f.XENFEAT_writable_page_tables
        | 1 << f.XENFEAT_auto_translated_physmap
        | 1 << f.XENFEAT_hvm_callback_vector
        | 1 << f.XENFEAT_hvm_safe_pvclock
        | 1 << f.XENFEAT_memory_op_vnode_supported
        | 1 << f.XENFEAT_not_direct_mapped
    )
    PV = (
        1 << f.XENFEAT_mmu_pt_update_preserve_ad
        | 1 << f.XENFEAT_highmem_assist
        | 1 << f.XENFEAT_gnttab_map_avail_bits
        | 1 << f.XENFEAT_memory_op_vnode_supported
        | 1 << f.XENFEAT_direct_mapped
    )

    def test_by_hypercall(self) -> None:
        bench = Bench()
        request = version.xen_feature_info(submap_idx=0)
        assert bench.do("xen_version", version.XENVER_get_features, request) == 0
        assert bench.got(version.xen_feature_info).submap == self.PVH
        other = version.xen_feature_info(submap_idx=1)
        result = bench.do("xen_version", version.XENVER_get_features, other)
        assert errno(result) is Errno.EINVAL

    def test_by_kind(self) -> None:
        bench = Bench(kind=GuestKind.HVM)
        assert feature_submap(bench.domain) == self.PVH | 1 << f.XENFEAT_hvm_pirqs
        pv = bench.xen.create_domain(GuestKind.PV, max_vcpus=1)
        assert feature_submap(pv) == self.PV
        pv.vm_assist = 1 << xen.VMASST_TYPE_pae_extended_cr3
        assert feature_submap(pv) == self.PV | 1 << f.XENFEAT_pae_pgdir_above_4gb
        pv.is_hardware = True
        assert feature_submap(pv) >> f.XENFEAT_dom0 & 1


class TestConsole:
    def write(self, bench: Bench, data: bytes) -> int:
        bench.domain.space.write(0x10000, data)
        return bench.do("console_io", xen.CONSOLEIO_write, len(data), 0x10000)

    def test_lines_reach_the_log_and_the_listeners(self) -> None:
        bench = Bench()
        heard: list[bytes] = []
        bench.domain.console_listeners.append(heard.append)
        assert self.write(bench, b"hello\n") == 0
        assert bench.xen.log.text().endswith("(d1) hello\n")
        assert heard == [b"hello\n"]

    def test_a_release_build_listens_to_the_control_domain_alone(self) -> None:
        bench = Bench(verbose_debug=False)
        assert errno(self.write(bench, b"x")) is Errno.EPERM
        assert self.write(Bench(verbose_debug=False, privileged=True), b"x") == 0

    def test_long_output_comes_in_pieces(self) -> None:
        from tests.hypervisor.support import op
        from xenograft.engine.fake import FakeCpu

        bench = Bench([op("console_io", xen.CONSOLEIO_write, 10_000, 0x10000)])
        heard: list[bytes] = []
        bench.domain.console_listeners.append(heard.append)
        bench.domain.space.write(0x10000, b"y" * 10_000)
        bench.run()
        assert b"".join(heard) == b"y" * 10_000
        assert len(heard) == 3
        assert isinstance(bench.cpu(), FakeCpu)

    def test_bad_pointers_and_commands(self) -> None:
        bench = Bench()
        result = bench.do("console_io", xen.CONSOLEIO_write, 5, 1 << 46)
        assert errno(result) is Errno.EFAULT
        assert errno(bench.do("console_io", 9, 5, ARG)) is Errno.EPERM
        assert errno(Bench(privileged=True).do("console_io", 9, 5, ARG)) is Errno.ENOSYS

    def test_reading_is_the_control_domains(self) -> None:
        bench = Bench()
        result = bench.do("console_io", xen.CONSOLEIO_read, 5, ARG)
        assert errno(result) is Errno.EPERM
        control = Bench(privileged=True)
        control.xen.console_input += b"typed"
        assert control.do("console_io", xen.CONSOLEIO_read, 3, ARG) == 3
        assert control.domain.space.read(ARG, 3) == b"typ"
        assert control.do("console_io", xen.CONSOLEIO_read, 99, ARG) == 2
        assert control.do("console_io", xen.CONSOLEIO_read, 99, ARG) == 0
        result = control.do("console_io", xen.CONSOLEIO_read, 1 << 31, ARG)
        assert errno(result) is Errno.E2BIG


class TestVmAssist:
    def test_of_hvm_type_guests(self) -> None:
        bench = Bench()
        flag = xen.VMASST_TYPE_runstate_update_flag
        assert bench.do("vm_assist", xen.VMASST_CMD_enable, flag) == 0
        assert bench.domain.vm_assist == 1 << flag
        assert bench.do("vm_assist", xen.VMASST_CMD_disable, flag) == 0
        assert bench.domain.vm_assist == 0
        assert errno(bench.do("vm_assist", 2, flag)) is Errno.ENOSYS
        for type_ in (0, 1, 2, 3, 4, 32, 64, 1 << 31):
            assert errno(bench.do("vm_assist", 0, type_)) is Errno.EINVAL

    def test_of_pv_guests(self) -> None:
        from xenograft.hypervisor.hypercalls.vm_assist import valid_types

        bench = Bench()
        pv = bench.xen.create_domain(GuestKind.PV, max_vcpus=1)
        assert valid_types(pv) == 0b111111 | 1 << xen.VMASST_TYPE_m2p_strict
        pv.bits = 32
        assert valid_types(pv) == 0b111111


class TestPhysdev:
    def test_a_pvh_guest_has_none_of_it(self) -> None:
        bench = Bench()
        for name, number in vars(physdev).items():
            if name.startswith("PHYSDEVOP_") and isinstance(number, int):
                assert errno(bench.do("physdev_op", number, ARG)) is Errno.ENOSYS, name

    def test_guests_with_pirqs_and_the_hardware_domain_have_more(self) -> None:
        hvm = Bench(kind=GuestKind.HVM)
        result = hvm.do("physdev_op", physdev.PHYSDEVOP_map_pirq, ARG)
        assert errno(result) is Errno.EINVAL
        bench = Bench()
        bench.domain.is_hardware = True
        result = bench.do("physdev_op", physdev.PHYSDEVOP_pci_device_add, ARG)
        assert errno(result) is Errno.ENODEV


class TestControl:
    @pytest.mark.parametrize(
        ("name", "interface"),
        [
            ("domctl", XEN_DOMCTL_INTERFACE_VERSION),
            ("sysctl", XEN_SYSCTL_INTERFACE_VERSION),
            ("platform_op", XENPF_INTERFACE_VERSION),
        ],
    )
    def test_pointer_version_caller_operation(self, name: str, interface: int) -> None:
        bench = Bench()
        assert errno(bench.do(name, 1 << 46)) is Errno.EFAULT
        bench.domain.space.write(ARG, (999).to_bytes(4, "little") + b"\xff" * 4)
        assert errno(bench.do(name, ARG)) is Errno.EACCES
        bench.domain.space.write(ARG + 4, interface.to_bytes(4, "little"))
        assert errno(bench.do(name, ARG)) is Errno.EPERM
        control = bench.add_domain(privileged=True)
        control.space.write(ARG, bench.domain.space.read(ARG, 200))
        assert errno(bench.do(name, ARG, domain=control)) is Errno.ENOSYS

    def test_dm_op(self) -> None:
        bench = Bench()
        other = bench.add_domain()
        for nr, buffers, domid, expected in (
            (0, ARG, other.domid, Errno.ENODATA),
            (4, ARG, other.domid, Errno.E2BIG),
            (1, 1 << 46, other.domid, Errno.EFAULT),
            (1, ARG, 99, Errno.ESRCH),
            (1, ARG, bench.domain.domid, Errno.EPERM),
            (1, ARG, other.domid, Errno.EPERM),
        ):
            assert errno(bench.do("dm_op", domid, nr, buffers)) is expected
        bench.domain.target = other
        assert errno(bench.do("dm_op", other.domid, 1, ARG)) is Errno.EOPNOTSUPP
        pv = bench.xen.create_domain(GuestKind.PV, max_vcpus=1)
        assert errno(bench.do("dm_op", pv.domid, 1, ARG)) is Errno.EINVAL

    def test_the_rest(self) -> None:
        bench = Bench()
        assert errno(bench.do("hypfs_op", 0)) is Errno.EPERM
        assert Bench(privileged=True).do("hypfs_op", 0) == 1
        assert errno(Bench(privileged=True).do("hypfs_op", 1)) is Errno.ENOSYS
        assert errno(bench.do("xenpmu_op", 0, 0)) is Errno.EOPNOTSUPP
        assert errno(bench.do("xsm_op", 0)) is Errno.ENOSYS
        assert errno(bench.do("tmem_op", 0)) is Errno.ENOSYS
        assert errno(bench.do("mmuext_op", ARG, 1, 0, xen.DOMID_SELF)) is Errno.EINVAL
        assert errno(bench.do("mmuext_op", ARG, 1, 0, 1)) is Errno.ESRCH
        assert errno(bench.do("arch_1", 1 << 46)) is Errno.EFAULT
        assert errno(bench.do("arch_1", ARG)) is Errno.EOPNOTSUPP
