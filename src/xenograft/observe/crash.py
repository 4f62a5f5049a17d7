# SPDX-License-Identifier: GPL-2.0-or-later
"""What is known of a guest that crashed, as text for the person who has to find out why.

`CrashReporter` keeps the last hypercalls in a ring (an append per call), and
writes the report when a domain shuts down for a reason that isn't its wish.  The report is pure
reading: the guest's state stays as it was.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from xenograft.abi.sched import SHUTDOWN_NAMES, SHUTDOWN_crash, SHUTDOWN_watchdog
from xenograft.arch.x86.pagewalk import Access, Paging, Walk, walk
from xenograft.arch.x86.pvh import ATTR_DB, ATTR_L
from xenograft.arch.x86.registers import EFER_LMA, X86_CR0_PE, X86_EFLAGS_AC, is_canonical
from xenograft.engine.protocol import AccessError
from xenograft.observe import show
from xenograft.observe.symbols import Symbols, find_symbols

if TYPE_CHECKING:
    from xenograft.engine.protocol import Cpu
    from xenograft.hypervisor.domain import Domain
    from xenograft.hypervisor.hypervisor import Hypervisor
    from xenograft.hypervisor.vcpu import Vcpu

RING = 512
"""How many hypercalls are kept."""
LAST_HYPERCALLS = 16
"""How many lines of them are shown; the same call several times in a row is one line."""
VMCALL = bytes.fromhex("0f01c1")
VMMCALL = bytes.fromhex("0f01d9")
ARGUMENTS_64 = ("rdi", "rsi", "rdx", "r10", "r8")
ARGUMENTS_32 = ("rbx", "rcx", "rdx", "rsi", "rdi")
STACK_WORDS = 256
"""How much of the stack is searched for return addresses."""
MAX_FRAMES = 24
CODE_BEFORE = 6
CODE_AFTER = 6
MAX_INSTRUCTION = 15

_Call = tuple[int, int, int, int, tuple[int, ...], int]
Name = Callable[[int], str]


class CrashReporter:
    """A listener that writes reports into `Domain.crash_report`."""

    def __init__(self, hypervisor: Hypervisor, kernel: Path | None = None) -> None:
        self._hypervisor = hypervisor
        self._kernel = kernel
        self._calls: deque[_Call] = deque(maxlen=RING)
        self._watched: set[int] = set()
        self._symbols: Symbols | None = None
        self._looked = False

    # -- hooks -------------------------------------------------------------------------------
    def hypercall_exit(self, *call: Any) -> None:
        # This runs for every hypercall of every guest: nothing but an append.
        self._calls.append(call)

    def domain_state(self, time: int, domid: int, state: str) -> None:
        if state == "created":
            self.watch(domid)
        elif state == "destroyed":
            self._watched.discard(domid)

    def watch(self, domid: int) -> None:
        """Report on this domain when it crashes."""
        domain = self._hypervisor.domains.get(domid)
        if domain is not None and domid not in self._watched:
            self._watched.add(domid)
            domain.on_shutdown.append(self._shut_down)

    def _shut_down(self, domain: Domain) -> None:
        reason = domain.shutdown_code
        unwanted = reason in (SHUTDOWN_crash, SHUTDOWN_watchdog)
        if domain.domid in self._watched and (unwanted or domain.crash_report is not None):
            domain.crash_report = self.report(domain)

    @property
    def symbols(self) -> Symbols | None:
        """The kernel's symbols; looked for when first wanted."""
        if not self._looked:
            self._looked = True
            self._symbols = find_symbols(self._kernel)
        return self._symbols

    # -- the report ----------------------------------------------------------------------------
    def report(self, domain: Domain) -> str:
        """All that is known of a domain's end."""
        hypervisor = self._hypervisor
        reason = domain.shutdown_code
        name = "?" if reason is None else SHUTDOWN_NAMES.get(reason, f"SHUTDOWN_{reason}")
        lines = [f"{domain.name} (domain {domain.domid}) went down: {name}"]
        if domain.crash_report:
            lines.append(f"  {domain.crash_report}")
        vcpu = self._culprit(domain)
        time = show.seconds(hypervisor.clock.now()).strip()
        where = "" if vcpu is None else f" on vCPU {vcpu.vcpu_id} of {len(domain.vcpus)}"
        lines.append(f"  at {time} s{where}")
        if vcpu is not None and vcpu.cpu is not None:
            cpu = vcpu.cpu
            lines += _section("Registers", registers(cpu, self.name))
            lines += _section("Code", code(cpu, self.symbols, self.name))
            for title, steps in self._walks(domain, cpu):
                lines += _section(title, steps)
            lines += _section("Call trace", backtrace(cpu, self.name, self.symbols))
        calls = self.last_hypercalls(domain)
        if vcpu is not None and vcpu.cpu is not None:
            calls += self._under_way(domain, vcpu, vcpu.cpu)
        lines += _section("Last hypercalls", calls)
        if self.symbols is None:
            lines.append(
                "No symbols: the kernel carries none, and there is no System.map beside it."
            )
        return "\n".join(lines) + "\n"

    def _culprit(self, domain: Domain) -> Vcpu | None:
        """The vCPU that was at work when it happened."""
        running = self._hypervisor.running
        if running is not None and running.domain is domain:
            return running
        for _, domid, vcpu, *_ in reversed(self._calls):
            if domid == domain.domid and 0 <= vcpu < len(domain.vcpus):
                return domain.vcpus[vcpu]
        return next((vcpu for vcpu in domain.vcpus if vcpu.cpu is not None), None)

    def name(self, address: int) -> str:
        """``symbol+offset``, or ""."""
        place = None if self.symbols is None else self.symbols.lookup(address)
        return "" if place is None else str(place)

    def last_hypercalls(self, domain: Domain) -> list[str]:
        """The last calls of a domain; arguments as registers, since memory has moved on."""
        from xenograft.observe.decode import Decoder, nothing

        decoder = Decoder()
        runs: list[tuple[str, list[_Call]]] = []
        for call in self._calls:
            _, domid, vcpu, number, args, result = call
            if domid != domain.domid:
                continue
            what = f"{vcpu} {decoder.full_name(number, args)} {result}"
            if runs and runs[-1][0] == what:
                runs[-1][1].append(call)
            else:
                runs.append((what, [call]))
        lines = []
        for _, calls in runs[-LAST_HYPERCALLS:]:
            time, domid, vcpu, number, args, result = calls[0]
            record = domain.vcpus[vcpu].call if 0 <= vcpu < len(domain.vcpus) else None
            bits = 64 if record is None else record.bits
            text = decoder.decode(number, args, bits, nothing).text()
            line = f"{show.seconds(time)} {show.who(domid, vcpu)} {text} = {show.result(result)}"
            if len(calls) > 1:
                line += f"  ({len(calls) - 1} more until {show.seconds(calls[-1][0]).strip()})"
            lines.append(line)
        return lines

    def _under_way(self, domain: Domain, vcpu: Vcpu, cpu: Cpu) -> list[str]:
        """The hypercall that the vCPU is in, if RIP is at one."""
        if _read(cpu, linear_rip(cpu), 3) not in (VMCALL, VMMCALL):
            return []
        bits = code_bits(cpu)
        # Only a machine whose guest crashes needs the tables of all hypercalls.
        from xenograft.observe.decode import Decoder

        names = ARGUMENTS_64 if bits == 64 else ARGUMENTS_32
        args = tuple(cpu.get(name) for name in names)
        decoder = Decoder(self._hypervisor)
        read = decoder.reader(domain.domid, vcpu.vcpu_id)
        number = cpu.get("rax") & 0xFFFFFFFF
        text = decoder.decode(number, (*args, 0), 64 if bits == 64 else 32, read).text()
        time = show.seconds(self._hypervisor.clock.now())
        return [f"{time} {show.who(domain.domid, vcpu.vcpu_id)} {text}  (under way)"]

    @staticmethod
    def _walks(domain: Domain, cpu: Cpu) -> Iterator[tuple[str, list[str]]]:
        """Page walks of the address that faulted last, and of RIP if it can't be read."""

        def read_u64(gpa: int) -> int:
            return int.from_bytes(domain.space.read(gpa, 8), "little")

        paging = Paging(
            cpu.get("cr0"),
            cpu.get("cr3"),
            cpu.get("cr4"),
            cpu.get("efer"),
            ac=bool(cpu.get("rflags") & X86_EFLAGS_AC),
        )
        if paging.mode == "none":
            return
        faulting = cpu.get("cr2")
        if faulting:
            # The lower half is user space's, and so was the access, most likely.
            found = walk(read_u64, paging, faulting, user=faulting < 1 << 47)
            yield f"Page walk of CR2 = {show.address(faulting)}", walk_lines(found)
        rip = linear_rip(cpu)
        if _read(cpu, rip, 1) is None:
            found = walk(read_u64, paging, rip, Access.FETCH)
            yield f"Page walk of RIP = {show.address(rip)}", walk_lines(found)


