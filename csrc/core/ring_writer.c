/* ring_writer.c - the writing end of a ring: claim, publish, drop the oldest, close. */
#include <string.h>

#include "atomics.h"
#include "clock.h"
#include "lock.h"
#include "ring.h"
#include "ring_record.h"

/* drop_oldest: tail moves this part of the capacity further than it must. A lapped reader needs a
 * few cache misses, about a microsecond, to get going at tail; the writer overwrites 64 bytes in a
 * twentieth of that, so with strides of one record the reader would never catch one. */
#define STRIDE_DIVISOR 8

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

/* Move tail to the first record that does not begin before `position`. The records that go are the
 * writer's own, but a peer could have changed them since; their sizes are checked like a stranger's. */
static asp_status drop_before(asp_ring_writer *writer, uint64_t position) {
    const asp_ring *ring = &writer->ring;
    uint64_t tail = writer->limit - ring->capacity;
    while (tail < position) {
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

/* Move tail so far that `bytes` more fit. */
static asp_status drop_oldest(asp_ring_writer *writer, uint64_t bytes) {
    const uint64_t stride = writer->ring.capacity / STRIDE_DIVISOR;
    const uint64_t fits = writer->ring.capacity - bytes;
    const uint64_t keep = fits > stride ? fits - stride : 0;
    return drop_before(writer, writer->head - keep);
}

/* The watch: is there room now for what did not fit? Changes nothing; the claim asks again. */
static bool writer_look(asp_watch *watch) {
    asp_ring_writer *writer = (asp_ring_writer *)watch;
    uint64_t limit;
    /* pairs with the store in asp_park_notify_at; before the cursors, as it is stored after one */
    const uint64_t told_ns = asp_load_relaxed_u64(&writer->ring.control->writable.notified_ns);
    if (writer->ring.overflow == ASP_OVERFLOW_DROP_OLDEST ||
        ask_readers(writer, &limit) != ASP_READY) {
        return true; /* the claim does not wait, or says what is wrong */
    }
    if (writer->head + writer->wanted <= limit) {
        return true;
    }
    if (asp_load_relaxed_u32(&writer->closed)) { /* pairs with the store in asp_ring_writer_close */
        return true; /* the claim says so */
    }
    writer->told_ns = told_ns; /* of a release that did not suffice, or of an earlier wait */
    return false;
}

static unsigned writer_prepare(asp_watch *watch, asp_futex_word *words, unsigned room) {
    if (room == 0) {
        return 0;
    }
    uint32_t *word = &((asp_ring_writer *)watch)->ring.control->writable.word;
    words[0] = (asp_futex_word){word, asp_park_prepare(word)};
    return 1;
}

/* When there was room: as who made it says if it had to wake us, else now. The stamp is a peer's, so any number, and
 * a reader in Python leaves none: then a park seems to cost nothing, and no spin pays. One that is not of this wait,
 * or of a release after which there was no room yet, says nothing. */
static uint64_t writer_published(asp_watch *watch) {
    asp_ring_writer *writer = (asp_ring_writer *)watch;
    /* pairs with the store in asp_park_notify_at */
    const uint64_t told_ns = asp_load_relaxed_u64(&writer->ring.control->writable.notified_ns);
    const uint64_t now_ns = asp_now_ns();
    const bool of_this = told_ns != writer->told_ns && told_ns >= writer->predict.begun_ns;
    writer->room_ns = of_this && told_ns <= now_ns ? told_ns : now_ns;
    return writer->room_ns;
}

/* Asks after those in the way only, and no further than to one that lives, for which the wait is then. Each question
 * costs the kernel a walk over the locks of all. */
static bool writer_peers_live(asp_watch *watch) {
    const asp_ring_writer *writer = (const asp_ring_writer *)watch;
    const asp_ring *ring = &writer->ring;
    bool live = true;
    for (uint32_t slot = 0; slot < ring->max_readers; slot++) {
        /* relaxed: a guess, as the caller finds out */
        const uint64_t cursor = asp_load_relaxed_u64(&ring->readers[slot].cursor) & ~ASP_POSITION_FLAGS;
        if (asp_load_relaxed_u32(&ring->readers[slot].state) == ASP_READER_ACTIVE &&
            cursor + ring->capacity < writer->head + writer->wanted) {
            live = asp_ring_member_lives(ring, ASP_LOCK_READER + slot);
            if (live) break;
        }
    }
    return live;
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
        .watch = {.look = writer_look,
                  .prepare = writer_prepare,
                  .published = writer_published,
                  .peers_live = writer_peers_live,
                  .predict = &writer->predict},
        .ring = *ring,
        .head = head,
        .sequence = sequence,
        .limit = lossy ? tail + ring->capacity : head,
        .suspect = -1,
    };
    asp_predict_init(&writer->predict);
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
    /* Not under asp_ring_want_past, for which a claim is no end of the wait. */
    if (!writer->room_ns && writer->predict.waiting && writer->head + writer->wanted <= writer->limit) {
        writer->room_ns = asp_now_ns(); /* the rehearsal of a wait found it */
    }
    if (writer->room_ns) {
        asp_predict_arrival(&writer->predict, writer->room_ns);
        writer->room_ns = 0;
    }
    *payload = payload_of(record_at(ring, writer->head + pad));
    return ASP_READY;
}

void asp_ring_want_past(asp_ring_writer *writer, uint64_t position) {
    /* room for so much there is when the slowest cursor is at `position` */
    writer->wanted = position + writer->ring.capacity - writer->head;
}

/* Make the claimed record visible; the caller wakes who sleeps. */
static asp_status commit(asp_ring_writer *writer, uint64_t nbytes, asp_record_kind kind,
                         asp_format format) {
    const asp_ring *ring = &writer->ring;
    const uint64_t size = record_bytes(nbytes);
    if (!writer->claimed || nbytes > ring->max_message || size > writer->claimed ||
        format > ASP_FORMAT_LAST) {
        return ASP_E_INVALID;
    }
    const uint64_t now_ns = asp_now_ns();
    uint64_t head = writer->head;
    if (writer->pad) {
        store_record(ring, head, writer->sequence, now_ns, 0, ASP_RECORD_PAD, ASP_FORMAT_BYTES);
        head += writer->pad;
    }
    store_record(ring, head, writer->sequence, now_ns, (uint32_t)nbytes, kind, format);
    writer->head = head + size;
    writer->sequence++;
    writer->pad = 0;
    writer->claimed = 0;
    /* pairs with the load in settled_head(): who sees this sequence sees the head before */
    asp_store_release_u64(&ring->control->writer.sequence, writer->sequence);
    /* pairs with the loads in see_head() and settled_head(): who sees this head sees the record */
    asp_store_release_u64(&ring->control->writer.head, head_word(writer->head, writer->sequence));
    return ASP_READY;
}

asp_status asp_ring_publish(asp_ring_writer *writer, uint64_t nbytes, asp_format format) {
    const asp_status status = commit(writer, nbytes, ASP_RECORD_DATA, format);
    if (status == ASP_READY) {
        asp_ring_wake_readers(writer);
    }
    return status;
}

/* Open the bells that were asked for, ring those that are parked on. */
static void attend_bells(asp_ring_writer *writer) {
    for (uint32_t slot = 0; slot < writer->ring.max_readers; slot++) {
        asp_ring_reader_line *line = &writer->ring.readers[slot];
        if (asp_load_acquire_u32(&line->state) != ASP_READER_ACTIVE) { /* pairs with join */
            continue;
        }
        /* pairs with the stores in asp_ring_bell_request and asp_ring_bell_park */
        uint32_t bell = asp_load_acquire_u32(&line->bell);
        if (bell == ASP_BELL_REQUESTED) {
            const bool open = asp_bells_open(writer->bells, slot);
            const bool told =
                asp_compare_exchange_u32(&line->bell, &bell, open ? ASP_BELL_READY : ASP_BELL_REFUSED);
            /* Since the load the reader may have died, and the next one in the slot asked for another FIFO of the
             * same name: that is there by now. If it is gone again, so is who would have been rung. */
            if (told && open && !asp_bells_current(writer->bells, slot)) {
                asp_bells_open(writer->bells, slot);
            }
        } else if (bell == ASP_BELL_PARKED) {
            /* A writer that took over holds no bells yet. */
            const bool open = asp_bells_held(writer->bells, slot) || asp_bells_open(writer->bells, slot);
            if (asp_compare_exchange_u32(&line->bell, &bell, open ? ASP_BELL_READY : ASP_BELL_REFUSED) && open) {
                asp_bells_ring(writer->bells, slot);
            }
        }
    }
}

void asp_ring_wake_readers(asp_ring_writer *writer) {
    if (notify(&writer->ring.control->readable.word, NULL) & ASP_PARK_BELL) {
        attend_bells(writer);
    }
}

void asp_ring_abandon(asp_ring_writer *writer) {
    writer->pad = 0;
    writer->claimed = 0;
}

asp_status asp_ring_append(asp_ring_writer *writer, const void *data, uint64_t nbytes,
                           asp_format format) {
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
    return commit(writer, nbytes, ASP_RECORD_DATA, format);
}

asp_status asp_ring_send(asp_ring_writer *writer, const void *data, uint64_t nbytes,
                         asp_format format) {
    const asp_status status = asp_ring_append(writer, data, nbytes, format);
    if (status == ASP_READY) {
        asp_ring_wake_readers(writer);
    }
    return status;
}

asp_status asp_ring_claim_large(asp_ring_writer *writer) {
    void *payload;
    return asp_ring_claim(writer, LARGE_BYTES, &payload);
}

asp_status asp_ring_publish_large(asp_ring_writer *writer, uint64_t length, asp_format format) {
    if (writer->claimed != record_bytes(LARGE_BYTES)) {
        return ASP_E_INVALID;
    }
    uint64_t *payload = payload_of(record_at(&writer->ring, writer->head + writer->pad));
    asp_store_relaxed_u64(payload, length); /* ordered by the store of head, as the record is */
    const asp_status status = commit(writer, LARGE_BYTES, ASP_RECORD_LARGE, format);
    if (status == ASP_READY) {
        asp_ring_wake_readers(writer);
    }
    return status;
}

asp_status asp_ring_drop_before(asp_ring_writer *writer, uint64_t position) {
    if (writer->ring.overflow != ASP_OVERFLOW_DROP_OLDEST || position > writer->head) {
        return ASP_E_INVALID;
    }
    return drop_before(writer, position);
}

void asp_ring_writer_close(asp_ring_writer *writer) {
    asp_ring_abandon(writer);
    if (!writer->closed) {
        asp_ring_control *control = writer->ring.control;
        /* pairs with the load in writer_look(), by the eventcount: a thread that waits for room is woken below */
        asp_store_relaxed_u32(&writer->closed, 1);
        /* pairs with the load in see_head() */
        asp_store_release_u64(&control->writer.head,
                              head_word(writer->head, writer->sequence) | ASP_HEAD_CLOSED);
        asp_ring_wake_readers(writer);
        asp_park_notify(&control->writable.word); /* no room was made, so not with its time */
    }
}
