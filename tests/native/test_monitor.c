/* test_monitor.c - one conformance body for every backend, and how one is selected.
 *
 *   test_monitor                    selection, then every backend that this machine has
 *   test_monitor NAME...            the same for these only; 77 when the machine lacks one
 *   test_monitor --force NAME...    these, whatever detection says: emulators run instructions
 *                                   that they do not advertise
 *
 * Bounds in time are generous: what is asserted is that nothing hangs and that what claims to
 * sleep does, never a latency; latencies are printed for whoever reads the log. */
#include <inttypes.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "arch.h"
#include "atomics.h"
#include "check.h"
#include "clock.h"
#include "monitor.h"

#define MS UINT64_C(1000000) /* ns */

/* A whole test of a few milliseconds may be preempted, emulated or sanitized; it may not hang. */
#define PATIENCE_NS (20000 * MS)

static int compare_u64(const void *a, const void *b) {
    const uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return (x > y) - (x < y);
}

static uint64_t median(uint64_t *values, size_t count) {
    qsort(values, count, sizeof *values, compare_u64);
    return values[count / 2];
}

/* ---- conformance ---- */

/* Words on lines of their own, 256 bytes apart: no granule of ours is larger on hardware that
 * says so. */
typedef struct stage {
    _Alignas(256) uint64_t word; /* watched */
    uint64_t beside[3];          /* the words after it, on its line where lines are long enough */
    _Alignas(256) uint64_t next_line;
    _Alignas(256) uint32_t go;   /* rounds that the storing thread may run */
    _Alignas(256) uint32_t done; /* rounds that it has run */
} stage;

enum plot { STORE_BETWEEN_ARM_AND_LOOK, STORE_DURING_WAIT, STORE_BESIDE };

typedef struct storer {
    stage *on;
    enum plot plot;
    uint32_t rounds;
    const asp_monitor *monitor;
    uint64_t *stored_ns; /* when each round's store was made */
} storer;

static void await_u32(const asp_monitor *monitor, const uint32_t *word, uint32_t at_least) {
    const uint64_t end_ns = asp_after(asp_now_ns(), PATIENCE_NS);
    while (asp_load_acquire_u32(word) < at_least) { /* pairs with the releases of go and done */
        CHECK_SAY(asp_now_ns() < end_ns, "the other thread never came to round %u", at_least);
        monitor->pause(0);
    }
}

static void *storer_main(void *argument) {
    const storer *self = argument;
    stage *on = self->on;
    for (uint32_t round = 1; round <= self->rounds; round++) {
        await_u32(self->monitor, &on->go, round);
        if (self->plot != STORE_BETWEEN_ARM_AND_LOOK) {
            /* into the middle of the wait, at another place each time */
            const uint64_t end_ns = asp_after(asp_now_ns(), round % 64 * 1000);
            while (asp_now_ns() < end_ns) {
                self->monitor->pause(0);
            }
        }
        if (self->plot == STORE_BESIDE) {
            for (int i = 0; i < 3; i++) {
                asp_store_release_u64(&on->beside[i], round); /* nobody reads it */
            }
            asp_store_release_u64(&on->next_line, round); /* nobody reads it */
        }
        self->stored_ns[round - 1] = asp_now_ns();
        asp_store_release_u64(&on->word, round); /* pairs with the look of the waiting thread */
        asp_store_release_u32(&on->done, round); /* pairs with await_u32 */
    }
    return NULL;
}

/* The loop of monitor.h, with the slice of a hot wait. Returns its passes. */
static unsigned wait_for_word(const asp_monitor *monitor, const uint64_t *word, uint64_t value) {
    const uint64_t end_ns = asp_after(asp_now_ns(), PATIENCE_NS);
    unsigned passes = 0;
    for (;;) {
        if (monitor->watches) {
            monitor->arm(word);
        }
        const uint64_t seen = asp_load_acquire_u64(word); /* pairs with the storer's release */
        if (seen == value) {
            return passes;
        }
        CHECK_SAY(seen == value - 1, "saw %" PRIu64 " while waiting for %" PRIu64, seen, value);
        CHECK_SAY(asp_now_ns() < end_ns, "%s: value %" PRIu64 " never seen", monitor->name, value);
        if (monitor->watches) {
            monitor->wait(20000);
        } else {
            monitor->pause(0);
        }
        passes++;
    }
}

