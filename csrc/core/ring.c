/* ring.c - the broadcast ring; ring.h says what it promises, docs/layout.md what its bytes mean.
 *
 * Four orderings carry everything; the functions below name them:
 *   publish   record, then head (release)       / head (acquire), then record
 *   release   last look at record, then cursor  / cursor (acquire), then overwrite
 *   join      slot, fence, head                 / head, fence, slots       (asp_ring_join)
 *   drop      tail, fence, overwrite            / copy, fence, tail        (drop_oldest, lapped)
 *
 * Whatever a peer could have written is loaded once into a local, checked there, and used from
 * there. The lengths in records, the positions and the slots are such words; the geometry is not,
 * it was copied by asp_ring_open. */
#include "ring.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "atomics.h"
#include "clock.h"
#include "tally.h"

_Static_assert(sizeof(asp_ring_header) == 88, "docs/layout.md");
_Static_assert(sizeof(asp_ring_control) == 3 * ASP_RING_LINE, "docs/layout.md");
_Static_assert(sizeof(asp_ring_reader_line) == ASP_RING_LINE, "docs/layout.md");
_Static_assert(sizeof(asp_record) == ASP_RECORD_BYTES, "docs/layout.md");

/* drop_oldest: tail moves this part of the capacity further than it must. A lapped reader needs a
 * few cache misses, about a microsecond, to get going at tail; the writer overwrites 64 bytes in a
 * twentieth of that, so with strides of one record the reader would never catch one. */
#define STRIDE_DIVISOR 8

/* Turns of the search for a whole record in one call. Two suffice in a healthy ring in block mode
 * (a pad, the record after it); in drop_oldest mode each further one means that the writer went a
 * stride ahead between two loads. After that the caller is told to come again. */
#define SEARCH_TURNS 8

/* Tries of a joining reader to load head and sequence while no publish goes on. A try is a few
 * nanoseconds and a publish tens, so a healthy writer does not spoil even ten in a row. */
#define JOIN_TRIES 1000

/* Bytes of a record with this payload. */
static uint64_t record_bytes(uint64_t length) {
    return (ASP_RECORD_BYTES + length + ASP_RECORD_ALIGN - 1) & ~(uint64_t)(ASP_RECORD_ALIGN - 1);
}

static uint64_t offset_of(const asp_ring *ring, uint64_t position) {
    return position & (ring->capacity - 1);
}

static asp_record *record_at(const asp_ring *ring, uint64_t position) {
    return (asp_record *)(void *)(ring->data + offset_of(ring, position));
}

static void *payload_of(asp_record *record) {
    return (uint8_t *)record + ASP_RECORD_BYTES;
}

static void notify(uint32_t *word) {
    if (asp_park_notify(word)) {
        ASP_COUNT(notifies, 1);
    } else {
        ASP_COUNT(elided, 1);
    }
}

/* ---- geometry ---- */

static uint64_t data_offset(uint32_t max_readers) {
    return ASP_RING_LINE + sizeof(asp_ring_control) +
           max_readers * (uint64_t)sizeof(asp_ring_reader_line);
}

static bool capacity_allowed(uint64_t capacity) {
    return capacity >= ASP_RING_MIN_CAPACITY && capacity <= ASP_RING_MAX_CAPACITY &&
           (capacity & (capacity - 1)) == 0;
}

uint64_t asp_ring_bytes(uint64_t capacity, uint32_t max_readers) {
    if (!capacity_allowed(capacity) || max_readers < 1 || max_readers > ASP_RING_MAX_READERS) {
        return 0;
    }
    return data_offset(max_readers) + capacity + ASP_RING_SPILL;
}

asp_status asp_ring_create(void *memory, uint64_t bytes, uint64_t capacity, uint32_t max_readers,
                           asp_overflow overflow, uint32_t pid, uint64_t realtime_ns) {
    const uint64_t total = asp_ring_bytes(capacity, max_readers);
    if (total == 0 || bytes < total || (uintptr_t)memory % ASP_RING_LINE != 0 ||
        (overflow != ASP_OVERFLOW_BLOCK && overflow != ASP_OVERFLOW_DROP_OLDEST)) {
        return ASP_E_INVALID;
    }
    asp_ring_header *header = memory;
    *header = (asp_ring_header){
        .version = ASP_RING_VERSION,
        .header_bytes = sizeof(asp_ring_header),
        .total_bytes = total,
        .capacity = capacity,
        .max_readers = max_readers,
        .overflow = (uint32_t)overflow,
        .writer_offset = ASP_RING_LINE,
        .readers_offset = ASP_RING_LINE + sizeof(asp_ring_control),
        .data_offset = data_offset(max_readers),
        .byte_order = 0x01020304,
        .line_bytes = ASP_RING_LINE,
        .created_ns = realtime_ns,
        .writer_pid = pid,
    };
    /* pairs with the load in asp_ring_open: who sees the magic sees the rest */
    asp_store_release_u64(&header->magic, ASP_RING_MAGIC);
    return ASP_READY;
}

