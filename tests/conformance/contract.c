/* contract.c - the checks of contract.h.
 *
 * Two threads: this one waits, a helper stores when it is told to. Nothing is asserted of a
 * single wait, because a busy machine may suspend either thread anywhere: counts over many waits
 * are, with a majority as the bar, and medians. What must hold of every wait, that it ends and
 * that no store is lost, is asserted of every wait. */
#define _GNU_SOURCE /* CPU sets */
#include "contract.h"

#include <inttypes.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "atomics.h"
#include "check.h"
#include "wait.h"

#define US UINT64_C(1000)      /* ns */
#define MS UINT64_C(1000000)   /* ns */
#define PATIENCE_NS (20000 * MS) /* no single step here takes a thousandth of it */

#define TRIALS 64  /* of each kind; a majority of them is far from chance */
#define SLICES 50  /* for medians */

/* A pass of the event stream that bounds WFE (T4) may come so much later than the slice ends, and
 * so may a busy machine's scheduler come back. */
#define LATENESS_NS (150 * US)

/* Nothing here takes a hundredth of it, but a machine may be busy. */
#define ALONE_S 5  /* for all waits that nobody stores into */
#define TOGETHER_S 60

static void hung(int number) {
    (void)number;
    static const char text[] = "a wait never ended: it hangs\n";
    const ssize_t written = write(2, text, sizeof text - 1);
    _exit(written > 0 ? 1 : 2);
}

static int compare_u64(const void *a, const void *b) {
    const uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return (x > y) - (x < y);
}

static uint64_t median(uint64_t *values, size_t count) {
    qsort(values, count, sizeof *values, compare_u64);
    return values[count / 2];
}

static bool most(score s) {
    return 2 * s.is > s.of;
}

/* WFE's event stream ends one wait in six before the store comes. On a line that is claimed to be
 * twice as long as it is, every second store would not end the wait. */
static bool two_thirds(score s) {
    return 3 * s.is > 2 * s.of;
}

static void count(score *s, bool good) {
    s->of++;
    s->is += good;
}

/* ---- the time that a trial gets ---- */

/* 50 us, the core's longest slice; more where reading the clock takes a good part of that, as on
 * an emulated CPU, so that a trial is always hundreds of instructions long. */
static uint64_t trial_slice_ns(void) {
    uint64_t reads_ns[SLICES];
    for (int i = 0; i < SLICES; i++) {
        const uint64_t before_ns = asp_now_ns();
        reads_ns[i] = asp_now_ns() - before_ns;
    }
    const uint64_t slice_ns = 200 * median(reads_ns, SLICES);
    return slice_ns > ASP_SLICE_NS ? slice_ns : ASP_SLICE_NS;
}

/* ---- the thread that stores ---- */

/* Bochs was seen to let a CPU that has a writable translation of a page cached store past the other
 * CPU's monitor. Reading pages whose numbers collide with it in a cache of up to 1024 entries
 * pushes it out. On hardware that is nine loads. */
#define COLLIDING_BYTES (UINT64_C(4) << 20)
#define COLLIDING_PAGES 9

/* Bytes of the largest line there is: AArch64 can state a granule of 512 words. */
#define MAX_LINE 2048

typedef struct stage {
    _Alignas(MAX_LINE) uint8_t line[MAX_LINE]; /* watched, from its beginning */
    uint8_t next_line[MAX_LINE];
    _Alignas(MAX_LINE) uint32_t go;    /* errands given */
    _Alignas(MAX_LINE) uint32_t begun; /* errands taken up */
    _Alignas(MAX_LINE) uint32_t done;  /* errands run */
} stage;

typedef struct errand {
    uint64_t delay_ns;
    void *address;  /* NULL: end the thread */
    unsigned width; /* of the store, in bytes */
    uint64_t value;
    bool signal;        /* first interrupt the thread that waits */
    uint64_t stored_ns; /* answer: when it was */
} errand;

typedef struct helper {
    pthread_t thread, master;
    cpu_set_t allowed; /* to the master, before and after */
    stage *on;
    errand errand; /* the master's while go == done, else the thread's */
    uint32_t given;
} helper;

static void pass_ns(uint64_t ns) {
    const uint64_t end_ns = asp_after(asp_now_ns(), ns);
    while (asp_now_ns() < end_ns) {
    }
}