#define ROUNDS 300

static void test_two_threads(const asp_monitor *monitor, enum plot plot, const char *title) {
    stage on;
    memset(&on, 0, sizeof on);
    uint64_t latency_ns[ROUNDS], stored_ns[ROUNDS];
    storer self = {&on, plot, ROUNDS, monitor, stored_ns};
    pthread_t thread;
    CHECK(pthread_create(&thread, NULL, storer_main, &self) == 0);
    unsigned passes = 0;
    for (uint32_t round = 1; round <= ROUNDS; round++) {
        if (plot == STORE_BETWEEN_ARM_AND_LOOK && monitor->watches) {
            monitor->arm(&on.word);
        }
        asp_store_release_u32(&on.go, round); /* pairs with await_u32 of the storer */
        if (plot == STORE_BETWEEN_ARM_AND_LOOK) {
            await_u32(monitor, &on.done, round);
            /* pairs with the storer's release; ordered by `done` besides */
            CHECK(asp_load_acquire_u64(&on.word) == round);
            /* a wait on a line that was stored to must not hang, though nobody needs it */
            if (monitor->watches) {
                monitor->wait(20000);
            }
        }
        passes += wait_for_word(monitor, &on.word, round);
        const uint64_t now_ns = asp_now_ns();
        await_u32(monitor, &on.done, round); /* orders stored_ns */
        latency_ns[round - 1] = asp_left(now_ns, stored_ns[round - 1]);
    }
    CHECK(pthread_join(thread, NULL) == 0);
    CHECK(on.word == ROUNDS);
    CHECK(on.beside[2] == (plot == STORE_BESIDE ? ROUNDS : 0));
    printf("  %-34s median latency %" PRIu64 " ns, %.1f passes a round\n", title,
           median(latency_ns, ROUNDS), (double)passes / ROUNDS);
}

#define SLICES 50
#define SLICE_NS 50000u

