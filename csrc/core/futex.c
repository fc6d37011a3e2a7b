/* futex.c - see futex.h. Shared (not FUTEX_PRIVATE) operations throughout, since the words lie in
 * memory that other processes map. */
#include "futex.h"

#include <errno.h>
#include <limits.h>
#include <time.h>

#include "clock.h"

asp_status asp_sleep_until(uint64_t deadline_ns) {
    struct timespec at = {.tv_sec = (time_t)(deadline_ns / 1000000000u),
                          .tv_nsec = (long)(deadline_ns % 1000000000u)};
#if defined(__APPLE__) /* has no clock_nanosleep */
    uint64_t left = asp_left(deadline_ns, asp_now_ns());
    at.tv_sec = (time_t)(left / 1000000000u);
    at.tv_nsec = (long)(left % 1000000000u);
    int error = nanosleep(&at, NULL) ? errno : 0;
#else
    int error = clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &at, NULL);
#endif
    return error == EINTR ? ASP_INTERRUPTED : ASP_TIMED_OUT;
}

/* Where nothing can wake us: sleep a little, then let the caller look again. */
static asp_status sleep_a_little(uint64_t deadline_ns) {
    uint64_t until = asp_after(asp_now_ns(), ASP_FUTEX_FALLBACK_NS);
    asp_status status = asp_sleep_until(until < deadline_ns ? until : deadline_ns);
    if (status == ASP_INTERRUPTED) return status;
    return asp_now_ns() >= deadline_ns ? ASP_TIMED_OUT : ASP_READY;
}

#ifdef __linux__
#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "atomics.h"

#ifndef SYS_futex_waitv /* one number on every architecture of the generic table */
#define SYS_futex_waitv 449
#endif

/* struct futex_waitv and FUTEX_32 of linux/futex.h, which older headers lack */
struct waitv {
    uint64_t val;
    uint64_t uaddr;
    uint32_t flags;
    uint32_t reserved;
};
#define WAITV_U32 2u

static bool denied(int error) { return error == ENOSYS || error == EPERM || error == EACCES; }

/* 0 unknown, 1 yes, 2 no; relaxed, since every thread would find the same. */
static uint32_t waitv_state, futex_state;

bool asp_futex_waitv_available(void) {
    uint32_t state = asp_load_relaxed_u32(&waitv_state);
    if (!state) {
        /* No waiters given: a kernel that knows the call answers EINVAL. */
        long r = syscall(SYS_futex_waitv, NULL, 0u, 0u, NULL, CLOCK_MONOTONIC);
        state = r < 0 && errno == EINVAL ? 1 : 2;
        asp_store_relaxed_u32(&waitv_state, state);
    }
    return state == 1;
}

bool asp_futex_available(void) {
    uint32_t state = asp_load_relaxed_u32(&futex_state);
    if (!state) {
        static uint32_t word;
        long r = syscall(SYS_futex, &word, FUTEX_WAKE, 1, NULL, NULL, 0);
        state = r < 0 && denied(errno) ? 2 : 1;
        asp_store_relaxed_u32(&futex_state, state);
    }
    return state == 1;
}

/* What a call that returned `result` ended with; false when the kernel cannot wait on these words. */
static bool waited(long result, asp_status *status) {
    *status = ASP_READY;
    if (result >= 0 || errno == EAGAIN) return true; /* woken; the word has changed */
    if (errno == ETIMEDOUT) *status = ASP_TIMED_OUT;
    else if (errno == EINTR) *status = ASP_INTERRUPTED;
    else return false; /* EFAULT: no memory that has a page, or unmapped by now; ENOMEM */
    return true;
}

asp_status asp_futex_wait(const asp_futex_word *words, size_t count, uint64_t deadline_ns) {
    if (!asp_futex_available()) return sleep_a_little(deadline_ns);
    bool forever = deadline_ns == ASP_FOREVER;
    asp_status status;
    if (count > 1 && asp_futex_waitv_available()) {
        struct waitv waiters[ASP_FUTEX_MAX];
        for (size_t i = 0; i < count; i++)
            waiters[i] = (struct waitv){words[i].expected, (uint64_t)(uintptr_t)words[i].word, WAITV_U32, 0};
        /* this call wants the kernel's 64-bit timespec even on 32-bit machines */
        struct {
            int64_t seconds, nanoseconds;
        } at = {(int64_t)(deadline_ns / 1000000000u), (int64_t)(deadline_ns % 1000000000u)};
        if (waited(syscall(SYS_futex_waitv, waiters, (unsigned)count, 0u, forever ? NULL : &at,
                           CLOCK_MONOTONIC),
                   &status))
            return status;
    }
    if (count > 1) {
        uint64_t until = asp_after(asp_now_ns(), ASP_FUTEX_FALLBACK_NS);
        if (until < deadline_ns) {
            status = asp_futex_wait(words, 1, until);
            return status == ASP_TIMED_OUT ? ASP_READY : status;
        }
    }
    struct timespec at = {.tv_sec = (time_t)(deadline_ns / 1000000000u),
                          .tv_nsec = (long)(deadline_ns % 1000000000u)};
    /* FUTEX_WAIT_BITSET, because its timeout is absolute and monotonic. */
    if (waited(syscall(SYS_futex, words[0].word, FUTEX_WAIT_BITSET, words[0].expected,
                       forever ? NULL : &at, NULL, FUTEX_BITSET_MATCH_ANY),
               &status))
        return status;
    return sleep_a_little(deadline_ns); /* and not at once, or the caller's loop would burn a core */
}

void asp_futex_wake(const uint32_t *word) {
    syscall(SYS_futex, word, FUTEX_WAKE, INT_MAX, NULL, NULL, 0);
}

#else /* not Linux */

bool asp_futex_available(void) { return false; }
bool asp_futex_waitv_available(void) { return false; }

asp_status asp_futex_wait(const asp_futex_word *words, size_t count, uint64_t deadline_ns) {
    (void)words;
    (void)count;
    return sleep_a_little(deadline_ns);
}

void asp_futex_wake(const uint32_t *word) { (void)word; }

#endif
