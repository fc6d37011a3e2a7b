/* contract.h - the promises of csrc/core/monitor.h, as checks that any backend can be put through.
 *
 * What the contract forbids ends the program (check.h). What it leaves open, how well a wait
 * really waits, is counted: a wait that returns at once is no error by itself, but a loop over it
 * burns its core, and only counting its passes can tell. */
#ifndef ASP_CONTRACT_H
#define ASP_CONTRACT_H

#include <stdbool.h>

#include "arch.h"

typedef struct score {
    unsigned of, is; /* so many were tried, so many did what they should */
} score;

typedef struct findings {
    score store;   /* waits that a store ended */
    score pending; /* waits ended by a store between the look and the wait */
    score line;    /* waits ended by a store elsewhere on the line */
    score signal;  /* waits that a signal ended, and the loop around them went on */
    score timeout; /* waits without a store that lasted their slice */
    score extreme; /* slices out of all proportion that did not return at once */
    unsigned long idle_wakes_per_s;
    const char *verdict; /* sleeps, deaf, returns-at-once; pauses */
} findings;

/* Whether the loop comes round so often while nothing happens that it does not sleep. */
bool asp_is_hot(unsigned long idle_wakes_per_s);

/* Passes a second of the loop in monitor.h over slices of 50 us, while nobody stores. */
unsigned long asp_idle_wakes_per_s(const asp_monitor *monitor);

/* All of it, for one backend. Ends the program when a promise is broken. */
findings asp_check_contract(const asp_backend *backend);

/* What RESULT lines call this architecture. */
const char *asp_arch_name(void);

/* The line of tests/emulated/README.md. */
void asp_print_findings(const char *name, const findings *found);

#endif
