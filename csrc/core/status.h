/* status.h - what an operation of the core ended with.
 *
 * One enum for the whole core, so that the binding needs one table. Results that are not
 * errors are zero or positive, errors are negative. */
#ifndef ASP_STATUS_H
#define ASP_STATUS_H

typedef enum asp_status {
    ASP_READY = 0,        /* what was waited for is there */
    ASP_TIMED_OUT = 1,    /* the deadline passed first */
    ASP_INTERRUPTED = 2,  /* a signal arrived: let Python run its handlers, then wait on */
    ASP_STOPPED = 3,      /* the waiter was told to stop */
    ASP_WOULD_BLOCK = 4,  /* nothing to read, or no room to write, just now */
    ASP_END = 5,          /* the writer closed and everything was read */
    ASP_LAGGED = 6,       /* the writer overwrote what this reader had not read yet */
    ASP_BUSY = 7,         /* another thread is in the middle of an operation on this object */
    ASP_DUE = 8,          /* what was waited for is due: rehearse, then wait on */

    ASP_E_INVALID = -1,     /* an argument breaks the contract of the function */
    ASP_E_MEMORY = -2,      /* malloc refused */
    ASP_E_UNSUPPORTED = -3, /* this machine or kernel cannot do that */
    ASP_E_LAYOUT = -4,      /* the segment is not a healthy one: refuse it */
    ASP_E_TOO_LARGE = -5,   /* the message can never fit */
    ASP_E_FULL = -6,        /* no free reader slot */
} asp_status;

#endif
