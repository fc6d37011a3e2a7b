/* closes.c - inotify. */
#include "closes.h"

#include <errno.h>

#ifdef __linux__
#include <stdio.h>
#include <sys/inotify.h>

int asp_closes_open(void) { return inotify_init1(IN_NONBLOCK | IN_CLOEXEC); }

int asp_closes_watch(int closes, int file) {
    /* By its descriptor: at its path there may be another one by now. */
    char path[sizeof "/proc/self/fd/" + 3 * sizeof file];
    snprintf(path, sizeof path, "/proc/self/fd/%d", file);
    return inotify_add_watch(closes, path, IN_CLOSE_WRITE | IN_CLOSE_NOWRITE);
}
#else
int asp_closes_open(void) {
    errno = ENOSYS;
    return -1;
}

int asp_closes_watch(int closes, int file) {
    (void)closes;
    (void)file;
    errno = ENOSYS;
    return -1;
}
#endif
