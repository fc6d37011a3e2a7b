/* ring.h - the broadcast ring: one writer, up to ASP_RING_MAX_READERS readers, in shared memory.
 *
 * Positions only grow. The writer owns head, each reader its cursor. In block mode the writer never
 * passes `slowest cursor + capacity`; in drop_oldest mode it never waits: before it overwrites it
 * moves `tail` past the records that go, and a reader copies a message out and then checks that
 * tail has not passed it (announce, overwrite; copy, validate: Aeron's broadcast buffer). A lapped
 * reader goes on at tail, the oldest record still whole; tail moves an eighth of the capacity at a
 * time, or such a reader would lose the race for the oldest record again and again.
 *
 * Geometry is checked once against the size of the mapping and then kept in private memory:
 * nothing that a peer could change later is used as an offset or a size unchecked. One object
 * is used by one thread at a time; the binding sees to that. Handing out reader slots and
 * telling the living from the dead is the caller's work (record locks on the segment's file). */
#ifndef ASP_RING_H
#define ASP_RING_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "park.h"
#include "ring_layout.h"
#include "status.h"
#include "watch.h"

typedef struct asp_ring { /* private copy of the checked geometry */
    uint8_t *base;
    uint64_t capacity;
    uint64_t max_message; /* bytes of payload: capacity / 2, and at most UINT32_MAX - 63 */
    uint32_t max_readers;
    asp_overflow overflow;
    asp_ring_control *control;
    asp_ring_reader_line *readers;
    uint8_t *data;
} asp_ring;

/* Bytes of a segment with this geometry, 0 when the geometry is not allowed
 * (capacity: a power of two from ASP_RING_MIN_CAPACITY to ASP_RING_MAX_CAPACITY). */
uint64_t asp_ring_bytes(uint64_t capacity, uint32_t max_readers);

/* Lay out an empty ring in zeroed memory of asp_ring_bytes. The magic is stored last. */
asp_status asp_ring_create(void *memory, uint64_t bytes, uint64_t capacity, uint32_t max_readers,
                           asp_overflow overflow, uint32_t pid, uint64_t realtime_ns);

/* Check a segment of `bytes` mapped bytes. ASP_E_LAYOUT with a sentence in `why` that says which
 * field is wrong. `memory` must be aligned to ASP_RING_LINE. */
asp_status asp_ring_open(void *memory, uint64_t bytes, asp_ring *ring, char *why, size_t why_bytes);

/* ---- the writer ---- */

typedef struct asp_ring_writer {
    asp_watch watch; /* ready when the claim that last would have blocked may succeed */
    asp_ring ring;
    uint64_t head;      /* private copy; the shared one is never read back */
    uint64_t sequence;
    uint64_t limit;     /* may write up to here without asking the readers (block mode) or moving
                           tail (drop_oldest: limit is tail + capacity) */
    uint64_t pad;       /* bytes of the pad that goes in front of the claimed record */
    uint64_t claimed;   /* record bytes claimed and not yet published, 0 when none */
    uint64_t wanted;    /* pad and record bytes of the claim that would have blocked */
    int64_t suspect;    /* the slot for which asp_ring_claim said ASP_E_LAYOUT, -1 for none */
    bool closed;
} asp_ring_writer;

/* Take the writing end. Of a fresh ring head is 0; a writer that takes over an older ring goes on
 * at its head, which is checked, also when its predecessor died in the middle of a publish. ASP_END
 * for a closed ring: readers may have left it for good. */
asp_status asp_ring_writer_init(asp_ring_writer *writer, const asp_ring *ring);

/* Room for one message: ASP_READY with the payload's address (32-byte aligned, contiguous),
 * ASP_WOULD_BLOCK while the slowest reader is in the way (never in drop_oldest mode, and never
 * while all readers have read everything), ASP_E_TOO_LARGE above max_message, ASP_BUSY while
 * another claim is open, ASP_E_INVALID after close, ASP_E_LAYOUT when a reader's cursor (see
 * suspect) or a record that has to go is none that a healthy peer writes. When the room to the end
 * of the record area is too short, a pad goes in front of the record; both become visible in one
 * publish, so a claim that blocks or is abandoned leaves no trace for readers.
 *
 * In drop_oldest mode readers may be copying the bytes that the caller fills. That is the race
 * which the check of tail after the copy exists for: whatever such a copy holds is thrown away. */
