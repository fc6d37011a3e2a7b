/* wfe.c - exclusive load and WFE: sleep until the granule is stored to, or the next event.
 *
 * WFE has no bound of its own. What ends it, when no store does, is the kernel's event stream:
 * a tick about every 100 us, announced by HWCAP_EVTSTRM. Without the stream the wait could last
 * for ever, so the backend is then not offered (T4). With it a wait outlasts a shorter slice by up
 * to one tick; that is the one exception to the bound in monitor.h.
 *
 * The loop stays lossless when the scheduler or a signal comes between arm and wait: an exception
 * return clears the exclusive monitor, but also sets the event register, so that WFE returns at
 * once. An exclusive store between arm and wait (an atomic operation of a CPU without LSE) may
 * lose the watch and cost up to a tick: a look should only load. */
#include "arch.h"

#if defined(__aarch64__)

#include "aarch64.h"

void asp_aarch64_arm(const void *address) {
    uint32_t ignored;
    /* SEVL and WFE drain an event that is pending from before, every interrupt and system call
     * leaves one; else the wait would return at once. Nothing is lost by it: what happened
     * before the watch stands is for the look to see. The load acquires, so that the look's loads
     * are not satisfied before; it is of one byte, so that any address will do; and it is only a
     * load, so that read-only memory can be watched (T8). */
    __asm__ volatile("sevl\n\t"
                     "wfe\n\t"
                     "ldaxrb %w0, [%1]"
                     : "=r"(ignored)
                     : "r"(address)
                     : "memory");
}

static void wfe_wait(uint64_t slice_ns) {
    if (slice_ns == 0) {
        asp_aarch64_isb(0);
        return;
    }
    __asm__ volatile("wfe" ::: "memory");
}

static const char *wfe_missing(void) {
    return asp_aarch64_has_event_stream() ? NULL : "the kernel has no event stream to bound it";
}

const asp_backend asp_backend_wfe = {
    .monitor = {.name = "wfe",
                .watches = true,
                .arm = asp_aarch64_arm,
                .wait = wfe_wait,
                .pause = asp_aarch64_isb},
    .missing = wfe_missing,
    .line_bytes = asp_aarch64_granule_bytes,
};

#endif
