/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * The native core: machine memory, guest-physical spaces, and CPUs on one engine per space.
 *
 * memory (frames, owners, counts) <- space (p2m, one engine) <- vcpu (registers, exits).
 * All vCPUs of a space share the engine and with it one cache of translated code; they never
 * run at the same moment.  Different spaces may run on different threads.
 */
#ifndef XG_CORE_H
#define XG_CORE_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "layout.h"

#define PAGE_SHIFT 12
#define PAGE_SIZE 4096ull
#define RESERVED_FRAMES 0x100u /* mfns below are never handed out: mistakes show */
#define HOLE_BASE (1ull << 50)   /* engine addresses of guest-physical holes */
#define GFN_BITS 36

#define likely(x) __builtin_expect(!!(x), 1)
#define unlikely(x) __builtin_expect(!!(x), 0)

/* p2m entry bits; protocol.py declares the first four */
#define P2M_PRESENT 1ull
#define P2M_WRITE 2ull
#define P2M_EXEC 4ull
#define P2M_COW 8ull
#define P2M_FLAGS 15ull
#define P2M_FILLED 16ull /* an engine's TLB may hold it */

enum exit_reason {
    EXIT_BUDGET, EXIT_KICK, EXIT_HYPERCALL, EXIT_IO_IN, EXIT_IO_OUT, EXIT_MMIO_READ,
    EXIT_MMIO_WRITE, EXIT_CPUID, EXIT_MSR_READ, EXIT_MSR_WRITE, EXIT_HALT, EXIT_PAUSE,
    EXIT_SHUTDOWN, EXIT_STAGE2, EXIT_DEBUG, EXIT_ERROR, EXIT_EXCEPTION, EXIT_NONE = -1,
};

/* -- machine memory ------------------------------------------------------------------- */

enum { FRAME_USED = 1, FRAME_CODE = 2, FRAME_DIRTY = 4, FRAME_SCRUB = 8, FRAME_ZOMBIE = 16 };

struct frame {
    uint32_t owner;
    uint32_t refs;
    atomic_uchar flags;
    uint8_t writes; /* slow stores since code was translated from it */
    int16_t linear; /* tables of its own level that it maps (+), or that map it (-) */
    uint32_t types; /* what it is used as, and how often: pv.h */
    union {
        uint32_t stamp;       /* the TLB clock when its last use ended */
        uint32_t next_zombie; /* of a frame without owner's references */
    };
};

struct memory {
    PyObject_HEAD
    int fd;
    uint8_t *base;
    struct frame *table;
    uint64_t frames, free, hint;
    bool log_dirty;
    uint32_t tlb_clock; /* counts flushes of PV vCPUs */
    uint32_t zombies;   /* frames whose last reference page tables have dropped */
    uint64_t m2p, m2p32; /* what PV guests see as machine-to-physical, or 0 */
    uint8_t external[4096]; /* bitmap of domids whose frames have no types (HVM-type) */
    pthread_mutex_t lock;
    struct engine *engines; /* all engines whose guests may hold frames of this memory */
};

int memory_register(PyObject *module);
PyObject *inet_sum(PyObject *self, PyObject *argument);
PyObject *blkif_batch(PyObject *self, PyObject *args);
PyObject *netif_put(PyObject *self, PyObject *args);
extern PyTypeObject Memory_Type;
uint64_t frame_alloc(struct memory *m, uint32_t owner);
void frame_put(struct memory *m, uint64_t mfn);
PyObject *memory_locate(struct memory *m, PyObject *args);
PyObject *memory_exchange(struct memory *m, PyObject *args);
PyObject *memory_gather(struct memory *m, PyObject *arg);
PyObject *memory_scatter(struct memory *m, PyObject *args);
PyObject *memory_fill(struct memory *m, PyObject *args);
bool memory_external(struct memory *m, uint32_t domid);
void memory_set_m2p(struct memory *m, uint64_t mfn, uint64_t gpfn);
/* A frame was or will be written from outside the running vCPU's translated stores. */
void frame_written(struct memory *m, uint64_t mfn);

/* -- guest-physical spaces -------------------------------------------------------------- */

struct space {
    PyObject_HEAD
    struct memory *memory;
    uint64_t ***root[512];
    uint32_t owner;      /* of frames that it makes of copy-on-write ones */
    uint64_t generation; /* counts changes that the TLBs must see */
    bool holes_filled;
    struct engine *engine;
};

int space_register(PyObject *module);
extern PyTypeObject Space_Type;
uint64_t *space_entry(struct space *s, uint64_t gfn, bool create);
uint64_t space_lookup(struct space *s, uint64_t gfn);
/* Give the space its own copy of a copy-on-write frame. False: out of frames. */
bool space_unshare(struct space *s, uint64_t *entry);
/* Host pointer to size bytes within one page, or NULL. */
uint8_t *space_host(struct space *s, uint64_t gpa, bool write);

/* -- engines: one per space ----------------------------------------------------------- */

#define INVALIDATE_QUEUE 64
#define MAX_CPUS 512

struct engine {
    bool patch_block, single_block; /* the block being translated */
    void *icount_op, *bound_op, *slow_label, *on_label, *check, *context;
    uint64_t limit, hard_limit;
    int64_t deadline;
    void *uc, *memory_section;
    struct space *space;
    struct memory *memory;
    struct vcpu *vcpus, *current;
    void *first_cpu, *further[MAX_CPUS];
    uint32_t cpus;
    void *spares[MAX_CPUS]; /* CPUs of the engine that no vCPU uses */
    uint32_t spare;
    uint8_t *code;         /* bitmap: frames with translations here */
    uint64_t slow_store_mfn;
    atomic_bool running, flush_all;
    atomic_bool busy; /* from before it catches up with the others until it stands still again */
    uint32_t queued;
    uint64_t queue[INVALIDATE_QUEUE];
    struct engine *next;
};

