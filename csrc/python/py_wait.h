/* py_wait.h - the Wait object, which py_waiter.c submits and py_ring.c makes. */
#ifndef ASP_PY_WAIT_H
#define ASP_PY_WAIT_H

#include "changed.h"
#include "module.h"
#include "predicate.h"
#include "waiter.h"

typedef struct asp_py_wait {
    PyObject_HEAD
    asp_watch *watch; /* NULL once released */
    Py_buffer pin;    /* of a predicate or a change */
    PyObject *owner;  /* of a ring's watch: the ring object, which pins by itself */
    bool is_change;
    union {
        asp_predicate predicate;
        asp_changed changed;
    } on;
    asp_price price;       /* of the plan of the wait under way */
    uint64_t spun_ns;      /* it spent spinning so far */
    uint64_t cpu_begun_ns; /* of this thread when it parked, if that park is measured; else 0 */
    uint64_t due_ns;       /* of a sleep that its timer ended, until a spin begins; else 0 */
    uint64_t recheck_ns;
    uint64_t yield_ns;     /* when a spin in slices yields next */
    bool planned;          /* a plan was asked for, and its outcome is not known */
    bool caught;           /* the last look that was true was one of a spin */
    asp_ticket ticket;
    uint32_t busy; /* a thread is inside a method; pairs with itself */
} asp_py_wait;

/* A Wait is used by one thread at a time. False, with RuntimeError set, to the second and after its release. */
bool asp_py_wait_enter(asp_py_wait *self);
void asp_py_wait_leave(asp_py_wait *self);

/* The pace of a wait that spins for so many ns, or, for None, as its plan says. */
bool asp_py_wait_pace(asp_py_wait *self, PyObject *spin, uint64_t max_sleep_ns, bool hardware, asp_pace *pace);

/* The wait is over: learn what it cost. A rehearsal ends it only if something was published, which this looks for. False
 * with an exception set: somebody is using it. */
bool asp_py_wait_ended(asp_py_wait *self, bool ready, bool rehearsal);

/* Unpin unless a waiter or a thread is using it; never sets an exception. */
bool asp_py_wait_try_release(asp_py_wait *self);

/* Unpin, whatever the state of the ticket: for the child of a fork, where nobody looks any more. */
void asp_py_wait_let_go(asp_py_wait *self);

/* A Wait on a watch that belongs to owner (strong). */
PyObject *asp_py_wait_on(asp_module *module, PyObject *owner, asp_watch *watch);

#endif
