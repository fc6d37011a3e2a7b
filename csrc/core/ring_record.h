/* ring_record.h - records in a ring, for its two ends: where they lie, and which are healthy.
 *
 * Four orderings carry everything; the functions of ring_writer.c and ring_reader.c name them:
 *   publish   record, then head (release)       / head (acquire), then record
 *   release   last look at record, then cursor  / cursor (acquire), then overwrite
 *   join      slot, fence, head                 / head, fence, slots       (asp_ring_join)
 *   drop      tail, fence, overwrite            / copy, fence, tail        (drop_oldest, lapped) */
#ifndef ASP_RING_RECORD_H
#define ASP_RING_RECORD_H

#include "atomics.h"
#include "ring.h"
#include "tally.h"

#define LARGE_BYTES 8u /* payload of the record of a large message: its length */

/* Bytes of a record with this payload. */
static inline uint64_t record_bytes(uint64_t length) {
    return (ASP_RECORD_BYTES + length + ASP_RECORD_ALIGN - 1) & ~(uint64_t)(ASP_RECORD_ALIGN - 1);
}

static inline uint64_t offset_of(const asp_ring *ring, uint64_t position) {
    return position & (ring->capacity - 1);
}

static inline asp_record *record_at(const asp_ring *ring, uint64_t position) {
    return (asp_record *)(void *)(ring->data + offset_of(ring, position));
}

static inline void *payload_of(asp_record *record) {
    return (uint8_t *)record + ASP_RECORD_BYTES;
}

static inline uint32_t notify(uint32_t *word, uint64_t *at_ns) {
    const uint32_t woken = asp_park_notify_at(word, at_ns);
    if (woken) {
        ASP_COUNT(notifies, 1);
    } else {
        ASP_COUNT(elided, 1);
    }
    return woken;
}

/* There may be more room than before. */
static inline void notify_writer(const asp_ring *ring) {
    asp_ring_park_line *line = &ring->control->writable;
    notify(&line->word, &line->notified_ns);
}

/* Each field is loaded once; in drop_oldest mode the writer may be overwriting them. */
static inline void load_record(const asp_ring *ring, uint64_t position, asp_record *record) {
    const asp_record *shared = record_at(ring, position);
    record->position = asp_load_relaxed_u64(&shared->position);
    record->sequence = asp_load_relaxed_u64(&shared->sequence);
    record->published_ns = asp_load_relaxed_u64(&shared->published_ns);
    record->length = asp_load_relaxed_u32(&shared->length);
    record->kind = asp_load_relaxed_u16(&shared->kind);
    record->format = asp_load_relaxed_u16(&shared->format);
}

/* Ordered by the store of head that follows; relaxed stores because a lossy reader that is about
 * to find itself lapped may be loading them. */
static inline void store_record(const asp_ring *ring, uint64_t position, uint64_t sequence,
                         uint64_t published_ns, uint32_t length, asp_record_kind kind,
                         asp_format format) {
    asp_record *shared = record_at(ring, position);
    asp_store_relaxed_u64(&shared->position, position);
    asp_store_relaxed_u64(&shared->sequence, sequence);
    asp_store_relaxed_u64(&shared->published_ns, published_ns);
    asp_store_relaxed_u32(&shared->length, length);
    asp_store_relaxed_u16(&shared->kind, (uint16_t)kind);
    asp_store_relaxed_u16(&shared->format, (uint16_t)format);
}

/* Bytes of the record that was loaded from `position`, 0 when it is not one that a healthy writer
 * could have published there with head at `end`. Any other ends within the area and by `end`. */
static inline uint64_t record_size(const asp_ring *ring, uint64_t position, uint64_t end,
                            const asp_record *record) {
    const uint64_t offset = offset_of(ring, position);
    uint64_t size;
    if (record->position != position || record->format > ASP_FORMAT_LAST) {
        return 0;
    }
    if (record->kind == ASP_RECORD_DATA || record->kind == ASP_RECORD_LARGE) {
        if (record->length > ring->max_message ||
            (record->kind == ASP_RECORD_LARGE && record->length != LARGE_BYTES)) {
            return 0;
        }
        size = record_bytes(record->length);
        if (offset + size > ring->capacity + ASP_RING_SPILL) {
            return 0;
        }
    } else if (record->kind == ASP_RECORD_PAD) {
        size = ring->capacity - offset;
        if (record->length != 0 || record->format != 0 || size > ring->capacity / 2) {
            return 0;
        }
    } else {
        return 0;
    }
    return size <= end - position ? size : 0;
}

/* Messages published before this head, given the shared sequence as loaded while head did not
 * change: the writer stores sequence first, so between the two it is one ahead, which the parity
 * tells. */
static inline uint64_t sequence_at(uint64_t head, uint64_t sequence) {
    return sequence - ((sequence & 1) != ((head & ASP_HEAD_ODD) != 0));
}

static inline uint64_t head_word(uint64_t head, uint64_t sequence) {
    return head | (sequence & 1 ? ASP_HEAD_ODD : 0);
}

static inline bool head_flags_valid(uint64_t head) {
    return (head & ASP_POSITION_FLAGS & ~(ASP_HEAD_CLOSED | ASP_HEAD_ODD)) == 0;
}

#endif