def _section(title: str, lines: list[str]) -> list[str]:
    return [f"{title}:", *(f"  {line}" for line in lines)] if lines else []


def walk_lines(found: Walk) -> list[str]:
    """A page walk, entry by entry, and what came of it."""
    lines = [str(step) for step in found.steps]
    if found.gpa is not None:
        lines.append(f"-> guest-physical {found.gpa:#x} ({found.page_size // 1024} KiB page)")
    else:
        code = "" if found.error_code is None else f" (#PF error code {found.error_code:#x})"
        lines.append(f"-> {found.reason}{code}")
    return lines


# -- registers -----------------------------------------------------------------------------------


def code_bits(cpu: Cpu) -> int:
    """Width of the code that runs: 16, 32 or 64."""
    attributes = cpu.get("cs.attr")
    if cpu.get("efer") & EFER_LMA and attributes & ATTR_L:
        return 64
    return 32 if attributes & ATTR_DB and cpu.get("cr0") & X86_CR0_PE else 16


def linear_rip(cpu: Cpu) -> int:
    """The instruction pointer with its segment's base."""
    rip = cpu.get("rip")
    return rip if code_bits(cpu) == 64 else (cpu.get("cs.base") + rip) & 0xFFFFFFFF


_WIDE = (
    ("rax", "rbx", "rcx", "rdx"),
    ("rsi", "rdi", "rbp", "rsp"),
    ("r8", "r9", "r10", "r11"),
    ("r12", "r13", "r14", "r15"),
)
_CONTROL = ("cr0", "cr2", "cr3", "cr4")
_FLAGS = (
    *((0, "CF"), (2, "PF"), (4, "AF"), (6, "ZF"), (7, "SF"), (8, "TF"), (9, "IF"), (10, "DF")),
    *((11, "OF"), (14, "NT"), (16, "RF"), (17, "VM"), (18, "AC"), (21, "ID")),
)


