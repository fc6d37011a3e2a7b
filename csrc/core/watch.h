/* watch.h - what one wait looks at, as the wait loop and the waiter see it.
 *
 * A watch is embedded as the first member of the thing that is watched (a predicate over a
 * buffer, a snapshot of one, a ring's reading or writing end), in the way of a C "interface". */
#ifndef ASP_WATCH_H
#define ASP_WATCH_H

#include <stdbool.h>
#include <stdint.h>

#include "futex.h"
#include "predict.h"

typedef struct asp_watch asp_watch;

struct asp_watch {
    /* Is it ready? Called from whichever thread waits, one at a time; never blocks. */
    bool (*look)(asp_watch *watch);
    /* Announce a park and write down the words where a notifier will knock, at most `room`.
     * Returns their number; 0 means that nobody notifies, or that there are more words than
     * room, so that the sleeper must look again by itself. The caller looks once more
     * before it sleeps. NULL is the same as a function that returns 0. */
    unsigned (*prepare)(asp_watch *watch, asp_futex_word *words, unsigned room);
    /* The words that decide, for a hardware monitor; span 0 when they do not lie together. */
    const void *address;
    uint32_t span; /* bytes */
    /* When what made it ready was published, CLOCK_MONOTONIC ns; 0: nobody wrote that down. Asked after a look that
     * was true. NULL is the same as a function that returns 0. */
    uint64_t (*published)(asp_watch *watch);
    /* What was learned of when it turns ready; NULL: nothing. */
    asp_predict *predict;
    /* Do all live whom this waits for? Asked every ASP_RECHECK_NS of a wait; false ends it as timed out, for the
     * caller to find out who died. Never blocks. NULL is the same as a function that returns true. */
    bool (*peers_live)(asp_watch *watch);
};

#endif
