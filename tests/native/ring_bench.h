/* ring_bench.h - a small ring between guard bytes, with its writer, for the tests of ring.c. */
#ifndef ASP_RING_BENCH_H
#define ASP_RING_BENCH_H

#include <inttypes.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "check.h"
#include "ring.h"
#include "ring_bytes.h"

#define CAPACITY 4096u
#define MAX_MESSAGE (CAPACITY / 2)
#define READERS 4u
#define PID 4711u

#define CHECK_STATUS(expression, expected)                                                        \
    do {                                                                                          \
        const asp_status got_ = (expression);                                                     \
        CHECK_SAY(got_ == (expected), "%s is %d, expected %s", #expression, (int)got_, #expected); \
    } while (0)

#define CHECK_U64(a, b)                                                                       \
    do {                                                                                      \
        const uint64_t a_ = (a), b_ = (b);                                                    \
        CHECK_SAY(a_ == b_, "%s is %" PRIu64 ", expected %" PRIu64, #a, a_, b_);               \
    } while (0)

typedef struct bench {
    void *memory; /* between two guard lines that check_guards() looks at */
    uint64_t bytes;
    asp_ring ring;
    asp_ring_writer writer;
} bench;

static const uint8_t guard = 0xa5;

static inline void open_bench(bench *b) {
    char why[256];
    const asp_status status = asp_ring_open(b->memory, b->bytes, &b->ring, why, sizeof why);
    CHECK_SAY(status == ASP_READY, "%s", why);
}

/* A ring whose first record comes at `start`, as if as many bytes had gone through it. */
static inline void set_up_at(bench *b, asp_overflow overflow, uint64_t start) {
    b->bytes = asp_ring_bytes(CAPACITY, READERS);
    const size_t whole = (size_t)b->bytes + 2 * ASP_RING_LINE;
    uint8_t *block = aligned_alloc(ASP_RING_LINE, (whole + ASP_RING_LINE - 1) / ASP_RING_LINE *
                                                      ASP_RING_LINE);
    CHECK(block != NULL);
    memset(block, guard, whole);
    b->memory = block + ASP_RING_LINE;
    memset(b->memory, 0, (size_t)b->bytes);
    CHECK_STATUS(asp_ring_create(b->memory, b->bytes, CAPACITY, READERS, overflow, PID, 1, 1),
                 ASP_READY);
    open_bench(b);
    b->ring.control->writer.head = start;
    b->ring.control->writer.tail = start;
    CHECK_STATUS(asp_ring_writer_init(&b->writer, &b->ring), ASP_READY);
}

static inline void set_up(bench *b, asp_overflow overflow) { set_up_at(b, overflow, 0); }

static inline void tear_down(bench *b) {
    const uint8_t *before = (const uint8_t *)b->memory - ASP_RING_LINE;
    const uint8_t *after = (const uint8_t *)b->memory + b->bytes;
    for (unsigned i = 0; i < ASP_RING_LINE; i++) {
        CHECK_SAY(before[i] == guard && after[i] == guard, "wrote outside of the segment, %u", i);
    }
    free((uint8_t *)b->memory - ASP_RING_LINE);
}

static inline void join(bench *b, asp_ring_reader *reader, uint32_t slot) {
    CHECK_STATUS(asp_ring_join(reader, &b->ring, slot, PID), ASP_READY);
}

/* What message n holds. */
static inline void fill(uint8_t *to, uint64_t n, uint64_t nbytes) {
    for (uint64_t i = 0; i < nbytes; i++) {
        to[i] = (uint8_t)(n * 31 + i * 7 + (i >> 8));
    }
}

static inline bool holds(const void *payload, uint64_t n, uint64_t nbytes) {
    uint8_t expected[MAX_MESSAGE];
    fill(expected, n, nbytes);
    return memcmp(payload, expected, (size_t)nbytes) == 0;
}

static inline asp_status send(bench *b, uint64_t n, uint64_t nbytes) {
    uint8_t data[MAX_MESSAGE];
    fill(data, n, nbytes);
    return asp_ring_send(&b->writer, data, nbytes, ASP_FORMAT_BYTES);
}

static inline void send_ready(bench *b, uint64_t n, uint64_t nbytes) {
    CHECK_STATUS(send(b, n, nbytes), ASP_READY);
}

static inline void expect(asp_ring_reader *reader, uint64_t n, uint64_t nbytes) {
    uint8_t data[MAX_MESSAGE];
    uint32_t length = 0;
    CHECK_STATUS(asp_ring_copy(reader, data, sizeof data, &length), ASP_READY);
    CHECK_U64(length, nbytes);
    CHECK(holds(data, n, nbytes));
}

static inline asp_status copy(asp_ring_reader *reader) {
    uint8_t data[MAX_MESSAGE];
    uint32_t length;
    return asp_ring_copy(reader, data, sizeof data, &length);
}

static inline bool look(asp_watch *watch) { return watch->look(watch); }

/* splitmix64: the same numbers in every run */
static inline uint64_t random_u64(uint64_t *state) {
    uint64_t z = *state += UINT64_C(0x9e3779b97f4a7c15);
    z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
    return z ^ (z >> 31);
}

#endif
