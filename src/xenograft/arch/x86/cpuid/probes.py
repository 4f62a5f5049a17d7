# SPDX-License-Identifier: GPL-2.0-or-later
"""A probe for each CPU feature: a few bytes of machine code, and what they must compute.

`PROBES` proves the bits of the maximum policy; `ABSENT` shows for features that the engine
doesn't execute that their instructions are undefined.  `probe_machine.run` executes one.

At the start RDI points to a page of zeroes, RSI to a page that users may access, RSP to a
stack; pages are mapped one to one.  The bytes were assembled from the text beside them.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from xenograft.arch.x86 import registers as r

FAULT: Final = 0xE0000000
"""RAX after exception `v` is FAULT | v."""
UD: Final = FAULT | r.X86_EXC_UD
GP: Final = FAULT | r.X86_EXC_GP
PF: Final = FAULT | r.X86_EXC_PF
BR: Final = FAULT | 5


class Probe(NamedTuple):
    """Features, the code that uses them (as assembly text and bytes), and RAX at its end."""

    features: tuple[str, ...]
    asm: str
    code: str
    expected: int
    mode: str = "64"
    """64, 32 (4 MiB pages) or pae."""


PROBES: Final = (
    Probe(
        ("fpu",),
        "fninit; fldpi; fld1; fadd %st(0),%st; fistpll (%rdi); mov (%rdi),%rax",
        "dbe3d9ebd9e8d8c0df3f488b07f4",
        2,
    ),
    Probe(
        ("de",),
        "mov %cr4,%rax; or $8,%rax; mov %rax,%cr4; mov %cr4,%rax; and $8,%eax",
        "0f20e04883c8080f22e00f20e083e008f4",
        8,
    ),
    Probe(
        ("pse",),
        "mov 0x400000,%eax",
        "a100004000f4",
        0x600DDA7A,
        "32",
    ),
    Probe(
        ("pse36",),
        "mov 0x800000,%eax",
        "a100008000f4",
        0x600DDA7A,
        "32",
    ),
    Probe(
        ("pae",),
        "mov %cr4,%eax; and $0x20,%eax",
        "0f20e083e020f4",
        0x20,
        "pae",
    ),
    Probe(
        (
            "tsc",
            "itsc",
        ),
        "rdtsc; mov %eax,%ebx; mov %edx,%ebp; rdtsc; sub %ebx,%eax; sbb %ebp,%edx; "
        "setns %al; movzbl %al,%eax",
        "0f3189c389d50f3129d819ea0f99c00fb6c0f4",
        1,
    ),
    Probe(
        ("msr",),
        "mov $0xc0000102,%ecx; mov $0x1234,%eax; xor %edx,%edx; wrmsr; xor %eax,%eax; "
        "rdmsr; movzwl %ax,%eax",
        "b9020100c0b83412000031d20f3031c00f320fb7c0f4",
        0x1234,
    ),
    Probe(
        ("mce",),
        "mov %cr4,%rax; or $0x40,%rax; mov %rax,%cr4; mov %cr4,%rax; and $0x40,%eax",
        "0f20e04883c8400f22e00f20e083e040f4",
        0x40,
    ),
    Probe(
        ("mca",),
        "mov $0x179,%ecx; rdmsr; and $0xff,%eax",
        "b9790100000f3225ff000000f4",
        2,
    ),
    Probe(
        ("cx8",),
        "xor %eax,%eax; xor %edx,%edx; mov $0x5678,%ebx; mov $1,%ecx; "
        "cmpxchg8b (%rdi); mov (%rdi),%rax",
        "31c031d2bb78560000b9010000000fc70f488b07f4",
        0x100005678,
    ),
    Probe(
        ("apic",),
        "mov $0x1b,%ecx; rdmsr; and $0x800,%eax",
        "b91b0000000f322500080000f4",
        0x800,
    ),
    Probe(
        ("sep",),
        "mov $0x174,%ecx; mov $8,%eax; xor %edx,%edx; wrmsr; inc %ecx; mov %esp,%eax; "
        "wrmsr; inc %ecx; call 1f; 1: pop %eax; add $(2f-1b),%eax; wrmsr; "
        "xor %eax,%eax; sysenter; hlt; 2: mov $0x5e9,%eax",
        "b974010000b80800000031d20f304189e00f3041e80000000058050d0000000f3031c00f34f4b8e9050000f4",
        0x5E9,
        "32",
    ),
    Probe(
        ("mtrr",),
        "mov $0xfe,%ecx; rdmsr",
        "b9fe0000000f32f4",
        0x508,
    ),
    Probe(
        ("pge",),
        "mov %cr4,%rax; or $0x80,%rax; mov %rax,%cr4; mov %cr4,%rax; and $0x80,%eax",
        "0f20e0480d800000000f22e00f20e02580000000f4",
        0x80,
    ),
    Probe(
        ("cmov",),
        "mov $7,%ecx; xor %eax,%eax; cmovz %ecx,%eax",
        "b90700000031c00f44c1f4",
        7,
    ),
    Probe(
        ("pat",),
        "mov $0x277,%ecx; rdmsr",
        "b9770200000f32f4",
        0x70406,
    ),
    Probe(
        ("clflush",),
        "movl $9,(%rdi); clflush (%rdi); mov (%rdi),%eax",
        "c707090000000fae3f8b07f4",
        9,
    ),
    Probe(
        ("mmx",),
        "mov $0x00010002,%eax; movd %eax,%mm0; paddw %mm0,%mm0; movd %mm0,%eax; emms",
        "b8020001000f6ec00ffdc00f7ec00f77f4",
        0x20004,
    ),
    Probe(
        ("fxsr",),
        "fninit; fxsave (%rdi); movzwl (%rdi),%eax",
        "dbe30fae070fb707f4",
        0x37F,
    ),
    Probe(
        ("sse",),
        "mov $0x40000000,%eax; mov %eax,(%rdi); movss (%rdi),%xmm0; mulps %xmm0,%xmm0; "
        "movss %xmm0,(%rdi); mov (%rdi),%eax",
        "b8000000408907f30f10070f59c0f30f11078b07f4",
        0x40800000,
    ),
    Probe(
        ("sse2",),
        "mov $3,%eax; movq %rax,%xmm1; paddq %xmm1,%xmm1; movq %xmm1,%rax",
        "b80300000066480f6ec8660fd4c966480f7ec8f4",
        6,
    ),
    Probe(
        ("htt",),
        "mov $1,%eax; xor %ecx,%ecx; cpuid; shr $16,%ebx; movzbl %bl,%eax",
        "b80100000031c90fa2c1eb100fb6c3f4",
        2,
    ),
    Probe(
        ("sse3",),
        "mov $0x3f800000,%eax; movd %eax,%xmm0; pshufd $0,%xmm0,%xmm0; "
        "haddps %xmm0,%xmm0; movd %xmm0,%eax",
        "b80000803f660f6ec0660f70c000f20f7cc0660f7ec0f4",
        0x40000000,
    ),
    Probe(
        ("pclmulqdq",),
        "mov $3,%eax; movq %rax,%xmm0; pclmulqdq $0,%xmm0,%xmm0; movq %xmm0,%rax",
        "b80300000066480f6ec0660f3a44c00066480f7ec0f4",
        5,
    ),
    Probe(
        ("ssse3",),
        "mov $-5,%eax; movd %eax,%xmm0; pabsd %xmm0,%xmm0; movd %xmm0,%eax",
        "b8fbffffff660f6ec0660f381ec0660f7ec0f4",
        5,
    ),
    Probe(
        ("cx16",),
        "xor %eax,%eax; xor %edx,%edx; mov $0x11,%ebx; mov $0x22,%ecx; "
        "cmpxchg16b (%rdi); mov 8(%rdi),%rax; shl $8,%rax; or (%rdi),%rax",
        "31c031d2bb11000000b922000000480fc70f488b470848c1e008480b07f4",
        0x2211,
    ),
    Probe(
        ("sse4-1",),
        "mov $7,%eax; movd %eax,%xmm0; pmulld %xmm0,%xmm0; pextrd $0,%xmm0,%eax",
        "b807000000660f6ec0660f3840c0660f3a16c000f4",
        0x31,
    ),
    Probe(
        ("sse4-2",),
        "xor %eax,%eax; mov $0x61,%ecx; crc32b %cl,%eax",
        "31c0b961000000f20f38f0c1f4",
        0x93AD1061,
    ),
    Probe(
        ("x2apic",),
        "mov $0x1b,%ecx; rdmsr; or $0x400,%eax; wrmsr; mov $0x803,%ecx; rdmsr",
        "b91b0000000f320d000400000f30b9030800000f32f4",
        0x50014,
    ),
    Probe(
        ("movbe",),
        "movl $0x11223344,(%rdi); movbe (%rdi),%eax",
        "c707443322110f38f007f4",
        0x44332211,
    ),
    Probe(
        ("popcnt",),
        "mov $0xf0f,%ecx; popcnt %ecx,%eax",
        "b90f0f0000f30fb8c1f4",
        8,
    ),
    Probe(
        ("tsc-deadline",),
        "mov $0x1b,%ecx; rdmsr; or $0x400,%eax; wrmsr; mov $0x832,%ecx; "
        "mov $0x500ec,%eax; xor %edx,%edx; wrmsr; mov $0x6e0,%ecx; xor %eax,%eax; "
        "mov $0x7fff,%edx; wrmsr; rdmsr; mov %edx,%eax",
        "b91b0000000f320d000400000f30b932080000b8ec00050031d20f30b9e006000031c0baff7f0000"
        "0f300f3289d0f4",
        0x7FFF,
    ),
    Probe(
        ("aesni",),
        "pxor %xmm0,%xmm0; aesenc %xmm0,%xmm0; movd %xmm0,%eax",
        "660fefc0660f38dcc0660f7ec0f4",
        0x63636363,
    ),
    Probe(
        ("xsave",),
        "mov %cr4,%rax; or $0x40000,%rax; mov %rax,%cr4; xor %ecx,%ecx; xor %edx,%edx; "
        "mov $3,%eax; xsetbv; mov $3,%eax; movq %rax,%xmm0; xsave (%rdi); "
        "pxor %xmm0,%xmm0; mov $3,%eax; xrstor (%rdi); xgetbv; movq %xmm0,%rcx; "
        "shl $4,%ecx; or %ecx,%eax",
        "0f20e0480d000004000f22e031c931d2b8030000000f01d1b80300000066480f6ec00fae27660fef"
        "c0b8030000000fae2f0f01d066480f7ec1c1e10409c8f4",
        0x33,
    ),
    Probe(
        ("xsaveopt",),
        "mov %cr4,%rax; or $0x40000,%rax; mov %rax,%cr4; xor %ecx,%ecx; xor %edx,%edx; "
        "mov $3,%eax; xsetbv; fninit; pxor %xmm0,%xmm0; mov $3,%eax; movd %eax,%xmm1; "
        "xsaveopt (%rdi); mov 176(%rdi),%eax",
        "0f20e0480d000004000f22e031c931d2b8030000000f01d1dbe3660fefc0b803000000660f6ec80f"
        "ae378b87b0000000f4",
        3,
    ),
    Probe(
        ("xgetbv1",),
        "mov %cr4,%rax; or $0x40000,%rax; mov %rax,%cr4; xor %ecx,%ecx; xor %edx,%edx; "
        "mov $3,%eax; xsetbv; pxor %xmm0,%xmm0; movd %esp,%xmm0; mov $1,%ecx; xgetbv; "
        "and $0xfffffffe,%eax",
        "0f20e0480d000004000f22e031c931d2b8030000000f01d1660fefc0660f6ec4b9010000000f01d083e0fef4",
        2,
    ),
    Probe(
        ("rdrand",),
        "rdrand %rax; setc %al; movzbl %al,%eax",
        "480fc7f00f92c00fb6c0f4",
        1,
    ),
    Probe(
        ("rdseed",),
        "rdseed %rax; setc %al; movzbl %al,%eax",
        "480fc7f80f92c00fb6c0f4",
        1,
    ),
    Probe(
        ("hypervisor",),
        "mov $0x40000000,%eax; xor %ecx,%ecx; cpuid; mov %ebx,%eax",
        "b80000004031c90fa289d8f4",
        0x566E6558,
    ),
    Probe(
        ("fsgsbase",),
        "mov %cr4,%rax; or $0x10000,%rax; mov %rax,%cr4; mov $0x123456,%eax; "
        "wrfsbase %rax; xor %eax,%eax; rdfsbase %rax",
        "0f20e0480d000001000f22e0b856341200f3480faed031c0f3480faec0f4",
        0x123456,
    ),
    Probe(
        ("tsc-adjust",),
        "mov $0x3b,%ecx; mov $0x77,%eax; xor %edx,%edx; wrmsr; xor %eax,%eax; rdmsr",
        "b93b000000b87700000031d20f3031c00f32f4",
        0x77,
    ),
    Probe(
        ("bmi1",),
        "mov $0xff0,%ecx; mov $0xf,%edx; andn %ecx,%edx,%eax; blsr %eax,%eax; "
        "tzcnt %eax,%ebx; shl $16,%ebx; or %ebx,%eax",
        "b9f00f0000ba0f000000c4e268f2c1c4e278f3c8f30fbcd8c1e31009d8f4",
        0x50FE0,
    ),
    Probe(
        ("bmi2",),
        "mov $5,%ecx; mov $0x3,%eax; shlx %ecx,%eax,%eax; mov $0xf0,%edx; "
        "pext %edx,%eax,%edx; mov $8,%ecx; shlx %ecx,%edx,%edx; or %edx,%eax",
        "b905000000b803000000c4e271f7c0baf0000000c4e27af5d2b908000000c4e271f7d209d0f4",
        0x660,
    ),
    Probe(
        ("smep",),
        "mov %cr4,%rax; or $0x100000,%rax; mov %rax,%cr4; movb $0xf4,(%rsi); jmp *%rsi",
        "0f20e0480d000010000f22e0c606f4ffe6f4",
        PF,
    ),
    Probe(
        ("erms",),
        "movl $0x41424344,(%rdi); mov %rdi,%rax; push %rsi; mov %rdi,%rsi; "
        "lea 8(%rdi),%rdi; mov $4,%ecx; rep movsb; mov 8(%rax),%eax; pop %rsi",
        "c707444342414889f8564889fe488d7f08b904000000f3a48b40085ef4",
        0x41424344,
    ),
    Probe(
        ("adx",),
        "mov $-1,%rax; xor %ecx,%ecx; mov $1,%edx; add %rdx,%rax; mov $5,%eax; "
        "adcx %rdx,%rax; mov $-1,%rbx; add %rbx,%rbx; mov $0x7f,%cl; add $1,%cl; "
        "mov $1,%ebx; adox %rbx,%rax",
        "48c7c0ffffffff31c9ba010000004801d0b80500000066480f38f6c248c7c3ffffffff4801dbb17f"
        "80c101bb01000000f3480f38f6c3f4",
        9,
    ),
    Probe(
        ("smap",),
        "mov %cr4,%rax; or $0x200000,%rax; mov %rax,%cr4; stac; mov (%rsi),%eax; clac; "
        "mov (%rsi),%eax",
        "0f20e0480d000020000f22e00f01cb8b060f01ca8b06f4",
        PF,
    ),
    Probe(
        ("clflushopt",),
        "movl $9,(%rdi); clflushopt (%rdi); mov (%rdi),%eax",
        "c70709000000660fae3f8b07f4",
        9,
    ),
    Probe(
        ("clwb",),
        "movl $9,(%rdi); clwb (%rdi); mov (%rdi),%eax",
        "c70709000000660fae378b07f4",
        9,
    ),
    Probe(
        ("pku",),
        "mov %cr4,%rax; or $0x40000,%rax; mov %rax,%cr4; xor %ecx,%ecx; xor %edx,%edx; "
        "mov $0x203,%eax; xsetbv; mov %cr4,%rax; or $0x400000,%rax; mov %rax,%cr4; "
        "xor %ecx,%ecx; xor %edx,%edx; mov $4,%eax; wrpkru; mov $0x4000,%ebx; "
        "mov %rsi,%rcx; shr $9,%rcx; mov $1,%edx; shl $59,%rdx; or %rdx,(%rbx,%rcx); "
        "invlpg (%rsi); mov (%rsi),%eax",
        "0f20e0480d000004000f22e031c931d2b8030200000f01d10f20e0480d000040000f22e031c931d2"
        "b8040000000f01efbb004000004889f148c1e909ba0100000048c1e23b4809140b0f013e8b06f4",
        PF,
    ),
    Probe(
        ("syscall",),
        "mov $0xc0000080,%ecx; rdmsr; or $1,%eax; wrmsr; mov $0xc0000081,%ecx; "
        "xor %eax,%eax; mov $0x00180008,%edx; wrmsr; inc %ecx; lea 1f(%rip),%rax; "
        "xor %edx,%edx; wrmsr; mov $0xc0000084,%ecx; xor %eax,%eax; wrmsr; "
        "lea 2f(%rip),%rbx; syscall; 2: hlt; 1: xor %eax,%eax; cmp %rcx,%rbx; "
        "setz %al",
        "b9800000c00f3283c8010f30b9810000c031c0ba080018000f30ffc1488d051700000031d20f30b9"
        "840000c031c00f30488d1d020000000f05f431c04839cb0f94c0f4",
        1,
    ),
    Probe(
        ("nx",),
        "mov $0x4000,%ebx; mov %rsi,%rcx; shr $9,%rcx; btsq $63,(%rbx,%rcx); "
        "invlpg (%rsi); movb $0xf4,(%rsi); jmp *%rsi",
        "bb004000004889f148c1e909480fba2c0b3f0f013ec606f4ffe6f4",
        PF,
    ),
    Probe(
        ("mmxext",),
        "mov $0x04030201,%eax; movd %eax,%mm0; pshufw $1,%mm0,%mm0; movd %mm0,%eax; emms",
        "b8010203040f6ec00f70c0010f7ec00f77f4",
        0x2010403,
    ),
    Probe(
        ("page1gb",),
        "movl $0x5a5a,(%rdi); mov $0x2000,%ebx; movq $0x83,8(%rbx); mov 0x40000000(%rdi),%eax",
        "c7075a5a0000bb0020000048c74308830000008b8700000040f4",
        0x5A5A,
    ),
    Probe(
        ("rdtscp",),
        "mov $0xc0000103,%ecx; mov $0x42,%eax; xor %edx,%edx; wrmsr; xor %ecx,%ecx; "
        "rdtscp; mov %ecx,%eax",
        "b9030100c0b84200000031d20f3031c90f01f989c8f4",
        0x42,
    ),
    Probe(
        ("lm",),
        "mov $0x123456789abcdef0,%rax; lea 1(%rax),%r15; mov %r15,%rax",
        "48b8f0debc9a785634124c8d78014c89f8f4",
        0x123456789ABCDEF1,
    ),
    Probe(
        ("3dnowext",),
        "mov $0x11,%eax; movd %eax,%mm0; pswapd %mm0,%mm0; movq %mm0,%rax; shr $32,%rax; femms",
        "b8110000000f6ec00f0fc0bb480f7ec048c1e8200f0ef4",
        0x11,
    ),
    Probe(
        ("3dnow",),
        "mov $0x40000000,%eax; movd %eax,%mm0; pfadd %mm0,%mm0; movd %mm0,%eax; femms",
        "b8000000400f6ec00f0fc09e0f7ec00f0ef4",
        0x40800000,
    ),
    Probe(
        ("lahf-lm",),
        "xor %eax,%eax; cmp %eax,%eax; lahf; movzbl %ah,%eax",
        "31c039c09f0fb6c4f4",
        0x46,
    ),
    Probe(
        ("abm",),
        "mov $0x00ff0000,%ecx; lzcnt %ecx,%eax",
        "b90000ff00f30fbdc1f4",
        8,
    ),
    Probe(
        ("sse4a",),
        "mov $0xabcdef,%eax; movq %rax,%xmm0; extrq $8,$8,%xmm0; movq %xmm0,%rax",
        "b8efcdab0066480f6ec0660f78c0080866480f7ec0f4",
        0xCD,
    ),
    Probe(
        ("3dnowprefetch",),
        "movl $9,(%rdi); prefetchw (%rdi); prefetch (%rdi); mov (%rdi),%eax",
        "c707090000000f0d0f0f0d078b07f4",
        9,
    ),
    Probe(
        ("no-lmsl",),
        "mov $0xc0000080,%ecx; rdmsr; or $0x2000,%eax; wrmsr",
        "b9800000c00f320d002000000f30f4",
        GP,
    ),
    Probe(
        (
            "ibrsb",
            "ibrs",
        ),
        "mov $0x48,%ecx; mov $1,%eax; xor %edx,%edx; wrmsr; xor %eax,%eax; rdmsr",
        "b948000000b80100000031d20f3031c00f32f4",
        1,
    ),
    Probe(
        (
            "stibp",
            "amd-stibp",
        ),
        "mov $0x48,%ecx; mov $2,%eax; xor %edx,%edx; wrmsr; xor %eax,%eax; rdmsr",
        "b948000000b80200000031d20f3031c00f32f4",
        2,
    ),
    Probe(
        (
            "ssbd",
            "amd-ssbd",
        ),
        "mov $0x48,%ecx; mov $4,%eax; xor %edx,%edx; wrmsr; xor %eax,%eax; rdmsr",
        "b948000000b80400000031d20f3031c00f32f4",
        4,
    ),
    Probe(
        ("ibpb",),
        "mov $0x49,%ecx; mov $1,%eax; xor %edx,%edx; wrmsr",
        "b949000000b80100000031d20f30f4",
        1,
    ),
    Probe(
        ("l1d-flush",),
        "mov $0x10b,%ecx; mov $1,%eax; xor %edx,%edx; wrmsr",
        "b90b010000b80100000031d20f30f4",
        1,
    ),
    Probe(
        ("md-clear",),
        "mov $0x10,%eax; mov %ax,(%rdi); verw (%rdi); setz %al; movzbl %al,%eax",
        "b8100000006689070f002f0f94c00fb6c0f4",
        1,
    ),
    Probe(
        (
            "arch-caps",
            "rdcl-no",
            "intel-ssb-no",
            "mds-no",
            "if-pschange-mc-no",
            "taa-no",
            "sbdr-ssdp-no",
            "fbsdp-no",
            "psdp-no",
            "bhi-no",
            "pbrsb-no",
            "gds-no",
            "rfds-no",
        ),
        "mov $0x10a,%ecx; rdmsr",
        "b90a0100000f32f4",
        0xD10E171,
    ),
    Probe(
        ("its-no",),
        "mov $0x10a,%ecx; rdmsr; mov %edx,%eax",
        "b90a0100000f3289d0f4",
        0x40000000,
    ),
)
"""One or more features each; together they cover `engine.ENGINE_FEATURES`."""

ABSENT: Final = (
    Probe(
        ("avx2",),
        "vpxor %ymm0,%ymm0,%ymm0; mov $1,%eax",
        "c5fdefc0b801000000f4",
        UD,
    ),
    Probe(
        ("fma",),
        "vfmadd132ps %xmm0,%xmm0,%xmm0; mov $1,%eax",
        "c4e27998c0b801000000f4",
        UD,
    ),
    Probe(
        ("f16c",),
        "vcvtph2ps %xmm0,%xmm0; mov $1,%eax",
        "c4e27913c0b801000000f4",
        UD,
    ),
    Probe(
        ("invpcid",),
        "xor %eax,%eax; invpcid (%rdi),%rax; mov $1,%eax",
        "31c0660f388207b801000000f4",
        UD,
    ),
    Probe(
        ("sha",),
        "sha1nexte %xmm0,%xmm0; mov $1,%eax",
        "0f38c8c0b801000000f4",
        UD,
    ),
    Probe(
        ("rdpid",),
        "rdpid %rax; mov $1,%eax",
        "f30fc7f8b801000000f4",
        UD,
    ),
    Probe(
        ("serialize",),
        "serialize; mov $1,%eax",
        "0f01e8b801000000f4",
        UD,
    ),
    Probe(
        ("movdiri",),
        "movdiri %rax,(%rdi); mov $1,%eax",
        "480f38f907b801000000f4",
        UD,
    ),
    Probe(
        ("gfni",),
        "gf2p8mulb %xmm0,%xmm0; mov $1,%eax",
        "660f38cfc0b801000000f4",
        UD,
    ),
    Probe(
        ("clzero",),
        "mov %rdi,%rax; clzero; mov $1,%eax",
        "4889f80f01fcb801000000f4",
        UD,
    ),
    Probe(
        ("xsavec",),
        "mov %cr4,%rax; or $0x40000,%rax; mov %rax,%cr4; xor %ecx,%ecx; xor %edx,%edx; "
        "mov $3,%eax; xsetbv; mov $3,%eax; xsavec (%rdi); mov $1,%eax",
        "0f20e0480d000004000f22e031c931d2b8030000000f01d1b8030000000fc727b801000000f4",
        UD,
    ),
    Probe(
        ("xsaves",),
        "mov %cr4,%rax; or $0x40000,%rax; mov %rax,%cr4; xor %ecx,%ecx; xor %edx,%edx; "
        "mov $3,%eax; xsetbv; mov $3,%eax; xsaves (%rdi); mov $1,%eax",
        "0f20e0480d000004000f22e031c931d2b8030000000f01d1b8030000000fc72fb801000000f4",
        UD,
    ),
    Probe(
        ("monitor",),
        "mov %rdi,%rax; xor %ecx,%ecx; xor %edx,%edx; monitor; mov $1,%eax",
        "4889f831c931d20f01c8b801000000f4",
        UD,
    ),
    Probe(
        ("monitorx",),
        "mov %rdi,%rax; xor %ecx,%ecx; xor %edx,%edx; monitorx; mov $1,%eax",
        "4889f831c931d20f01fab801000000f4",
        UD,
    ),
    Probe(
        ("vmx",),
        "vmxoff; mov $1,%eax",
        "0f01c4b801000000f4",
        UD,
    ),
    Probe(
        ("svm",),
        "vmsave; mov $1,%eax",
        "0f01dbb801000000f4",
        UD,
    ),
)
"""Features that the engine lacks, and says so."""