static void store(void *address, unsigned width, uint64_t value) {
    switch (width) { /* each pairs with the look of the thread that waits */
    case 1: asp_store_release_u8(address, (uint8_t)value); break;
    case 2: asp_store_release_u16(address, (uint16_t)value); break;
    case 4: asp_store_release_u32(address, (uint32_t)value); break;
    default: asp_store_release_u64(address, value);
    }
}

/* A busy machine has to run both threads at once before a trial can begin, so neither gives its CPU
 * up lightly; but the other may be waiting for just this one. */
#define SPIN_NS (500 * US)

static void await_u32(const uint32_t *word, uint32_t value) {
    const uint64_t start_ns = asp_now_ns();
    uint64_t yield_ns = start_ns + SPIN_NS;
    while (asp_load_acquire_u32(word) != value) { /* pairs with go, begun and done */
        const uint64_t now_ns = asp_now_ns();
        CHECK_SAY(now_ns - start_ns < PATIENCE_NS, "the other thread never came to errand %u",
                  value);
        if (now_ns >= yield_ns) {
            sched_yield();
            yield_ns = asp_now_ns() + SPIN_NS;
        }
    }
}

static void *helper_main(void *argument) {
    helper *self = argument;
    stage *on = self->on;
    for (uint32_t n = 1;; n++) {
        await_u32(&on->go, n);
        errand *e = &self->errand;
        if (!e->address) {
            return NULL;
        }
        asp_store_release_u32(&on->begun, n); /* pairs with await_u32 */
        pass_ns(e->delay_ns);
        if (e->signal) {
            CHECK(pthread_kill(self->master, SIGUSR1) == 0);
            pass_ns(e->delay_ns);
        }
        for (unsigned i = 1; i <= COLLIDING_PAGES; i++) {
            (void)*((const volatile uint8_t *)on + i * COLLIDING_BYTES);
        }
        e->stored_ns = asp_now_ns();
        store(e->address, e->width, e->value);
        asp_store_release_u32(&on->done, n); /* pairs with await_u32; orders stored_ns */
    }
}

static void give(helper *h, errand e) {
    h->errand = e;
    asp_store_release_u32(&h->on->go, ++h->given); /* pairs with await_u32 of the helper */
}

static uint64_t run_by(helper *h) {
    await_u32(&h->on->done, h->given);
    return h->errand.stored_ns;
}

static void on_signal(int number) {
    (void)number;
}

/* This thread on the first CPU that it may use, and a new one of these attributes on the second:
 * the scheduler of a busy machine may else leave both on one for long, where no store falls into
 * a wait. */
static void use_two_cpus(helper *h, pthread_attr_t *attributes) {
    cpu_set_t sets[2];
    int found = 0;
    CHECK(sched_getaffinity(0, sizeof h->allowed, &h->allowed) == 0);
    for (size_t cpu = 0; cpu < CPU_SETSIZE && found < 2; cpu++) {
        if (CPU_ISSET(cpu, &h->allowed)) {
            CPU_ZERO(&sets[found]);
            CPU_SET(cpu, &sets[found]);
            found++;
        }
    }
    if (found < 2) {
        SKIP("it takes two CPUs to store into a wait, and this process has one");
    }
    CHECK(sched_setaffinity(0, sizeof sets[0], &sets[0]) == 0);
    CHECK(pthread_attr_setaffinity_np(attributes, sizeof sets[1], &sets[1]) == 0);
}

static void helper_start(helper *h) {
    const size_t bytes = (COLLIDING_PAGES + 1) * COLLIDING_BYTES; /* only its used pages exist */
    stage *on = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    CHECK(on != MAP_FAILED);
    *h = (helper){.on = on, .master = pthread_self()};
    struct sigaction action = {.sa_handler = on_signal};
    CHECK(sigaction(SIGUSR1, &action, NULL) == 0);
    pthread_attr_t attributes;
    CHECK(pthread_attr_init(&attributes) == 0);
    use_two_cpus(h, &attributes);
    CHECK(pthread_create(&h->thread, &attributes, helper_main, h) == 0);
    CHECK(pthread_attr_destroy(&attributes) == 0);
}

static void helper_end(helper *h) {
    give(h, (errand){0});
    CHECK(pthread_join(h->thread, NULL) == 0);
    CHECK(munmap(h->on, (COLLIDING_PAGES + 1) * COLLIDING_BYTES) == 0);
    CHECK(sched_setaffinity(0, sizeof h->allowed, &h->allowed) == 0);
}