def registers(cpu: Cpu, name: Name) -> list[str]:
    """Registers as lines of text."""
    bits = code_bits(cpu)
    digits = 16 if bits == 64 else 8
    rip, flags = cpu.get("rip"), cpu.get("rflags")
    place = name(linear_rip(cpu))
    lines = [
        f"rip {cpu.get('cs.sel'):04x}:{rip:0{digits}x} {place}".rstrip()
        + f"  ({bits}-bit, CPL {cpu.get('cs.sel') & 3})",
        f"rflags {flags:08x}  " + " ".join(flag for bit, flag in _FLAGS if flags >> bit & 1),
    ]
    rows = _WIDE if bits == 64 else _WIDE[:2]
    for row in (*rows, _CONTROL):
        lines.append("  ".join(f"{r:>3} {cpu.get(r):0{digits}x}" for r in row))
    lines.append(
        f"efer {cpu.get('efer'):x}  "
        + "  ".join(f"{s} {cpu.get(s + '.sel'):04x}" for s in ("ss", "ds", "es", "fs", "gs"))
    )
    lines.append(
        "  ".join(f"{base}.base {cpu.get(base + '.base'):0{digits}x}" for base in ("fs", "gs"))
        + f"  kernel_gs_base {cpu.get('kernel_gs_base'):0{digits}x}"
    )
    return lines


