/* fuzz_ring.c - a segment that somebody scribbles over, while one attaches, writes and reads.
 *
 * The input is a programme of one-byte operations with their arguments: store bytes anywhere in the segment, and use
 * it, with two readers and a writer that are healthy themselves. Whatever it holds, every call has to end soon with a
 * status that it documents, within the bounds of the segment (AddressSanitizer sees to that: the segment is one block
 * of the heap), and what it hands out has to lie in the record area.
 *
 *     make fuzz                       guided by coverage (libFuzzer, clang)
 *     fuzz_ring_replay FILE...        the same without clang: what the kept corpus holds, as a native test does */
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "ring.h"

#define CAPACITY 4096u
#define READERS 3u
#define CLAIM_MOST 4096u /* bytes; more than the longest message, 2048 */
#define OPERATIONS_MOST 4096u

#define HOLDS(condition)                                                    \
    do {                                                                    \
        if (!(condition)) {                                                 \
            fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #condition); \
            abort();                                                        \
        }                                                                   \
    } while (0)

typedef struct input {
    const uint8_t *at, *end;
} input;

static uint8_t next(input *in) { return in->at < in->end ? *in->at++ : 0; }

static uint64_t number(input *in, unsigned bytes) {
    uint64_t value = 0;
    for (unsigned i = 0; i < bytes; i++) value |= (uint64_t)next(in) << (8 * i);
    return value;
}

typedef struct bench {
    uint8_t *memory;
    uint64_t bytes;
    asp_ring ring;
    asp_ring_writer writer;
    bool writes;
    asp_ring_reader reader[READERS];
    uint8_t scratch[CLAIM_MOST];
} bench;

static bool inside(const bench *b, const void *payload, uint64_t length) {
    const uint8_t *data = b->ring.data, *at = payload;
    return at >= data && length <= CAPACITY + ASP_RING_SPILL &&
           (uint64_t)(at - data) + length <= CAPACITY + ASP_RING_SPILL;
}

/* The geometry in use is private; opening again must either refuse or find one that fits the block. */
static void open_again(const bench *b) {
    asp_ring ring;
    char why[200] = "";
    const asp_status status = asp_ring_open(b->memory, b->bytes, &ring, why, sizeof why);
    HOLDS(status == ASP_READY || (status == ASP_E_LAYOUT && why[0]));
    if (status == ASP_READY) {
        HOLDS(ring.data + ring.capacity + ASP_RING_SPILL <= b->memory + b->bytes);
        HOLDS((uint8_t *)(ring.readers + ring.max_readers) <= b->memory + b->bytes);
        HOLDS((uint8_t *)(ring.control + 1) <= b->memory + b->bytes);
        asp_ring_writer writer;
        (void)asp_ring_writer_init(&writer, &ring);
    }
}

static void send(bench *b, input *in) {
    const uint64_t nbytes = number(in, 2) % CLAIM_MOST;
    void *payload;
    const asp_status status = asp_ring_claim(&b->writer, nbytes, &payload);
    HOLDS(status == ASP_READY || status == ASP_WOULD_BLOCK || status == ASP_E_TOO_LARGE ||
          status == ASP_BUSY || status == ASP_E_INVALID || status == ASP_E_LAYOUT);
    if (status != ASP_READY) return;
    HOLDS(nbytes <= b->ring.max_message && inside(b, payload, nbytes));
    memset(payload, 0x5a, (size_t)nbytes);
    const uint8_t how = next(in);
    if (how % 8 == 0) {
        asp_ring_abandon(&b->writer);
    } else {
        HOLDS(asp_ring_publish(&b->writer, nbytes, (asp_format)(how % 4)) == ASP_READY);
    }
}

static void receive(bench *b, input *in) {
    asp_ring_reader *reader = &b->reader[next(in) % READERS];
    if (!reader->joined) return;
    asp_ring_message message;
    const void *payload;
    uint32_t length;
    asp_status status;
    switch (next(in) % 4) {
    case 0:
        status = asp_ring_peek(reader, &message);
        if (status == ASP_READY && message.large) asp_ring_pass(reader);
        break;
    case 1:
        status = asp_ring_copy(reader, b->scratch, sizeof b->scratch, &length);
        if (status == ASP_READY) HOLDS(length <= b->ring.max_message);
        break;
    case 2:
        status = asp_ring_acquire(reader, &payload, &message);
        if (status == ASP_READY && !message.large) {
            HOLDS(message.length <= b->ring.max_message && inside(b, payload, message.length));
            uint8_t sum = 0;
            for (uint64_t i = 0; i < message.length; i++) sum ^= ((const uint8_t *)payload)[i];
            b->scratch[0] = sum;
        }
        break;
    default:
        asp_ring_release(reader);
        return;
    }
    HOLDS(status == ASP_READY || status == ASP_WOULD_BLOCK || status == ASP_END ||
          status == ASP_LAGGED || status == ASP_BUSY || status == ASP_E_INVALID ||
          status == ASP_E_LAYOUT || status == ASP_E_TOO_LARGE);
}

