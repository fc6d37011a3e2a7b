/* test_contract.c - the contract's checks catch what they are for.
 *
 * A monitor in software that keeps the contract passes; each that breaks it in one way, in one
 * that hardware or a wrong operand breaks it, is caught, and for that reason. Every one is put
 * through the checks in a child process, because a broken promise ends the program. */
#include "contract.h"

#include <errno.h>
#include <signal.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "atomics.h"
#include "check.h"

#define LINE 64 /* bytes that the monitor in software watches */

/* ---- the monitor that keeps the contract ---- */

static const uint64_t *armed_line;
static uint64_t armed_words[LINE / 8];

static void remember(unsigned words) {
    for (unsigned i = 0; i < words; i++) {
        armed_words[i] = asp_load_acquire_u64(&armed_line[i]); /* pairs with the helper's store */
    }
}

static bool changed(unsigned words) {
    for (unsigned i = 0; i < words; i++) {
        if (asp_load_acquire_u64(&armed_line[i]) != armed_words[i]) { /* the same */
            return true;
        }
    }
    return false;
}

static void wait_until(uint64_t end_ns, unsigned words) {
    while (asp_now_ns() < end_ns) {
        if (armed_line && changed(words)) {
            return;
        }
    }
}

static void arm(const void *address) {
    armed_line = (const uint64_t *)((uintptr_t)address & ~(uintptr_t)(LINE - 1));
    remember(LINE / 8);
}

static void wait_well(uint64_t slice_ns) {
    wait_until(asp_after(asp_now_ns(), slice_ns), LINE / 8);
    armed_line = NULL; /* as hardware: one wait an arming */
}

static void pause_well(uint64_t slice_ns) {
    asp_backend_generic.monitor.pause(slice_ns);
}

static uint32_t line_bytes(void) {
    return LINE;
}

/* ---- and those that do not ---- */

static void wait_at_once(uint64_t slice_ns) {
    (void)slice_ns;
}

static void wait_seldom(uint64_t slice_ns) { /* an event from elsewhere ends most waits */
    static unsigned calls;
    if (calls++ % 16 == 0) {
        wait_well(slice_ns);
    }
}

static void wait_deaf(uint64_t slice_ns) {
    wait_until(asp_after(asp_now_ns(), slice_ns), 0);
}

static void wait_short(uint64_t slice_ns) { /* nanoseconds taken for ticks of a faster counter */
    wait_well(slice_ns - slice_ns / 3);
}

static void wait_too_long(uint64_t slice_ns) {
    wait_well(slice_ns < UINT64_MAX / 20 ? slice_ns * 20 : slice_ns);
}

static void wait_without_timer(uint64_t slice_ns) { /* T2 */
    wait_until(slice_ns == 0 ? 0 : ASP_FOREVER, LINE / 8);
}

static void wait_and_wrap(uint64_t slice_ns) { /* a deadline that overflows lies in the past */
    wait_until(asp_now_ns() + slice_ns, LINE / 8);
}

static void wait_in_32_bits(uint64_t slice_ns) { /* T1 */
    wait_until(asp_now_ns() + (uint32_t)slice_ns, LINE / 8);
}

static void arm_a_word(const void *address) {
    armed_line = (const uint64_t *)((uintptr_t)address & ~(uintptr_t)7);
    armed_words[0] = asp_load_acquire_u64(armed_line); /* pairs with the helper's store */
}

static void wait_on_a_word(uint64_t slice_ns) { /* claims a line and watches a word */
    wait_until(asp_after(asp_now_ns(), slice_ns), 1);
}

static void arm_half(const void *address) { /* claims twice what it watches */
    armed_line = (const uint64_t *)((uintptr_t)address & ~(uintptr_t)(LINE / 2 - 1));
    remember(LINE / 16);
}

static void wait_on_a_half(uint64_t slice_ns) {
    wait_until(asp_after(asp_now_ns(), slice_ns), LINE / 16);
}

static void arm_later(const void *address) {
    armed_line = (const uint64_t *)((uintptr_t)address & ~(uintptr_t)(LINE - 1));
}

static void wait_armed_late(uint64_t slice_ns) { /* loses a store between the look and the wait */
    if (armed_line) {
        remember(LINE / 8);
    }
    wait_well(slice_ns);
}

