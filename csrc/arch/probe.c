/* probe.c - does a monitor that claims to wait really wait (trap T5)?
 *
 * Some cores return from an armed WFE at once, and a hypervisor that intercepts a monitor wait
 * makes a slow no-op of it: a wait loop over such an instruction burns its core while it
 * believes that it sleeps. Feature bits do not tell; only the clock does. */
#include "arch.h"

/* Odd, for the median. Five waits of a slice are 100 us; five that only the kernel's event
 * stream ends (WFE, about 100 us each, T4) are still well below a millisecond. */
#define ASP_PROBE_WAITS 5

#define ASP_PROBE_ALIGN 256 /* bytes; a whole line of any size that we know is the probe's alone */

uint64_t asp_probe_dwell_ns(const asp_monitor *monitor) {
    _Alignas(ASP_PROBE_ALIGN) const uint8_t line[ASP_PROBE_ALIGN] = {0};
    uint64_t sorted[ASP_PROBE_WAITS];
    for (int n = 0; n < ASP_PROBE_WAITS; n++) {
        /* Arming once before, to take off what arming and the clock cost by themselves: each
         * is a trip to the host or the kernel somewhere, and longer than the wait. */
        const uint64_t before_ns = asp_now_ns();
        monitor->arm(line);
        const uint64_t start_ns = asp_now_ns();
        monitor->arm(line);
        monitor->wait(ASP_PROBE_SLICE_NS);
        const uint64_t dwell_ns = asp_left(asp_now_ns() - start_ns, start_ns - before_ns);
        int i = n;
        for (; i > 0 && sorted[i - 1] > dwell_ns; i--) {
            sorted[i] = sorted[i - 1];
        }
        sorted[i] = dwell_ns;
    }
    return sorted[ASP_PROBE_WAITS / 2];
}
