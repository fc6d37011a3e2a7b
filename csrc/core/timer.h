/* timer.h - a point in time that a poll can wait for: readable once it has come.
 *
 * Event loops round their own timers to milliseconds, and the kernel lets the timeout of a poll be late by the
 * thread's slack; a timerfd has neither. */
#ifndef ASP_TIMER_H
#define ASP_TIMER_H

#include <stdbool.h>
#include <stdint.h>

/* A descriptor, not armed, non-blocking, closed on exec; -1 with errno set (ENOSYS where there is no such thing). */
int asp_timer_open(void);
/* Readable from at_ns on (CLOCK_MONOTONIC), which may be past; 0: never. Whatever it was before, it is that no
 * longer. False with errno set: no timer. */
bool asp_timer_arm(int fd, uint64_t at_ns);

#endif