static void arm_by_writing(const void *address) { /* T8 */
    volatile uint8_t *byte = (volatile uint8_t *)(uintptr_t)address;
    *byte = *byte;
    arm(address);
}

static void arm_beyond(const void *address) {
    (void)*((const volatile uint8_t *)address + LINE);
    arm(address);
}

static void pause_at_once(uint64_t slice_ns) {
    (void)slice_ns;
}

static void pause_long(uint64_t slice_ns) {
    pause_well(slice_ns + 30000);
}

static const struct monitor_case {
    const char *name;
    void (*arm)(const void *);
    void (*wait)(uint64_t);
    void (*pause)(uint64_t);
    const char *expected; /* the verdict, or a part of what a failed check says */
} cases[] = {
    {"keeps-the-contract", arm, wait_well, pause_well, "verdict=sleeps"},
    {"only-pauses", NULL, NULL, pause_well, "verdict=pauses"},
    {"returns-at-once", arm, wait_at_once, pause_well, "verdict=returns-at-once"},
    {"mostly-at-once", arm, wait_seldom, pause_well, "verdict=returns-at-once"},
    {"deaf", arm, wait_deaf, pause_well, "verdict=deaf"},
    {"short", arm, wait_short, pause_well, "lasted their slice"},
    {"too-long", arm, wait_too_long, pause_well, "slices of"},
    {"no-timer", arm, wait_without_timer, pause_well, "never ended"},
    {"wraps", arm, wait_and_wrap, pause_well, "extreme slices"},
    {"32-bits", arm, wait_in_32_bits, pause_well, "extreme slices"},
    {"narrow", arm_a_word, wait_on_a_word, pause_well, "stores within the line"},
    {"half", arm_half, wait_on_a_half, pause_well, "stores within the line"},
    {"armed-late", arm_later, wait_armed_late, pause_well, "between look and wait"},
    {"writes", arm_by_writing, wait_well, pause_well, "crashed"},
    {"reads-beyond", arm_beyond, wait_well, pause_well, "crashed"},
    {"pause-at-once", arm, wait_well, pause_at_once, "lasted their slice"},
    {"pause-long", arm, wait_well, pause_long, "the shortest pause"},
};

static void run_case(const struct monitor_case *c) {
    const asp_backend backend = {
        .monitor = {.name = c->name,
                    .watches = c->arm,
                    .arm = c->arm,
                    .wait = c->wait,
                    .pause = c->pause},
        .line_bytes = c->arm ? line_bytes : NULL,
    };
    const findings found = asp_check_contract(&backend);
    asp_print_findings(c->name, &found);
}

/* What the child said, and how it ended. */
static void outcome(const struct monitor_case *c, char *said, size_t room) {
    int ends[2];
    CHECK(pipe(ends) == 0);
    fflush(stdout);
    const pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        CHECK(dup2(ends[1], 1) == 1 && dup2(ends[1], 2) == 2);
        signal(SIGSEGV, SIG_DFL); /* a sanitizer's handler would make an exit of it */
        run_case(c);
        exit(0);
    }
    CHECK(close(ends[1]) == 0);
    size_t length = 0;
    for (;;) {
        const ssize_t got = read(ends[0], said + length, room - 1 - length);
        if (got <= 0) {
            CHECK(got == 0 || errno == EINTR);
            if (got == 0) break;
        } else {
            length += (size_t)got;
        }
    }
    CHECK(close(ends[0]) == 0);
    int status = 0;
    CHECK(waitpid(child, &status, 0) == child);
    if (WIFSIGNALED(status)) {
        length += (size_t)snprintf(said + length, room - length, "crashed");
    }
    said[length] = 0;
}

int main(void) {
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        char said[4096];
        outcome(&cases[i], said, sizeof said);
        if (strncmp(said, "skipped: ", 9) == 0) {
            printf("%s", said);
            return ASP_EXIT_SKIP;
        }
        printf("%s: %s%s", cases[i].name, said, strchr(said, '\n') ? "" : "\n");
        CHECK_SAY(strstr(said, cases[i].expected), "%s: \"%s\" was expected", cases[i].name,
                  cases[i].expected);
    }
    return 0;
}