struct engine *engine_open(struct space *s, char *error, size_t size);
void engine_close(struct engine *e);
uint64_t engine_trim(struct engine *e, uint64_t least);
void engine_catch_up(struct engine *e);
/* Instructions that the CPU that runs has started, and how many when blocks look up again. */
uint64_t engine_count(struct engine *e);
void engine_set_limit(struct engine *e, uint64_t limit);
/* One more CPU of the engine, or NULL. */
void *engine_further_cpu(struct engine *e);
void engine_queue(struct engine *e, uint64_t mfn);
void engine_mark_code(struct engine *e, uint64_t mfn);

/* -- vCPUs ---------------------------------------------------------------------------- */

/* VME PVI TSD DE PSE PAE MCE PGE PCE OSFXSR OSXMMEXCPT FSGSBASE OSXSAVE SMEP SMAP PKE */
#define CR4_VALID 0x7507ffull
/* SCE LME LMA NXE */
#define EFER_VALID 0xd01ull
#define XCR0_VALID 0x203ull /* x87, SSE, PKRU */

#define LOG_MAX 8
#define JUMPS_PAGE 256u
#define JUMPS (64 * JUMPS_PAGE)
#define LOCALS 64
#define INJECTIONS 64

struct access {
    int32_t reason;
    uint64_t address;
    uint64_t value[4];
};

struct cpuid_row {
    uint32_t leaf, subleaf_any, subleaf, regs[4];
};

struct fast_row {
    uint64_t number, arg, result;
};

struct tsc {
    bool is_virtual;
    uint64_t khz;
    int64_t offset;
};

struct vcpu {
    PyObject_HEAD
    struct space *space;
    struct engine *engine;
    void *cs, *env;
    int index;
    struct vcpu *next;
    uint64_t count;
    uint64_t seen_generation;
    atomic_bool kicked;
    bool dead;

    int32_t reason;
    uint32_t flags;
    uint64_t args[6];
    bool pending; /* the exit waits for an answer */
    bool replay_hypercall;

    /* accesses of one instruction that were answered already */
    struct access log[LOG_MAX];
    int log_len, log_pos;
    uint64_t log_rip, log_count;

    bool fault;
    int fault_vector, fault_error;
    int64_t fault_cr2;
    bool fault_has_cr2;
    int int_length; /* of the INT instruction under way */

    int fill_access;
    uintptr_t fill_retaddr;

    /* A watched access: its instruction runs again, alone, and then traps. */
    uint64_t watch_rip;
    uint32_t watch_hits; /* bits of DR6 */
    bool watching;

    int vector, taken;
    /* Whether the guest may end `vector`, or the one that it has taken, without an exit. */
    bool ends, ending, ended;
    bool nmi;
    uint64_t line;
    int line_vector;
    struct { uint64_t count; int32_t vector, kind; } injected[INJECTIONS];
    uint32_t injections;

    struct cpuid_row *cpuid;
    size_t cpuid_rows;
    struct fast_row *fast;
    size_t fast_rows;
    uint32_t msrs[32];
    size_t msr_count;
    uint8_t ports[8192]; /* bit set: the port exits */
    struct tsc tsc;
    uint32_t pause_every, pauses;

    struct jump *jumps; /* where indirect jumps lead (tlb.c) */
    uint64_t epoch;
    uint64_t leaf;          /* the page table entry that the walker read last */
    uint64_t local[LOCALS]; /* pages that the TLB may hold and that aren't global */
    uint32_t locals;        /* how many of them; LOCALS + 1: too many */
    uint64_t cr4_valid, efer_valid;
    uint64_t entropy;
    int call_length; /* of the hypercall instruction under way */
    struct pv_vcpu *pv; /* of a PV guest, or NULL */
};

int cpu_register(PyObject *module);
extern PyTypeObject Cpu_Type;
extern PyObject *AccessError;
extern PyMethodDef cpu_register_methods[];

bool jumps_open(struct vcpu *v);
void jumps_forget(struct vcpu *v);
uint32_t string_of(struct vcpu *v, const void *tb);
void string_run(struct vcpu *v, uint32_t what);
void tlb_filled(struct vcpu *v, uint64_t vaddr);
void vcpu_reset(struct vcpu *v);
void vcpu_sync_hflags(struct vcpu *v);
uint64_t vcpu_eflags(void *env);
void vcpu_set_eflags(void *env, uint64_t value);
uint64_t vcpu_tsc(struct vcpu *v, uint64_t count);
bool vcpu_read_virtual(struct vcpu *v, uint64_t gva, void *to, size_t size);
uint64_t vcpu_translate(struct vcpu *v, uint64_t gva);
/* The same for a write of the kernel's; sets accessed and dirty bits. ~0: it would fault. */
uint64_t vcpu_translate_write(struct vcpu *v, uint64_t gva);
/* Deliver the #DB of a watched access. */
void debug_trap(struct vcpu *v);
_Noreturn void vcpu_leave(struct vcpu *v, int reason, uintptr_t retaddr);
int64_t monotonic_ns(void);
bool canonical(uint64_t address);

extern __thread struct vcpu *xg_current __attribute__((tls_model("initial-exec")));
const char *selfcheck(struct engine *e);

#endif
