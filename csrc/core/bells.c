#include "bells.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

struct asp_bells {
    char *path; /* the prefix, and room for the number of a slot */
    size_t prefix_bytes;
    uint32_t slots;
    int fds[]; /* -1: not held */
};

#define NUMBER_BYTES 11u /* of a 32-bit slot in decimal, and the end */

asp_bells *asp_bells_new(const char *prefix, uint32_t slots) {
    asp_bells *bells = malloc(sizeof *bells + slots * sizeof bells->fds[0]);
    if (!bells) return NULL;
    bells->prefix_bytes = strlen(prefix);
    bells->slots = slots;
    bells->path = malloc(bells->prefix_bytes + NUMBER_BYTES);
    if (!bells->path) {
        free(bells);
        return NULL;
    }
    memcpy(bells->path, prefix, bells->prefix_bytes + 1);
    for (uint32_t slot = 0; slot < slots; slot++) bells->fds[slot] = -1;
    return bells;
}

static void drop(asp_bells *bells, uint32_t slot) {
    if (bells->fds[slot] >= 0) close(bells->fds[slot]);
    bells->fds[slot] = -1;
}

void asp_bells_close(asp_bells *bells) {
    if (!bells) return;
    for (uint32_t slot = 0; slot < bells->slots; slot++) drop(bells, slot);
}

void asp_bells_free(asp_bells *bells) {
    if (!bells) return;
    asp_bells_close(bells);
    free(bells->path);
    free(bells);
}

static const char *path_of(const asp_bells *bells, uint32_t slot) {
    snprintf(bells->path + bells->prefix_bytes, NUMBER_BYTES, "%u", (unsigned)slot);
    return bells->path;
}

bool asp_bells_open(asp_bells *bells, uint32_t slot) {
    if (!bells || slot >= bells->slots) return false;
    drop(bells, slot);
    /* For reading too: a write to a FIFO whose reader has died would raise SIGPIPE otherwise. */
    int fd = open(path_of(bells, slot), O_RDWR | O_NONBLOCK | O_CLOEXEC | O_NOFOLLOW);
    struct stat found;
    if (fd >= 0 && (fstat(fd, &found) != 0 || !S_ISFIFO(found.st_mode))) {
        close(fd);
        fd = -1;
    }
    bells->fds[slot] = fd;
    return fd >= 0;
}

bool asp_bells_current(const asp_bells *bells, uint32_t slot) {
    struct stat held, there;
    return asp_bells_held(bells, slot) && fstat(bells->fds[slot], &held) == 0 &&
           lstat(path_of(bells, slot), &there) == 0 && held.st_dev == there.st_dev && held.st_ino == there.st_ino;
}

bool asp_bells_held(const asp_bells *bells, uint32_t slot) {
    return bells && slot < bells->slots && bells->fds[slot] >= 0;
}

void asp_bells_ring(asp_bells *bells, uint32_t slot) {
    /* Full means that the reader has more than it needs to wake; a signal cannot interrupt a write that
     * does not block. */
    if (write(bells->fds[slot], "", 1) < 0) return;
}
