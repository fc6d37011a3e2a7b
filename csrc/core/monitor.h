/* monitor.h - the contract between the generic wait loop and an instruction set.
 *
 * A monitor waits a bounded slice, cheaply. Those that `watches` also end the slice when the
 * armed line is stored to. The loop around them is always
 *
 *     arm(address); if (look()) return; wait(slice_ns);      then look again
 *
 * so a store between arm and wait is caught by the look, and one after wait by the hardware.
 * Every function may return early for any reason (a spurious wake); none may outlast its slice
 * by more than the kernel's own preemption, because hardware was seen to lose wakes (T16). The
 * one exception is `wfe`, which has no bound but the kernel's event stream: its wait may outlast a
 * slice by one tick of that, about 100 us (T4).
 * None writes to the watched memory: it may be mapped read-only (T8). The look only loads: on
 * some AArch64 and RISC-V cores an atomic read-modify-write between arm and wait ends the watch.
 *
 * The implementations are in csrc/arch, one folder an architecture, chosen once by asp_select. */
#ifndef ASP_MONITOR_H
#define ASP_MONITOR_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "status.h"

typedef struct asp_monitor {
    const char *name; /* the AIOSPIN_BACKEND value that names it */
    bool watches;     /* wait() ends when the line given to arm() is stored to */
    /* Start watching the line of this address. Not called unless `watches`. */
    void (*arm)(const void *address);
    /* Wait until the armed line is stored to, at most slice_ns. Not called unless `watches`. */
    void (*wait)(uint64_t slice_ns);
    /* Relax between two looks of a scan for about slice_ns, at least one pause instruction.
     * slice_ns = 0 asks for the shortest pause that the instruction set has. */
    void (*pause)(uint64_t slice_ns);
} asp_monitor;

typedef struct asp_selection {
    const asp_monitor *monitor;
    uint32_t line_bytes; /* size of the line that arm() watches, power of two; 0 if none */
    char why[256];       /* one sentence: why this one, and why not a better one */
} asp_selection;

/* Choose a monitor. wanted: a backend name, or NULL or "auto" for the best this CPU has.
 * ASP_READY; ASP_E_INVALID for a name that no architecture has; ASP_E_UNSUPPORTED for one that
 * this CPU lacks. In both failures `why` names what there is, and `monitor` is NULL.
 * Detection looks at feature bits, never at a vendor's name (T12). A monitor that turns out
 * not to sleep (T5) is passed over by "auto", and `why` says so. */
asp_status asp_select(const char *wanted, asp_selection *selection);

/* The backends that asp_select would accept here, best first: at most `max` names are written,
 * the count is returned. */
size_t asp_supported(const char **names, size_t max);

#endif