__attribute__((format(printf, 3, 4))) static asp_status refuse(char *why, size_t why_bytes,
                                                               const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(why, why_bytes, format, arguments);
    va_end(arguments);
    return ASP_E_LAYOUT;
}

asp_status asp_ring_open(void *memory, uint64_t bytes, asp_ring *ring, char *why,
                         size_t why_bytes) {
    if ((uintptr_t)memory % ASP_RING_LINE != 0) {
        refuse(why, why_bytes, "the mapping must begin at a multiple of %u", ASP_RING_LINE);
        return ASP_E_INVALID;
    }
#define REFUSE(...) return refuse(why, why_bytes, __VA_ARGS__)
#define ULL(x) ((unsigned long long)(x))
    if (bytes < sizeof(asp_ring_header)) {
        REFUSE("the segment has %llu bytes, its header alone needs %llu", ULL(bytes),
               ULL(sizeof(asp_ring_header)));
    }
    asp_ring_header *shared = memory;
    /* pairs with the store in asp_ring_create */
    const uint64_t magic = asp_load_acquire_u64(&shared->magic);
    if (magic == 0) {
        REFUSE("magic is 0: the segment is not finished, or none");
    }
    asp_ring_header h; /* checked and used from here: a peer cannot change it any more */
    asp_copy_from_shared(&h, memory, sizeof h);
    if (h.byte_order == 0x04030201) {
        REFUSE("byte_order says that a machine of the other byte order made the segment");
    }
    if (magic != ASP_RING_MAGIC) {
        REFUSE("magic is 0x%016llx, should be 0x%016llx", ULL(magic), ULL(ASP_RING_MAGIC));
    }
    if (h.version != ASP_RING_VERSION) {
        REFUSE("version is %u, this build knows %u", h.version, ASP_RING_VERSION);
    }
    if (h.byte_order != 0x01020304) {
        REFUSE("byte_order is 0x%08x, should be 0x01020304", h.byte_order);
    }
    if (h.header_bytes != sizeof(asp_ring_header)) {
        REFUSE("header_bytes is %u, should be %llu", h.header_bytes, ULL(sizeof(asp_ring_header)));
    }
    if (h.line_bytes != ASP_RING_LINE) {
        REFUSE("line_bytes is %u, should be %u", h.line_bytes, ASP_RING_LINE);
    }
    if (!capacity_allowed(h.capacity)) {
        REFUSE("capacity is %llu, should be a power of two from %u to %llu", ULL(h.capacity),
               ASP_RING_MIN_CAPACITY, ULL(ASP_RING_MAX_CAPACITY));
    }
    if (h.max_readers < 1 || h.max_readers > ASP_RING_MAX_READERS) {
        REFUSE("max_readers is %u, should be 1 to %u", h.max_readers, ASP_RING_MAX_READERS);
    }
    if (h.overflow != ASP_OVERFLOW_BLOCK && h.overflow != ASP_OVERFLOW_DROP_OLDEST) {
        REFUSE("overflow is %u, should be %d (block) or %d (drop_oldest)", h.overflow,
               ASP_OVERFLOW_BLOCK, ASP_OVERFLOW_DROP_OLDEST);
    }
    if (h.total_bytes > bytes) {
        REFUSE("total_bytes is %llu, but the segment has only %llu: it was truncated",
               ULL(h.total_bytes), ULL(bytes));
    }

    /* The areas, in order: each begins at a line, not before the last one ended, and ends within
     * total_bytes. The sizes are bounded above, so `end` cannot wrap. */
    const struct {
        const char *name;
        uint64_t offset, size;
    } areas[] = {
        {"writer_offset", h.writer_offset, sizeof(asp_ring_control)},
        {"readers_offset", h.readers_offset,
         h.max_readers * (uint64_t)sizeof(asp_ring_reader_line)},
        {"data_offset", h.data_offset, h.capacity + ASP_RING_SPILL},
    };
    uint64_t end = sizeof(asp_ring_header);
    for (unsigned i = 0; i < 3; i++) {
        if (areas[i].offset % ASP_RING_LINE != 0) {
            REFUSE("%s is %llu, should be a multiple of %u", areas[i].name, ULL(areas[i].offset),
                   ASP_RING_LINE);
        }
        if (areas[i].offset < end) {
            REFUSE("%s is %llu, but what lies before it ends at %llu", areas[i].name,
                   ULL(areas[i].offset), ULL(end));
        }
        if (areas[i].offset > h.total_bytes || areas[i].size > h.total_bytes - areas[i].offset) {
            REFUSE("%s is %llu, and %llu bytes from there do not fit into total_bytes, %llu",
                   areas[i].name, ULL(areas[i].offset), ULL(areas[i].size), ULL(h.total_bytes));
        }
        end = areas[i].offset + areas[i].size;
    }
#undef ULL
#undef REFUSE

    uint8_t *base = memory;
    *ring = (asp_ring){
        .base = base,
        .capacity = h.capacity,
        /* the record with its header still has to have a 32-bit length */
        .max_message = h.capacity / 2 < UINT32_MAX - 63 ? h.capacity / 2 : UINT32_MAX - 63,
        .max_readers = h.max_readers,
        .overflow = (asp_overflow)h.overflow,
        .control = (asp_ring_control *)(void *)(base + h.writer_offset),
        .readers = (asp_ring_reader_line *)(void *)(base + h.readers_offset),
        .data = base + h.data_offset,
    };
    return ASP_READY;
}

