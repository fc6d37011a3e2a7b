/* waiter.h - any number of waits served by one thread: the ticket table.
 *
 * One thread runs asp_waiter_run; any thread submits and cancels. The waiter holds the lock while it
 * looks, so that a cancel that has the lock knows that nobody looks at its buffer; it gives the
 * lock up between passes when somebody asks for it, and sleeps without it. A look is short and
 * a hardware slice is bounded (ASP_SLICE_NS), so that is how long a cancel can take.
 *
 * A ticket is embedded in the caller's object and moves IDLE -> LIVE -> DONE -> IDLE, always under
 * the lock. The waiter never calls out: the thread fetches completions with asp_waiter_take (T15). */
#ifndef ASP_WAITER_H
#define ASP_WAITER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "status.h"
#include "wait.h"
#include "watch.h"

typedef enum asp_ticket_state { ASP_TICKET_IDLE = 0, ASP_TICKET_LIVE, ASP_TICKET_DONE } asp_ticket_state;

typedef struct asp_ticket asp_ticket;
typedef struct asp_waiter asp_waiter;
struct asp_ticket { /* zeroed before its first use; all fields belong to the waiter while not IDLE */
    asp_waiter *waiter; /* the one that it was submitted to last */
    asp_watch *watch;
    void *token; /* the caller's, handed back once */
    asp_pace pace;
    uint64_t deadline_ns;
    uint64_t look_every_ns; /* while cold and not notified */
    uint64_t next_look_ns;
    uint64_t recheck_ns;   /* when to ask whether its peers live */
    size_t place;          /* in the table while LIVE */
    asp_ticket *next;      /* in the list of completions while DONE */
    asp_ticket **link;     /* what points at it there */
    asp_ticket_state state;
    asp_status status;     /* READY or TIMED_OUT once DONE */
};

asp_waiter *asp_waiter_new(void); /* NULL: no memory */
void asp_waiter_free(asp_waiter *waiter); /* nobody runs it and no ticket is live or done */

/* Every operation below enters by itself, and blocks for as long as a look or a slice takes, or longer when the
 * waiter's thread is descheduled in the middle of one. Whoever holds another lock meanwhile (Python's) tries
 * first: true, then operate, then leave; false, then let go of that lock and operate. */
bool asp_waiter_try_enter(asp_waiter *waiter);
void asp_waiter_leave(asp_waiter *waiter);

/* ASP_READY; ASP_STOPPED after asp_waiter_stop; ASP_BUSY when the ticket is live, or another
 * waiter has it;
 * ASP_E_MEMORY. A completion not yet taken is dropped: then *stale is its token, else NULL. */
asp_status asp_waiter_submit(asp_waiter *waiter, asp_ticket *ticket, asp_watch *watch, void *token,
                             const asp_pace *pace, uint64_t deadline_ns, void **stale);

/* True: the cancel won. False: it had completed, or was not submitted. In both cases the ticket is IDLE
 * and its watch is not looked at any more; *token is what was submitted with it if that has
 * not been taken, else NULL. */
bool asp_waiter_cancel(asp_waiter *waiter, asp_ticket *ticket, void **token);

/* Wait until there are completions to take: ASP_READY. ASP_STOPPED once stopped, ASP_TIMED_OUT after
 * idle_ns without a ticket. One thread at a time: ASP_BUSY to a second. */
asp_status asp_waiter_run(asp_waiter *waiter, uint64_t idle_ns);

/* Take the oldest completion: its ticket (IDLE now), token and status; NULL when there is none. */
asp_ticket *asp_waiter_take(asp_waiter *waiter, void **token, asp_status *status);

void asp_waiter_stop(asp_waiter *waiter);
/* Drop any one ticket, live or done, and hand its token back; NULL when none is left. */
asp_ticket *asp_waiter_drop(asp_waiter *waiter, void **token);

size_t asp_waiter_live(asp_waiter *waiter);

/* Around fork: the table is consistent while the lock is held. In the child no thread runs it;
 * drop its tickets and use it again. */
void asp_waiter_before_fork(asp_waiter *waiter);
void asp_waiter_after_fork_in_parent(asp_waiter *waiter);
void asp_waiter_after_fork_in_child(asp_waiter *waiter);

#endif
