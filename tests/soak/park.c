/* park.c - the soak of parking: as many parks against publishes as one likes, and no wake may be lost.
 *
 *   park [PARKS [SEED [VARIANT]]]     20,000 parks when not given, in equal shares for all variants:
 *       threads-futex  processes-futex  threads-bell  processes-bell
 *
 * The ring has room for one message, so writer and reader take turns: each publish meets a reader that is
 * about to park, and each release a writer that may be. Both drift against each other, so that the publish
 * falls before, between and after the steps of the park. The reader sleeps in the kernel on the word of the
 * ring, or in poll on its doorbell; the writer sometimes spins for the room and sometimes parks for it.
 *
 * Counted as a park is the whole of it: announced, looked again, and gone to sleep or not. A lost wake would be
 * a sleep without end. So no sleep is one: it ends after PATIENCE_NS, and then either there is nothing
 * to see, and it goes on, or the wake was lost: exit status 1, with the facts. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <inttypes.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <signal.h>
#include <unistd.h>

#include "atomics.h"
#include "check.h"
#include "clock.h"
#include "ring.h"
#include "tally.h"

#define CAPACITY 4096u
#define LONGEST (CAPACITY / 2) /* two of these do not fit */
#define PATIENCE_NS UINT64_C(5000000000) /* a wake takes a thousandth of that, also on a loaded machine */
#define STALLS 12 /* so often in a row may there be nothing to see: a minute without a message */
#define TELL_NS UINT64_C(30000000000)
#define SPINS 4096u /* looks, some 50 us: as long as it takes to wake a reader */

/* What one side did; each stores its own, anybody loads. */
typedef struct account {
    _Alignas(ASP_RING_LINE) uint64_t parks; /* announced, and looked again */
    uint64_t slept;                         /* of these: the look saw nothing, so the kernel was asked */
    uint64_t wakes, elided;                 /* by this side */
} account;

typedef struct soak {
    account reader, writer;
    asp_ring ring;
    bool on_bell;
    uint64_t parks; /* of both sides, after which the writer closes */
    uint64_t seed;
    _Alignas(ASP_RING_LINE) uint8_t segment[8192];
} soak;

static char folder[] = "/tmp/aiospin-park-XXXXXX";
static char prefix[sizeof folder + 8], fifo[sizeof prefix + 1];
static cpu_set_t cores; /* that this process may use */

static void count(uint64_t *counter) { asp_store_relaxed_u64(counter, *counter + 1); }

/* Mostly up to a microsecond, which is what a park takes, and at times as long as a sleep. */
static void drift(uint64_t *state) {
    *state = *state * UINT64_C(6364136223846793005) + 1442695040888963407u;
    const unsigned longer = *state >> 33 & 63 ? 0 : 6;
    for (volatile uint64_t i = 0; i < *state >> 56 << longer; i = i + 1) {
    }
}

/* ---- sleeping, with a watchdog ---- */

/* The kernel, for the word or for the bell. False: nobody woke it within PATIENCE_NS. */
static bool sleep_once(const asp_futex_word *word, int bell) {
    if (bell >= 0) {
        struct pollfd news = {.fd = bell, .events = POLLIN};
        const int seen = poll(&news, 1, (int)(PATIENCE_NS / 1000000));
        CHECK(seen >= 0);
        return seen > 0;
    }
    return asp_futex_wait(word, 1, asp_after(asp_now_ns(), PATIENCE_NS)) != ASP_TIMED_OUT;
}

/* Asleep until woken. Nothing to see after PATIENCE_NS means that the other side is slow, or lost its own
 * wake and will say so. Something to see means the worst, unless the wake is just on its way: asked twice. */
static void sleep_soundly(asp_watch *watch, const asp_futex_word *word, int bell, const char *who, uint64_t turn) {
    unsigned seen = 0;
    for (unsigned i = 0; i < STALLS; i++) {
        if (sleep_once(word, bell)) return;
        seen += watch->look(watch);
        CHECK_SAY(seen < 2, "LOST WAKE: the %s sleeps before message %" PRIu64 ", which is there", who, turn);
    }
    CHECK_SAY(false, "the %s has waited a minute for message %" PRIu64 ", which is not there", who, turn);
}

static void park_on_word(asp_watch *watch, account *mine, const char *who, uint64_t turn) {
    asp_futex_word word;
    CHECK(watch->prepare(watch, &word, 1) == 1);
    const bool ready = watch->look(watch);
    count(&mine->parks);
    if (ready) return;
    count(&mine->slept);
    sleep_soundly(watch, &word, -1, who, turn);
}

