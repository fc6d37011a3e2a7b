/* arch.h - what csrc/arch shares inside itself: its backends, and the arithmetic common to them.
 *
 * A backend is a monitor and the two things that only selection asks about it. There is one
 * const object a backend; select.c lists those of the architecture that is compiled for, best
 * first. Every file of an architecture is wrapped in that architecture's #if, so that all of
 * csrc/arch is compiled everywhere and no build script has to know the machine. */
#ifndef ASP_ARCH_H
#define ASP_ARCH_H

#include <stddef.h>
#include <stdint.h>

#include "clock.h"
#include "monitor.h"

typedef struct asp_backend {
    asp_monitor monitor;
    /* What is missing here, as the end of a sentence "<name>: ..."; NULL when nothing is.
     * A NULL pointer for one that every CPU of the architecture has. */
    const char *(*missing)(void);
    /* Bytes that arm() is sure to cover, a power of two, aligned to itself. NULL unless it
     * watches. */
    uint32_t (*line_bytes)(void);
} asp_backend;

extern const asp_backend asp_backend_generic;
#if defined(__x86_64__)
extern const asp_backend asp_backend_mwaitx, asp_backend_umwait, asp_backend_tpause,
    asp_backend_pause;
#elif defined(__aarch64__)
extern const asp_backend asp_backend_wfet, asp_backend_wfe, asp_backend_isb, asp_backend_yield;
#elif defined(__riscv) && __riscv_xlen == 64
extern const asp_backend asp_backend_zawrs, asp_backend_pause;
#endif

/* ---- selection (select.c) ---- */

/* The backend of this architecture with that name, whether or not this CPU has it; NULL when
 * there is none. For tests: emulators run instructions that they do not advertise. */
const asp_backend *asp_backend_find(const char *name);

/* asp_select over a table of one's own, so that a test can hand in a monitor that misbehaves. */
asp_status asp_select_from(const asp_backend *const *table, size_t count, const char *wanted,
                           asp_selection *selection);

/* ---- the start-up probe of trap T5 (probe.c) ---- */

#define ASP_PROBE_SLICE_NS 20000u /* 20 us: what the wait loop asks for, and under the kernel's
                                     default UMWAIT limit of 100000 ticks up to 5 GHz */
/* Half of that. No measurement tells 1 us from 9 us of sleep in general, but the two failures seen
 * lie below: a WFE that returned after 17 ns, and an MWAITX that its hypervisor intercepts, so
 * that it is nothing but a round trip of 3400 ns to the host (KVM on a Zen 4 EPYC). */
#define ASP_PROBE_SLEEPS_NS (ASP_PROBE_SLICE_NS / 2)

/* Median time that wait(ASP_PROBE_SLICE_NS) takes when nobody stores to the armed line, in ns.
 * Below ASP_PROBE_SLEEPS_NS the monitor does not sleep. */
uint64_t asp_probe_dwell_ns(const asp_monitor *monitor);

/* ---- counters (ticks.c) ---- */

/* Frequency of a counter, measured against asp_now_ns in about 110 us; never 0. */
uint64_t asp_measure_hz(uint64_t (*read_ticks)(void));

/* A deadline in ticks, for instructions that take an absolute one (T1). Saturates, so that a
 * huge slice cannot wrap to a deadline in the past. */
static inline uint64_t asp_deadline_ticks(uint64_t now_ticks, uint64_t ticks) {
    return ticks > UINT64_MAX - now_ticks ? UINT64_MAX : now_ticks + ticks;
}

/* A count for instructions that take a relative 32-bit one (T1). Saturates, and is never 0, lest
 * hardware take that for "no timer". */
static inline uint32_t asp_count_ticks(uint64_t ticks) {
    return ticks == 0 ? 1 : ticks > UINT32_MAX ? UINT32_MAX : (uint32_t)ticks;
}

/* ---- relaxing ---- */

/* Pause instructions between two looks at the clock. A pause is 10 to 140 cycles on x86 and a
 * barrier's length elsewhere, a clock read about 25 ns: 8 keep the clock to a small part of the
 * time where the pause is long, and the overshoot under half a microsecond. */
#define ASP_RELAX_BATCH 8

/* asp_monitor.pause in terms of one instruction; inlined with it. */
static inline void asp_relax(uint64_t slice_ns, void (*pause_once)(void)) {
    pause_once();
    if (slice_ns == 0) {
        return;
    }
    const uint64_t end_ns = asp_after(asp_now_ns(), slice_ns);
    while (asp_now_ns() < end_ns) {
        for (int i = 0; i < ASP_RELAX_BATCH; i++) {
            pause_once();
        }
    }
}

#endif
