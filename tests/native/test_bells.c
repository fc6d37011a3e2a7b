/* test_bells.c - doorbells: requested, opened, rung, refused, and never lost, also when the writer and a
 * parking reader race. */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

#include "atomics.h"
#include "ring_bench.h"

#define PATIENCE_MS 10000 /* a poll that lasts this long was one whose ring was lost */

static char folder[] = "/tmp/aiospin-bells-XXXXXX";
static char prefix[sizeof folder + 8];

static const char *path_of(uint32_t slot) {
    static char path[sizeof prefix + 8];
    snprintf(path, sizeof path, "%s%u", prefix, (unsigned)slot);
    return path;
}

static int make_fifo(uint32_t slot) {
    CHECK(mkfifo(path_of(slot), 0600) == 0);
    const int fd = open(path_of(slot), O_RDONLY | O_NONBLOCK | O_CLOEXEC);
    CHECK(fd >= 0);
    return fd;
}

static void remove_fifo(int fd, uint32_t slot) {
    close(fd);
    CHECK(unlink(path_of(slot)) == 0);
}

static bool rung(int fd) {
    char bytes[64];
    return read(fd, bytes, sizeof bytes) > 0;
}

static void set_up_with_bells(bench *b, asp_overflow overflow) {
    set_up(b, overflow);
    b->writer.bells = asp_bells_new(prefix, READERS);
    CHECK(b->writer.bells != NULL);
}

static void tear_down_with_bells(bench *b) {
    asp_bells_free(b->writer.bells);
    tear_down(b);
}

static void is_rung_once_for_each_park(void) {
    for (int mode = 0; mode < 2; mode++) {
        bench b;
        asp_ring_reader reader;
        set_up_with_bells(&b, (asp_overflow)mode);
        join(&b, &reader, 2);
        CHECK(asp_ring_bell(&reader) == ASP_BELL_NONE && !asp_ring_bell_park(&reader));
        const int fd = make_fifo(2);
        asp_ring_bell_request(&reader);
        CHECK(asp_ring_bell(&reader) == ASP_BELL_REQUESTED && !asp_ring_bell_park(&reader));
        send_ready(&b, 0, 10);
        CHECK(asp_ring_bell(&reader) == ASP_BELL_READY && !rung(fd));
        CHECK(!asp_ring_bell_park(&reader)); /* there is a message */
        CHECK(asp_ring_bell(&reader) == ASP_BELL_READY);
        expect(&reader, 0, 10);
        for (uint64_t n = 1; n < 4; n++) {
            CHECK(asp_ring_bell_park(&reader) && asp_ring_bell(&reader) == ASP_BELL_PARKED);
            CHECK(!rung(fd));
            send_ready(&b, n, 10);
            send_ready(&b, n + 100, 10); /* nobody is parked any more */
            CHECK(asp_ring_bell(&reader) == ASP_BELL_READY && !asp_ring_bell_unpark(&reader));
            char bytes[8];
            CHECK(read(fd, bytes, sizeof bytes) == 1);
            expect(&reader, n, 10);
            expect(&reader, n + 100, 10);
        }
        CHECK(asp_ring_bell_park(&reader) && asp_ring_bell_unpark(&reader)); /* gave up by itself */
        send_ready(&b, 9, 10);
        CHECK(!rung(fd));
        expect(&reader, 9, 10);
        CHECK(asp_ring_bell_park(&reader));
        asp_ring_writer_close(&b.writer); /* the end is news too */
        CHECK(rung(fd));
        asp_ring_leave(&reader);
        CHECK(b.ring.readers[2].bell == ASP_BELL_NONE);
        remove_fifo(fd, 2);
        tear_down_with_bells(&b);
    }
}

