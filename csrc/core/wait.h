/* wait.h - one blocking wait: spin for a while, then park, until ready or the deadline. */
#ifndef ASP_WAIT_H
#define ASP_WAIT_H

#include <stdbool.h>
#include <stdint.h>

#include "monitor.h"
#include "predict.h"
#include "status.h"
#include "watch.h"

/* One hardware wait at most, and so the longest that a cancel waits for the waiter thread.
 * Linux lets UMWAIT last 100,000 ticks (33 to 50 us at usual clocks), and a park costs
 * about as much, so longer slices would buy nothing. */
#define ASP_SLICE_NS 50000u
/* First sleep of a cold wait that nobody notifies; doubles from there. Below it the kernel's
 * timer slack of 50 us would dominate. */
#define ASP_FIRST_SLEEP_NS 50000u
/* Words that one watch may ask to be woken by; a watch with more looks again by itself. */
#define ASP_WATCH_WORDS 32u
/* A wait comes up this often to ask whether the other side lives, since a death wakes nobody, and a blocking one
 * to let Python look for signals as well: one that arrives between that look and the system call interrupts
 * nothing. 90 ms is soon for a person at Ctrl-C and keeps what survivors wait under 100 ms; eleven wakes a second
 * cost 0.1 % of a core (benchmarks/idle_cost.py). */
#define ASP_RECHECK_NS 90000000u

/* How one wait goes on. Start it with asp_pace_start. */
typedef struct asp_pace {
    uint64_t spin_from_ns;  /* park until then */
    uint64_t spin_until_ns; /* spin until then, and park again */
    asp_predict *predict;   /* says what comes after that; NULL: nothing, it stays parked */
    asp_price price;        /* for the predictor */
    uint64_t spun_ns;       /* spent spinning so far */
    uint64_t recheck_ns;    /* when to come up next, whatever comes between; 0: ASP_RECHECK_NS from now */
    uint64_t due_ns;        /* when the last sleep should have ended, until a spin begins; else 0 */
    uint64_t sleep_ns;      /* next sleep of a cold wait that nobody notifies; doubles */
    uint64_t max_sleep_ns;  /* up to this, > 0 */
    bool hardware;          /* may use the hardware monitor */
    bool rehearses;         /* the caller wants ASP_DUE */
    bool uncounted;         /* a part of a wait, which the caller counts as a whole; of a waiter's tickets */
    bool told;              /* somebody hears of it when the other side dies: do not ask; of a waiter's tickets */
    bool parked;            /* has been through at least one park */
    bool spinning;          /* the last look was one of a spin */
} asp_pace;

/* Spin for spin_ns, then park. */
asp_pace asp_pace_start(uint64_t now_ns, uint64_t spin_ns, uint64_t max_sleep_ns, bool hardware);
/* Spin when the predictor says so, which nobody else may use until the wait is over. It is asked when the wait
 * begins. */
asp_pace asp_pace_predicted(asp_predict *predict, const asp_price *price, uint64_t max_sleep_ns,
                            bool hardware);

/* Has the time to spin come? Plans what comes next when it has passed. */
bool asp_pace_spins(asp_pace *pace, uint64_t now_ns);

/* How long to sleep now, and remember that it was slept. */
uint64_t asp_pace_sleep(asp_pace *pace);

/* The monitor that this process uses; asp_use is called once, when the module is loaded. */
void asp_use(const asp_selection *selection);
const asp_selection *asp_current(void);

/* May the hardware watch this? Everything that decides lies on one line (T13). */
bool asp_one_line(const asp_watch *watch);

/* A thread that spins looks busy with work, so the scheduler lets a writer that wakes on the same CPU wait for
 * milliseconds: until the spin for its message ends. So every spinner calls this, which yields when *next_ns has
 * come, and then says when to yield next (0 at first: now). Returns the time, which was now_ns. */
uint64_t asp_step_back(uint64_t *next_ns, uint64_t now_ns);

/* peers_live of a watch. */
bool asp_peers_live(asp_watch *watch);

/* One bounded step of spinning on a watch: armed when `armed`, else a pause. Returns whether it is ready. */
bool asp_spin_step(asp_watch *watch, bool armed, uint64_t slice_ns);

/* Spin until ready (true) or until_ns. */
bool asp_spin(asp_watch *watch, uint64_t until_ns, bool hardware);

/* Wait in the calling thread. ASP_READY, ASP_TIMED_OUT (before the deadline: somebody died whom it waits for), or
 * ASP_INTERRUPTED: let signal handlers run, then call again with the same pace. ASP_DUE where the pace rehearses: a
 * planned sleep is over, so walk the way that a message will take while there is time, and call again with a pace that
 * has its due_ns and recheck_ns. The caller has looked once already. */
asp_status asp_wait(asp_watch *watch, asp_pace *pace, uint64_t deadline_ns);

#endif