static void park_on_bell(asp_ring_reader *reader, int bell, account *mine, uint64_t turn) {
    const bool asleep = asp_ring_bell_park(reader);
    count(&mine->parks);
    if (asleep) {
        count(&mine->slept);
        sleep_soundly(&reader->watch, NULL, bell, "reader", turn);
        if (asp_ring_bell_unpark(reader)) return;
    } else if (asp_ring_bell(reader) != ASP_BELL_READY) {
        return; /* rung meanwhile by a writer that is still at it */
    }
    char rings[64];
    while (read(bell, rings, sizeof rings) > 0) {
    }
}

/* ---- the two sides ---- */

/* Each on a core of its own, where there are two: on one they would take turns, and nothing would ever race. */
static void move_to_core(int nth) {
    nth %= CPU_COUNT(&cores);
    for (size_t core = 0; core < CPU_SETSIZE; core++) {
        if (!CPU_ISSET(core, &cores) || nth-- > 0) continue;
        cpu_set_t mine;
        CPU_ZERO(&mine);
        CPU_SET(core, &mine);
        CHECK(sched_setaffinity(0, sizeof mine, &mine) == 0);
        return;
    }
}

static void keep_books(account *mine, const asp_tally *before) {
    const asp_tally now = asp_tally_read();
    asp_store_relaxed_u64(&mine->wakes, now.notifies - before->notifies);
    asp_store_relaxed_u64(&mine->elided, now.elided - before->elided);
}

static void read_all(soak *s) {
    asp_ring_reader reader;
    uint64_t seed = ~s->seed;
    int bell = -1;
    move_to_core(false);
    CHECK(asp_ring_join(&reader, &s->ring, 0, 1) == ASP_READY);
    if (s->on_bell) {
        bell = open(fifo, O_RDONLY | O_NONBLOCK | O_CLOEXEC);
        CHECK(bell >= 0);
        asp_ring_bell_request(&reader);
    }
    for (uint64_t turn = 0;;) {
        const void *payload;
        asp_ring_message message;
        const asp_status status = asp_ring_acquire(&reader, &payload, &message);
        if (status == ASP_END) break;
        if (status == ASP_READY) {
            uint64_t n;
            memcpy(&n, payload, sizeof n);
            CHECK_SAY(n == turn, "message %" PRIu64 " came as %" PRIu64, turn, n);
            turn++;
            asp_ring_release(&reader);
            drift(&seed);
            continue;
        }
        CHECK_SAY(status == ASP_WOULD_BLOCK, "message %" PRIu64 ": status %d", turn, (int)status);
        const asp_bell stands = s->on_bell ? asp_ring_bell(&reader) : ASP_BELL_NONE;
        CHECK(stands != ASP_BELL_REFUSED);
        if (stands == ASP_BELL_READY) park_on_bell(&reader, bell, &s->reader, turn);
        else park_on_word(&reader.watch, &s->reader, "reader", turn);
    }
    asp_ring_leave(&reader);
    if (bell >= 0) close(bell);
}

static uint64_t parks_of(const soak *s) {
    return asp_load_relaxed_u64(&s->reader.parks) + asp_load_relaxed_u64(&s->writer.parks);
}

static uint64_t write_all(soak *s, const char *variant) {
    asp_ring_writer writer;
    move_to_core(1);
    uint64_t seed = s->seed, turn = 0, tell_ns = asp_after(asp_now_ns(), TELL_NS);
    CHECK(asp_ring_writer_init(&writer, &s->ring) == ASP_READY);
    writer.bells = asp_bells_new(prefix, 1);
    CHECK(writer.bells);
    const uint64_t patience_ns = asp_after(asp_now_ns(), STALLS * PATIENCE_NS);
    while (asp_ring_active_readers(&s->ring) == 0) {
        CHECK(asp_now_ns() < patience_ns);
        sched_yield();
    }
    while (parks_of(s) < s->parks) {
        void *payload;
        const asp_status status = asp_ring_claim(&writer, LONGEST, &payload);
        if (status == ASP_READY) {
            memcpy(payload, &turn, sizeof turn);
            drift(&seed);
            CHECK(asp_ring_publish(&writer, LONGEST, ASP_FORMAT_BYTES) == ASP_READY);
            turn++;
            if (turn % 1024 == 0 && asp_now_ns() > tell_ns) {
                tell_ns = asp_after(asp_now_ns(), TELL_NS);
                printf("%s: %" PRIu64 " parks of %" PRIu64 "\n", variant, parks_of(s), s->parks);
                fflush(stdout);
            }
            continue;
        }
        CHECK_SAY(status == ASP_WOULD_BLOCK, "claim %" PRIu64 ": status %d", turn, (int)status);
        /* A writer that slept is too late for the race with the reader's park, so it mostly spins. */
        const unsigned spins = seed >> 58 ? SPINS : 0;
        bool room = false;
        for (unsigned i = 0; i < spins && !room; i++) room = writer.watch.look(&writer.watch);
        if (room) continue;
        if (spins && sched_yield() == 0 && writer.watch.look(&writer.watch)) continue;
        park_on_word(&writer.watch, &s->writer, "writer", turn);
    }
    asp_ring_writer_close(&writer);
    asp_bells_free(writer.bells);
    return turn;
}

