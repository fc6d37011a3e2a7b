/* test_futex.c - sleeping in the kernel: who wakes whom, when it ends by itself, and what it refuses. */
#include <errno.h>
#include <inttypes.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>

#include "atomics.h"
#include "check.h"
#include "clock.h"
#include "futex.h"

#define MS UINT64_C(1000000)
#define PATIENCE_NS (UINT64_C(10000) * MS)

static asp_status wait_on(const uint32_t *word, uint32_t expected, uint64_t deadline_ns) {
    asp_futex_word one = {word, expected};
    return asp_futex_wait(&one, 1, deadline_ns);
}

static uint64_t in(uint64_t ns) { return asp_after(asp_now_ns(), ns); }

static void a_changed_word_does_not_sleep(void) {
    uint32_t words[3] = {5, 6, 7};
    asp_futex_word list[3] = {{&words[0], 5}, {&words[1], 6}, {&words[2], 8}};
    CHECK(wait_on(&words[0], 4, ASP_FOREVER) == ASP_READY);
    CHECK(asp_futex_wait(list, 3, ASP_FOREVER) == ASP_READY);
}

static void a_deadline_is_neither_early_nor_missed(void) {
    uint32_t words[2] = {0, 0};
    asp_futex_word list[2] = {{&words[0], 0}, {&words[1], 0}};
    for (size_t count = 1; count <= 2; count++) {
        for (uint64_t ms = 0; ms < 4; ms++) {
            const uint64_t deadline_ns = in(ms * MS);
            asp_status status;
            do status = asp_futex_wait(list, count, deadline_ns);
            while (status == ASP_READY); /* may be spurious, as without futex_waitv */
            CHECK(status == ASP_TIMED_OUT && asp_now_ns() >= deadline_ns);
        }
        CHECK(asp_futex_wait(list, count, 0) == ASP_TIMED_OUT);
        CHECK(asp_futex_wait(list, count, 1) == ASP_TIMED_OUT);
    }
}

static void sleep_until_ends_at_its_deadline(void) {
    const uint64_t deadline_ns = in(2 * MS);
    CHECK(asp_sleep_until(deadline_ns) == ASP_TIMED_OUT && asp_now_ns() >= deadline_ns);
    CHECK(asp_sleep_until(0) == ASP_TIMED_OUT);
}

/* ---- wakes ---- */

typedef struct sleeper {
    uint32_t *words;
    size_t count;
    uint32_t woken;
} sleeper;

static void *sleep_for_ever(void *argument) {
    sleeper *s = argument;
    asp_futex_word list[ASP_FUTEX_MAX];
    for (size_t i = 0; i < s->count; i++) list[i] = (asp_futex_word){&s->words[i], 0};
    CHECK(asp_futex_wait(list, s->count, ASP_FOREVER) == ASP_READY);
    asp_store_release_u32(&s->woken, 1);
    return NULL;
}

/* Knock at one word, whose value stays, until the sleeper is up. */
static void knock_until_woken(sleeper *s, size_t at) {
    pthread_t thread;
    s->woken = 0;
    CHECK(pthread_create(&thread, NULL, sleep_for_ever, s) == 0);
    const uint64_t deadline_ns = in(PATIENCE_NS);
    while (!asp_load_acquire_u32(&s->woken)) {
        asp_futex_wake(&s->words[at]);
        CHECK_SAY(asp_now_ns() < deadline_ns, "word %zu of %zu", at, s->count);
        sched_yield();
    }
    CHECK(pthread_join(thread, NULL) == 0);
}

static void a_knock_at_any_word_wakes(void) {
    static uint32_t words[ASP_FUTEX_MAX];
    sleeper s = {words, 1, 0};
    knock_until_woken(&s, 0);
    for (s.count = 2; s.count <= ASP_FUTEX_MAX; s.count *= 4) {
        knock_until_woken(&s, 0);
        knock_until_woken(&s, s.count - 1);
    }
    s.count = ASP_FUTEX_MAX;
    knock_until_woken(&s, ASP_FUTEX_MAX - 1);
}

static void a_wake_reaches_another_process(void) {
    uint32_t *word = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    CHECK(word != MAP_FAILED);
    pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        while (!asp_load_acquire_u32(word))
            if (wait_on(word, 0, in(PATIENCE_NS)) == ASP_TIMED_OUT) _exit(1);
        _exit(0);
    }
    asp_store_release_u32(word, 1);
    asp_futex_wake(word);
    int status;
    CHECK(waitpid(child, &status, 0) == child && status == 0);
    CHECK(munmap(word, 4096) == 0);
}

