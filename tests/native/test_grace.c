/* test_grace.c - does spinning pay: a pure function of the times at which waits began and ended. */
#include <stdint.h>

#include "check.h"
#include "grace.h"

#define SPIN 1000u

static void wait_for(asp_grace *grace, uint64_t gap) {
    asp_grace_begin(grace, 5000);
    asp_grace_end(grace, 5000 + gap);
}

static void spins_until_it_knows(void) {
    asp_grace grace = {0};
    for (unsigned i = 0; i < ASP_GRACE_MATURE; i++) {
        CHECK(asp_grace_budget(&grace, SPIN) == SPIN);
        wait_for(&grace, 1000 * SPIN);
    }
    CHECK(asp_grace_budget(&grace, SPIN) == 0);
}

static void spins_up_to_twice_the_allowance(void) {
    asp_grace grace = {0};
    for (int i = 0; i < 10; i++) wait_for(&grace, 2 * SPIN + 1);
    CHECK(asp_grace_budget(&grace, SPIN) == SPIN); /* halved and rounded down */
    for (int i = 0; i < 10; i++) wait_for(&grace, 2 * SPIN + 800);
    CHECK(asp_grace_budget(&grace, SPIN) == 0);
}

static void learns_both_ways(void) {
    asp_grace grace = {0};
    for (int i = 0; i < 10; i++) wait_for(&grace, 100 * SPIN);
    CHECK(asp_grace_budget(&grace, SPIN) == 0);
    int waits = 0;
    for (; asp_grace_budget(&grace, SPIN) == 0; waits++) wait_for(&grace, SPIN / 10);
    CHECK(waits > 1 && waits < 64); /* one quick wait proves nothing, and it does not take for ever */
    for (waits = 0; asp_grace_budget(&grace, SPIN) != 0; waits++) wait_for(&grace, 100 * SPIN);
    CHECK(waits < 8);
}

static void an_end_without_a_begin_is_nothing(void) {
    asp_grace grace = {0};
    asp_grace_end(&grace, 123456);
    CHECK(grace.seen == 0 && grace.mean_ns == 0);
    wait_for(&grace, 7);
    asp_grace_end(&grace, 123456);
    CHECK(grace.seen == 1 && grace.mean_ns == 7);
}

static void a_clock_that_stands_still_is_no_gap(void) {
    asp_grace grace = {0};
    asp_grace_begin(&grace, 10);
    asp_grace_end(&grace, 9);
    CHECK(grace.seen == 1 && grace.mean_ns == 0);
}

static void the_longest_gap_does_not_overflow(void) {
    asp_grace grace = {0};
    for (int i = 0; i < 100; i++) {
        asp_grace_begin(&grace, 1);
        asp_grace_end(&grace, UINT64_MAX);
        CHECK(grace.mean_ns > UINT64_MAX / 2);
    }
    CHECK(asp_grace_budget(&grace, SPIN) == 0);
    CHECK(asp_grace_budget(&grace, UINT64_MAX) == UINT64_MAX);
}

static void no_allowance_is_no_budget(void) {
    asp_grace grace = {0};
    CHECK(asp_grace_budget(&grace, 0) == 0);
    for (int i = 0; i < 10; i++) wait_for(&grace, 1);
    CHECK(asp_grace_budget(&grace, 0) == 0);
}

int main(void) {
    spins_until_it_knows();
    spins_up_to_twice_the_allowance();
    learns_both_ways();
    an_end_without_a_begin_is_nothing();
    a_clock_that_stands_still_is_no_gap();
    the_longest_gap_does_not_overflow();
    no_allowance_is_no_budget();
    printf("test_grace: passed\n");
    return 0;
}