# -- code ----------------------------------------------------------------------------------------


def _read(cpu: Cpu, address: int, size: int) -> bytes | None:
    try:
        return cpu.read(address, size)
    except (AccessError, ValueError, OverflowError):
        return None


def _read_some(cpu: Cpu, address: int, size: int) -> bytes:
    """As many bytes from `address` on as there are, up to `size`."""
    whole = _read(cpu, address, size)
    if whole is not None:
        return whole
    # The page's end is as far as one can be sure.
    return _read(cpu, address, min(size, 0x1000 - (address & 0xFFF))) or b""


def code(cpu: Cpu, symbols: Symbols | None, name: Name) -> list[str]:
    """Disassembly around RIP, the current instruction marked."""
    import capstone  # type: ignore[import-untyped]

    bits = code_bits(cpu)
    modes = {16: capstone.CS_MODE_16, 32: capstone.CS_MODE_32, 64: capstone.CS_MODE_64}
    engine = capstone.Cs(capstone.CS_ARCH_X86, modes[bits])
    rip = linear_rip(cpu)
    ahead = _read_some(cpu, rip, MAX_INSTRUCTION * (CODE_AFTER + 1))
    if not ahead:
        return [f"nothing is mapped at {show.address(rip)}"]
    rows = list(_before(engine, cpu, rip, symbols))[-CODE_BEFORE:]
    after = list(engine.disasm(ahead, rip, CODE_AFTER + 1))
    lines = []
    function = ""
    for instruction in (*rows, *after):
        place = name(instruction.address)
        inside = place.partition("+")[0]
        if inside and inside != function:
            lines.append(f"<{inside}>")
            function = inside
        lines.append(_instruction(instruction, instruction.address == rip, name))
    if not after:
        lines.append(f"=> {show.address(rip)}  {ahead[:MAX_INSTRUCTION].hex(' ')}  (undecodable)")
    return lines


def _instruction(instruction: object, current: bool, name: Name) -> str:
    address: int = instruction.address  # type: ignore[attr-defined]
    text = f"{instruction.mnemonic} {instruction.op_str}".rstrip()  # type: ignore[attr-defined]
    raw = bytes(instruction.bytes).hex(" ")  # type: ignore[attr-defined]
    target = instruction.op_str  # type: ignore[attr-defined]
    # Branches name their target as a bare number.
    called = name(int(target, 16)) if target.startswith("0x") and "," not in target else ""
    mark = "=>" if current else "  "
    line = f"{mark} {address:016x}  {raw:<32} {text}"
    return f"{line}  <{called}>" if called else line


def _before(engine: object, cpu: Cpu, rip: int, symbols: Symbols | None) -> list[object]:
    """Instructions that end at RIP: from the function's start, else by trying."""
    start = None if symbols is None else symbols.start_of(rip)
    if start is not None and 0 < rip - start <= 0x4000:
        found = _sweep(engine, cpu, start, rip)
        if found is not None:
            return found
    # Instructions of x86 find back into step after a few; the longest run that ends at RIP wins.
    for back in range(MAX_INSTRUCTION * 3, 0, -1):
        found = _sweep(engine, cpu, rip - back, rip)
        if found is not None:
            return found
    return []


