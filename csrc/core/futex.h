/* futex.h - sleeping in the kernel on 32-bit words of shared memory.
 *
 * Linux only does this across processes; elsewhere asp_futex_wait sleeps at most
 * ASP_FUTEX_FALLBACK_NS and looks again, so callers work unchanged, only less cheaply. */
#ifndef ASP_FUTEX_H
#define ASP_FUTEX_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "status.h"

#define ASP_FUTEX_MAX 128                /* words: FUTEX_WAITV_MAX of the kernel */
#define ASP_FUTEX_FALLBACK_NS 1000000u   /* 1 ms, the default max_sleep of the balanced policy */

typedef struct asp_futex_word {
    const uint32_t *word;
    uint32_t expected; /* sleep only while *word still is this */
} asp_futex_word;

/* Sleep until one of the words is woken or no longer holds its expected value, or the deadline
 * (absolute CLOCK_MONOTONIC ns, ASP_FOREVER for none) passes. Spurious returns are allowed.
 * ASP_READY, ASP_TIMED_OUT or ASP_INTERRUPTED (a signal). count is 1 to ASP_FUTEX_MAX.
 * Where the kernel lacks futex_waitv (before 5.16, or denied by seccomp) or cannot wait on one of
 * several words, it sleeps on the first alone, at most ASP_FUTEX_FALLBACK_NS; where it cannot wait on a
 * single one (it is unmapped by now, or device memory), it sleeps that long. */
asp_status asp_futex_wait(const asp_futex_word *words, size_t count, uint64_t deadline_ns);

/* Wake everybody who sleeps on the word, in any process. */
void asp_futex_wake(const uint32_t *word);

/* Sleep until the deadline, which must come. ASP_TIMED_OUT or ASP_INTERRUPTED. */
asp_status asp_sleep_until(uint64_t deadline_ns);

/* What the kernel offers; probed once. */
bool asp_futex_available(void);
bool asp_futex_waitv_available(void);

#endif