static void member(bench *b, input *in) {
    const uint8_t slot = next(in) % READERS;
    asp_ring_reader *reader = &b->reader[slot];
    uint64_t cursor = 0;
    switch (next(in) % 8) {
    case 0:
        asp_ring_leave(reader);
        break;
    case 1:
        if (!reader->joined) {
            const asp_status status = asp_ring_join(reader, &b->ring, slot, 1);
            HOLDS(status == ASP_READY || status == ASP_E_LAYOUT);
            if (status != ASP_READY) reader->joined = false;
        }
        break;
    case 2:
        if (reader->joined) {
            asp_ring_bell_request(reader);
            if (asp_ring_bell_park(reader)) asp_ring_bell_unpark(reader);
        }
        break;
    case 3: asp_ring_evict(&b->ring, slot); break;
    case 4: HOLDS(asp_ring_slowest(&b->ring, &cursor) < (int64_t)READERS); break;
    case 5: (void)asp_ring_oldest(&b->ring); break;
    case 6:
        if (reader->joined) (void)asp_ring_lag(reader);
        HOLDS(asp_ring_active_readers(&b->ring) <= READERS);
        break;
    default:
        if (reader->joined) (void)reader->watch.look(&reader->watch);
        if (b->writes) (void)b->writer.watch.look(&b->writer.watch);
    }
}

static void scribble(bench *b, input *in) {
    const uint64_t at = number(in, 2) % b->bytes;
    uint64_t count = next(in) % 8 + 1u;
    if (count > b->bytes - at) count = b->bytes - at;
    for (uint64_t i = 0; i < count; i++) b->memory[at + i] = next(in);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    input in = {data, data + size};
    const asp_overflow overflow = next(&in) % 2 ? ASP_OVERFLOW_DROP_OLDEST : ASP_OVERFLOW_BLOCK;
    static bench b;
    memset(&b, 0, sizeof b);
    b.bytes = asp_ring_bytes(CAPACITY, READERS);
    b.memory = aligned_alloc(ASP_RING_LINE, (size_t)((b.bytes + ASP_RING_LINE - 1) / ASP_RING_LINE * ASP_RING_LINE));
    HOLDS(b.memory);
    memset(b.memory, 0, (size_t)b.bytes);
    HOLDS(asp_ring_create(b.memory, b.bytes, CAPACITY, READERS, overflow, 1, 1, 1) == ASP_READY);
    char why[200];
    HOLDS(asp_ring_open(b.memory, b.bytes, &b.ring, why, sizeof why) == ASP_READY);
    b.writes = asp_ring_writer_init(&b.writer, &b.ring) == ASP_READY;
    for (uint32_t slot = 0; slot < 2; slot++) {
        HOLDS(asp_ring_join(&b.reader[slot], &b.ring, slot, slot) == ASP_READY);
    }
    for (unsigned i = 0; i < OPERATIONS_MOST && in.at < in.end; i++) {
        switch (next(&in) % 8) {
        case 0: scribble(&b, &in); break;
        case 1: open_again(&b); break;
        case 2: member(&b, &in); break;
        case 3:
            if (b.writes && asp_ring_claim_large(&b.writer) == ASP_READY)
                (void)asp_ring_publish_large(&b.writer, number(&in, 8), (asp_format)(next(&in) % 4));
            break;
        case 4:
            b.writes = asp_ring_writer_init(&b.writer, &b.ring) == ASP_READY; /* a successor takes over */
            break;
        case 5:
            if (next(&in) == 0 && b.writes) asp_ring_writer_close(&b.writer);
            break;
        case 6:
            if (b.writes) send(&b, &in);
            break;
        default: receive(&b, &in);
        }
    }
    free(b.memory);
    return 0;
}
