#include "waiter.h"

#include <pthread.h>
#include <sched.h>
#include <stdlib.h>

#include "atomics.h"
#include "clock.h"
#include "park.h"
#include "tally.h"

/* While some tickets are hot, the cold ones are looked at this often: their latency stays what a
 * park would have given, and a thousand of them do not slow a hot one down. */
#define COLD_LOOK_NS 50000u

struct asp_waiter {
    pthread_mutex_t lock;
    uint32_t asked;    /* how often a thread wanted the lock, and */
    uint32_t served;   /* got it: the loop gives way to those in between; both wrap */
    uint32_t control;  /* eventcount: the waiter parks on it, submit, cancel and stop notify */
    bool stopped;
    bool running;
    /* LIVE tickets: [0, hot) are spinning, [hot, count) are cold. */
    asp_ticket **table;
    size_t count, hot, room;
    /* DONE tickets, oldest first. */
    asp_ticket *done;
    asp_ticket **done_end;
};

static void init_lock(asp_waiter *waiter) {
    /* Recursive: a caller that must not block here enters by asp_waiter_try_enter, and each
     * operation enters for itself. */
    pthread_mutexattr_t recursive;
    pthread_mutexattr_init(&recursive);
    pthread_mutexattr_settype(&recursive, PTHREAD_MUTEX_RECURSIVE);
    pthread_mutex_init(&waiter->lock, &recursive);
    pthread_mutexattr_destroy(&recursive);
}

asp_waiter *asp_waiter_new(void) {
    asp_waiter *waiter = calloc(1, sizeof *waiter);
    if (waiter) {
        init_lock(waiter);
        waiter->done_end = &waiter->done;
    }
    return waiter;
}

void asp_waiter_free(asp_waiter *waiter) {
    pthread_mutex_destroy(&waiter->lock);
    free(waiter->table);
    free(waiter);
}

static void enter(asp_waiter *waiter) {
    asp_fetch_add_u32(&waiter->asked, 1); /* pairs with the load in give_way */
    pthread_mutex_lock(&waiter->lock);
    asp_fetch_add_u32(&waiter->served, 1);
}

static void leave(asp_waiter *waiter) { pthread_mutex_unlock(&waiter->lock); }

bool asp_waiter_try_enter(asp_waiter *waiter) {
    return pthread_mutex_trylock(&waiter->lock) == 0;
}

void asp_waiter_leave(asp_waiter *waiter) { leave(waiter); }

/* Without this the loop would take the lock back before a woken thread could. It lets as many in as
 * have asked by now, no more, so that threads that keep asking do not stop the looking. */
static void give_way(asp_waiter *waiter) {
    uint32_t asked = asp_load_relaxed_u32(&waiter->asked);
    if (asp_load_relaxed_u32(&waiter->served) == asked) return;
    pthread_mutex_unlock(&waiter->lock);
    while ((int32_t)(asp_load_relaxed_u32(&waiter->served) - asked) < 0) sched_yield();
    pthread_mutex_lock(&waiter->lock);
}

/* ---- the table; everything below is called with the lock held ---- */

static void put(asp_waiter *waiter, size_t place, asp_ticket *ticket) {
    waiter->table[place] = ticket;
    ticket->place = place;
}

static void swap(asp_waiter *waiter, size_t a, size_t b) {
    asp_ticket *ticket = waiter->table[a];
    put(waiter, a, waiter->table[b]);
    put(waiter, b, ticket);
}

static void cool(asp_waiter *waiter, asp_ticket *ticket) {
    swap(waiter, ticket->place, --waiter->hot);
}

static void heat(asp_waiter *waiter, asp_ticket *ticket) {
    swap(waiter, ticket->place, waiter->hot++);
}

static void take_out(asp_waiter *waiter, asp_ticket *ticket) {
    if (ticket->place < waiter->hot) swap(waiter, ticket->place, --waiter->hot);
    swap(waiter, ticket->place, --waiter->count);
    ticket->state = ASP_TICKET_IDLE;
    ASP_UNCOUNT(live_tickets, 1);
}

