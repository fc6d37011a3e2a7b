/* test_select.c - how a backend is chosen: by name, and as the best that this machine has.
 *
 * What a backend then does is the subject of tests/conformance. */
#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#include "arch.h"
#include "check.h"
#include "clock.h"
#include "monitor.h"

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

int main(void) {
    test_select_from_fakes();
    test_select();
    return 0;
}
