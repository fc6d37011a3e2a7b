#include "timer.h"

#include <errno.h>

#ifdef __linux__
#include <sys/timerfd.h>

#define NS_PER_S 1000000000u

int asp_timer_open(void) { return timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC); }

bool asp_timer_arm(int fd, uint64_t at_ns) {
    const struct itimerspec when = {
        .it_value = {.tv_sec = (time_t)(at_ns / NS_PER_S), .tv_nsec = (long)(at_ns % NS_PER_S)}};
    /* setting it also forgets an expiry that nobody has read */
    return timerfd_settime(fd, TFD_TIMER_ABSTIME, &when, NULL) == 0;
}
#else
int asp_timer_open(void) {
    errno = ENOSYS;
    return -1;
}

bool asp_timer_arm(int fd, uint64_t at_ns) {
    (void)fd;
    (void)at_ns;
    errno = ENOSYS;
    return false;
}
#endif
