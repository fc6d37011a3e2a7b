/* test_clock.c - deadlines and their conversion to ticks, at and around every edge (trap T7). */
#include <inttypes.h>
#include <stdint.h>
#include <time.h>

#include "arch.h"
#include "check.h"
#include "clock.h"

/* floor(ns * hz / 10^9) without a type wider than 64 bits, as one does it on paper: the
 * product in four 32-bit digits, then a long division digit by digit. */
static uint64_t ticks_on_paper(uint64_t ns, uint64_t hz) {
    const uint64_t a[2] = {ns & UINT32_MAX, ns >> 32};
    const uint64_t b[2] = {hz & UINT32_MAX, hz >> 32};
    uint64_t digit[4] = {0}; /* of the product, lowest first */
    for (int i = 0; i < 2; i++) {
        uint64_t carry = 0;
        for (int j = 0; j < 2; j++) {
            const uint64_t sum = a[i] * b[j] + digit[i + j] + carry;
            digit[i + j] = sum & UINT32_MAX;
            carry = sum >> 32;
        }
        digit[i + 2] += carry;
    }
    uint64_t quotient[4];
    uint64_t rest = 0;
    for (int i = 3; i >= 0; i--) {
        const uint64_t part = rest << 32 | digit[i];
        quotient[i] = part / 1000000000u;
        rest = part % 1000000000u;
    }
    if (quotient[3] != 0 || quotient[2] != 0) {
        return UINT64_MAX;
    }
    return quotient[1] << 32 | quotient[0];
}

static uint64_t next_random(uint64_t *state) { /* xorshift64 */
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    return *state;
}

static void check_ticks(uint64_t ns, uint64_t hz) {
    const uint64_t got = asp_ns_to_ticks(ns, hz);
    const uint64_t want = ticks_on_paper(ns, hz);
    CHECK_SAY(got == want, "ns=%" PRIu64 " hz=%" PRIu64 ": %" PRIu64 ", on paper %" PRIu64, ns, hz,
              got, want);
}

static void test_ticks(void) {
    /* known by heart */
    CHECK(asp_ns_to_ticks(0, UINT64_MAX) == 0);
    CHECK(asp_ns_to_ticks(UINT64_MAX, 0) == 0);
    CHECK(asp_ns_to_ticks(1000000000, 3000000000u) == 3000000000u);
    CHECK(asp_ns_to_ticks(7, 1000000000) == 7);
    CHECK(asp_ns_to_ticks(999, 1000000) == 0);  /* rounds down */
    CHECK(asp_ns_to_ticks(1000, 1000000) == 1);
    /* the overflow of T7: seven seconds at 3 GHz need 65 bits before the division */
    CHECK(asp_ns_to_ticks(7000000000u, 3000000000u) == 21000000000u);
    CHECK(asp_ns_to_ticks(ASP_FOREVER, 1000000000) == UINT64_MAX);
    CHECK(asp_ns_to_ticks(ASP_FOREVER, 1000000001) == UINT64_MAX);
    CHECK(asp_ns_to_ticks(UINT64_MAX, UINT64_MAX) == UINT64_MAX);

    const uint64_t edges[] = {0,         1,          2,
                              999999999, 1000000000, 1000000001,
                              UINT32_MAX, (uint64_t)UINT32_MAX + 1, INT64_MAX,
                              (uint64_t)INT64_MAX + 1, UINT64_MAX - 1, UINT64_MAX};
    const size_t count = sizeof edges / sizeof edges[0];
    for (size_t i = 0; i < count; i++) {
        for (size_t j = 0; j < count; j++) {
            check_ticks(edges[i], edges[j]);
        }
    }
    uint64_t state = 0x9e3779b97f4a7c15u;
    for (int i = 0; i < 200000; i++) {
        /* of every magnitude, not only of the largest */
        const uint64_t ns = next_random(&state) >> (next_random(&state) & 63);
        const uint64_t hz = next_random(&state) >> (next_random(&state) & 63);
        check_ticks(ns, hz);
        if (ns < UINT64_MAX) { /* never falls as time grows */
            CHECK(asp_ns_to_ticks(ns, hz) <= asp_ns_to_ticks(ns + 1, hz));
        }
    }
}

