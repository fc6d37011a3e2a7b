/* test_fallback.c - the choice of a backend with the CPU's features taken away one by one.
 *
 *   test_fallback            what this CPU has, and each of its features masked
 *   test_fallback --force    as if it had every feature, since emulators run instructions that
 *                            they do not advertise
 *
 * The files that ask the CPU or the kernel are compiled into this program, which answers in their
 * place; being here, they are not taken from the library. On every branch that is reached so there
 * is something to wait with, and it is no hot loop. */
#include "contract.h"

#include <string.h>

#include "check.h"
#include "wait.h"

typedef struct feature {
    const char *name;
    bool real;      /* this CPU has it */
    bool pretended; /* what the detection is told */
} feature;

/* ---- the answers ---- */

#if defined(__x86_64__)

#include <cpuid.h>

enum { MWAITX, WAITPKG, FEATURES };
static feature features[FEATURES] = {
    [MWAITX] = {.name = "mwaitx"},
    [WAITPKG] = {.name = "waitpkg"},
};

static unsigned monitor_leaf_eax, cache_line_ebx; /* leaves 5 and 1 */
static unsigned highest_leaf;                     /* of the basic and of the extended ones */

static int answer(unsigned leaf, unsigned *a, unsigned *b, unsigned *c, unsigned *d) {
    *a = *b = *c = *d = 0;
    if ((leaf & 0x7fffffffu) > highest_leaf) {
        return 0;
    }
    switch (leaf) {
    case 1: *b = cache_line_ebx; break;
    case 5: *a = monitor_leaf_eax; break;
    case 7: *c = (unsigned)features[WAITPKG].pretended << 5; break;
    case 0x80000001u: *c = (unsigned)features[MWAITX].pretended << 29; break;
    default: CHECK_SAY(false, "nobody asks for leaf %#x", leaf);
    }
    return 1;
}

static int answer_count(unsigned leaf, unsigned sub, unsigned *a, unsigned *b, unsigned *c,
                        unsigned *d) {
    CHECK(sub == 0);
    return answer(leaf, a, b, c, d);
}

static void find_features(void) {
    unsigned a, b, c, d;
    features[MWAITX].real = __get_cpuid(0x80000001u, &a, &b, &c, &d) && (c >> 29 & 1);
    features[WAITPKG].real = __get_cpuid_count(7, 0, &a, &b, &c, &d) && (c >> 5 & 1);
    if (__get_cpuid(1, &a, &b, &c, &d)) {
        cache_line_ebx = b;
    }
    if (__get_cpuid(5, &a, &b, &c, &d)) {
        monitor_leaf_eax = a;
    }
    highest_leaf = 7;
}

#define __get_cpuid answer
#define __get_cpuid_count answer_count
#include "x86/cpuid.c"
#include "x86/x86.h"

static const char *needs(const char *backend) {
    return strcmp(backend, "mwaitx") == 0                                     ? "mwaitx"
           : strcmp(backend, "umwait") == 0 || strcmp(backend, "tpause") == 0 ? "waitpkg"
                                                                              : NULL;
}

/* The size of the line, where hypervisors blank leaves or state nonsense: never more than the
 * truth. */
static void test_detection(void) {
    static const struct {
        unsigned highest, monitor_eax, ebx;
        uint32_t bytes;
    } lines[] = {
        {7, 64, 8 << 8, 64}, {7, 128, 8 << 8, 128}, {7, 0, 8 << 8, 64},
        {4, 128, 8 << 8, 64}, {7, 96, 0, 64}, {7, 0, 0, 1},
        {0, 64, 8 << 8, 1}, {7, 0xffff, 0, 32768}, {7, 0xffff0000u, 16 << 8, 128},
    };
    const unsigned kept[] = {highest_leaf, monitor_leaf_eax, cache_line_ebx};
    for (size_t i = 0; i < sizeof lines / sizeof lines[0]; i++) {
        highest_leaf = lines[i].highest;
        monitor_leaf_eax = lines[i].monitor_eax;
        cache_line_ebx = lines[i].ebx;
        CHECK_SAY(asp_x86_line_bytes() == lines[i].bytes, "case %zu: %u", i, asp_x86_line_bytes());
    }
    /* leaves that do not exist mean that the feature does not, whatever reading them would give */
    highest_leaf = 0;
    CHECK(!asp_x86_has_mwaitx() && !asp_x86_has_waitpkg());
    highest_leaf = kept[0], monitor_leaf_eax = kept[1], cache_line_ebx = kept[2];
}

