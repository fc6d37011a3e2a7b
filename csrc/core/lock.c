/* lock.c - F_OFD_GETLK, which asks without taking anything. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include "lock.h"

#include <fcntl.h>
#include <stdio.h> /* SEEK_SET */

#ifdef F_OFD_GETLK
bool asp_lock_available(void) { return true; }

bool asp_lock_is_taken(int fd, uint64_t byte) {
    struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = (off_t)byte, .l_len = 1};
    return fcntl(fd, F_OFD_GETLK, &lock) == 0 && lock.l_type != F_UNLCK;
}
#else
bool asp_lock_available(void) { return false; }

bool asp_lock_is_taken(int fd, uint64_t byte) {
    (void)fd;
    (void)byte;
    return false;
}
#endif