def _sweep(engine: object, cpu: Cpu, start: int, end: int) -> list[object] | None:
    if start < 0:
        return None
    data = _read(cpu, start, end - start)
    if data is None:
        return None
    found = list(engine.disasm(data, start))  # type: ignore[attr-defined]
    if found and found[-1].address + found[-1].size == end:
        return found
    return None


# -- call trace ------------------------------------------------------------------------------------


def backtrace(cpu: Cpu, name: Name, symbols: Symbols | None) -> list[str]:
    """Return addresses on the stack, innermost first.

    Frames that the chain of frame pointers gives are certain; others on the stack that follow
    a call instruction are marked with "?", as Linux marks what it guesses.
    """
    bits = code_bits(cpu)
    if bits == 16:
        return []
    width = bits // 8
    stack = cpu.get("rsp") if bits == 64 else (cpu.get("ss.base") + cpu.get("rsp")) & 0xFFFFFFFF
    data = b""
    for words in (STACK_WORDS, STACK_WORDS // 4, STACK_WORDS // 16):
        data = _read(cpu, stack, words * width) or b""
        if data:
            break
    if not data:
        # Down to the end of the page.
        data = _read(cpu, stack, (0x1000 - stack % 0x1000) // width * width) or b""
    certain = _frame_chain(cpu, stack, len(data), width)
    rip = linear_rip(cpu)
    lines = []
    for at in range(0, len(data) - width + 1, width):
        address = int.from_bytes(data[at : at + width], "little")
        slot = stack + at
        if not _plausible(address, rip, bits):
            continue
        if slot not in certain and not _follows_call(cpu, address):
            continue
        place = name(address)
        if symbols is not None and not place:
            continue
        mark = "  " if slot in certain else "? "
        lines.append(f"{mark}{show.address(address)} {place}".rstrip())
        if len(lines) == MAX_FRAMES:
            break
    return lines


def _frame_chain(cpu: Cpu, stack: int, size: int, width: int) -> set[int]:
    """Stack slots of the return addresses that the chain of frame pointers leads to."""
    slots: set[int] = set()
    frame = cpu.get("rbp")
    while stack <= frame < stack + size and frame % width == 0 and len(slots) < MAX_FRAMES:
        data = _read(cpu, frame, 2 * width)
        if data is None:
            break
        following = int.from_bytes(data[:width], "little")
        if not _follows_call(cpu, int.from_bytes(data[width:], "little")):
            break
        slots.add(frame + width)
        if following <= frame:
            break
        frame = following
    return slots


def _plausible(address: int, rip: int, bits: int) -> bool:
    """Whether code may be there: in the same half, or part, of the address space as RIP."""
    if bits == 64:
        return is_canonical(address) and address >> 31 == rip >> 31
    return address >> 28 == rip >> 28


def _follows_call(cpu: Cpu, address: int) -> bool:
    """Whether the instruction before `address` is a call."""
    if address < 7:
        return False
    before = _read(cpu, address - 7, 7)
    if before is None:
        return False
    if before[2] == 0xE8:  # call rel32
        return True
    # call r/m: FF /2 with no, 1 or 4 bytes of displacement, and maybe a SIB byte or a prefix.
    for length in (2, 3, 4, 6, 7):
        opcode, modrm = before[-length], before[-length + 1]
        if opcode == 0xFF and modrm >> 3 & 7 == 2 and _modrm_length(modrm, before, length):
            return True
    return False


def _modrm_length(modrm: int, before: bytes, length: int) -> bool:
    """Whether an instruction FF modrm ... takes `length` bytes."""
    mode, rm = modrm >> 6, modrm & 7
    if mode == 3:
        return length == 2
    sib = rm == 4
    displacement = (0, 1, 4)[mode]
    if mode == 0 and rm == 5:
        displacement = 4
    if mode == 0 and sib and before[-length + 2] & 7 == 5:
        displacement = 4
    return length == 2 + sib + displacement
