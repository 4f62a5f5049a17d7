/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The ELF notes that PV kernels of both widths have: PV_NOTES quad, or long. */
        .macro NOTE type:req, kind:req, value:vararg
        .long 4, 2f - 1f, \type
        .asciz "Xen"
1:      .\kind \value
2:      .align 4
        .endm

        .macro PV_NOTES word:req
        .section .note.Xen, "a", @note
        .align 4
        NOTE 5, asciz, "xen-3.0"        /* XEN_ELFNOTE_XEN_VERSION */
        NOTE 6, asciz, "xenograft"      /* GUEST_OS */
        NOTE 8, asciz, "generic"        /* LOADER */
        NOTE 3, \word, 0                /* VIRT_BASE */
        NOTE 1, \word, _start           /* ENTRY */
        NOTE 2, \word, hypercall_page   /* HYPERCALL_PAGE */
        .endm