static void *reader_thread(void *argument) {
    read_all(argument);
    return NULL;
}

static void run(const char *variant, uint64_t parks, uint64_t seed) {
    const bool processes = strncmp(variant, "processes", 9) == 0;
    char why[256];
    soak *s = mmap(NULL, sizeof *s, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    CHECK(s != MAP_FAILED);
    s->parks = parks;
    s->seed = seed;
    s->on_bell = strstr(variant, "bell") != NULL;
    CHECK(asp_ring_create(s->segment, sizeof s->segment, CAPACITY, 1, ASP_OVERFLOW_BLOCK, 1, 1, 1) == ASP_READY);
    CHECK_SAY(asp_ring_open(s->segment, sizeof s->segment, &s->ring, why, sizeof why) == ASP_READY, "%s", why);
    CHECK(mkfifo(fifo, 0600) == 0);
    const uint64_t begun_ns = asp_now_ns();
    const asp_tally before = asp_tally_read();
    uint64_t messages;
    if (processes) {
        const pid_t writer = getpid();
        fflush(stdout);
        const pid_t child = fork();
        CHECK(child >= 0);
        if (child == 0) {
            prctl(PR_SET_PDEATHSIG, SIGKILL);
            if (getppid() != writer) _exit(1);
            read_all(s);
            keep_books(&s->reader, &before);
            _exit(0);
        }
        messages = write_all(s, variant);
        int status;
        CHECK(waitpid(child, &status, 0) == child);
        CHECK_SAY(WIFEXITED(status) && WEXITSTATUS(status) == 0, "the reader ended with wait status %d", status);
    } else {
        pthread_t thread;
        CHECK(pthread_create(&thread, NULL, reader_thread, s) == 0);
        messages = write_all(s, variant);
        CHECK(pthread_join(thread, NULL) == 0);
    }
    keep_books(&s->writer, &before);
    CHECK(unlink(fifo) == 0);
    const double seconds = (double)(asp_now_ns() - begun_ns) / 1e9;
    printf("%s: %" PRIu64 " parks (reader %" PRIu64 ", writer %" PRIu64 "), %" PRIu64 " of them slept, %" PRIu64
           " messages, %" PRIu64 " wakes made, %" PRIu64 " elided, lost 0, %.1f s, %.0f parks/s\n",
           variant, parks_of(s), s->reader.parks, s->writer.parks, s->reader.slept + s->writer.slept, messages,
           s->reader.wakes + s->writer.wakes, s->reader.elided + s->writer.elided, seconds,
           (double)parks_of(s) / seconds);
    fflush(stdout);
    CHECK(s->reader.slept > 0 && s->writer.slept > 0 && messages > 0);
    CHECK(munmap(s, sizeof *s) == 0);
}

int main(int argc, char **argv) {
    static const char *const variants[] = {"threads-futex", "processes-futex", "threads-bell", "processes-bell"};
    const unsigned all = sizeof variants / sizeof variants[0];
    const uint64_t parks = argc > 1 ? strtoull(argv[1], NULL, 0) : 20000;
    const uint64_t seed = argc > 2 ? strtoull(argv[2], NULL, 0) : 1;
    if (!asp_futex_available()) SKIP("this kernel has no futex that it lets us use");
    CHECK(mkdtemp(folder) != NULL);
    snprintf(prefix, sizeof prefix, "%s/bell-", folder);
    snprintf(fifo, sizeof fifo, "%s0", prefix);
    CHECK(sched_getaffinity(0, sizeof cores, &cores) == 0);
    unsigned ran = 0;
    for (unsigned i = 0; i < all; i++) {
        if (argc > 3 && strcmp(argv[3], variants[i]) != 0) continue;
        run(variants[i], argc > 3 ? parks : parks / all, seed + i);
        ran++;
    }
    CHECK(rmdir(folder) == 0);
    CHECK_SAY(ran, "there is no variant %s", argv[3]);
    printf("soak-park: passed, no wake was lost\n");
    return 0;
}