asp_status asp_ring_claim(asp_ring_writer *writer, uint64_t nbytes, void **payload);
/* Publish the claimed message (nbytes may be less than was claimed) and wake parked readers. */
asp_status asp_ring_publish(asp_ring_writer *writer, uint64_t nbytes);
/* Drop the claim; nothing was published. */
void asp_ring_abandon(asp_ring_writer *writer);
/* Claim, copy, publish: the statuses of asp_ring_claim. */
asp_status asp_ring_send(asp_ring_writer *writer, const void *data, uint64_t nbytes);
/* No more messages; drops an open claim, wakes parked readers. Idempotent. */
void asp_ring_writer_close(asp_ring_writer *writer);

/* The slowest active reader, for diagnostics: its slot, or -1 when there is none. */
int64_t asp_ring_slowest(const asp_ring *ring, uint64_t *cursor);
/* Free the slot of a reader that is known to be dead, and wake the writer that may wait for it. The
 * caller holds the slot's lock meanwhile, so that nobody joins in it. */
void asp_ring_evict(const asp_ring *ring, uint32_t slot);
/* Readers that will see every message published from now on (one that is still joining may not). */
uint32_t asp_ring_active_readers(const asp_ring *ring);

/* ---- a reader ---- */

typedef struct asp_ring_reader {
    asp_watch watch; /* ready when the next acquire or copy would not say ASP_WOULD_BLOCK */
    asp_ring ring;
    uint32_t slot;
    uint64_t cursor;    /* private copy of what is released */
    uint64_t acquired;  /* record bytes acquired and not yet released, 0 when none */
    uint64_t seen_head; /* head as last loaded: up to here no shared word need be read */
    uint64_t sequence;  /* of the next message */
    uint64_t published_ns; /* of the message last acquired */
    uint64_t skipped;   /* after ASP_LAGGED: messages lost since the last one that was read */
    bool joined;
} asp_ring_reader;

/* Join in a slot that the caller has locked (what a dead reader left in it does not matter). Starts
 * at head: the first message is the next one published. A reader that joins while the writer
 * computes the slowest cursor is either seen by it or starts behind what that computation allowed
 * to be overwritten (proof beside the code). */
asp_status asp_ring_join(asp_ring_reader *reader, const asp_ring *ring, uint32_t slot,
                         uint32_t pid);

/* The next message, in place (block mode): ASP_READY with its address and length,
 * ASP_WOULD_BLOCK, ASP_END, ASP_E_LAYOUT when the record is not one, ASP_BUSY while another
 * message is acquired, ASP_E_INVALID in drop_oldest mode, where nothing stays in place. */
asp_status asp_ring_acquire(asp_ring_reader *reader, const void **payload, uint32_t *length);
/* Release the acquired message; wakes a parked writer. */
void asp_ring_release(asp_ring_reader *reader);

/* The length of the next message without acquiring it; for sizing a buffer. Statuses of
 * asp_ring_copy. */
asp_status asp_ring_peek(asp_ring_reader *reader, uint32_t *length);
/* Copy the next message out and go past it; the form that drop_oldest readers must use, because
 * the writer may overwrite it meanwhile: a torn copy is never returned. Statuses of
 * asp_ring_acquire, and:
 *   ASP_LAGGED       drop_oldest: `skipped` messages are gone; the next call goes on at the oldest
 *                    one still whole. ASP_WOULD_BLOCK may come first, while there is none to
 *                    count from.
 *   ASP_E_TOO_LARGE  room is less than *length; nothing was read. */
asp_status asp_ring_copy(asp_ring_reader *reader, void *to, uint64_t room, uint32_t *length);

/* Free the slot, and with it an acquired message; wakes a parked writer. Idempotent. */
void asp_ring_leave(asp_ring_reader *reader);
/* Messages published and not yet released by this reader. */
uint64_t asp_ring_lag(const asp_ring_reader *reader);

#endif