static void complete(asp_waiter *waiter, asp_ticket *ticket, asp_status status) {
    ticket->pace.spinning = ticket->place < waiter->hot;
    take_out(waiter, ticket);
    if (ticket->pace.uncounted) {
        /* the caller's */
    } else if (status == ASP_TIMED_OUT) ASP_COUNT(timed_out, 1);
    else if (ticket->pace.parked && !ticket->pace.spinning) ASP_COUNT(parked, 1);
    else ASP_COUNT(spun, 1);
    ticket->state = ASP_TICKET_DONE;
    ticket->status = status;
    ticket->next = NULL;
    ticket->link = waiter->done_end;
    *waiter->done_end = ticket;
    waiter->done_end = &ticket->next;
}

static void *take_done(asp_waiter *waiter, asp_ticket *ticket) {
    *ticket->link = ticket->next;
    if (ticket->next) ticket->next->link = ticket->link;
    else waiter->done_end = ticket->link;
    ticket->state = ASP_TICKET_IDLE;
    void *token = ticket->token;
    ticket->token = NULL;
    return token;
}

static void *take_live(asp_waiter *waiter, asp_ticket *ticket) {
    take_out(waiter, ticket);
    void *token = ticket->token;
    ticket->token = NULL;
    return token;
}

/* When the peers of a ticket are asked after next. Those of all tickets together: a thousand of them each at its own
 * moment would never let the thread sleep. */
static uint64_t next_recheck(const asp_ticket *ticket, uint64_t now) {
    const bool asks = ticket->watch->peers_live && !ticket->pace.told;
    return asks ? asp_after(now - now % ASP_RECHECK_NS, ASP_RECHECK_NS) : ASP_FOREVER;
}

/* Look at tickets [from, to); complete those that are ready or late. Backwards, because completing
 * one moves another, already looked at, into its place. Returns when the next of them is due: one that turns hot
 * may keep another from being looked at in this pass, but then the thread does not sleep after it. */
static uint64_t look_at(asp_waiter *waiter, size_t from, size_t to, uint64_t now) {
    uint64_t due = ASP_FOREVER;
    for (size_t i = to; i-- > from;) {
        asp_ticket *ticket = waiter->table[i];
        if (ticket->watch->look(ticket->watch)) {
            complete(waiter, ticket, ASP_READY);
        } else if (now >= ticket->deadline_ns ||
                   (now >= ticket->recheck_ns && !asp_peers_live(ticket->watch))) {
            complete(waiter, ticket, ASP_TIMED_OUT);
        } else {
            if (now >= ticket->recheck_ns) ticket->recheck_ns = next_recheck(ticket, now);
            if (ticket->recheck_ns < due) due = ticket->recheck_ns;
            const uint64_t due_spin = ticket->pace.spin_from_ns;
            const bool spins = asp_pace_spins(&ticket->pace, now), hot = i < waiter->hot;
            if (hot && !spins) {
                cool(waiter, ticket);
            } else if (spins && !hot) {
                if (due_spin && due_spin == ticket->pace.spin_from_ns)
                    asp_predict_overslept(ticket->pace.predict, due_spin, now);
                heat(waiter, ticket);
            }
            if (ticket->deadline_ns < due) due = ticket->deadline_ns;
            if (!spins && ticket->pace.spin_from_ns > now && ticket->pace.spin_from_ns < due)
                due = ticket->pace.spin_from_ns;
        }
    }
    return due;
}

/* Announce the park to every ticket that has a notifier; the others say when they want to be
 * looked at again. Everything is looked at after this, so their time runs from now: the looks of all
 * fall together, where a thousand of them each at its own moment would never let the thread sleep.
 * Returns the number of words, and moves *due forward. */
static unsigned prepare(asp_waiter *waiter, asp_futex_word *words, uint64_t *due) {
    uint64_t now = asp_now_ns();
    unsigned count = 1; /* words[0] is the control word */
    for (size_t i = 0; i < waiter->count; i++) {
        asp_ticket *ticket = waiter->table[i];
        unsigned room = ASP_FUTEX_MAX - count, more = 0;
        if (room > ASP_WATCH_WORDS) room = ASP_WATCH_WORDS;
        if (ticket->watch->prepare && room && asp_futex_waitv_available())
            more = ticket->watch->prepare(ticket->watch, words + count, room);
        count += more;
        if (!more) {
            if (now >= ticket->next_look_ns) ticket->look_every_ns = asp_pace_sleep(&ticket->pace);
            ticket->next_look_ns = asp_after(now, ticket->look_every_ns);
            if (ticket->next_look_ns < *due) *due = ticket->next_look_ns;
        }
    }
    return count;
}