/* ---- records ---- */

/* Each field is loaded once; in drop_oldest mode the writer may be overwriting them. */
static void load_record(const asp_ring *ring, uint64_t position, asp_record *record) {
    const asp_record *shared = record_at(ring, position);
    record->position = asp_load_relaxed_u64(&shared->position);
    record->sequence = asp_load_relaxed_u64(&shared->sequence);
    record->published_ns = asp_load_relaxed_u64(&shared->published_ns);
    record->length = asp_load_relaxed_u32(&shared->length);
    record->kind = asp_load_relaxed_u32(&shared->kind);
}

/* Ordered by the store of head that follows; relaxed stores because a lossy reader that is about
 * to find itself lapped may be loading them. */
static void store_record(const asp_ring *ring, uint64_t position, uint64_t sequence,
                         uint64_t published_ns, uint32_t length, asp_record_kind kind) {
    asp_record *shared = record_at(ring, position);
    asp_store_relaxed_u64(&shared->position, position);
    asp_store_relaxed_u64(&shared->sequence, sequence);
    asp_store_relaxed_u64(&shared->published_ns, published_ns);
    asp_store_relaxed_u32(&shared->length, length);
    asp_store_relaxed_u32(&shared->kind, (uint32_t)kind);
}

/* Bytes of the record that was loaded from `position`, 0 when it is not one that a healthy writer
 * could have published there with head at `end`. Any other ends within the area and by `end`. */
static uint64_t record_size(const asp_ring *ring, uint64_t position, uint64_t end,
                            const asp_record *record) {
    const uint64_t offset = offset_of(ring, position);
    uint64_t size;
    if (record->position != position) {
        return 0;
    }
    if (record->kind == ASP_RECORD_DATA) {
        if (record->length > ring->max_message) {
            return 0;
        }
        size = record_bytes(record->length);
        if (offset + size > ring->capacity + ASP_RING_SPILL) {
            return 0;
        }
    } else if (record->kind == ASP_RECORD_PAD) {
        size = ring->capacity - offset;
        if (record->length != 0 || size > ring->capacity / 2) {
            return 0;
        }
    } else {
        return 0;
    }
    return size <= end - position ? size : 0;
}

/* ---- the writer ---- */

/* Messages published before this head, given the shared sequence as loaded while head did not
 * change: the writer stores sequence first, so between the two it is one ahead, which the parity
 * tells. */
static uint64_t sequence_at(uint64_t head, uint64_t sequence) {
    return sequence - ((sequence & 1) != ((head & ASP_HEAD_ODD) != 0));
}

static uint64_t head_word(uint64_t head, uint64_t sequence) {
    return head | (sequence & 1 ? ASP_HEAD_ODD : 0);
}