#elif defined(__aarch64__)

#include <sys/auxv.h>

enum { WFXT, EVTSTRM, FEATURES };
static feature features[FEATURES] = {[WFXT] = {.name = "wfxt"}, [EVTSTRM] = {.name = "evtstrm"}};

static unsigned long answer(unsigned long type) {
    return type == AT_HWCAP2 ? (unsigned long)features[WFXT].pretended << 31
                             : (unsigned long)features[EVTSTRM].pretended << 2;
}

static void find_features(void) {
    features[WFXT].real = getauxval(AT_HWCAP2) >> 31 & 1;
    features[EVTSTRM].real = getauxval(AT_HWCAP) >> 2 & 1;
}

#define getauxval answer
#include "aarch64/hwcap.c"

static const char *needs(const char *backend) {
    return strcmp(backend, "wfet") == 0 ? "wfxt" : strcmp(backend, "wfe") == 0 ? "evtstrm" : NULL;
}

static void test_detection(void) {
    const uint32_t bytes = asp_aarch64_granule_bytes();
    CHECK_SAY(bytes >= 16 && bytes <= 2048 && (bytes & (bytes - 1)) == 0, "%u bytes", bytes);
}

#elif defined(__riscv) && __riscv_xlen == 64

#include <stdint.h>
#include <unistd.h>

enum { ZAWRS, FEATURES };
static feature features[FEATURES] = {[ZAWRS] = {.name = "zawrs"}};

struct probe_pair {
    int64_t key;
    uint64_t value;
};

static long error; /* of the call: a kernel before 6.4 */
static bool unknown; /* the key: one before 6.11 knows no bit of it */

static long answer(long number, void *pairs, unsigned long count, unsigned long set_bytes,
                   void *set, unsigned long flags) {
    CHECK(number == 258 && count == 1 && set_bytes == 0 && !set && flags == 0);
    struct probe_pair *pair = pairs;
    CHECK(pair->key == 4);
    pair->value = (uint64_t)features[ZAWRS].pretended << 48;
    if (unknown) {
        pair->key = -1;
    }
    return error;
}

static void find_features(void) {
    struct probe_pair pair = {4, 0};
    features[ZAWRS].real = syscall(258, &pair, 1ul, 0ul, NULL, 0ul) == 0 && pair.key == 4 &&
                           (pair.value >> 48 & 1);
}

#define syscall answer
#include "riscv64/hwprobe.c"

static const char *needs(const char *backend) {
    return strcmp(backend, "zawrs") == 0 ? "zawrs" : NULL;
}

static void test_detection(void) {
    features[ZAWRS].pretended = true;
    error = -1;
    CHECK(!asp_riscv64_has_zawrs());
    error = 0;
    unknown = true;
    CHECK(!asp_riscv64_has_zawrs());
    unknown = false;
    CHECK(asp_riscv64_has_zawrs());
}

#else
#error "no architecture with features to mask; skip this program there"
#endif

/* ---- detection, of which nothing is executed ---- */

#define MAX_BACKENDS 16

static void pretend(unsigned set) {
    for (unsigned i = 0; i < FEATURES; i++) {
        features[i].pretended = set >> i & 1;
    }
}

static bool pretended(const char *name) {
    for (unsigned i = 0; name && i < FEATURES; i++) {
        if (strcmp(features[i].name, name) == 0) {
            return features[i].pretended;
        }
    }
    return true; /* it needs none */
}

