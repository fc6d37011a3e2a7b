/* hwprobe.c - what the kernel reports about all harts together (T12: extensions, no vendor). */
#include "arch.h"

#if defined(__riscv) && __riscv_xlen == 64

#include "riscv64.h"

#if defined(__linux__)
#include <unistd.h>

/* Of the Linux ABI; spelt out because headers older than the call lack the names. */
#define ASP_SYS_RISCV_HWPROBE 258
#define ASP_HWPROBE_KEY_IMA_EXT_0 4
#define ASP_HWPROBE_EXT_ZAWRS (UINT64_C(1) << 48)

bool asp_riscv64_has_zawrs(void) {
    struct {
        int64_t key;
        uint64_t value;
    } pair = {ASP_HWPROBE_KEY_IMA_EXT_0, 0};
    /* no CPU set: what every online hart has. A kernel before 6.4 has no such call, one before
     * 6.11 does not know Zawrs; a key that it does not know comes back as -1. */
    if (syscall(ASP_SYS_RISCV_HWPROBE, &pair, 1ul, 0ul, NULL, 0ul) != 0) {
        return false;
    }
    return pair.key == ASP_HWPROBE_KEY_IMA_EXT_0 && (pair.value & ASP_HWPROBE_EXT_ZAWRS);
}

#else /* no other kernel has a call that tells */

bool asp_riscv64_has_zawrs(void) {
    return false;
}

#endif

#endif
