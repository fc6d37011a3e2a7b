/* test_lock.c - who lives: what waits of a ring find out from the locks on the segment's file. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE /* F_OFD_SETLK */
#endif
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#include "lock.h"
#include "ring_bench.h"
#include "wait.h"

static int segment_file(void) {
    char name[] = "/tmp/asp-lock-XXXXXX";
    const int fd = mkstemp(name);
    CHECK(fd >= 0 && unlink(name) == 0);
    return fd;
}

/* A description of its own of the same file, as another process has one. */
static int again(int fd) {
    char path[64];
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    const int other = open(path, O_RDWR | O_CLOEXEC);
    CHECK(other >= 0);
    return other;
}

static void lock(int fd, short kind, uint64_t byte) {
    struct flock request = {.l_type = kind, .l_whence = SEEK_SET, .l_start = (off_t)byte, .l_len = 1};
    CHECK(fcntl(fd, F_OFD_SETLK, &request) == 0);
}

static void a_lock_is_seen_from_another_description(void) {
    const int fd = segment_file(), other = again(fd);
    CHECK(!asp_lock_is_taken(other, ASP_LOCK_WRITER));
    lock(fd, F_WRLCK, ASP_LOCK_WRITER);
    CHECK(asp_lock_is_taken(other, ASP_LOCK_WRITER));
    CHECK(!asp_lock_is_taken(fd, ASP_LOCK_WRITER)); /* one's own is in nobody's way */
    CHECK(!asp_lock_is_taken(other, ASP_LOCK_READER)); /* the next byte */
    lock(fd, F_UNLCK, ASP_LOCK_WRITER);
    CHECK(!asp_lock_is_taken(other, ASP_LOCK_WRITER));
    /* The kernel drops that of a process that dies. */
    const pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        lock(again(fd), F_WRLCK, ASP_LOCK_READER);
        pause();
    }
    while (!asp_lock_is_taken(fd, ASP_LOCK_READER)) usleep(1000);
    CHECK(kill(child, SIGKILL) == 0);
    int status;
    CHECK(waitpid(child, &status, 0) == child && WIFSIGNALED(status));
    CHECK(!asp_lock_is_taken(fd, ASP_LOCK_READER));
    close(other);
    close(fd);
    CHECK(!asp_lock_is_taken(fd, ASP_LOCK_WRITER)); /* closed: nobody can be asked */
}

static void both_ends_ask_after_each_other(void) {
    bench b;
    asp_ring_reader first, second;
    set_up(&b, ASP_OVERFLOW_BLOCK);
    join(&b, &first, 0);
    join(&b, &second, READERS - 1);
    for (uint64_t n = 0; send(&b, n, 100) == ASP_READY; n++) {
    }
    asp_watch *ends[] = {&b.writer.watch, &first.watch, &second.watch};
    for (int i = 0; i < 3; i++) CHECK(asp_peers_live(ends[i])); /* nobody asks */
    const int writer = segment_file(), at_first = again(writer), at_second = again(writer);
    CHECK(asp_ring_guard(&b.writer.ring, (uint32_t)writer));
    CHECK(asp_ring_guard(&first.ring, (uint32_t)at_first));
    for (int i = 0; i < 2; i++) CHECK(!asp_peers_live(ends[i])); /* nobody has a lock yet */
    CHECK(asp_peers_live(&second.watch));
    lock(writer, F_WRLCK, ASP_LOCK_WRITER);
    CHECK(asp_peers_live(&first.watch));
    lock(at_first, F_WRLCK, ASP_LOCK_READER);
    CHECK(asp_peers_live(&b.writer.watch)); /* waits for one that lives */
    while (copy(&first) == ASP_READY) {
    }
    CHECK(!asp_peers_live(&b.writer.watch)); /* only the second is in the way */
    lock(at_second, F_WRLCK, ASP_LOCK_READER + READERS - 1);
    CHECK(asp_peers_live(&b.writer.watch));
    /* Who dies takes the lock along; a slot that is free is nobody's. */
    close(at_second);
    CHECK(!asp_peers_live(&b.writer.watch));
    asp_ring_evict(&b.ring, READERS - 1);
    CHECK(asp_peers_live(&b.writer.watch));
    close(writer);
    CHECK(!asp_peers_live(&first.watch));
    CHECK(asp_ring_guard(&first.ring, ASP_NO_LOCK_FD));
    CHECK(asp_peers_live(&first.watch)); /* nobody asks */
    CHECK(asp_ring_guard(&first.ring, ASP_CLOSED_LOCK_FD));
    CHECK(!asp_peers_live(&first.watch)); /* its waits end */
    close(at_first);
    tear_down(&b);
}

int main(void) {
    CHECK(asp_lock_available());
    a_lock_is_seen_from_another_description();
    both_ends_ask_after_each_other();
    printf("test_lock: passed\n");
    return 0;
}