static void test_wait_alone(const asp_backend *backend) {
    const asp_monitor *monitor = &backend->monitor;
    const uint32_t line = backend->line_bytes();
    CHECK_SAY(line >= 8 && (line & (line - 1)) == 0, "a line of %u bytes", line);

    /* Read-only memory, and the last bytes before memory that is not there: arming and waiting
     * must not write (T8) nor touch a neighbour page. */
    const size_t page = (size_t)sysconf(_SC_PAGESIZE);
    uint8_t *memory = mmap(NULL, 2 * page, PROT_READ, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    CHECK(memory != MAP_FAILED);
    CHECK(mprotect(memory + page, page, PROT_NONE) == 0);
    for (size_t offset = page - line; offset < page; offset++) {
        monitor->arm(memory + offset);
        monitor->wait(1000);
    }

    /* The shortest slice, and one shorter than a tick of any counter. */
    for (int i = 0; i < 1000; i++) {
        monitor->arm(memory);
        monitor->wait(0);
        monitor->wait(1);
        monitor->wait(SLICE_NS * (i % 100 == 0)); /* not armed anew: may return, may not hang */
    }

    /* Nobody stores: every wait ends by itself (T2), in total near the sum of the slices. */
    uint64_t dwell_ns[SLICES];
    const uint64_t start_ns = asp_now_ns();
    for (int i = 0; i < SLICES; i++) {
        monitor->arm(memory);
        const uint64_t before_ns = asp_now_ns();
        monitor->wait(SLICE_NS);
        dwell_ns[i] = asp_now_ns() - before_ns;
    }
    const uint64_t total_ns = asp_now_ns() - start_ns;
    const uint64_t middle_ns = median(dwell_ns, SLICES);
    const uint64_t probed_ns = asp_probe_dwell_ns(monitor);
    printf("  %-34s median %" PRIu64 " ns of %u, probe %" PRIu64 " ns of %u, line %u bytes\n",
           "wait, nobody stores:", middle_ns, SLICE_NS, probed_ns, ASP_PROBE_SLICE_NS, line);
    CHECK_SAY(total_ns < 200 * MS, "%d waits of %u ns took %" PRIu64 " ns", SLICES, SLICE_NS,
              total_ns);
    if (probed_ns >= ASP_PROBE_SLEEPS_NS) {
        CHECK_SAY(middle_ns >= ASP_PROBE_SLEEPS_NS, "the probe said %" PRIu64 " ns, the median is %"
                  PRIu64 " ns", probed_ns, middle_ns);
    }
    CHECK(munmap(memory, 2 * page) == 0);
}

/* A pause by the clock lasts its slice; TPAUSE may end early, when the kernel says so. */
static bool pauses_by_clock(const asp_monitor *monitor) {
    return strcmp(monitor->name, "tpause") != 0 && strcmp(monitor->name, "umwait") != 0;
}

static void test_pause(const asp_monitor *monitor) {
    const uint64_t start_ns = asp_now_ns();
    for (int i = 0; i < 1000; i++) {
        monitor->pause(0);
    }
    const uint64_t shortest_ns = (asp_now_ns() - start_ns) / 1000;
    const uint64_t slices_start_ns = asp_now_ns();
    for (int i = 0; i < SLICES; i++) {
        const uint64_t before_ns = asp_now_ns();
        monitor->pause(SLICE_NS);
        const uint64_t lasted_ns = asp_now_ns() - before_ns;
        CHECK_SAY(lasted_ns >= SLICE_NS || !pauses_by_clock(monitor),
                  "pause(%u) lasted %" PRIu64 " ns", SLICE_NS, lasted_ns);
    }
    const uint64_t total_ns = asp_now_ns() - slices_start_ns;
    monitor->pause(1);
    printf("  %-34s %" PRIu64 " ns; of %u ns: %" PRIu64 " ns\n", "pause, the shortest:",
           shortest_ns, SLICE_NS, total_ns / SLICES);
    CHECK_SAY(total_ns < 200 * MS, "%d pauses of %u ns took %" PRIu64 " ns", SLICES, SLICE_NS,
              total_ns);
}

static void conform(const char *name) {
    const asp_backend *backend = asp_backend_find(name);
    if (!backend) {
        SKIP("%s is no backend of this architecture", name);
    }
    const asp_monitor *monitor = &backend->monitor;
    printf("%s\n", name);
    fflush(stdout); /* so that the log of a SIGILL says whose */
    CHECK(strcmp(monitor->name, name) == 0);
    CHECK(monitor->pause);
    CHECK(monitor->watches == (monitor->arm && monitor->wait && backend->line_bytes));
    test_pause(monitor);
    if (monitor->watches) {
        test_wait_alone(backend);
    }
    test_two_threads(monitor, STORE_BETWEEN_ARM_AND_LOOK, "store between arm and look:");
    test_two_threads(monitor, STORE_DURING_WAIT, "store during the wait:");
    test_two_threads(monitor, STORE_BESIDE, "stores beside, then the store:");
}

/* ---- selection ---- */

static const char *const all_names[] = {"mwaitx", "umwait", "tpause", "pause", "wfet",
                                        "wfe",    "isb",    "yield",  "zawrs", "generic"};
#define ALL_NAMES (sizeof all_names / sizeof all_names[0])

/* Backends that misbehave, to be selected from. */
static int armed;
static void fake_arm(const void *address) {
    CHECK((uintptr_t)address % 64 == 0);
    armed++;
}
static void fake_wait_at_once(uint64_t slice_ns) {
    (void)slice_ns;
}
static void fake_wait_properly(uint64_t slice_ns) {
    const uint64_t end_ns = asp_now_ns() + slice_ns;
    while (asp_now_ns() < end_ns) {
    }
}
static int calls; /* returns at once in four waits of five, as a core with stray events does */
static void fake_wait_mostly_at_once(uint64_t slice_ns) {
    if (calls++ % 5 == 0) {
        fake_wait_properly(slice_ns);
    }
}
static int other_calls; /* in one of five: an interrupt now and then is no reason */
static void fake_wait_seldom_at_once(uint64_t slice_ns) {
    if (other_calls++ % 5 != 0) {
        fake_wait_properly(slice_ns);
    }
}
static void fake_pause(uint64_t slice_ns) {
    (void)slice_ns;
}
static const char *fake_missing(void) {
    return "its feature bit is not set";
}
static uint32_t fake_line_bytes(void) {
    return 32;
}

#define FAKE_WATCHER(id, text, wait_function)               \
    static const asp_backend id = {                         \
        .monitor = {.name = text,                           \
                    .watches = true,                        \
                    .arm = fake_arm,                        \
                    .wait = wait_function,                  \
                    .pause = fake_pause},                   \
        .line_bytes = fake_line_bytes,                      \
    }
FAKE_WATCHER(sleepless, "sleepless", fake_wait_at_once);
FAKE_WATCHER(restless, "restless", fake_wait_mostly_at_once);
FAKE_WATCHER(disturbed, "disturbed", fake_wait_seldom_at_once);
static const asp_backend absent = {
    .monitor = {.name = "absent", .pause = fake_pause},
    .missing = fake_missing,
};
static const asp_backend plain = {.monitor = {.name = "plain", .pause = fake_pause}};

static void check_why(const asp_selection *selection, const char *part) {
    const size_t length = strnlen(selection->why, sizeof selection->why);
    CHECK_SAY(length > 0 && length < sizeof selection->why - 1, "a sentence of %zu bytes: %s",
              length, selection->why);
    CHECK_SAY(strstr(selection->why, part), "\"%s\" is not in: %s", part, selection->why);
}

static void test_select_from_fakes(void) {
    const asp_backend *const table[] = {&absent, &sleepless, &restless, &disturbed, &plain};
    asp_selection s;

    /* T5: passed over by auto, with the figure; T4: so is what lacks its feature */
    CHECK(asp_select_from(table, 5, "auto", &s) == ASP_READY);
    CHECK_SAY(s.monitor == &disturbed.monitor && s.line_bytes == 32, "%s", s.why);
    check_why(&s, "disturbed");
    check_why(&s, "absent: its feature bit is not set");
    check_why(&s, "sleepless: does not sleep, a wait of 20000 ns took ");
    check_why(&s, "restless: does not sleep, a wait of 20000 ns took ");
    CHECK(armed == 3 * 5 * 2); /* three backends, five waits, each armed twice */

    /* ... down to one that does not watch, which is not probed */
    const asp_backend *const poor[] = {&sleepless, &plain, &disturbed};
    armed = 0;
    CHECK(asp_select_from(poor, 3, NULL, &s) == ASP_READY);
    CHECK(s.monitor == &plain.monitor && s.line_bytes == 0);
    CHECK(armed == 5 * 2);

    /* asked for by name: honoured, but not without saying it */
    CHECK(asp_select_from(table, 5, "sleepless", &s) == ASP_READY);
    CHECK(s.monitor == &sleepless.monitor);
    check_why(&s, "asked for by name");
    check_why(&s, "does not sleep");
    CHECK(asp_select_from(table, 5, "plain", &s) == ASP_READY);
    CHECK(s.monitor == &plain.monitor);
    CHECK(!strstr(s.why, "does not sleep"));

    CHECK(asp_select_from(table, 5, "absent", &s) == ASP_E_UNSUPPORTED);
    CHECK(!s.monitor);
    check_why(&s, "its feature bit is not set");
    check_why(&s, "this machine has auto, sleepless, restless, disturbed, plain");

    CHECK(asp_select_from(table, 1, "auto", &s) == ASP_E_UNSUPPORTED);
    CHECK(!s.monitor);
    check_why(&s, "nothing here can wait; absent");
}

static void test_select(void) {
    const char *supported[ALL_NAMES + 1] = {NULL};
    const size_t count = asp_supported(supported, ALL_NAMES);
    CHECK(count >= 1 && count <= ALL_NAMES);
    CHECK(strcmp(supported[count - 1], "generic") == 0); /* everywhere, and the last resort */
    CHECK(asp_supported(NULL, 0) == count);
    const char *first = NULL;
    CHECK(asp_supported(&first, 1) == count && strcmp(first, supported[0]) == 0);

    asp_selection s, again;
    CHECK(asp_select("auto", &s) == ASP_READY);
    printf("auto: %s\n", s.why);
    CHECK(s.monitor);
    check_why(&s, s.monitor->name);
    CHECK(asp_select(NULL, &again) == ASP_READY && again.monitor == s.monitor);
    bool listed = false;
    for (size_t i = 0; i < count; i++) {
        listed |= strcmp(supported[i], s.monitor->name) == 0;
    }
    CHECK(listed);

    for (size_t i = 0; i < ALL_NAMES; i++) {
        bool here = false;
        for (size_t j = 0; j < count; j++) {
            here |= strcmp(supported[j], all_names[i]) == 0;
        }
        const asp_status status = asp_select(all_names[i], &s);
        CHECK_SAY(status == (here ? ASP_READY : ASP_E_UNSUPPORTED), "%s: %d", all_names[i], status);
        CHECK(!here == !s.monitor);
        check_why(&s, all_names[i]);
        if (here) {
            CHECK(strcmp(s.monitor->name, all_names[i]) == 0);
            CHECK(s.monitor->watches == (s.line_bytes != 0));
        } else {
            printf("%s\n", s.why);
            for (size_t j = 0; j < count; j++) {
                check_why(&s, supported[j]);
            }
        }
    }

    const char *const wrong[] = {"",        "python",   "AUTO", "Pause", " pause", "pause ",
                                 "mwait",   "pausepau", "%s%n", "a\nb",  "\xff\xfe"};
    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++) {
        CHECK_SAY(asp_select(wrong[i], &s) == ASP_E_INVALID, "\"%s\"", wrong[i]);
        CHECK(!s.monitor && s.line_bytes == 0);
        for (size_t j = 0; j < count; j++) {
            check_why(&s, supported[j]);
        }
        for (const char *c = s.why; *c; c++) {
            CHECK(*c >= ' ' && *c <= '~');
        }
    }
    char long_name[1000];
    memset(long_name, 'x', sizeof long_name);
    long_name[sizeof long_name - 1] = 0;
    CHECK(asp_select(long_name, &s) == ASP_E_INVALID);
    check_why(&s, supported[0]);
}

int main(int argc, char **argv) {
    const bool force = argc > 1 && strcmp(argv[1], "--force") == 0;
    const int first = force ? 2 : 1;
    const char *names[ALL_NAMES];
    const size_t count = asp_supported(names, ALL_NAMES);

    test_select_from_fakes();
    test_select();
    if (first == argc) {
        for (size_t i = 0; i < count; i++) {
            conform(names[i]);
        }
    }
    for (int i = first; i < argc; i++) {
        asp_selection s;
        if (!force && asp_select(argv[i], &s) != ASP_READY) {
            SKIP("%s", s.why);
        }
        conform(argv[i]);
    }
    printf("test_monitor: passed\n");
    return 0;
}
