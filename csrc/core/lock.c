#define _GNU_SOURCE /* F_OFD_GETLK */
#include "lock.h"

#include <fcntl.h>
#include <unistd.h>

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
