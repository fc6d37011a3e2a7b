/* hwcap.c - what the kernel and the CPU report: capability bits only, never a part number (T12). */
#include "arch.h"

#if defined(__aarch64__)

#include "aarch64.h"

#if defined(__linux__)
#include <sys/auxv.h>

/* Bits of the Linux ABI; spelt out because headers older than the feature lack the names. */
#define ASP_HWCAP_EVTSTRM (1ul << 2)
#define ASP_HWCAP2_WFXT (1ul << 31)

bool asp_aarch64_has_wfxt(void) {
    return getauxval(AT_HWCAP2) & ASP_HWCAP2_WFXT;
}

bool asp_aarch64_has_event_stream(void) {
    return getauxval(AT_HWCAP) & ASP_HWCAP_EVTSTRM;
}

#else /* no other kernel promises user programs either of them */

bool asp_aarch64_has_wfxt(void) {
    return false;
}

bool asp_aarch64_has_event_stream(void) {
    return false;
}

#endif

uint32_t asp_aarch64_granule_bytes(void) {
    uint64_t ctr;
    __asm__("mrs %0, ctr_el0" : "=r"(ctr));
    const unsigned log2_words = ctr >> 20 & 15; /* ERG; 0 says nothing about the size */
    /* then four words, the smallest granule that the architecture allows */
    return log2_words == 0 ? 16 : 4u << log2_words;
}

#endif