static bool head_flags_valid(uint64_t head) {
    return (head & ASP_POSITION_FLAGS & ~(ASP_HEAD_CLOSED | ASP_HEAD_ODD)) == 0;
}

/* How far the readers let the writer go. */
static asp_status ask_readers(asp_ring_writer *writer, uint64_t *limit) {
    const asp_ring *ring = &writer->ring;
    uint64_t oldest = writer->head;
    /* Head before slots; pairs with the fence in asp_ring_join. The notify of the last publish
     * had one too, but the proof shall not hang on how parking is done. */
    asp_fence();
    for (uint32_t slot = 0; slot < ring->max_readers; slot++) {
        asp_ring_reader_line *line = &ring->readers[slot];
        /* pairs with the stores in asp_ring_join, asp_ring_leave and asp_ring_evict */
        const uint32_t state = asp_load_acquire_u32(&line->state);
        if (state == ASP_READER_FREE) {
            continue;
        }
        /* pairs with the store in advance(): what the reader did with the bytes is done */
        const uint64_t word = asp_load_acquire_u64(&line->cursor);
        const bool joining = (word & ASP_CURSOR_JOINING) != 0;
        const uint64_t cursor = word & ~ASP_CURSOR_JOINING;
        /* Only a joining reader can be further back than the capacity: it loaded head, was
         * descheduled, and the writer, not seeing it yet, went on. It moves up in a moment and
         * notifies; until then there is no room. Any other such cursor, and any ahead of head, was
         * never stored by a reader. To guess what it should be means to overwrite somebody's data
         * or to wait for ever; so the caller is told, and may evict the slot. */
        if (state != ASP_READER_ACTIVE || (cursor & ASP_POSITION_FLAGS) != 0 ||
            cursor > writer->head || (!joining && writer->head - cursor > ring->capacity)) {
            writer->suspect = slot;
            return ASP_E_LAYOUT;
        }
        if (cursor < oldest) {
            oldest = cursor;
        }
    }
    *limit = oldest + ring->capacity;
    return ASP_READY;
}

/* Move tail so far that `bytes` more fit. The records that go are the writer's own, but a peer
 * could have changed them since; their sizes are checked like a stranger's. */
static asp_status drop_oldest(asp_ring_writer *writer, uint64_t bytes) {
    const asp_ring *ring = &writer->ring;
    const uint64_t stride = ring->capacity / STRIDE_DIVISOR;
    const uint64_t fits = ring->capacity - bytes;
    const uint64_t keep = fits > stride ? fits - stride : 0;
    uint64_t tail = writer->limit - ring->capacity;
    while (writer->head - tail > keep) {
        asp_record record;
        load_record(ring, tail, &record);
        const uint64_t size = record_size(ring, tail, writer->head, &record);
        if (size == 0) {
            writer->suspect = -1;
            return ASP_E_LAYOUT;
        }
        tail += size;
    }
    /* Announce, then overwrite: a reader whose copy has one byte of what is stored from here on
     * finds this tail; the fence pairs with the one in lapped(). The release pairs with the
     * load in go_to_tail(): head is not behind tail. */
    asp_store_release_u64(&ring->control->writer.tail, tail);
    asp_fence_release();
    writer->limit = tail + ring->capacity;
    return ASP_READY;
}

/* The watch: is there room now for what did not fit? Changes nothing; the claim asks again. */
static bool writer_look(asp_watch *watch) {
    asp_ring_writer *writer = (asp_ring_writer *)watch;
    uint64_t limit;
    if (writer->ring.overflow == ASP_OVERFLOW_DROP_OLDEST ||
        ask_readers(writer, &limit) != ASP_READY) {
        return true; /* the claim does not wait, or says what is wrong */
    }
    return writer->head + writer->wanted <= limit;
}

static unsigned writer_prepare(asp_watch *watch, asp_futex_word *words, unsigned room) {
    if (room == 0) {
        return 0;
    }
    uint32_t *word = &((asp_ring_writer *)watch)->ring.control->writable.word;
    words[0] = (asp_futex_word){word, asp_park_prepare(word)};
    return 1;
}

