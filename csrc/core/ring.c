/* ring.c - the geometry of a broadcast ring and who is in it; the two ends are in ring_writer.c and
 * ring_reader.c, the records between them in ring_record.h. ring.h says what they promise,
 * docs/layout.md what the bytes mean.
 *
 * Whatever a peer could have written is loaded once into a local, checked there, and used from
 * there. The lengths in records, the positions and the slots are such words; the geometry is not,
 * it is copied by asp_ring_open. */
#include "ring.h"

#include <stdarg.h>
#include <stdio.h>

#include "atomics.h"
#include "lock.h"
#include "ring_record.h"

_Static_assert(sizeof(asp_ring_header) == 96, "docs/layout.md");
_Static_assert(sizeof(asp_ring_control) == 3 * ASP_RING_LINE, "docs/layout.md");
_Static_assert(sizeof(asp_ring_reader_line) == ASP_RING_LINE, "docs/layout.md");
_Static_assert(sizeof(asp_record) == ASP_RECORD_BYTES, "docs/layout.md");

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
                           asp_overflow overflow, uint32_t pid, uint64_t realtime_ns, uint64_t id) {
    const uint64_t total = asp_ring_bytes(capacity, max_readers);
    if (total == 0 || bytes < total || id == 0 || (uintptr_t)memory % ASP_RING_LINE != 0 ||
        (overflow != ASP_OVERFLOW_BLOCK && overflow != ASP_OVERFLOW_DROP_OLDEST)) {
        return ASP_E_INVALID;
    }
    asp_ring_header *header = memory;
    /* Field by field, because somebody who waits for the magic may be loading it; memory is zeroed. */
    header->version = ASP_RING_VERSION;
    header->header_bytes = sizeof(asp_ring_header);
    header->total_bytes = total;
    header->capacity = capacity;
    header->max_readers = max_readers;
    header->overflow = (uint32_t)overflow;
    header->writer_offset = ASP_RING_LINE;
    header->readers_offset = ASP_RING_LINE + sizeof(asp_ring_control);
    header->data_offset = data_offset(max_readers);
    header->byte_order = 0x01020304;
    header->line_bytes = ASP_RING_LINE;
    header->created_ns = realtime_ns;
    header->writer_pid = pid;
    header->id = id;
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
    if (h.id == 0) {
        REFUSE("id is 0");
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
        .id = h.id,
        .lock_fd = ASP_NO_LOCK_FD,
        .control = (asp_ring_control *)(void *)(base + h.writer_offset),
        .readers = (asp_ring_reader_line *)(void *)(base + h.readers_offset),
        .data = base + h.data_offset,
    };
    return ASP_READY;
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

uint64_t asp_ring_oldest(const asp_ring *ring) {
    uint64_t oldest = UINT64_MAX;
    asp_fence(); /* own cursor, or tail, before the others; pairs with itself in another process */
    for (uint32_t slot = 0; slot < ring->max_readers; slot++) {
        /* pairs with the stores in asp_ring_join and advance() */
        if (asp_load_acquire_u32(&ring->readers[slot].state) == ASP_READER_ACTIVE) {
            const uint64_t at =
                asp_load_acquire_u64(&ring->readers[slot].cursor) & ~ASP_POSITION_FLAGS;
            if (at < oldest) {
                oldest = at;
            }
        }
    }
    return oldest;
}

void asp_ring_evict(const asp_ring *ring, uint32_t slot) {
    /* pairs with the load in ask_readers() */
    asp_store_release_u32(&ring->readers[slot].state, ASP_READER_FREE);
    notify_writer(ring);
}

uint32_t asp_ring_active_readers(const asp_ring *ring) {
    uint32_t active = 0;
    for (uint32_t slot = 0; slot < ring->max_readers; slot++) {
        active += asp_load_acquire_u32(&ring->readers[slot].state) == ASP_READER_ACTIVE &&
                  !(asp_load_acquire_u64(&ring->readers[slot].cursor) & ASP_CURSOR_JOINING);
    }
    return active;
}

bool asp_ring_guard(asp_ring *ring, uint32_t lock_fd) {
    if (!asp_lock_available()) return false;
    asp_store_relaxed_u32(&ring->lock_fd, lock_fd); /* pairs with asp_ring_member_lives */
    return true;
}

bool asp_ring_member_lives(const asp_ring *ring, uint64_t byte) {
    /* pairs with asp_ring_guard. Whoever closes the descriptor forbids it first; one that was loaded before may be
     * another file's by now, which the question does not change, and whose answer the caller checks. */
    const uint32_t fd = asp_load_relaxed_u32(&ring->lock_fd);
    if (fd == ASP_NO_LOCK_FD) return true;
    return fd != ASP_CLOSED_LOCK_FD && asp_lock_is_taken((int)fd, byte);
}