static void test_deadlines(void) {
    CHECK(asp_after(0, 0) == 0);
    CHECK(asp_after(5, 7) == 12);
    CHECK(asp_after(5, ASP_FOREVER) == ASP_FOREVER);
    CHECK(asp_after(ASP_FOREVER, 0) == ASP_FOREVER);
    CHECK(asp_after(ASP_FOREVER, 1) == ASP_FOREVER);
    CHECK(asp_after(ASP_FOREVER - 1, 1) == ASP_FOREVER);
    CHECK(asp_after(ASP_FOREVER - 1, 2) == ASP_FOREVER);
    CHECK(asp_left(12, 5) == 7);
    CHECK(asp_left(5, 5) == 0);
    CHECK(asp_left(5, 6) == 0);
    CHECK(asp_left(0, ASP_FOREVER) == 0);
    CHECK(asp_left(ASP_FOREVER, 0) == ASP_FOREVER);
    /* the same two edges for counters: an absolute stamp, and the 32-bit count of MWAITX (T1) */
    CHECK(asp_deadline_ticks(5, 7) == 12);
    CHECK(asp_deadline_ticks(UINT64_MAX - 1, 1) == UINT64_MAX);
    CHECK(asp_deadline_ticks(UINT64_MAX - 1, 2) == UINT64_MAX);
    CHECK(asp_deadline_ticks(1, UINT64_MAX) == UINT64_MAX);
    CHECK(asp_count_ticks(0) == 1);
    CHECK(asp_count_ticks(1) == 1);
    CHECK(asp_count_ticks(UINT32_MAX) == UINT32_MAX);
    CHECK(asp_count_ticks((uint64_t)UINT32_MAX + 1) == UINT32_MAX);
    CHECK(asp_count_ticks((uint64_t)1 << 32 | 5) == UINT32_MAX);
    CHECK(asp_count_ticks(UINT64_MAX) == UINT32_MAX);
}

static uint64_t system_now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static void test_now(void) {
    for (int i = 0; i < 1000; i++) {
        const uint64_t before = system_now_ns();
        const uint64_t now = asp_now_ns();
        const uint64_t after = system_now_ns();
        CHECK(before <= now && now <= after);
    }
}

/* A counter whose frequency is known: the clock itself, slowed down. */
static uint64_t megahertz_counter(void) {
    return asp_now_ns() / 1000;
}

static uint64_t gigahertz_counter(void) {
    return asp_now_ns();
}

static uint64_t stopped_counter(void) {
    return 42;
}

/* Within a tenth. A preemption can stretch a measurement, never bend it: both ends are taken at
 * one moment each, so that this holds on a busy machine too, unless it stops a thread five times
 * in a row within 100 ns. */
static void check_hz(uint64_t (*counter)(void), uint64_t want) {
    const uint64_t got = asp_measure_hz(counter);
    CHECK_SAY(got >= want - want / 10 && got <= want + want / 10, "%" PRIu64 " Hz, not %" PRIu64,
              got, want);
}

static void test_measure(void) {
    check_hz(megahertz_counter, 1000000);
    check_hz(gigahertz_counter, 1000000000);
    CHECK(asp_measure_hz(stopped_counter) == 1); /* never 0, whatever the hardware does (T6) */
}

static void sleeps_end_when_they_are_due(void) {
    const uint64_t before = asp_timer_slack(1);
    CHECK(asp_timer_slack(before) == (before ? 1 : 0)); /* 0: not on this system */
    CHECK(asp_timer_slack(before) == before);
}

int main(void) {
    sleeps_end_when_they_are_due();
    test_ticks();
    test_deadlines();
    test_now();
    test_measure();
    printf("test_clock: passed\n");
    return 0;
}