asp_status asp_ring_writer_init(asp_ring_writer *writer, const asp_ring *ring) {
    asp_ring_writer_line *line = &ring->control->writer;
    const uint64_t word = asp_load_acquire_u64(&line->head);
    const uint64_t head = word & ~ASP_POSITION_FLAGS;
    const uint64_t tail = asp_load_acquire_u64(&line->tail);
    const uint64_t sequence = sequence_at(word, asp_load_acquire_u64(&line->sequence));
    if (!head_flags_valid(word) || sequence > head / ASP_RECORD_ALIGN ||
        (tail & ASP_POSITION_FLAGS) != 0 || tail > head) {
        return ASP_E_LAYOUT;
    }
    if (word & ASP_HEAD_CLOSED) {
        return ASP_END;
    }
    const bool lossy = ring->overflow == ASP_OVERFLOW_DROP_OLDEST;
    if (lossy && head - tail > ring->capacity) {
        return ASP_E_LAYOUT;
    }
    asp_store_relaxed_u64(&line->sequence, sequence);
    *writer = (asp_ring_writer){
        .watch = {.look = writer_look, .prepare = writer_prepare},
        .ring = *ring,
        .head = head,
        .sequence = sequence,
        .limit = lossy ? tail + ring->capacity : head,
        .suspect = -1,
    };
    return ASP_READY;
}

asp_status asp_ring_claim(asp_ring_writer *writer, uint64_t nbytes, void **payload) {
    const asp_ring *ring = &writer->ring;
    if (writer->closed) {
        return ASP_E_INVALID;
    }
    if (writer->claimed) {
        return ASP_BUSY;
    }
    if (nbytes > ring->max_message) {
        return ASP_E_TOO_LARGE;
    }
    const uint64_t size = record_bytes(nbytes);
    const uint64_t offset = offset_of(ring, writer->head);
    const uint64_t pad =
        offset + size <= ring->capacity + ASP_RING_SPILL ? 0 : ring->capacity - offset;
    if (writer->head + pad + size > writer->limit) {
        if (ring->overflow == ASP_OVERFLOW_DROP_OLDEST) {
            const asp_status status = drop_oldest(writer, pad + size);
            if (status != ASP_READY) {
                return status;
            }
        } else {
            const asp_status status = ask_readers(writer, &writer->limit);
            if (status != ASP_READY) {
                return status;
            }
            if (writer->head + pad + size > writer->limit) {
                writer->wanted = pad + size;
                return ASP_WOULD_BLOCK;
            }
        }
    }
    writer->pad = pad;
    writer->claimed = size;
    *payload = payload_of(record_at(ring, writer->head + pad));
    return ASP_READY;
}

asp_status asp_ring_publish(asp_ring_writer *writer, uint64_t nbytes) {
    const asp_ring *ring = &writer->ring;
    const uint64_t size = record_bytes(nbytes);
    if (!writer->claimed || nbytes > ring->max_message || size > writer->claimed) {
        return ASP_E_INVALID;
    }
    const uint64_t now_ns = asp_now_ns();
    uint64_t head = writer->head;
    if (writer->pad) {
        store_record(ring, head, writer->sequence, now_ns, 0, ASP_RECORD_PAD);
        head += writer->pad;
    }
    store_record(ring, head, writer->sequence, now_ns, (uint32_t)nbytes, ASP_RECORD_DATA);
    writer->head = head + size;
    writer->sequence++;
    writer->pad = 0;
    writer->claimed = 0;
    /* pairs with the load in settled_head(): who sees this sequence sees the head before */
    asp_store_release_u64(&ring->control->writer.sequence, writer->sequence);
    /* pairs with the loads in see_head() and settled_head(): who sees this head sees the record */
    asp_store_release_u64(&ring->control->writer.head, head_word(writer->head, writer->sequence));
    notify(&ring->control->readable.word);
    return ASP_READY;
}

void asp_ring_abandon(asp_ring_writer *writer) {
    writer->pad = 0;
    writer->claimed = 0;
}

asp_status asp_ring_send(asp_ring_writer *writer, const void *data, uint64_t nbytes) {
    void *payload;
    const asp_status status = asp_ring_claim(writer, nbytes, &payload);
    if (status != ASP_READY) {
        return status;
    }
    if (writer->ring.overflow == ASP_OVERFLOW_DROP_OLDEST) {
        asp_copy_to_shared(payload, data, (size_t)nbytes);
    } else if (nbytes) { /* data may be NULL then */
        memcpy(payload, data, (size_t)nbytes);
    }
    return asp_ring_publish(writer, nbytes);
}

