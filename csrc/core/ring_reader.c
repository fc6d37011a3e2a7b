/* ring_reader.c - a reading end of a ring: join, find the next message, release it, leave. */
#include <string.h>

#include "atomics.h"
#include "lock.h"
#include "ring.h"
#include "ring_record.h"

/* Turns of the search for a whole record in one call. Two suffice in a healthy ring in block mode
 * (a pad, the record after it); in drop_oldest mode each further one means that the writer went a
 * stride ahead between two loads. After that the caller is told to come again. */
#define SEARCH_TURNS 8

/* Tries of a joining reader to load head and sequence while no publish goes on. A try is a few
 * nanoseconds and a publish tens, so a healthy writer does not spoil even ten in a row. */
#define JOIN_TRIES 1000

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
        notify_writer(ring);
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

/* For people who look at the segment; the reader stores it only when it changes. */
static void say_parked(asp_ring_reader *reader, bool parked) {
    if (reader->parked != parked) {
        reader->parked = parked;
        asp_store_relaxed_u32(&reader->ring.readers[reader->slot].parked, parked);
    }
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
    say_parked(reader, false);
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
 * ago. Of a large message *length is that of its file. Statuses of asp_ring_copy. */
static asp_status find(asp_ring_reader *reader, asp_record *record, uint64_t *length) {
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
        /* No record is so near to the end of the area that these eight bytes would not lie in it. */
        *length = record->kind == ASP_RECORD_LARGE
                      ? asp_load_relaxed_u64(payload_of(record_at(ring, reader->cursor)))
                      : record->length;
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
        if (status != ASP_READY || record->kind != ASP_RECORD_PAD) {
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
    say_parked((asp_ring_reader *)watch, true);
    return 1;
}

/* Of the record at cursor, a pad's too. In drop_oldest mode it may be torn: a statistic, checked by who uses it. */
static uint64_t reader_published(asp_watch *watch) {
    const asp_ring_reader *reader = (const asp_ring_reader *)watch;
    /* pairs with the store in commit(); a closed ring has no record there, but bytes of the area */
    return asp_load_relaxed_u64(&record_at(&reader->ring, reader->cursor)->published_ns);
}

static bool reader_peers_live(asp_watch *watch) {
    return asp_ring_member_lives(&((const asp_ring_reader *)watch)->ring, ASP_LOCK_WRITER);
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
    asp_store_relaxed_u32(&line->bell, ASP_BELL_NONE); /* ordered by the store of state */
    asp_store_relaxed_u32(&line->parked, 0);
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
                  .published = reader_published,
                  .peers_live = reader_peers_live,
                  .predict = &reader->predict,
                  .address = &ring->control->writer.head,
                  .span = sizeof ring->control->writer.head},
        .ring = *ring,
        .slot = slot,
        .cursor = head,
        .seen_head = head,
        .sequence = sequence,
        .joined = true,
    };
    asp_predict_init(&reader->predict);
    asp_store_relaxed_u64(&line->sequence, sequence);
    asp_store_release_u64(&line->cursor, head); /* pairs with the load in ask_readers() */
    notify_writer(ring);
    return ASP_READY;
}

/* A message is the caller's. */
static void came(asp_ring_reader *reader, uint64_t published_ns) {
    reader->published_ns = published_ns;
    asp_predict_arrival(&reader->predict, published_ns);
}

static asp_ring_message message_of(const asp_ring_reader *reader, const asp_record *record,
                                   uint64_t length) {
    return (asp_ring_message){
        .length = length,
        .sequence = record->sequence,
        .position = reader->cursor,
        .format = (asp_format)record->format,
        .large = record->kind == ASP_RECORD_LARGE,
    };
}

asp_status asp_ring_acquire(asp_ring_reader *reader, const void **payload,
                            asp_ring_message *message) {
    asp_record record;
    uint64_t length;
    if (reader->ring.overflow != ASP_OVERFLOW_BLOCK) {
        return ASP_E_INVALID;
    }
    const asp_status status = find(reader, &record, &length);
    if (status == ASP_READY) {
        reader->acquired = record_bytes(record.length);
        came(reader, record.published_ns);
        *message = message_of(reader, &record, length);
        *payload = message->large ? NULL : payload_of(record_at(&reader->ring, reader->cursor));
    }
    return status;
}