/* Everything is cold: sleep until knocked at, or until the next look is due. Returns whether
 * somebody knocked, other than through the control word. */
static bool park(asp_waiter *waiter, uint64_t due) {
    asp_futex_word words[ASP_FUTEX_MAX];
    words[0].word = &waiter->control;
    words[0].expected = asp_park_prepare(&waiter->control);
    unsigned count = prepare(waiter, words, &due);
    /* The look after the announcing; submit and cancel need the lock, so the table is the same. */
    for (size_t i = waiter->count; i-- > 0;) {
        asp_ticket *ticket = waiter->table[i];
        if (ticket->watch->look(ticket->watch)) complete(waiter, ticket, ASP_READY);
        else ticket->pace.parked = true;
    }
    if (waiter->done) return false;
    leave(waiter);
    asp_status slept = asp_futex_wait(words, count, due);
    pthread_mutex_lock(&waiter->lock);
    ASP_COUNT(parks, 1);
    return slept == ASP_READY && asp_load_relaxed_u32(&waiter->control) == words[0].expected;
}

/* Something is hot: one step on it. A lone wait may use the hardware monitor, many are scanned. */
static void spin(asp_waiter *waiter, uint64_t now) {
    asp_ticket *only = waiter->table[0];
    bool alone = waiter->count == 1;
    uint64_t end = only->pace.spin_until_ns;
    if (only->deadline_ns < end) end = only->deadline_ns;
    bool ready = false;
    if (alone) {
        bool armed = only->pace.hardware && asp_one_line(only->watch);
        ready = asp_spin_step(only->watch, armed, asp_left(end, now));
    } else {
        asp_current()->monitor->pause(0);
    }
    const uint64_t took = asp_now_ns() - now;
    ASP_COUNT(spin_ns, took);
    /* each that is hot would have had the thread spin */
    for (size_t i = 0; i < waiter->hot; i++) waiter->table[i]->pace.spun_ns += took;
    if (ready) complete(waiter, only, ASP_READY);
}

asp_status asp_waiter_run(asp_waiter *waiter, uint64_t idle_ns) {
    asp_status status = ASP_READY;
    pthread_mutex_lock(&waiter->lock);
    if (waiter->running) {
        leave(waiter);
        return ASP_BUSY;
    }
    waiter->running = true;
    asp_timer_slack(1); /* predicted sleeps end when they are due; the thread is the waiter's own */
    uint64_t idle_until = 0 /* has tickets, or has not looked yet */, cold_look = 0, yield_ns = 0;
    bool woken = false;
    while (!waiter->done && !waiter->stopped) {
        uint64_t now = asp_now_ns();
        if (waiter->count) {
            idle_until = 0;
        } else {
            if (!idle_until) idle_until = asp_after(now, idle_ns);
            if (now >= idle_until) {
                status = ASP_TIMED_OUT;
                break;
            }
        }
        uint64_t due = waiter->count ? ASP_FOREVER : idle_until;
        bool everything = !waiter->hot || now >= cold_look;
        if (everything) cold_look = asp_after(now, COLD_LOOK_NS);
        uint64_t deadline = look_at(waiter, 0, everything ? waiter->count : waiter->hot, now);
        if (deadline < due) due = deadline;
        if (waiter->done) break;
        if (woken && !waiter->hot) ASP_COUNT(spurious, 1);
        woken = false;
        const bool hot = waiter->hot;
        if (hot) spin(waiter, now);
        if (hot && now >= yield_ns) {
            leave(waiter); /* whoever runs meanwhile may want the lock */
            asp_step_back(&yield_ns, now);
            pthread_mutex_lock(&waiter->lock);
        }
        if (!hot && everything) woken = park(waiter, due); /* else: the deadlines of all must be known first */
        give_way(waiter);
    }
    if (waiter->stopped) status = ASP_STOPPED;
    waiter->running = false;
    leave(waiter);
    return status;
}

