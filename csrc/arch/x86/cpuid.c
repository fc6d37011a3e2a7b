/* cpuid.c - what this CPU reports about itself: feature bits only, never its vendor (T12). */
#include "arch.h"

#if defined(__x86_64__)

#include <cpuid.h>

#include "x86.h"

/* The two __get_cpuid forms answer false for a leaf above the CPU's highest, which then means
 * that the feature is absent, instead of reading whatever the CPU returns for such a leaf. */

bool asp_x86_has_mwaitx(void) {
    unsigned a, b, c, d;
    return __get_cpuid(0x80000001u, &a, &b, &c, &d) && (c >> 29 & 1);
}

bool asp_x86_has_waitpkg(void) {
    unsigned a, b, c, d;
    return __get_cpuid_count(7, 0, &a, &b, &c, &d) && (c >> 5 & 1);
}

uint32_t asp_x86_line_bytes(void) {
    unsigned a, b, c, d;
    uint32_t bytes = 0;
    if (__get_cpuid(5, &a, &b, &c, &d)) {
        bytes = a & 0xffff; /* smallest monitor line; a hypervisor may have blanked the leaf */
    }
    if (bytes == 0 && __get_cpuid(1, &a, &b, &c, &d)) {
        bytes = (b >> 8 & 0xff) * 8; /* the cache line, which is what hardware watches */
    }
    /* a power of two, rounded down: covering less than the truth is safe, more is not */
    uint32_t power = 1;
    while (power <= bytes / 2) {
        power *= 2;
    }
    return power;
}

#endif
