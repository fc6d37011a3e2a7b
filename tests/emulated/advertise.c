/* advertise.c - tells programs what the emulated CPU executes, since qemu-user's kernel does not.
 *
 * Loaded before the C library into the emulated Python, so that the wheel's own
 * detection finds WFET, WFE and Zawrs, asks its probe whether they sleep, and can be told to use
 * them. Only the bits that csrc/arch asks for are added; everything else is the emulator's answer. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdarg.h>
#include <stdint.h>

#if defined(__aarch64__)

#define AT_HWCAP 16
#define AT_HWCAP2 26
#define EVTSTRM (1ul << 2)
#define WFXT (1ul << 31)

unsigned long getauxval(unsigned long type) {
    unsigned long (*real)(unsigned long) = dlsym(RTLD_NEXT, "getauxval");
    return real(type) | (type == AT_HWCAP ? EVTSTRM : type == AT_HWCAP2 ? WFXT : 0);
}

#elif defined(__riscv)

#define SYS_RISCV_HWPROBE 258
#define KEY_IMA_EXT_0 4
#define ZAWRS (UINT64_C(1) << 48)

struct pair {
    int64_t key;
    uint64_t value;
};

long syscall(long number, ...) {
    long (*real)(long, ...) = dlsym(RTLD_NEXT, "syscall");
    long arguments[6]; /* a system call has no more, and those that it does not have are ignored */
    va_list list;
    va_start(list, number);
    for (int i = 0; i < 6; i++) {
        arguments[i] = va_arg(list, long);
    }
    va_end(list);
    const long result = real(number, arguments[0], arguments[1], arguments[2], arguments[3],
                             arguments[4], arguments[5]);
    if (number == SYS_RISCV_HWPROBE && result == 0) {
        struct pair *pairs = (struct pair *)arguments[0];
        for (long i = 0; i < arguments[1]; i++) {
            pairs[i].value |= pairs[i].key == KEY_IMA_EXT_0 ? ZAWRS : 0;
        }
    }
    return result;
}

#endif