/* ---- alone: shape, memory, bounds ---- */

static const _Alignas(MAX_LINE) uint8_t quiet_line[MAX_LINE]; /* nobody stores to it */

static void check_shape(const asp_backend *backend) {
    const asp_monitor *monitor = &backend->monitor;
    CHECK(monitor->name && monitor->pause);
    CHECK(monitor->watches == (monitor->arm && monitor->wait && backend->line_bytes));
    if (monitor->watches) {
        const uint32_t line = backend->line_bytes();
        CHECK_SAY(line >= 8 && line <= MAX_LINE && (line & (line - 1)) == 0, "a line of %u bytes",
                  line);
    }
}

/* Read-only memory, and the last bytes before memory that is not there: arming and waiting neither
 * write (T8) nor touch the next page. */
static void check_read_only_memory(const asp_backend *backend) {
    const size_t page = (size_t)sysconf(_SC_PAGESIZE);
    uint8_t *memory = mmap(NULL, 2 * page, PROT_READ, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    CHECK(memory != MAP_FAILED && mprotect(memory + page, page, PROT_NONE) == 0);
    for (size_t offset = page - backend->line_bytes(); offset < page; offset++) {
        backend->monitor.arm(memory + offset);
        backend->monitor.wait(1000);
    }
    CHECK(munmap(memory, 2 * page) == 0);
}

/* Slices of nothing, of less than a tick, and waits that were not armed: they end. */
static void check_least_slices(const asp_monitor *monitor) {
    uint64_t lasted_ns[3 * SLICES];
    for (int i = 0; i < SLICES; i++) {
        monitor->arm(quiet_line);
        for (unsigned slice_ns = 0; slice_ns < 3; slice_ns++) {
            const uint64_t before_ns = asp_now_ns();
            monitor->wait(slice_ns);
            lasted_ns[3 * i + (int)slice_ns] = asp_now_ns() - before_ns;
        }
    }
    const uint64_t middle_ns = median(lasted_ns, 3 * SLICES);
    CHECK_SAY(middle_ns < LATENESS_NS, "waits of 0, 1 and 2 ns lasted %" PRIu64 " ns", middle_ns);
}

/* From below: counted. From above: a wait that outlasts its slice would delay a cancel. */
static score time_slices(const asp_monitor *monitor, void (*run)(const asp_monitor *, uint64_t)) {
    const uint64_t slice_ns = ASP_PROBE_SLICE_NS;
    uint64_t lasted_ns[SLICES];
    score lasted = {0, 0};
    for (int i = 0; i < SLICES; i++) {
        const uint64_t before_ns = asp_now_ns();
        run(monitor, slice_ns);
        lasted_ns[i] = asp_now_ns() - before_ns;
        count(&lasted, lasted_ns[i] >= slice_ns - slice_ns / 10); /* a tenth for its own counter */
    }
    const uint64_t middle_ns = median(lasted_ns, SLICES);
    CHECK_SAY(middle_ns < 2 * slice_ns + LATENESS_NS, "slices of %" PRIu64 " ns lasted %" PRIu64
              " ns", slice_ns, middle_ns);
    return lasted;
}

static void arm_and_wait(const asp_monitor *monitor, uint64_t slice_ns) {
    monitor->arm(quiet_line);
    monitor->wait(slice_ns);
}

static void pause_once(const asp_monitor *monitor, uint64_t slice_ns) {
    monitor->pause(slice_ns);
}

static void check_pause(const asp_monitor *monitor) {
    uint64_t lasted_ns[SLICES];
    for (int i = 0; i < SLICES; i++) {
        const uint64_t before_ns = asp_now_ns();
        monitor->pause(0);
        lasted_ns[i] = asp_now_ns() - before_ns;
    }
    const uint64_t middle_ns = median(lasted_ns, SLICES);
    CHECK_SAY(middle_ns < ASP_PROBE_SLICE_NS, "the shortest pause lasted %" PRIu64 " ns",
              middle_ns);
    const score lasted = time_slices(monitor, pause_once);
    CHECK_SAY(most(lasted), "%u pauses of %u lasted their slice", lasted.is, lasted.of);
}

bool asp_is_hot(unsigned long idle_wakes_per_s) {
    return idle_wakes_per_s > 1000000000u / ASP_PROBE_SLEEPS_NS; /* what the probe calls no sleep */
}

#define LEAST_WINDOWS 3
#define MOST_WINDOWS 40
#define WINDOW_NS (1 * MS)
#define UNDISTURBED (1000000000u / ASP_SLICE_NS * 9 / 10) /* wakes a second, or nearly so */

static uint64_t wakes_in_a_window(const asp_monitor *monitor) {
    uint64_t passes = 0, now_ns;
    const uint64_t start_ns = asp_now_ns();
    do {
        if (monitor->watches) {
            monitor->arm(quiet_line);
            CHECK(asp_load_acquire_u8(quiet_line) == 0); /* nobody stores */
            monitor->wait(ASP_SLICE_NS);
        } else {
            monitor->pause(ASP_SLICE_NS);
        }
        passes++;
        now_ns = asp_now_ns();
    } while (now_ns - start_ns < WINDOW_NS);
    return passes * 1000000000u / (now_ns - start_ns);
}

/* The most of several windows: in the others a busy machine may have run something else. */
unsigned long asp_idle_wakes_per_s(const asp_monitor *monitor) {
    uint64_t most_wakes = 0;
    for (int i = 0; i < LEAST_WINDOWS || (i < MOST_WINDOWS && most_wakes < UNDISTURBED); i++) {
        const uint64_t wakes = wakes_in_a_window(monitor);
        most_wakes = wakes > most_wakes ? wakes : most_wakes;
    }
    return (unsigned long)most_wakes;
}

/* ---- a store into one wait ---- */

/* One wait of a slice, with a store in its second quarter. True when the store ended it; false when
 * it returned before, or only long after. Trials in which the helper was kept from storing
 * in time are not trials. */
static bool store_ends_a_wait(helper *h, const asp_monitor *monitor, const void *armed,
                              void *stored, unsigned width, uint64_t slice_ns) {
    for (uint64_t end_ns = asp_after(asp_now_ns(), PATIENCE_NS);;) {
        memset(h->on->line, 0, sizeof h->on->line + sizeof h->on->next_line);
        give(h, (errand){.delay_ns = slice_ns / 5 + h->given % 8 * slice_ns / 40,
                         .address = stored, .width = width, .value = UINT64_MAX});
        await_u32(&h->on->begun, h->given); /* it has a CPU now, and most likely for this long */
        const uint64_t start_ns = asp_now_ns();
        monitor->arm(armed);
        if (asp_load_acquire_u8(stored) == 0) { /* pairs with the helper's store */
            monitor->wait(slice_ns);
        }
        const bool seen = asp_load_acquire_u8(stored) != 0; /* the same */
        const uint64_t woken_ns = asp_now_ns(), stored_ns = run_by(h);
        if (stored_ns - start_ns < slice_ns / 2) {
            return seen && asp_left(woken_ns, stored_ns) < slice_ns / 8;
        }
        CHECK_SAY(asp_now_ns() < end_ns, "the helper never stored in time");
    }
}

/* The same with the store after the look and before the wait, which the hardware must have
 * remembered. */
static bool pending_store_ends_a_wait(helper *h, const asp_monitor *monitor, uint64_t slice_ns) {
    memset(h->on->line, 0, sizeof h->on->line);
    const uint64_t *word = (const uint64_t *)h->on->line;
    monitor->arm(word);
    CHECK(asp_load_acquire_u64(word) == 0);
    give(h, (errand){.address = h->on->line, .width = 8, .value = UINT64_MAX});
    run_by(h);
    const uint64_t before_ns = asp_now_ns();
    monitor->wait(slice_ns);
    const uint64_t lasted_ns = asp_now_ns() - before_ns;
    CHECK(asp_load_acquire_u64(word) == UINT64_MAX); /* ordered by run_by */
    return lasted_ns < slice_ns / 4;
}

static void check_stores(helper *h, const asp_backend *backend, uint64_t slice_ns,
                         findings *found) {
    const asp_monitor *monitor = &backend->monitor;
    uint8_t *line = h->on->line;
    const uint32_t line_bytes = backend->line_bytes();
    const unsigned words = line_bytes / 8;
    for (unsigned i = 0; i < TRIALS; i++) {
        const unsigned width = 1u << i % 4;
        uint8_t *word = line + i % words * 8;
        count(&found->store, store_ends_a_wait(h, monitor, word, word, width, slice_ns));
        count(&found->pending, pending_store_ends_a_wait(h, monitor, slice_ns));
        /* anywhere on the line that is claimed, wherever on it was armed (T13): all pairs of words
         * on a line of 64 bytes */
        uint8_t *elsewhere = line + (5 * i + i / words * 3 + 1) % words * 8;
        count(&found->line,
              store_ends_a_wait(h, monitor, word + i % 8, elsewhere, width, slice_ns));
    }
}

/* ---- loops that must lose nothing ---- */

/* A word of `width` bytes whose neighbours change all the time, watched by the loop of the core. */
typedef struct word_watch {
    asp_watch watch;
    unsigned width;
    uint64_t value;
    unsigned long looks;
} word_watch;

static uint64_t load(const void *address, unsigned width) {
    switch (width) { /* each pairs with the helper's store */
    case 1: return asp_load_acquire_u8(address);
    case 2: return asp_load_acquire_u16(address);
    case 4: return asp_load_acquire_u32(address);
    default: return asp_load_acquire_u64(address);
    }
}

static bool word_look(asp_watch *watch) {
    word_watch *self = (word_watch *)watch;
    self->looks++;
    return load(watch->address, self->width) == self->value;
}

static bool second_line_look(asp_watch *watch) {
    word_watch *self = (word_watch *)watch;
    self->looks++;
    const uint8_t *last = (const uint8_t *)watch->address + watch->span - 1;
    return load(last, 1) == self->value;
}

static word_watch watching(bool (*look)(asp_watch *), const void *address, unsigned span,
                           unsigned width, uint64_t value) {
    return (word_watch){.watch = {.look = look, .address = address, .span = span},
                        .width = width, .value = value};
}

static void spin_until_ready(word_watch *watch) {
    CHECK_SAY(asp_spin(&watch->watch, asp_after(asp_now_ns(), PATIENCE_NS), true),
              "a store of %u bytes was lost", watch->width);
}

/* Each width at each place of it on the line: stores of every other width beside the word, which
 * have the bytes that are waited for, do not end the loop, and the store to the word does. */
static void check_neighbours(helper *h, const asp_backend *backend) {
    uint8_t *line = h->on->line;
    const uint32_t line_bytes = backend->line_bytes ? backend->line_bytes() : 64;
    for (unsigned width = 1; width <= 8; width *= 2) {
        const uint64_t value = UINT64_MAX >> (64 - 8 * width);
        for (unsigned at = 0; at + width <= line_bytes; at += width) {
            memset(line, 0, line_bytes + 8);
            word_watch watch = watching(word_look, line + at, width, width, value);
            const unsigned other = 1u << (at / width + width) % 4;
            const unsigned before = at / other * other;
            const unsigned after = (at + width + other - 1) / other * other;
            if (before + other <= at || before >= other) {
                const unsigned place = before + other <= at ? before : before - other;
                give(h, (errand){.address = line + place, .width = other, .value = UINT64_MAX});
                run_by(h);
            }
            give(h, (errand){.address = line + after, .width = other, .value = UINT64_MAX,
                             .delay_ns = 2 * US});
            CHECK_SAY(!asp_spin(&watch.watch, asp_after(asp_now_ns(), 5 * US), true),
                      "a neighbour's store passed for one to %u bytes at %u", width, at);
            run_by(h);
            CHECK_SAY(!word_look(&watch.watch), "%u bytes beside %u changed it", other, at);
            give(h, (errand){.address = line + at, .width = width, .value = value,
                             .delay_ns = at % 16 * US});
            spin_until_ready(&watch);
            run_by(h);
        }
    }
}

/* What lies on two lines is not given to the hardware, and a store to either is seen. */
static void check_straddling(helper *h, const asp_backend *backend) {
    uint8_t *line = h->on->line;
    const uint32_t line_bytes = backend->line_bytes ? backend->line_bytes() : 0;
    for (uint32_t at = 0; at < line_bytes; at++) {
        for (uint32_t span = 0; span <= line_bytes + 1; span++) {
            const word_watch watch = watching(word_look, line + at, span, 1, 1);
            CHECK_SAY(asp_one_line(&watch.watch) == (span > 0 && at + span <= line_bytes),
                      "%u bytes at %u, lines of %u", span, at, line_bytes);
        }
    }
    const uint32_t span = line_bytes ? line_bytes : 64;
    for (unsigned i = 1; i < 16 && i < span; i++) {
        memset(line, 0, sizeof h->on->line + sizeof h->on->next_line);
        /* armed or not, it has to be one that does not miss the second line */
        word_watch watch = watching(second_line_look, line + span - i, span, 1, 1);
        CHECK(!asp_one_line(&watch.watch));
        give(h, (errand){.address = line + 2 * span - i - 1, .width = 1, .value = 1,
                         .delay_ns = i * US});
        spin_until_ready(&watch);
        run_by(h);
    }
}

/* Signals end a wait early; the loop goes on until the store. */
static void check_signals(helper *h, const asp_monitor *monitor, findings *found) {
    uint64_t *word = (uint64_t *)h->on->line;
    for (uint64_t round = 1; round <= TRIALS; round++) {
        *word = 0;
        word_watch watch = watching(word_look, word, 8, 8, round);
        give(h, (errand){.address = word, .width = 8, .value = round, .signal = true,
                         .delay_ns = round % 16 * US});
        spin_until_ready(&watch);
        run_by(h);
        if (monitor->watches) { /* more than one look before the wait, and one after the store */
            count(&found->signal, watch.looks > 2);
        }
    }
}

/* The store at every point between the arming and the wait and beyond, without a pause: a lost one
 * costs a slice at most, and none is lost for good. */
static void check_no_store_is_lost(helper *h) {
    uint64_t *word = (uint64_t *)h->on->line;
    *word = 0;
    for (uint64_t round = 1; round <= 8 * TRIALS; round++) {
        word_watch watch = watching(word_look, word, 8, 8, round);
        give(h, (errand){.address = word, .width = 8, .value = round,
                         .delay_ns = round % 64 * 50});
        spin_until_ready(&watch);
        run_by(h);
        CHECK(load(word, 8) == round);
    }
}

/* ---- deadlines at the extremes ---- */

static void check_deadline_arithmetic(void) {
    static const uint64_t extremes[] = {
        0,         1,           UINT32_MAX - 1,    UINT32_MAX,     UINT64_C(1) << 32,
        INT64_MAX, INT64_MAX / 3, UINT64_C(1) << 63, UINT64_MAX - 1, UINT64_MAX};
    const size_t n = sizeof extremes / sizeof extremes[0];
    for (size_t i = 0; i < n; i++) {
        const uint64_t a = extremes[i];
        CHECK(asp_count_ticks(a) == (a == 0 ? 1 : a < UINT32_MAX ? a : UINT32_MAX));
        for (size_t j = 0; j < n; j++) {
            const uint64_t b = extremes[j];
            const unsigned __int128 sum = (unsigned __int128)a + b;
            CHECK(asp_deadline_ticks(a, b) == (sum > UINT64_MAX ? UINT64_MAX : (uint64_t)sum));
            const unsigned __int128 ticks = (unsigned __int128)a * b / 1000000000u;
            CHECK(asp_ns_to_ticks(a, b) == (ticks > UINT64_MAX ? UINT64_MAX : (uint64_t)ticks));
        }
    }
}

/* Half a slice in extreme slices until a store. The kernel may allow a wait less than that (100000
 * ticks of UMWAIT), and an interrupt may end one: three waits are not a loop over waits that return
 * at once. */
static bool waits_for_the_store(helper *h, const asp_monitor *monitor, uint64_t extreme_ns,
                                uint64_t delay_ns) {
    uint64_t *word = (uint64_t *)h->on->line;
    *word = 0;
    give(h, (errand){.address = word, .width = 8, .value = 1, .delay_ns = delay_ns});
    unsigned passes = 0;
    while (load(word, 8) == 0) {
        monitor->arm(word);
        if (load(word, 8) == 0) {
            monitor->wait(extreme_ns);
            passes++;
        }
    }
    run_by(h);
    return passes <= 3;
}

#define EXTREME_TRIES 8 /* a wrap is at once every time; a busy machine is not this busy */

/* Slices of 2^32 ns and more, up to for ever: none wraps to a deadline in the past. */
static void check_extreme_slices(helper *h, const asp_monitor *monitor, uint64_t slice_ns,
                                 findings *found) {
    /* of one that returns at once anyway nothing is asked but that it comes back */
    const unsigned tries = asp_is_hot(found->idle_wakes_per_s) ? 1 : EXTREME_TRIES;
    for (unsigned bit = 32; bit <= 64; bit++) {
        const uint64_t extreme_ns = UINT64_MAX >> (64 - bit);
        for (uint64_t plus = 0; plus <= (bit < 64); plus++) {
            bool waited = false;
            for (unsigned i = 0; i < tries && !waited; i++) {
                waited = waits_for_the_store(h, monitor, extreme_ns + plus, slice_ns / 2);
            }
            count(&found->extreme, waited);
        }
    }
}

/* ---- all of it ---- */

static const char *verdict_of(const asp_monitor *monitor, const findings *found) {
    if (asp_is_hot(found->idle_wakes_per_s)) {
        return "returns-at-once";
    }
    if (!monitor->watches) {
        return "pauses";
    }
    return most(found->store) ? "sleeps" : "deaf";
}

findings asp_check_contract(const asp_backend *backend) {
    const asp_monitor *monitor = &backend->monitor;
    findings found = {0};
    const struct sigaction action = {.sa_handler = hung};
    CHECK(sigaction(SIGALRM, &action, NULL) == 0);
    alarm(ALONE_S);
    check_shape(backend);
    check_deadline_arithmetic();
    check_pause(monitor);
    const asp_selection selection = {
        .monitor = monitor, .line_bytes = monitor->watches ? backend->line_bytes() : 0};
    asp_use(&selection);
    if (monitor->watches) {
        check_read_only_memory(backend);
        check_least_slices(monitor);
        found.timeout = time_slices(monitor, arm_and_wait);
    } else {
        found.timeout = time_slices(monitor, pause_once);
    }
    found.idle_wakes_per_s = asp_idle_wakes_per_s(monitor);

    helper h;
    helper_start(&h);
    alarm(TOGETHER_S);
    const uint64_t slice_ns = trial_slice_ns();
    if (monitor->watches) {
        check_stores(&h, backend, slice_ns, &found);
        if (most(found.store) || asp_is_hot(found.idle_wakes_per_s)) {
            /* a deaf one would not come back */
            check_extreme_slices(&h, monitor, slice_ns, &found);
        }
    }
    check_no_store_is_lost(&h);
    check_neighbours(&h, backend);
    check_straddling(&h, backend);
    check_signals(&h, monitor, &found);
    helper_end(&h);
    alarm(0);

    found.verdict = verdict_of(monitor, &found);
    if (strcmp(found.verdict, "sleeps") == 0) {
        /* WRS.STO lasts as long as the hart likes */
        CHECK_SAY(most(found.timeout) || strcmp(monitor->name, "zawrs") == 0,
                  "of %u waits that nobody stored into %u lasted their slice", found.timeout.of,
                  found.timeout.is);
        CHECK_SAY(two_thirds(found.pending), "of %u stores between look and wait %u ended the wait",
                  found.pending.of, found.pending.is);
        CHECK_SAY(two_thirds(found.line), "of %u stores within the line %u ended the wait",
                  found.line.of, found.line.is);
        CHECK_SAY(found.extreme.is == found.extreme.of,
                  "of %u extreme slices %u did not return at once", found.extreme.of,
                  found.extreme.is);
    }
    return found;
}

const char *asp_arch_name(void) {
#if defined(__x86_64__)
    return "x86_64";
#elif defined(__aarch64__)
    return "aarch64";
#elif defined(__riscv)
    return "riscv64";
#else
    return "other";
#endif
}

static void print_score(const char *key, score s) {
    if (s.of) {
        printf(" %s=%u/%u", key, s.is, s.of);
    } else {
        printf(" %s=-", key);
    }
}

void asp_print_findings(const char *name, const findings *found) {
    printf("RESULT suite=backend arch=%s backend=%s", asp_arch_name(), name);
    print_score("store", found->store);
    print_score("pending", found->pending);
    print_score("line", found->line);
    print_score("timeout", found->timeout);
    print_score("extreme", found->extreme);
    print_score("signal", found->signal);
    printf(" idle_wakes_per_s=%lu verdict=%s\n", found->idle_wakes_per_s, found->verdict);
    fflush(stdout);
}