void asp_ring_release(asp_ring_reader *reader) {
    if (reader->acquired) {
        advance(reader, reader->acquired, 1);
        reader->acquired = 0;
    }
}

asp_status asp_ring_peek(asp_ring_reader *reader, asp_ring_message *message) {
    asp_record record;
    uint64_t length;
    const asp_status status = find(reader, &record, &length);
    if (status == ASP_READY) {
        *message = message_of(reader, &record, length);
        reader->peeked_ns = record.published_ns;
    }
    return status;
}

void asp_ring_pass(asp_ring_reader *reader) {
    came(reader, reader->peeked_ns);
    advance(reader, record_bytes(LARGE_BYTES), 1);
}

asp_status asp_ring_copy(asp_ring_reader *reader, void *to, uint64_t room, uint32_t *length) {
    asp_record record;
    uint64_t bytes;
    asp_status status = find(reader, &record, &bytes);
    if (status != ASP_READY) {
        return status;
    }
    *length = record.length;
    if (record.kind == ASP_RECORD_LARGE || record.length > room) {
        return ASP_E_TOO_LARGE;
    }
    const void *payload = payload_of(record_at(&reader->ring, reader->cursor));
    if (reader->ring.overflow == ASP_OVERFLOW_DROP_OLDEST) {
        asp_copy_from_shared(to, payload, record.length);
        if (lapped(reader)) {
            status = go_to_tail(reader);
            if (status == ASP_READY) {
                status = find(reader, &record, &bytes);
            }
            /* the message that was lost cannot come again */
            return status == ASP_READY ? ASP_E_LAYOUT : status;
        }
    } else if (record.length) { /* `to` may be NULL otherwise */
        memcpy(to, payload, record.length);
    }
    came(reader, record.published_ns);
    advance(reader, record_bytes(record.length), 1);
    return ASP_READY;
}

void asp_ring_bell_request(asp_ring_reader *reader) {
    const asp_ring *ring = &reader->ring;
    if (!reader->joined) { /* the slot may be another's */
        return;
    }
    /* pairs with the load in attend_bells() */
    asp_store_release_u32(&ring->readers[reader->slot].bell, ASP_BELL_REQUESTED);
    asp_park_prepare_bell(&ring->control->readable.word);
}

asp_bell asp_ring_bell(const asp_ring_reader *reader) {
    /* pairs with the exchanges in attend_bells() */
    return (asp_bell)asp_load_acquire_u32(&reader->ring.readers[reader->slot].bell);
}

bool asp_ring_bell_park(asp_ring_reader *reader) {
    const asp_ring *ring = &reader->ring;
    uint32_t bell = ASP_BELL_READY;
    if (!reader->joined) { /* the slot may be another's */
        return false;
    }
    /* pairs with the load in attend_bells(), which comes after its exchange of the word below */
    if (!asp_compare_exchange_u32(&ring->readers[reader->slot].bell, &bell, ASP_BELL_PARKED)) {
        return false;
    }
    asp_park_prepare_bell(&ring->control->readable.word);
    if (reader_look(&reader->watch)) {
        asp_ring_bell_unpark(reader);
        return false;
    }
    return true;
}

bool asp_ring_bell_unpark(asp_ring_reader *reader) {
    uint32_t bell = ASP_BELL_PARKED;
    if (!reader->joined) { /* left while it slept: the slot may be another's, who sleeps now */
        return false;
    }
    /* pairs with the exchange in attend_bells(): one of the two wins */
    return asp_compare_exchange_u32(&reader->ring.readers[reader->slot].bell, &bell,
                                    ASP_BELL_READY);
}

void asp_ring_leave(asp_ring_reader *reader) {
    if (reader->joined) {
        reader->joined = false;
        reader->acquired = 0;
        asp_store_relaxed_u32(&reader->ring.readers[reader->slot].bell, ASP_BELL_NONE);
        asp_ring_evict(&reader->ring, reader->slot);
    }
}

uint64_t asp_ring_lag(const asp_ring_reader *reader) {
    const uint64_t published = asp_load_relaxed_u64(&reader->ring.control->writer.sequence);
    return published > reader->sequence ? published - reader->sequence : 0;
}
