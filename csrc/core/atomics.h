/* atomics.h - every atomic operation of the core goes through here.
 *
 * The words live in memory that other processes map, so they are plain integers operated on
 * with the compiler's __atomic builtins rather than _Atomic objects. Each use names the
 * operation that it pairs with; docs/memory-model.md has the table. */
#ifndef ASP_ATOMICS_H
#define ASP_ATOMICS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define ASP_CACHE_LINE 64 /* bytes; x86-64, Neoverse and every RISC-V server part so far */

#define ASP_DEFINE_ATOMICS(bits)                                                                 \
    static inline uint##bits##_t asp_load_relaxed_u##bits(const uint##bits##_t *p) {             \
        return __atomic_load_n(p, __ATOMIC_RELAXED);                                             \
    }                                                                                            \
    static inline uint##bits##_t asp_load_acquire_u##bits(const uint##bits##_t *p) {             \
        return __atomic_load_n(p, __ATOMIC_ACQUIRE);                                             \
    }                                                                                            \
    static inline void asp_store_relaxed_u##bits(uint##bits##_t *p, uint##bits##_t v) {          \
        __atomic_store_n(p, v, __ATOMIC_RELAXED);                                                \
    }                                                                                            \
    static inline void asp_store_release_u##bits(uint##bits##_t *p, uint##bits##_t v) {          \
        __atomic_store_n(p, v, __ATOMIC_RELEASE);                                                \
    }                                                                                            \
    static inline uint##bits##_t asp_exchange_u##bits(uint##bits##_t *p, uint##bits##_t v) {     \
        return __atomic_exchange_n(p, v, __ATOMIC_SEQ_CST);                                      \
    }                                                                                            \
    static inline uint##bits##_t asp_fetch_add_u##bits(uint##bits##_t *p, uint##bits##_t v) {    \
        return __atomic_fetch_add(p, v, __ATOMIC_SEQ_CST);                                       \
    }                                                                                            \
    static inline uint##bits##_t asp_fetch_or_u##bits(uint##bits##_t *p, uint##bits##_t v) {     \
        return __atomic_fetch_or(p, v, __ATOMIC_SEQ_CST);                                        \
    }                                                                                            \
    static inline bool asp_compare_exchange_u##bits(uint##bits##_t *p, uint##bits##_t *expected, \
                                                    uint##bits##_t desired) {                    \
        return __atomic_compare_exchange_n(p, expected, desired, false, __ATOMIC_SEQ_CST,        \
                                           __ATOMIC_SEQ_CST);                                    \
    }

ASP_DEFINE_ATOMICS(8)
ASP_DEFINE_ATOMICS(16)
ASP_DEFINE_ATOMICS(32)
ASP_DEFINE_ATOMICS(64)

/* The 32-bit word around a narrower flag may reach past its buffer, though never past its page:
 * harmless to read, but AddressSanitizer would object. Acquire, so that no compiler moves the look
 * that must follow it ahead of it. */
__attribute__((no_sanitize("address"))) static inline uint32_t
asp_load_acquire_u32_around(const uint32_t *p) {
    return __atomic_load_n(p, __ATOMIC_ACQUIRE);
}

/* For counters that order nothing. */
static inline void asp_add_relaxed_u64(uint64_t *p, uint64_t v) {
    __atomic_fetch_add(p, v, __ATOMIC_RELAXED);
}

/* Store-then-load order between two words (the Dekker pattern of park and of join). GCC's
 * ThreadSanitizer does not model fences, so under it the fence is a read-modify-write. */
static inline void asp_fence(void) {
#if defined(__SANITIZE_THREAD__)
    static uint32_t asp_fence_word;
    __atomic_fetch_add(&asp_fence_word, 1, __ATOMIC_SEQ_CST);
#else
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
#endif
}

/* The two halves of "announce, overwrite" and "copy, validate": what a thread stores after
 * asp_fence_release is not seen before what it stored ahead of it, and what it loads after
 * asp_fence_acquire is at least as new as what it loaded ahead of it. Both are free on x86.
 * ThreadSanitizer does not need to model them: they order relaxed atomics, which never race. */
static inline void asp_fence_release(void) {
#if defined(__SANITIZE_THREAD__)
    asp_fence();
#else
    __atomic_thread_fence(__ATOMIC_RELEASE);
#endif
}

static inline void asp_fence_acquire(void) {
#if defined(__SANITIZE_THREAD__)
    asp_fence();
#else
    __atomic_thread_fence(__ATOMIC_ACQUIRE);
#endif
}

/* Copies of bytes that another process may be overwriting or reading meanwhile: word by word with
 * relaxed atomics, so that the race is one the language allows. The shared side is 8-byte
 * aligned and is touched in whole words: it has room for n rounded up to 8. */
static inline void asp_copy_from_shared(void *to, const uint64_t *from, size_t n) {
    uint8_t *out = to;
    for (; n >= 8; n -= 8, out += 8, from++) {
        uint64_t word = asp_load_relaxed_u64(from);
        memcpy(out, &word, 8);
    }
    if (n) {
        uint64_t word = asp_load_relaxed_u64(from);
        memcpy(out, &word, n);
    }
}

static inline void asp_copy_to_shared(uint64_t *to, const void *from, size_t n) {
    const uint8_t *in = from;
    for (; n >= 8; n -= 8, in += 8, to++) {
        uint64_t word;
        memcpy(&word, in, 8);
        asp_store_relaxed_u64(to, word);
    }
    if (n) {
        uint64_t word = 0;
        memcpy(&word, in, n);
        asp_store_relaxed_u64(to, word);
    }
}

#endif
