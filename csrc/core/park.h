/* park.h - an eventcount: lossless sleeping on one shared word, free for the notifier while
 * nobody sleeps.
 *
 * The word is 32 bits. Bit 0 says that somebody may be parked. Bit 1 is for a notifier that has another
 * way to wake too (the doorbells of ring.h). The other bits count the wakes.
 *
 *   sleeper                                notifier
 *   expected = asp_park_prepare(word)      change the state that the sleeper looks at
 *   look; if ready, go on                  asp_park_notify(word)
 *   asp_futex_wait(word, expected)
 *
 * prepare ends with a full fence, notify begins with one: either the sleeper's look sees the new
 * state, or the notifier sees the bit and changes the word, so that the sleep ends or does not begin.
 * A sleeper that dies leaves bit 0 behind; the next notify clears it, so a dead sleeper costs one
 * system call, once, and nobody else's wake.
 *
 * The three steps and the elision follow the eventcounts of oneTBB (concurrent_monitor) and
 * folly; the flag bit inside the counter saves them the second shared word. */
#ifndef ASP_PARK_H
#define ASP_PARK_H

#include "atomics.h"
#include "clock.h"
#include "futex.h"

#define ASP_PARK_SLEEPER 1u /* somebody may be asleep on the word */
#define ASP_PARK_BELL 2u    /* somebody wants to be woken otherwise */
#define ASP_PARK_STEP 4u    /* one wake */

static inline uint32_t asp_park_prepare(uint32_t *word) {
    uint32_t expected = asp_fetch_or_u32(word, ASP_PARK_SLEEPER) | ASP_PARK_SLEEPER;
    /* Pairs with the fence in asp_park_notify. The read-modify-write alone does not keep the loads of the
     * look behind it: in C11 never, on an ARMv8.0 core not where they are relaxed. */
    asp_fence();
    return expected;
}

/* Announce a park that is not a sleep on the word; look again afterwards, as after asp_park_prepare. */
static inline void asp_park_prepare_bell(uint32_t *word) {
    asp_fetch_or_u32(word, ASP_PARK_BELL);
    asp_fence(); /* pairs with the fence in asp_park_notify */
}

/* Wake the sleepers. Returns the bits that were set, 0 when nobody was there: with ASP_PARK_BELL the caller
 * goes on to wake those that are not asleep on the word. Somebody was: *at_ns, unless NULL, tells them when. */
static inline uint32_t asp_park_notify_at(uint32_t *word, uint64_t *at_ns) {
    asp_fence(); /* pairs with the fences in asp_park_prepare and asp_park_prepare_bell */
    const uint32_t flags = ASP_PARK_SLEEPER | ASP_PARK_BELL;
    uint32_t seen = asp_load_relaxed_u32(word);
    while (seen & flags) {
        if (at_ns) asp_store_relaxed_u64(at_ns, asp_now_ns()); /* a statistic, so nothing orders it */
        if (asp_compare_exchange_u32(word, &seen, (seen & ~flags) + ASP_PARK_STEP)) {
            if (seen & ASP_PARK_SLEEPER) asp_futex_wake(word);
            return seen & flags;
        }
    }
    return 0;
}

static inline uint32_t asp_park_notify(uint32_t *word) { return asp_park_notify_at(word, NULL); }

#endif