void asp_ring_writer_close(asp_ring_writer *writer) {
    asp_ring_abandon(writer);
    if (!writer->closed) {
        writer->closed = true;
        asp_ring_control *control = writer->ring.control;
        /* pairs with the load in see_head() */
        asp_store_release_u64(&control->writer.head,
                              head_word(writer->head, writer->sequence) | ASP_HEAD_CLOSED);
        notify(&control->readable.word);
    }
}

int64_t asp_ring_slowest(const asp_ring *ring, uint64_t *cursor) {
    int64_t slowest = -1;
    for (uint32_t slot = 0; slot < ring->max_readers; slot++) {
        if (asp_load_acquire_u32(&ring->readers[slot].state) == ASP_READER_ACTIVE) {
            const uint64_t at =
                asp_load_relaxed_u64(&ring->readers[slot].cursor) & ~ASP_POSITION_FLAGS;
            if (slowest < 0 || at < *cursor) {
                slowest = slot;
                *cursor = at;
            }
        }
    }
    return slowest;
}

void asp_ring_evict(const asp_ring *ring, uint32_t slot) {
    /* pairs with the load in ask_readers() */
    asp_store_release_u32(&ring->readers[slot].state, ASP_READER_FREE);
    notify(&ring->control->writable.word);
}

uint32_t asp_ring_active_readers(const asp_ring *ring) {
    uint32_t active = 0;
    for (uint32_t slot = 0; slot < ring->max_readers; slot++) {
        active += asp_load_acquire_u32(&ring->readers[slot].state) == ASP_READER_ACTIVE &&
                  !(asp_load_acquire_u64(&ring->readers[slot].cursor) & ASP_CURSOR_JOINING);
    }
    return active;
}

/* ---- a reader ---- */

/* Go past bytes that hold so many messages. */
static void advance(asp_ring_reader *reader, uint64_t bytes, uint64_t messages) {
    const asp_ring *ring = &reader->ring;
    asp_ring_reader_line *line = &ring->readers[reader->slot];
    reader->cursor += bytes;
    reader->sequence += messages;
    asp_store_relaxed_u64(&line->sequence, reader->sequence);
    /* pairs with the load in ask_readers(): the bytes may be overwritten from here on */
    asp_store_release_u64(&line->cursor, reader->cursor);
    if (ring->overflow == ASP_OVERFLOW_BLOCK) { /* nobody waits for room in the other */
        notify(&ring->control->writable.word);
    }
}

/* What lies at cursor has this sequence: the expected one, or how many messages are missing? */
static asp_status settle(asp_ring_reader *reader, uint64_t sequence) {
    if (sequence == reader->sequence) {
        return ASP_READY;
    }
    if (reader->ring.overflow == ASP_OVERFLOW_BLOCK || sequence < reader->sequence ||
        sequence > reader->cursor / ASP_RECORD_ALIGN) { /* a message takes that much at least */
        return ASP_E_LAYOUT;
    }
    reader->skipped = sequence - reader->sequence;
    advance(reader, 0, reader->skipped);
    return ASP_LAGGED;
}

/* Load head. ASP_READY when there is something before it, else what asp_ring_copy says. */
static asp_status see_head(asp_ring_reader *reader) {
    const asp_ring *ring = &reader->ring;
    /* pairs with the stores in asp_ring_publish and asp_ring_writer_close */
    const uint64_t word = asp_load_acquire_u64(&ring->control->writer.head);
    const uint64_t head = word & ~ASP_POSITION_FLAGS;
    if (!head_flags_valid(word) || head < reader->cursor) {
        return ASP_E_LAYOUT;
    }
    if (head == reader->cursor) {
        if (!(word & ASP_HEAD_CLOSED)) {
            return ASP_WOULD_BLOCK;
        }
        const asp_status status =
            settle(reader, asp_load_relaxed_u64(&ring->control->writer.sequence));
        return status == ASP_READY ? ASP_END : status;
    }
    if (ring->overflow == ASP_OVERFLOW_BLOCK && head - reader->cursor > ring->capacity) {
        return ASP_E_LAYOUT;
    }
    reader->seen_head = head;
    return ASP_READY;
}

/* Has the writer gone past the record at cursor, so that what was loaded from it before this call
 * cannot be trusted? */