/* ---- the other threads ---- */

asp_status asp_waiter_submit(asp_waiter *waiter, asp_ticket *ticket, asp_watch *watch, void *token,
                             const asp_pace *pace, uint64_t deadline_ns, void **stale) {
    *stale = NULL;
    enter(waiter);
    asp_status status = ASP_READY;
    if (waiter->stopped) {
        status = ASP_STOPPED;
    } else if (ticket->state == ASP_TICKET_LIVE ||
               (ticket->state == ASP_TICKET_DONE && ticket->waiter != waiter)) {
        status = ASP_BUSY;
    } else if (waiter->count == waiter->room) {
        size_t room = waiter->room ? 2 * waiter->room : 16;
        asp_ticket **table = realloc(waiter->table, room * sizeof *table);
        if (table) {
            waiter->table = table;
            waiter->room = room;
        } else {
            status = ASP_E_MEMORY;
        }
    }
    if (status == ASP_READY) {
        if (ticket->state == ASP_TICKET_DONE) *stale = take_done(waiter, ticket);
        ticket->waiter = waiter;
        ticket->watch = watch;
        ticket->token = token;
        ticket->deadline_ns = deadline_ns;
        ticket->pace = *pace;
        ticket->next_look_ns = 0;
        ticket->recheck_ns = next_recheck(ticket, asp_now_ns());
        ticket->state = ASP_TICKET_LIVE;
        ASP_COUNT(live_tickets, 1);
        put(waiter, waiter->count++, ticket);
        if (asp_pace_spins(&ticket->pace, asp_now_ns())) heat(waiter, ticket);
    }
    leave(waiter);
    asp_park_notify(&waiter->control);
    return status;
}

bool asp_waiter_cancel(asp_waiter *waiter, asp_ticket *ticket, void **token) {
    *token = NULL;
    enter(waiter);
    bool mine = ticket->waiter == waiter;
    bool won = mine && ticket->state == ASP_TICKET_LIVE;
    if (won) {
        *token = take_live(waiter, ticket);
        if (!ticket->pace.uncounted) ASP_COUNT(cancelled, 1);
    } else if (mine && ticket->state == ASP_TICKET_DONE) {
        *token = take_done(waiter, ticket);
    }
    leave(waiter);
    /* A parked waiter still names the words to the kernel, which is harmless; this ends it soon. */
    if (won) asp_park_notify(&waiter->control);
    return won;
}

asp_ticket *asp_waiter_take(asp_waiter *waiter, void **token, asp_status *status) {
    enter(waiter);
    asp_ticket *ticket = waiter->done;
    if (ticket) {
        *status = ticket->status;
        *token = take_done(waiter, ticket);
    }
    leave(waiter);
    return ticket;
}

void asp_waiter_stop(asp_waiter *waiter) {
    enter(waiter);
    waiter->stopped = true;
    leave(waiter);
    asp_park_notify(&waiter->control);
}

asp_ticket *asp_waiter_drop(asp_waiter *waiter, void **token) {
    enter(waiter);
    asp_ticket *ticket = waiter->done;
    if (ticket) {
        *token = take_done(waiter, ticket);
    } else if (waiter->count) {
        ticket = waiter->table[waiter->count - 1];
        *token = take_live(waiter, ticket);
    }
    leave(waiter);
    return ticket;
}

size_t asp_waiter_live(asp_waiter *waiter) {
    enter(waiter);
    size_t count = waiter->count;
    leave(waiter);
    return count;
}

void asp_waiter_before_fork(asp_waiter *waiter) { enter(waiter); }
void asp_waiter_after_fork_in_parent(asp_waiter *waiter) { leave(waiter); }

void asp_waiter_after_fork_in_child(asp_waiter *waiter) {
    /* The threads that wanted the lock, or held `running`, did not come along. */
    init_lock(waiter);
    waiter->asked = waiter->served = 0;
    waiter->control = 0;
    waiter->running = false;
}