static void is_refused_where_it_cannot_be_opened(void) {
    bench b;
    asp_ring_reader reader;
    set_up(&b, ASP_OVERFLOW_BLOCK); /* a writer without bells */
    join(&b, &reader, 0);
    asp_ring_bell_request(&reader);
    send_ready(&b, 0, 1);
    CHECK(asp_ring_bell(&reader) == ASP_BELL_REFUSED && !asp_ring_bell_park(&reader));
    b.writer.bells = asp_bells_new(prefix, READERS);
    expect(&reader, 0, 1);
    asp_ring_bell_request(&reader);
    send_ready(&b, 1, 1); /* there is no such file */
    CHECK(asp_ring_bell(&reader) == ASP_BELL_REFUSED);
    const int plain = open(path_of(0), O_CREAT | O_RDWR | O_CLOEXEC, 0600);
    CHECK(plain >= 0);
    asp_ring_bell_request(&reader);
    send_ready(&b, 2, 1); /* it is no FIFO */
    CHECK(asp_ring_bell(&reader) == ASP_BELL_REFUSED);
    remove_fifo(plain, 0);
    CHECK(symlink("/dev/null", path_of(0)) == 0);
    asp_ring_bell_request(&reader);
    send_ready(&b, 3, 1);
    CHECK(asp_ring_bell(&reader) == ASP_BELL_REFUSED);
    CHECK(unlink(path_of(0)) == 0);
    char others[sizeof prefix + 8];
    const int other = make_fifo(1);
    snprintf(others, sizeof others, "%s", path_of(1));
    CHECK(symlink(others, path_of(0)) == 0);
    asp_ring_bell_request(&reader);
    send_ready(&b, 4, 1); /* it leads to somebody else's */
    CHECK(asp_ring_bell(&reader) == ASP_BELL_REFUSED);
    CHECK(unlink(path_of(0)) == 0);
    remove_fifo(other, 1);
    CHECK(!asp_bells_open(b.writer.bells, READERS) && !asp_bells_held(b.writer.bells, READERS));
    asp_ring_leave(&reader);
    tear_down_with_bells(&b);
}

static void the_slot_of_a_dead_reader_gets_a_new_bell(void) {
    bench b;
    asp_ring_reader dead, next;
    set_up_with_bells(&b, ASP_OVERFLOW_BLOCK);
    join(&b, &dead, 1);
    int fd = make_fifo(1);
    asp_ring_bell_request(&dead);
    send_ready(&b, 0, 1);
    expect(&dead, 0, 1);
    CHECK(asp_ring_bell_park(&dead));
    remove_fifo(fd, 1); /* killed: the slot says "parked" for ever */
    asp_ring_evict(&b.ring, 1);
    join(&b, &next, 1);
    CHECK(asp_ring_bell(&next) == ASP_BELL_NONE);
    fd = make_fifo(1);
    asp_ring_bell_request(&next);
    send_ready(&b, 1, 1);
    expect(&next, 1, 1);
    CHECK(asp_ring_bell_park(&next));
    send_ready(&b, 2, 1); /* by the new FIFO, though the writer had the old one open */
    CHECK(rung(fd));
    /* a writer that takes over opens it when it first rings */
    expect(&next, 2, 1);
    CHECK(asp_ring_bell_park(&next));
    asp_bells *old = b.writer.bells;
    CHECK_STATUS(asp_ring_writer_init(&b.writer, &b.ring), ASP_READY);
    asp_bells_free(old);
    b.writer.bells = asp_bells_new(prefix, READERS);
    send_ready(&b, 3, 1);
    CHECK(rung(fd));
    asp_ring_leave(&next);
    remove_fifo(fd, 1);
    tear_down_with_bells(&b);
}

static void who_left_leaves_its_successors_bell_alone(void) {
    bench b;
    asp_ring_reader old, next;
    set_up_with_bells(&b, ASP_OVERFLOW_BLOCK);
    join(&b, &old, 1);
    const int fd = make_fifo(1);
    asp_ring_leave(&old);
    join(&b, &next, 1);
    asp_ring_bell_request(&old);
    CHECK(asp_ring_bell(&next) == ASP_BELL_NONE);
    asp_ring_bell_request(&next);
    asp_ring_wake_readers(&b.writer);
    CHECK(asp_ring_bell(&next) == ASP_BELL_READY);
    CHECK(!asp_ring_bell_park(&old) && asp_ring_bell(&next) == ASP_BELL_READY);
    CHECK(asp_ring_bell_park(&next));
    CHECK(!asp_ring_bell_unpark(&old) && asp_ring_bell(&next) == ASP_BELL_PARKED);
    send_ready(&b, 0, 1);
    CHECK(rung(fd));
    asp_ring_leave(&next);
    remove_fifo(fd, 1);
    tear_down_with_bells(&b);
}