static bool lapped(const asp_ring_reader *reader) {
    asp_fence_acquire(); /* pairs with the fence in drop_oldest() */
    return asp_load_relaxed_u64(&reader->ring.control->writer.tail) > reader->cursor;
}

static asp_status go_to_tail(asp_ring_reader *reader) {
    const asp_ring_writer_line *line = &reader->ring.control->writer;
    const uint64_t tail = asp_load_acquire_u64(&line->tail); /* pairs with drop_oldest() */
    const uint64_t word = asp_load_acquire_u64(&line->head); /* pairs with asp_ring_publish */
    const uint64_t head = word & ~ASP_POSITION_FLAGS;
    if (!head_flags_valid(word) || (tail & ASP_POSITION_FLAGS) != 0 || tail <= reader->cursor ||
        tail > head) {
        return ASP_E_LAYOUT;
    }
    reader->seen_head = head;
    advance(reader, tail - reader->cursor, 0); /* settle() will count the messages */
    return ASP_READY;
}

/* The next message's record, checked, in private memory; in drop_oldest mode it was whole a moment
 * ago. Statuses of asp_ring_copy. */
static asp_status find(asp_ring_reader *reader, asp_record *record) {
    const asp_ring *ring = &reader->ring;
    if (reader->acquired) {
        return ASP_BUSY;
    }
    for (unsigned turn = 0; turn < SEARCH_TURNS; turn++) {
        asp_status status;
        if (reader->cursor == reader->seen_head) {
            status = see_head(reader);
            if (status != ASP_READY) {
                return status;
            }
        }
        load_record(ring, reader->cursor, record);
        if (ring->overflow == ASP_OVERFLOW_DROP_OLDEST && lapped(reader)) {
            status = go_to_tail(reader);
            if (status != ASP_READY) {
                return status;
            }
            continue;
        }
        const uint64_t size = record_size(ring, reader->cursor, reader->seen_head, record);
        if (size == 0) {
            return ASP_E_LAYOUT;
        }
        status = settle(reader, record->sequence);
        if (status != ASP_READY || record->kind == ASP_RECORD_DATA) {
            return status;
        }
        advance(reader, size, 0);
    }
    return ASP_WOULD_BLOCK;
}

/* The watch. A head that is not where the cursor is means a message, the end or, which the next
 * call will say, a broken segment. */
static bool reader_look(asp_watch *watch) {
    const asp_ring_reader *reader = (const asp_ring_reader *)watch;
    if (reader->cursor != reader->seen_head) {
        return true;
    }
    /* pairs with the stores in asp_ring_publish and asp_ring_writer_close */
    const uint64_t word = asp_load_acquire_u64(&reader->ring.control->writer.head);
    return (word & ~ASP_HEAD_ODD) != reader->cursor;
}

static unsigned reader_prepare(asp_watch *watch, asp_futex_word *words, unsigned room) {
    if (room == 0) {
        return 0;
    }
    uint32_t *word = &((asp_ring_reader *)watch)->ring.control->readable.word;
    words[0] = (asp_futex_word){word, asp_park_prepare(word)};
    return 1;
}

/* A head and the number of messages before it. */
static asp_status settled_head(const asp_ring *ring, uint64_t *head, uint64_t *sequence) {
    const asp_ring_writer_line *line = &ring->control->writer;
    uint64_t word = asp_load_acquire_u64(&line->head); /* pairs with asp_ring_publish */
    for (unsigned i = 0; i < JOIN_TRIES; i++) {
        const uint64_t seen = asp_load_acquire_u64(&line->sequence); /* pairs with the same */
        const uint64_t again = asp_load_acquire_u64(&line->head);
        if (again == word) { /* so `seen` is of this publish, or of the next that is under way */
            *head = word & ~ASP_POSITION_FLAGS;
            *sequence = sequence_at(word, seen);
            return head_flags_valid(word) && *sequence <= *head / ASP_RECORD_ALIGN ? ASP_READY
                                                                                  : ASP_E_LAYOUT;
        }
        word = again;
    }
    return ASP_E_LAYOUT;
}

/* Why a joining reader is never overrun. The writer, at head H, fences and loads the slots; the
 * limit it computes is at most H + capacity, so with it only bytes before H are overwritten. The
 * joiner stores its slot, fences and loads head. By the two fences one of these holds:
 *   - the joiner loads H or a later head. It starts there, and nothing from there on is touched.
 *   - the writer loads the slot as ACTIVE. The cursor that it finds is the one stored first, or the
 *     one moved up to, neither ahead of where the joiner will start: the limit is not beyond it.
 * This holds for every computation of a limit after the slot was stored, and one of before it had
 * an earlier H. The first cursor may be far behind, even further than the capacity; the
 * JOINING flag in the same word tells the writer that this is not a fault. */