static void the_watched_mapping_may_be_read_only(void) {
    char name[] = "/tmp/asp-futex-XXXXXX";
    int fd = mkstemp(name);
    CHECK(fd >= 0 && unlink(name) == 0 && ftruncate(fd, 4096) == 0);
    uint32_t *ours = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    uint32_t *theirs = mmap(NULL, 4096, PROT_READ, MAP_SHARED, fd, 0);
    CHECK(ours != MAP_FAILED && theirs != MAP_FAILED && close(fd) == 0);
    sleeper s = {theirs, 1, 0};
    pthread_t thread;
    CHECK(pthread_create(&thread, NULL, sleep_for_ever, &s) == 0);
    const uint64_t deadline_ns = in(PATIENCE_NS);
    while (!asp_load_acquire_u32(&s.woken)) {
        asp_futex_wake(ours);
        CHECK(asp_now_ns() < deadline_ns);
        sched_yield();
    }
    CHECK(pthread_join(thread, NULL) == 0);
    CHECK(munmap(ours, 4096) == 0 && munmap(theirs, 4096) == 0);
}

/* Memory that the kernel cannot wait on must cost time, or whoever loops around the wait burns a core. */
static void unmapped_memory_is_slept_through(void) {
    uint32_t *gone = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK(gone != MAP_FAILED && munmap(gone, 4096) == 0);
    uint32_t here = 0;
    asp_futex_word first[2] = {{gone, 0}, {&here, 0}}, second[2] = {{&here, 0}, {gone, 0}};
    const struct {
        asp_futex_word *words;
        size_t count;
    } cases[] = {{first, 1}, {first, 2}, {second, 2}};
    for (int i = 0; i < 3; i++) {
        uint64_t begun = asp_now_ns();
        CHECK(asp_futex_wait(cases[i].words, cases[i].count, ASP_FOREVER) == ASP_READY);
        CHECK_SAY(asp_now_ns() - begun >= ASP_FUTEX_FALLBACK_NS, "case %d", i);
        CHECK(asp_futex_wait(cases[i].words, cases[i].count, in(ASP_FUTEX_FALLBACK_NS / 4)) == ASP_TIMED_OUT);
    }
    /* and the one that is there still is heard at once */
    here = 1;
    asp_status status = asp_futex_wait(second, 2, ASP_FOREVER);
    CHECK(status == ASP_READY);
}

/* ---- signals ---- */

static void on_alarm(int number) { (void)number; }

static void a_signal_interrupts(void) {
    struct sigaction action, before;
    memset(&action, 0, sizeof action);
    action.sa_handler = on_alarm; /* without SA_RESTART, as Python installs its own */
    CHECK(sigaction(SIGALRM, &action, &before) == 0);
    /* every 2 ms, so that one that comes before the call does not decide the test */
    const struct itimerval often = {{0, 2000}, {0, 2000}}, never = {{0, 0}, {0, 0}};
    uint32_t words[2] = {0, 0};
    asp_futex_word list[2] = {{&words[0], 0}, {&words[1], 0}};
    CHECK(setitimer(ITIMER_REAL, &often, NULL) == 0);
    CHECK(asp_futex_wait(list, 1, ASP_FOREVER) == ASP_INTERRUPTED);
    CHECK(asp_futex_wait(list, 1, in(PATIENCE_NS)) == ASP_INTERRUPTED);
    if (asp_futex_waitv_available()) {
        CHECK(asp_futex_wait(list, 2, ASP_FOREVER) == ASP_INTERRUPTED);
        CHECK(asp_futex_wait(list, 2, in(PATIENCE_NS)) == ASP_INTERRUPTED);
    }
    CHECK(asp_sleep_until(in(PATIENCE_NS)) == ASP_INTERRUPTED);
    CHECK(setitimer(ITIMER_REAL, &never, NULL) == 0);
    CHECK(sigaction(SIGALRM, &before, NULL) == 0);
}

int main(void) {
    if (!asp_futex_available()) SKIP("this kernel has no futex that it lets us use");
    a_changed_word_does_not_sleep();
    a_deadline_is_neither_early_nor_missed();
    sleep_until_ends_at_its_deadline();
    a_knock_at_any_word_wakes();
    a_wake_reaches_another_process();
    the_watched_mapping_may_be_read_only();
    unmapped_memory_is_slept_through();
    a_signal_interrupts();
    printf("test_futex: passed, futex_waitv %s\n", asp_futex_waitv_available() ? "too" : "missing");
    return 0;
}