static void test_supported(void) {
    const char *all[MAX_BACKENDS];
    pretend(~0u);
    const size_t count = asp_supported(all, MAX_BACKENDS);
    CHECK(count >= FEATURES);
    for (unsigned set = 0; set < 1u << FEATURES; set++) {
        pretend(set);
        const char *names[MAX_BACKENDS];
        const size_t here = asp_supported(names, MAX_BACKENDS);
        size_t at = 0;
        for (size_t i = 0; i < count; i++) {
            const asp_backend *backend = asp_backend_find(all[i]);
            const bool has = pretended(needs(all[i]));
            CHECK(!backend->missing || has == !backend->missing());
            if (has) {
                CHECK_SAY(at < here && strcmp(names[at], all[i]) == 0, "%s is not at its place",
                          all[i]);
                at++;
            } else {
                asp_selection selection;
                CHECK(asp_select(all[i], &selection) == ASP_E_UNSUPPORTED && !selection.monitor);
                CHECK_SAY(strstr(selection.why, backend->missing()), "%s", selection.why);
            }
        }
        CHECK(at == here);
    }
}

/* ---- choice, of which what is there is executed ---- */

static void print_masked(unsigned set, unsigned all) {
    bool any = false;
    for (unsigned i = 0; i < FEATURES; i++) {
        if (all >> i & ~set >> i & 1) {
            printf("%s%s", any ? "," : "", features[i].name);
            any = true;
        }
    }
    if (!any) {
        printf("-");
    }
}

static void test_choice(unsigned all) {
    for (unsigned set = 0; set < 1u << FEATURES; set++) {
        if (set & ~all) {
            continue; /* this CPU would not execute it */
        }
        pretend(set);
        asp_selection selection;
        CHECK(asp_select(NULL, &selection) == ASP_READY);
        const asp_monitor *monitor = selection.monitor;
        /* all that is better is not there, or does not sleep, and the sentence says so */
        const char *names[MAX_BACKENDS];
        CHECK(asp_supported(names, MAX_BACKENDS) > 0);
        for (size_t i = 0; strcmp(names[i], monitor->name) != 0; i++) {
            const asp_backend *better = asp_backend_find(names[i]);
            CHECK_SAY(better->monitor.watches, "%s is better than %s", names[i], monitor->name);
            CHECK_SAY(strstr(selection.why, "does not sleep"), "%s: %s", names[i], selection.why);
        }
        CHECK(monitor->watches == (selection.line_bytes != 0));

        const unsigned long idle = asp_idle_wakes_per_s(monitor);
        printf("RESULT suite=fallback arch=%s masked=", asp_arch_name());
        print_masked(set, all);
        printf(" chosen=%s idle_wakes_per_s=%lu verdict=%s\n", monitor->name, idle,
               asp_is_hot(idle) ? "returns-at-once" : monitor->watches ? "sleeps" : "pauses");
        CHECK_SAY(!asp_is_hot(idle), "%s: %lu wakes a second", selection.why, idle);
    }
}

/* The backends themselves taken away, in every combination, down to none. */
static void test_subsets(unsigned all) {
    pretend(all);
    const char *names[MAX_BACKENDS];
    const size_t count = asp_supported(names, MAX_BACKENDS);
    for (unsigned set = 0; set < 1u << count; set++) {
        const asp_backend *table[MAX_BACKENDS];
        size_t left = 0;
        for (size_t i = 0; i < count; i++) {
            if (set >> i & 1) {
                table[left++] = asp_backend_find(names[i]);
            }
        }
        asp_selection selection;
        const asp_status status = asp_select_from(table, left, "auto", &selection);
        if (status != ASP_READY) {
            /* nothing left, or only what returns at once */
            CHECK(status == ASP_E_UNSUPPORTED && !selection.monitor);
            CHECK(left == 0 || strstr(selection.why, "does not sleep"));
            continue;
        }
        const unsigned long idle = asp_idle_wakes_per_s(selection.monitor);
        CHECK_SAY(!asp_is_hot(idle), "%s: %lu wakes a second", selection.why, idle);
    }
}

int main(int argc, char **argv) {
    const bool force = argc == 2 && strcmp(argv[1], "--force") == 0;
    CHECK_SAY(force == (argc == 2), "the only argument is --force");
    find_features();
    unsigned all = 0;
    for (unsigned i = 0; i < FEATURES; i++) {
        all |= (unsigned)(features[i].real || force) << i;
    }
    test_detection();
    test_supported();
    test_choice(all);
    test_subsets(all);
    return 0;
}