asp_status asp_ring_join(asp_ring_reader *reader, const asp_ring *ring, uint32_t slot,
                         uint32_t pid) {
    if (slot >= ring->max_readers) {
        return ASP_E_INVALID;
    }
    asp_ring_reader_line *line = &ring->readers[slot];
    uint64_t head = asp_load_relaxed_u64(&ring->control->writer.head) & ~ASP_POSITION_FLAGS;
    uint64_t sequence;
    asp_store_relaxed_u32(&line->pid, pid);
    asp_store_relaxed_u64(&line->cursor, head | ASP_CURSOR_JOINING);
    /* pairs with the load in ask_readers(): who sees ACTIVE sees this cursor or a later one */
    asp_store_release_u32(&line->state, ASP_READER_ACTIVE);
    asp_fence(); /* slot before head; pairs with the fence in ask_readers() */
    const asp_status status = settled_head(ring, &head, &sequence);
    if (status != ASP_READY) {
        asp_ring_evict(ring, slot);
        return status;
    }
    *reader = (asp_ring_reader){
        .watch = {.look = reader_look,
                  .prepare = reader_prepare,
                  .address = &ring->control->writer.head,
                  .span = sizeof ring->control->writer.head},
        .ring = *ring,
        .slot = slot,
        .cursor = head,
        .seen_head = head,
        .sequence = sequence,
        .joined = true,
    };
    asp_store_relaxed_u64(&line->sequence, sequence);
    asp_store_release_u64(&line->cursor, head); /* pairs with the load in ask_readers() */
    notify(&ring->control->writable.word);
    return ASP_READY;
}

asp_status asp_ring_acquire(asp_ring_reader *reader, const void **payload, uint32_t *length) {
    asp_record record;
    if (reader->ring.overflow != ASP_OVERFLOW_BLOCK) {
        return ASP_E_INVALID;
    }
    const asp_status status = find(reader, &record);
    if (status == ASP_READY) {
        reader->acquired = record_bytes(record.length);
        reader->published_ns = record.published_ns;
        *payload = payload_of(record_at(&reader->ring, reader->cursor));
        *length = record.length;
    }
    return status;
}

void asp_ring_release(asp_ring_reader *reader) {
    if (reader->acquired) {
        advance(reader, reader->acquired, 1);
        reader->acquired = 0;
    }
}

asp_status asp_ring_peek(asp_ring_reader *reader, uint32_t *length) {
    asp_record record;
    const asp_status status = find(reader, &record);
    if (status == ASP_READY) {
        *length = record.length;
    }
    return status;
}

asp_status asp_ring_copy(asp_ring_reader *reader, void *to, uint64_t room, uint32_t *length) {
    asp_record record;
    asp_status status = find(reader, &record);
    if (status != ASP_READY) {
        return status;
    }
    *length = record.length;
    if (record.length > room) {
        return ASP_E_TOO_LARGE;
    }
    const void *payload = payload_of(record_at(&reader->ring, reader->cursor));
    if (reader->ring.overflow == ASP_OVERFLOW_DROP_OLDEST) {
        asp_copy_from_shared(to, payload, record.length);
        if (lapped(reader)) {
            status = go_to_tail(reader);
            if (status == ASP_READY) {
                status = find(reader, &record);
            }
            /* the message that was lost cannot come again */
            return status == ASP_READY ? ASP_E_LAYOUT : status;
        }
    } else if (record.length) { /* `to` may be NULL otherwise */
        memcpy(to, payload, record.length);
    }
    reader->published_ns = record.published_ns;
    advance(reader, record_bytes(record.length), 1);
    return ASP_READY;
}

void asp_ring_leave(asp_ring_reader *reader) {
    if (reader->joined) {
        reader->joined = false;
        reader->acquired = 0;
        asp_ring_evict(&reader->ring, reader->slot);
    }
}

uint64_t asp_ring_lag(const asp_ring_reader *reader) {
    const uint64_t published = asp_load_relaxed_u64(&reader->ring.control->writer.sequence);
    return published > reader->sequence ? published - reader->sequence : 0;
}