/* A reader that was killed in its poll; nobody has noticed yet. */
static void a_dead_readers_bell_is_rung_in_vain(void) {
    bench b;
    asp_ring_reader dead;
    set_up_with_bells(&b, ASP_OVERFLOW_BLOCK);
    join(&b, &dead, 1);
    const int fd = make_fifo(1);
    asp_ring_bell_request(&dead);
    send_ready(&b, 0, 1);
    expect(&dead, 0, 1);
    CHECK(asp_ring_bell_park(&dead));
    remove_fifo(fd, 1);
    send_ready(&b, 1, 1); /* no SIGPIPE, which would end this program */
    CHECK(asp_ring_bell(&dead) == ASP_BELL_READY);
    tear_down_with_bells(&b);
}

static void the_death_of_the_writer_hangs_up(void) {
    bench b;
    asp_ring_reader reader;
    set_up_with_bells(&b, ASP_OVERFLOW_BLOCK);
    join(&b, &reader, 0);
    const int fd = make_fifo(0);
    asp_ring_bell_request(&reader);
    send_ready(&b, 0, 1);
    expect(&reader, 0, 1);
    CHECK(asp_ring_bell_park(&reader));
    struct pollfd news = {.fd = fd, .events = POLLIN};
    CHECK(poll(&news, 1, 0) == 0);
    asp_bells_close(b.writer.bells);
    CHECK(poll(&news, 1, 0) == 1 && (news.revents & POLLHUP));
    asp_ring_leave(&reader);
    remove_fifo(fd, 0);
    tear_down_with_bells(&b);
}

/* ---- the race: one publishes in turn with one who sleeps in poll until it sees the number ---- */

typedef struct race {
    asp_ring_reader reader;
    int fd;
    uint64_t rounds;
    uint64_t answered; /* stored by the reader's thread, loaded by the writer's */
    uint64_t parks;
} race;

static void *answer(void *argument) {
    race *r = argument;
    struct pollfd news = {.fd = r->fd, .events = POLLIN};
    for (uint64_t n = 0; n < r->rounds; n++) {
        uint8_t data[8];
        uint32_t length;
        asp_status status;
        while ((status = asp_ring_copy(&r->reader, data, sizeof data, &length)) ==
               ASP_WOULD_BLOCK) {
            if (!asp_ring_bell_park(&r->reader)) continue;
            r->parks++;
            CHECK_SAY(poll(&news, 1, PATIENCE_MS) == 1, "the ring for %" PRIu64 " was lost", n);
            if (!asp_ring_bell_unpark(&r->reader)) rung(r->fd);
        }
        CHECK(status == ASP_READY && length == 8);
        uint64_t got;
        memcpy(&got, data, 8);
        CHECK_U64(got, n);
        asp_store_release_u64(&r->answered, n + 1); /* pairs with the load in no_ring_is_lost() */
    }
    return NULL;
}

static void no_ring_is_lost(void) {
    bench b;
    static race r;
    set_up_with_bells(&b, ASP_OVERFLOW_BLOCK);
    join(&b, &r.reader, 3);
    r.fd = make_fifo(3);
    r.rounds = 20000;
    asp_ring_bell_request(&r.reader);
    asp_ring_wake_readers(&b.writer);
    CHECK(asp_ring_bell(&r.reader) == ASP_BELL_READY);
    pthread_t thread;
    CHECK(pthread_create(&thread, NULL, answer, &r) == 0);
    uint64_t seed = 1;
    for (uint64_t n = 0; n < r.rounds; n++) {
        asp_status status;
        while ((status = asp_ring_send(&b.writer, &n, sizeof n, ASP_FORMAT_BYTES)) ==
               ASP_WOULD_BLOCK) {
            sched_yield();
        }
        CHECK(status == ASP_READY);
        while (asp_load_acquire_u64(&r.answered) < n + 1) sched_yield(); /* pairs with answer() */
        for (uint64_t i = random_u64(&seed) % 64; i; i--) asp_fence(); /* drift against the parking */
    }
    CHECK(pthread_join(thread, NULL) == 0);
    CHECK(r.parks > 0);
    asp_ring_leave(&r.reader);
    remove_fifo(r.fd, 3);
    tear_down_with_bells(&b);
}

int main(void) {
    CHECK(mkdtemp(folder) != NULL);
    snprintf(prefix, sizeof prefix, "%s/bell-", folder);
    is_rung_once_for_each_park();
    is_refused_where_it_cannot_be_opened();
    the_slot_of_a_dead_reader_gets_a_new_bell();
    who_left_leaves_its_successors_bell_alone();
    a_dead_readers_bell_is_rung_in_vain();
    the_death_of_the_writer_hangs_up();
    no_ring_is_lost();
    CHECK(rmdir(folder) == 0);
    return 0;
}
