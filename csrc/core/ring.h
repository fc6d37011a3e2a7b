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

#include "bells.h"
#include "park.h"
#include "predict.h"
#include "ring_layout.h"
#include "status.h"
#include "watch.h"

typedef struct asp_ring { /* private copy of the checked geometry */
    uint8_t *base;
    uint64_t capacity;
    uint64_t max_message; /* bytes of payload: capacity / 2, and at most UINT32_MAX - 63 */
    uint32_t max_readers;
    asp_overflow overflow;
    uint64_t id;
    uint32_t lock_fd; /* to ask with who lives, or one of the two below. Changes while others wait */
    asp_ring_control *control;
    asp_ring_reader_line *readers;
    uint8_t *data;
} asp_ring;

#define ASP_NO_LOCK_FD UINT32_MAX           /* nobody asks */
#define ASP_CLOSED_LOCK_FD (UINT32_MAX - 1) /* being closed: its waits end soon, as if the others were dead */

/* Have waits on this end ask whether the other side lives, with this descriptor of the segment that the end's own
 * lock belongs to; ASP_CLOSED_LOCK_FD before it is closed. From any thread. False: this system cannot be asked. */
bool asp_ring_guard(asp_ring *ring, uint32_t lock_fd);
/* Does the member with this byte live (lock.h)? True as well where nobody asks. */
bool asp_ring_member_lives(const asp_ring *ring, uint64_t byte);

/* Bytes of a segment with this geometry, 0 when the geometry is not allowed
 * (capacity: a power of two from ASP_RING_MIN_CAPACITY to ASP_RING_MAX_CAPACITY). */
uint64_t asp_ring_bytes(uint64_t capacity, uint32_t max_readers);

/* Lay out an empty ring in zeroed memory of asp_ring_bytes. The magic is stored last. `id` is random and not 0. */
asp_status asp_ring_create(void *memory, uint64_t bytes, uint64_t capacity, uint32_t max_readers,
                           asp_overflow overflow, uint32_t pid, uint64_t realtime_ns, uint64_t id);

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
    asp_bells *bells;   /* the doorbells of readers, or NULL: requests for one are refused */
    uint64_t told_ns;   /* notified_ns at the last look that found no room */
    uint64_t room_ns;   /* when there was room again for what had none, until that is claimed; else 0 */
    uint32_t closed;    /* by whoever has the end, while another thread may wait on it */
    asp_predict predict; /* of when there is room again */
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
asp_status asp_ring_publish(asp_ring_writer *writer, uint64_t nbytes, asp_format format);
/* Drop the claim; nothing was published. */
void asp_ring_abandon(asp_ring_writer *writer);
/* Claim, copy, publish: the statuses of asp_ring_claim. */
asp_status asp_ring_send(asp_ring_writer *writer, const void *data, uint64_t nbytes, asp_format format);
/* The same without waking anybody, for the messages of a batch; asp_ring_wake_readers ends it. */
asp_status asp_ring_append(asp_ring_writer *writer, const void *data, uint64_t nbytes, asp_format format);
void asp_ring_wake_readers(asp_ring_writer *writer);
/* A message in a file of its own: claim its record, fill in the file of the message `writer->sequence`, publish
 * that it is complete (or abandon). */
asp_status asp_ring_claim_large(asp_ring_writer *writer);
asp_status asp_ring_publish_large(asp_ring_writer *writer, uint64_t length, asp_format format);
/* Drop what lies before `position`, one that was head once (drop_oldest mode). */
asp_status asp_ring_drop_before(asp_ring_writer *writer, uint64_t position);
/* Have the watch wait until no reader is before `position`, one that was head once (block mode). */
void asp_ring_want_past(asp_ring_writer *writer, uint64_t position);
/* No more messages; drops an open claim, wakes parked readers. Idempotent. */
void asp_ring_writer_close(asp_ring_writer *writer);

/* The slowest active reader, for diagnostics: its slot, or -1 when there is none. */
int64_t asp_ring_slowest(const asp_ring *ring, uint64_t *cursor);
/* Where the slowest active reader is, UINT64_MAX when there is none. What was published before it is read. Begins
 * with a fence: of two readers that release a message and then ask, one at least sees both beyond it. */
uint64_t asp_ring_oldest(const asp_ring *ring);
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
    uint64_t peeked_ns;    /* the same of the one last peeked at */
    uint64_t skipped;   /* after ASP_LAGGED: messages lost since the last one that was read */
    bool joined;
    bool parked; /* what the slot says to people */
    asp_predict predict; /* of when its messages come */
} asp_ring_reader;

typedef struct asp_ring_message { /* the next one, or the one acquired */
    uint64_t length;   /* bytes; of a large message those in its file */
    uint64_t sequence; /* its number */
    uint64_t position; /* of its record */
    asp_format format;
    bool large; /* in a file of its own */
} asp_ring_message;

/* Join in a slot that the caller has locked (what a dead reader left in it does not matter). Starts
 * at head: the first message is the next one published. A reader that joins while the writer
 * computes the slowest cursor is either seen by it or starts behind what that computation allowed
 * to be overwritten (proof beside the code). */
asp_status asp_ring_join(asp_ring_reader *reader, const asp_ring *ring, uint32_t slot,
                         uint32_t pid);

/* The next message, in place (block mode): ASP_READY with its address (of a large one NULL),
 * ASP_WOULD_BLOCK, ASP_END, ASP_E_LAYOUT when the record is not one, ASP_BUSY while another
 * message is acquired, ASP_E_INVALID in drop_oldest mode, where nothing stays in place. */
asp_status asp_ring_acquire(asp_ring_reader *reader, const void **payload, asp_ring_message *message);
/* Release the acquired message; wakes a parked writer. */
void asp_ring_release(asp_ring_reader *reader);

/* What the next message is, without acquiring it. Statuses of asp_ring_copy. */
asp_status asp_ring_peek(asp_ring_reader *reader, asp_ring_message *message);
/* Copy the next message out and go past it; the form that drop_oldest readers must use, because
 * the writer may overwrite it meanwhile: a torn copy is never returned. Statuses of
 * asp_ring_acquire, and:
 *   ASP_LAGGED       drop_oldest: `skipped` messages are gone; the next call goes on at the oldest
 *                    one still whole. ASP_WOULD_BLOCK may come first, while there is none to
 *                    count from.
 *   ASP_E_TOO_LARGE  it needs more room, or is large; nothing was read. */
asp_status asp_ring_copy(asp_ring_reader *reader, void *to, uint64_t room, uint32_t *length);

/* Go past the large message that asp_ring_peek just told of, and whose file was opened. In drop_oldest mode
 * too: what is in that file is never overwritten. */
void asp_ring_pass(asp_ring_reader *reader);

/* ---- the doorbell: asleep in the poll of an event loop (docs/layout.md, Doorbells) ---- */

/* Ask the writer to open the reader's FIFO, which is there. */
void asp_ring_bell_request(asp_ring_reader *reader);
asp_bell asp_ring_bell(const asp_ring_reader *reader);
/* True: parked, poll the FIFO. False: there is something to receive, or the bell is not ready. */
bool asp_ring_bell_park(asp_ring_reader *reader);
/* No longer parked. False: it was rung, and a byte is in the FIFO or on its way. */
bool asp_ring_bell_unpark(asp_ring_reader *reader);

/* Free the slot, and with it an acquired message; wakes a parked writer. Idempotent. */
void asp_ring_leave(asp_ring_reader *reader);
/* Messages published and not yet released by this reader. */
uint64_t asp_ring_lag(const asp_ring_reader *reader);

#endif
