/* test_ring.c - what the broadcast ring promises, on one thread. test_ring_hostile.c has the bytes
 * that no healthy peer writes, test_ring_stress.c and test_ring_litmus.c have the races. */
#include "ring_bench.h"

/* ---- geometry ---- */

static void geometries(void) {
    CHECK_U64(asp_ring_bytes(4096, 1), 128 + 3 * 128 + 128 + 4096 + 64);
    CHECK_U64(asp_ring_bytes(1 << 24, 16), 128 + 3 * 128 + 16 * 128 + (1 << 24) + 64);
    CHECK(asp_ring_bytes(ASP_RING_MAX_CAPACITY, ASP_RING_MAX_READERS) > ASP_RING_MAX_CAPACITY);
    const uint64_t refused[] = {0,    1,    2048,       4095,
                                4097, 6144, UINT64_MAX, ASP_RING_MAX_CAPACITY * 2};
    for (unsigned i = 0; i < sizeof refused / sizeof refused[0]; i++) {
        CHECK_U64(asp_ring_bytes(refused[i], 1), 0);
    }
    CHECK_U64(asp_ring_bytes(4096, 0), 0);
    CHECK_U64(asp_ring_bytes(4096, ASP_RING_MAX_READERS + 1), 0);

    _Alignas(ASP_RING_LINE) static uint8_t memory[8192];
    const asp_overflow block = ASP_OVERFLOW_BLOCK;
    const uint64_t bytes = asp_ring_bytes(4096, 1);
    CHECK_STATUS(asp_ring_create(memory, bytes - 1, 4096, 1, block, 1, 1, 1), ASP_E_INVALID);
    CHECK_STATUS(asp_ring_create(memory, bytes, 4000, 1, block, 1, 1, 1), ASP_E_INVALID);
    CHECK_STATUS(asp_ring_create(memory + 64, bytes, 4096, 1, block, 1, 1, 1), ASP_E_INVALID);
    CHECK_STATUS(asp_ring_create(memory, bytes, 4096, 1, (asp_overflow)2, 1, 1, 1), ASP_E_INVALID);
    CHECK_STATUS(asp_ring_create(memory, sizeof memory, 4096, 1, block, 1, 1, 1), ASP_READY);

    asp_ring ring;
    char why[256];
    CHECK_STATUS(asp_ring_open(memory, sizeof memory, &ring, why, sizeof why), ASP_READY);
    CHECK_U64(ring.capacity, 4096);
    CHECK_U64(ring.max_message, 2048);
    CHECK_U64(ring.max_readers, 1);
    CHECK(ring.data + 4096 + 64 == memory + bytes);
    CHECK_STATUS(asp_ring_open(memory + 64, bytes, &ring, why, sizeof why), ASP_E_INVALID);
}

/* ---- messages ---- */

static void every_size_from_every_position(void) {
    bench b;
    set_up(&b, ASP_OVERFLOW_BLOCK);
    const uint8_t *area = b.ring.data;
    uint8_t pattern[MAX_MESSAGE];
    fill(pattern, 3, sizeof pattern);
    for (uint64_t start = 0; start < CAPACITY; start += ASP_RECORD_ALIGN) {
        for (uint64_t nbytes = 0; nbytes <= MAX_MESSAGE; nbytes++) {
            asp_ring_reader reader;
            b.ring.control->writer = (asp_ring_writer_line){.head = start};
            CHECK_STATUS(asp_ring_writer_init(&b.writer, &b.ring), ASP_READY);
            join(&b, &reader, 1);
            void *payload;
            CHECK_STATUS(asp_ring_claim(&b.writer, nbytes, &payload), ASP_READY);
            CHECK((uintptr_t)payload % 32 == 0);
            CHECK((uint8_t *)payload >= area + ASP_RECORD_BYTES &&
                  (uint8_t *)payload + nbytes <= area + CAPACITY + ASP_RING_SPILL);
            memcpy(payload, pattern, (size_t)nbytes);
            CHECK(!look(&reader.watch));
            CHECK_STATUS(asp_ring_publish(&b.writer, nbytes, ASP_FORMAT_BYTES), ASP_READY);
            CHECK(look(&reader.watch));
            const void *got;
            uint32_t length;
            CHECK_STATUS(acquire_bytes(&reader, &got, &length), ASP_READY);
            CHECK(got == payload);
            CHECK_U64(length, nbytes);
            CHECK(memcmp(got, pattern, (size_t)nbytes) == 0);
            asp_ring_release(&reader);
            CHECK(!look(&reader.watch));
            CHECK_U64(reader.cursor, b.writer.head);
            CHECK_STATUS(acquire_bytes(&reader, &got, &length), ASP_WOULD_BLOCK);
            asp_ring_leave(&reader);
        }
    }
    tear_down(&b);
}

static void a_spilled_record_spares_its_neighbours(void) {
    bench b;
    asp_ring_reader reader;
    /* 64 bytes before the end of the area, a record of 128 bytes: reaches 64 past it, no pad */
    set_up_at(&b, ASP_OVERFLOW_BLOCK, CAPACITY - 64);
    join(&b, &reader, 0);
    send_ready(&b, 0, 96);
    CHECK_U64(b.writer.head, CAPACITY + 64);
    for (uint64_t n = 1; b.writer.head < 2 * CAPACITY - 64; n++) {
        send_ready(&b, n, 32); /* up to where the next lap would begin to overwrite it */
    }
    CHECK_STATUS(send(&b, 0, 32), ASP_WOULD_BLOCK);
    expect(&reader, 0, 96);
    for (uint64_t n = 1; reader.cursor < b.writer.head; n++) {
        expect(&reader, n, 32);
    }
    /* one of 192 bytes from the same place does not: a pad */
    asp_ring_leave(&reader);
    tear_down(&b);
    set_up_at(&b, ASP_OVERFLOW_BLOCK, CAPACITY - 64);
    join(&b, &reader, 0);
    send_ready(&b, 0, 97);
    CHECK_U64(b.writer.head, CAPACITY + 192);
    const asp_record *pad = (const asp_record *)(const void *)(b.ring.data + CAPACITY - 64);
    CHECK_U64(pad->kind, ASP_RECORD_PAD);
    CHECK_U64(pad->position, CAPACITY - 64);
    CHECK_U64(pad->length, 0);
    expect(&reader, 0, 97);
    tear_down(&b);
}

/* The longest message fits into a ring that everybody has read, whatever went before. */
static void the_longest_message_needs_no_second_reader_call(void) {
    uint64_t seed = 1;
    bench b;
    asp_ring_reader reader;
    set_up(&b, ASP_OVERFLOW_BLOCK);
    join(&b, &reader, 0);
    for (uint64_t n = 0; n < 4000; n++) {
        const uint64_t nbytes = n % 2 ? MAX_MESSAGE : random_u64(&seed) % (MAX_MESSAGE + 1);
        send_ready(&b, n, nbytes);
        expect(&reader, n, nbytes);
    }
    tear_down(&b);
}

static void claims(void) {
    bench b;
    asp_ring_reader reader;
    void *payload;
    set_up_at(&b, ASP_OVERFLOW_BLOCK, CAPACITY - 128);
    join(&b, &reader, 0);
    CHECK_STATUS(asp_ring_publish(&b.writer, 0, ASP_FORMAT_BYTES), ASP_E_INVALID); /* nothing claimed */
    CHECK_STATUS(asp_ring_claim(&b.writer, MAX_MESSAGE + 1, &payload), ASP_E_TOO_LARGE);
    CHECK_STATUS(asp_ring_claim(&b.writer, UINT64_MAX, &payload), ASP_E_TOO_LARGE);

    /* an abandoned claim that needed a pad leaves no trace */
    const uint64_t head = b.ring.control->writer.head;
    CHECK_STATUS(asp_ring_claim(&b.writer, 1000, &payload), ASP_READY);
    CHECK_STATUS(asp_ring_claim(&b.writer, 1, &payload), ASP_BUSY);
    memset(payload, 1, 1000);
    asp_ring_abandon(&b.writer);
    CHECK_STATUS(asp_ring_publish(&b.writer, 0, ASP_FORMAT_BYTES), ASP_E_INVALID);
    CHECK_U64(b.ring.control->writer.head, head);
    CHECK(!look(&reader.watch));
    CHECK_STATUS(copy(&reader), ASP_WOULD_BLOCK);

    /* less than was claimed, but no more */
    CHECK_STATUS(asp_ring_claim(&b.writer, 1000, &payload), ASP_READY);
    fill(payload, 5, 1000);
    CHECK_STATUS(asp_ring_publish(&b.writer, 2000, ASP_FORMAT_BYTES), ASP_E_INVALID);
    CHECK_STATUS(asp_ring_publish(&b.writer, 10, ASP_FORMAT_BYTES), ASP_READY);
    CHECK_U64(b.writer.head, CAPACITY + 64); /* the pad stays, the record is a short one */
    send_ready(&b, 6, 20);
    expect(&reader, 5, 10);
    expect(&reader, 6, 20);

    /* of a message of max_message the record has room to spare; the message has not */
    CHECK_STATUS(asp_ring_claim(&b.writer, MAX_MESSAGE, &payload), ASP_READY);
    CHECK_STATUS(asp_ring_publish(&b.writer, MAX_MESSAGE + 1, ASP_FORMAT_BYTES), ASP_E_INVALID);
    asp_ring_abandon(&b.writer);
    tear_down(&b);
}

static void blocks_when_full(void) {
    bench b;
    asp_ring_reader fast, slow;
    set_up(&b, ASP_OVERFLOW_BLOCK);
    join(&b, &fast, 0);
    join(&b, &slow, 3);
    for (uint64_t n = 0; n < CAPACITY / 64; n++) {
        send_ready(&b, n, 32);
        expect(&fast, n, 32);
    }
    CHECK_STATUS(send(&b, 64, 32), ASP_WOULD_BLOCK);
    CHECK(!look(&b.writer.watch));
    uint64_t cursor;
    CHECK(asp_ring_slowest(&b.ring, &cursor) == 3);
    CHECK_U64(cursor, 0);
    CHECK_U64(asp_ring_lag(&slow), 64);
    CHECK_U64(asp_ring_lag(&fast), 0);

    /* an acquired message is not free yet, a released one is */
    const void *payload;
    uint32_t length;
    CHECK_STATUS(acquire_bytes(&slow, &payload, &length), ASP_READY);
    CHECK_STATUS(acquire_bytes(&slow, &payload, &length), ASP_BUSY);
    CHECK_STATUS(copy(&slow), ASP_BUSY);
    CHECK_STATUS(peek_bytes(&slow, &length), ASP_BUSY);
    CHECK_STATUS(send(&b, 64, 32), ASP_WOULD_BLOCK);
    CHECK_U64(asp_ring_lag(&slow), 64);
    asp_ring_release(&slow);
    asp_ring_release(&slow); /* nothing more to release */
    CHECK_U64(asp_ring_lag(&slow), 63);
    CHECK(look(&b.writer.watch));
    send_ready(&b, 64, 32);

    /* room for some is not room for a longer one */
    CHECK_STATUS(send(&b, 65, 33), ASP_WOULD_BLOCK);
    expect(&slow, 1, 32);
    CHECK(!look(&b.writer.watch));
    CHECK_STATUS(send(&b, 65, 33), ASP_WOULD_BLOCK);
    expect(&slow, 2, 32);
    CHECK(look(&b.writer.watch));
    send_ready(&b, 65, 33);

    /* who leaves is in nobody's way, nor is a claim that looks without changing anything */
    CHECK_STATUS(send(&b, 66, MAX_MESSAGE), ASP_WOULD_BLOCK);
    const uint64_t limit = b.writer.limit;
    asp_ring_leave(&slow);
    asp_ring_leave(&slow);
    expect(&fast, 64, 32);
    expect(&fast, 65, 33);
    CHECK(look(&b.writer.watch));
    CHECK_U64(b.writer.limit, limit);
    send_ready(&b, 66, MAX_MESSAGE);
    expect(&fast, 66, MAX_MESSAGE);
    asp_ring_leave(&fast);
    for (uint64_t n = 0; n < 200; n++) { /* without readers nothing blocks */
        send_ready(&b, n, 1000);
    }
    tear_down(&b);
}

static void parks_and_notifies(void) {
    bench b;
    asp_ring_reader reader;
    asp_futex_word word;
    set_up(&b, ASP_OVERFLOW_BLOCK);
    asp_ring_control *control = b.ring.control;
    join(&b, &reader, 0);
    CHECK(reader.watch.address == &control->writer.head && reader.watch.span == 8);
    CHECK(b.writer.watch.span == 0);

    CHECK(reader.watch.prepare(&reader.watch, &word, 0) == 0);
    CHECK_U64(control->readable.word, 0);
    CHECK(reader.watch.prepare(&reader.watch, &word, 1) == 1);
    CHECK(word.word == &control->readable.word && word.expected == control->readable.word);
    send_ready(&b, 0, 1);
    CHECK(control->readable.word != word.expected && !(control->readable.word & 1));
    const uint32_t unparked = control->readable.word;
    send_ready(&b, 1, 1);
    CHECK_U64(control->readable.word, unparked); /* nobody there: nothing to do */

    CHECK(b.writer.watch.prepare(&b.writer.watch, &word, 0) == 0);
    const char *what[] = {"release", "copy", "leave", "join", "evict"};
    for (unsigned i = 0; i < 5; i++) {
        CHECK(b.writer.watch.prepare(&b.writer.watch, &word, 1) == 1);
        CHECK(word.word == &control->writable.word && word.expected == control->writable.word);
        const void *payload;
        uint32_t length;
        switch (i) {
        case 0:
            CHECK_STATUS(acquire_bytes(&reader, &payload, &length), ASP_READY);
            CHECK_U64(control->writable.word, word.expected);
            asp_ring_release(&reader);
            break;
        case 1: expect(&reader, 1, 1); break;
        case 2: asp_ring_leave(&reader); break;
        case 3: join(&b, &reader, 2); break;
        default: asp_ring_evict(&b.ring, 2); break;
        }
        CHECK_SAY(control->writable.word != word.expected, "%s does not notify", what[i]);
    }
    CHECK(reader.watch.prepare(&reader.watch, &word, 1) == 1);
    asp_ring_writer_close(&b.writer);
    CHECK(control->readable.word != word.expected);
    tear_down(&b);
}

/* Whoever waits for room is the closing writer's own, in another thread, and does not wait any longer. */
static void a_close_wakes_who_waits_for_room(void) {
    bench b;
    asp_ring_reader reader;
    asp_futex_word word;
    set_up(&b, ASP_OVERFLOW_BLOCK);
    join(&b, &reader, 0);
    for (uint64_t n = 0; send(&b, n, 100) == ASP_READY; n++) {
    }
    CHECK(b.writer.watch.prepare(&b.writer.watch, &word, 1) == 1);
    CHECK(!look(&b.writer.watch));
    const uint64_t notified_ns = b.ring.control->writable.notified_ns;
    asp_ring_writer_close(&b.writer);
    CHECK(look(&b.writer.watch));
    CHECK(b.ring.control->writable.word != word.expected); /* the sleep did not begin, or ended */
    CHECK_U64(b.ring.control->writable.notified_ns, notified_ns); /* no room was made */
    tear_down(&b);
}

static void readers_come_and_go(void) {
    bench b;
    asp_ring_reader first, second;
    uint64_t cursor;
    set_up(&b, ASP_OVERFLOW_BLOCK);
    CHECK(asp_ring_slowest(&b.ring, &cursor) == -1);
    CHECK_U64(asp_ring_active_readers(&b.ring), 0);
    CHECK_STATUS(asp_ring_join(&first, &b.ring, READERS, PID), ASP_E_INVALID);
    send_ready(&b, 0, 10);
    join(&b, &first, 0);
    CHECK_U64(first.sequence, 1);
    CHECK_U64(b.ring.readers[0].pid, PID);
    send_ready(&b, 1, 10);
    join(&b, &second, READERS - 1);
    CHECK_U64(asp_ring_active_readers(&b.ring), 2);
    send_ready(&b, 2, 10);
    expect(&first, 1, 10);
    expect(&first, 2, 10);
    expect(&second, 2, 10);
    CHECK_STATUS(copy(&second), ASP_WOULD_BLOCK);
    CHECK_U64(b.ring.readers[0].sequence, 3);
    CHECK_U64(b.ring.readers[0].cursor, b.writer.head);
    asp_ring_leave(&first);
    CHECK_U64(asp_ring_active_readers(&b.ring), 1);
    /* a second leave does not touch a successor in the slot */
    asp_ring_reader third;
    join(&b, &third, 0);
    asp_ring_leave(&first);
    CHECK_U64(asp_ring_active_readers(&b.ring), 2);
    /* and who joins after a dead reader does not care what that one left behind */
    b.ring.readers[0].cursor = 12345;
    join(&b, &third, 0);
    send_ready(&b, 3, 10);
    expect(&third, 3, 10);
    /* one in the middle of joining is no one to count on yet */
    b.ring.readers[1].cursor = ASP_CURSOR_JOINING;
    b.ring.readers[1].state = ASP_READER_ACTIVE;
    CHECK_U64(asp_ring_active_readers(&b.ring), 2);
    tear_down(&b);
}

static void ends(void) {
    for (int mode = 0; mode < 2; mode++) {
        bench b;
        asp_ring_reader reader, late;
        void *payload;
        set_up(&b, (asp_overflow)mode);
        join(&b, &reader, 0);
        send_ready(&b, 0, 10);
        send_ready(&b, 1, 0);
        CHECK_STATUS(asp_ring_claim(&b.writer, 10, &payload), ASP_READY);
        asp_ring_writer_close(&b.writer); /* drops the claim */
        asp_ring_writer_close(&b.writer);
        CHECK_STATUS(asp_ring_publish(&b.writer, 10, ASP_FORMAT_BYTES), ASP_E_INVALID);
        CHECK_STATUS(asp_ring_claim(&b.writer, 10, &payload), ASP_E_INVALID);
        CHECK_STATUS(send(&b, 2, 1), ASP_E_INVALID);
        expect(&reader, 0, 10);
        CHECK(look(&reader.watch));
        expect(&reader, 1, 0);
        CHECK(look(&reader.watch));
        CHECK_STATUS(copy(&reader), ASP_END);
        CHECK_STATUS(copy(&reader), ASP_END);
        join(&b, &late, 1);
        CHECK(look(&late.watch));
        CHECK_STATUS(copy(&late), ASP_END);
        asp_ring_writer again;
        CHECK_STATUS(asp_ring_writer_init(&again, &b.ring), ASP_END);
        tear_down(&b);
    }
}

static void sizes_a_buffer(void) {
    for (int mode = 0; mode < 2; mode++) {
        bench b;
        asp_ring_reader reader;
        uint8_t small[16];
        uint32_t length = 0;
        set_up(&b, (asp_overflow)mode);
        join(&b, &reader, 0);
        CHECK_STATUS(peek_bytes(&reader, &length), ASP_WOULD_BLOCK);
        send_ready(&b, 0, 17);
        CHECK_STATUS(peek_bytes(&reader, &length), ASP_READY);
        CHECK_U64(length, 17);
        length = 0;
        CHECK_STATUS(asp_ring_copy(&reader, small, sizeof small, &length), ASP_E_TOO_LARGE);
        CHECK_U64(length, 17);
        CHECK_U64(asp_ring_lag(&reader), 1);
        expect(&reader, 0, 17);
        CHECK(reader.published_ns > 0);
        send_ready(&b, 1, 0);
        CHECK_STATUS(asp_ring_copy(&reader, NULL, 0, &length), ASP_READY);
        CHECK_U64(length, 0);
        CHECK_STATUS(asp_ring_send(&b.writer, NULL, 0, ASP_FORMAT_BYTES), ASP_READY);
        tear_down(&b);
    }
}

/* Random operations against a list of what was sent. Readers know by number what must come. */
static void random_operations(asp_overflow overflow) {
    enum { STEPS = 60000 };
    static uint32_t lengths[STEPS];
    uint64_t seed = 42 + (uint64_t)overflow, sent = 0, received = 0, lost = 0;
    bench b;
    asp_ring_reader readers[READERS];
    memset(readers, 0, sizeof readers);
    set_up(&b, overflow);
    for (unsigned step = 0; step < STEPS; step++) {
        const uint64_t dice = random_u64(&seed);
        const uint32_t slot = (uint32_t)(dice >> 8) % READERS;
        asp_ring_reader *reader = &readers[slot];
        const uint32_t nbytes =
            (uint32_t)(dice >> 16) % (dice >> 56 < 200 ? 200 : MAX_MESSAGE + 1);
        void *to;
        uint8_t data[MAX_MESSAGE];
        asp_status status;
        uint32_t length;
        switch (dice % 16) {
        case 0:
            if (!reader->joined) {
                join(&b, reader, slot);
                CHECK_U64(reader->sequence, sent);
            } else if (dice >> 60 == 0) {
                asp_ring_leave(reader);
            }
            break;
        case 1: case 2: case 3: case 4: case 5: /* claim; abandon, or publish what fits */
            status = asp_ring_claim(&b.writer, nbytes, &to);
            if (status == ASP_WOULD_BLOCK) {
                CHECK(overflow == ASP_OVERFLOW_BLOCK && !look(&b.writer.watch));
            } else {
                CHECK_STATUS(status, ASP_READY);
                memset(to, 0xee, nbytes);
                if (dice >> 61 == 0) {
                    asp_ring_abandon(&b.writer);
                    break;
                }
                lengths[sent] = dice >> 61 == 1 ? nbytes / 2 : nbytes;
                fill(to, sent, lengths[sent]);
                CHECK_STATUS(asp_ring_publish(&b.writer, lengths[sent], ASP_FORMAT_BYTES), ASP_READY);
                sent++;
            }
            break;
        default:
            if (!reader->joined) {
                break;
            }
            CHECK_U64(asp_ring_lag(reader), sent - reader->sequence);
            status = asp_ring_copy(reader, data, sizeof data, &length);
            if (status == ASP_WOULD_BLOCK) {
                CHECK(asp_ring_lag(reader) == 0 || overflow == ASP_OVERFLOW_DROP_OLDEST);
            } else if (status == ASP_LAGGED) {
                CHECK(overflow == ASP_OVERFLOW_DROP_OLDEST && reader->skipped > 0);
                lost += reader->skipped;
            } else {
                CHECK_STATUS(status, ASP_READY);
                const uint64_t n = reader->sequence - 1;
                CHECK(n < sent);
                CHECK_U64(length, lengths[n]);
                CHECK(holds(data, n, length));
                received++;
            }
        }
    }
    CHECK(received > STEPS / 100 && sent > STEPS / 100);
    CHECK((lost > 0) == (overflow == ASP_OVERFLOW_DROP_OLDEST));
    tear_down(&b);
}

/* ---- drop_oldest ---- */

static void counts_what_was_lost(void) {
    for (uint64_t n = 1; n < 300; n++) {
        bench b;
        asp_ring_reader reader, joined_later;
        set_up(&b, ASP_OVERFLOW_DROP_OLDEST);
        join(&b, &reader, 0);
        CHECK(look(&b.writer.watch)); /* never waits */
        for (uint64_t i = 0; i < n; i++) {
            if (i == n / 2) {
                join(&b, &joined_later, 1);
            }
            send_ready(&b, i, i % 97);
        }
        asp_ring_reader *both[] = {&reader, &joined_later};
        for (unsigned r = 0; r < 2; r++) {
            const uint64_t from = r ? n / 2 : 0;
            uint64_t lost = 0;
            CHECK_U64(asp_ring_lag(both[r]), n - from);
            if (b.ring.control->writer.tail > both[r]->cursor) {
                CHECK(look(&both[r]->watch));
                CHECK_STATUS(copy(both[r]), ASP_LAGGED);
                lost = both[r]->skipped;
                CHECK(lost > 0);
                CHECK_U64(asp_ring_lag(both[r]), n - from - lost);
            }
            for (uint64_t i = from + lost; i < n; i++) {
                expect(both[r], i, i % 97);
            }
            CHECK_STATUS(copy(both[r]), ASP_WOULD_BLOCK);
            /* what is kept: all but a stride and what was to be written */
            CHECK(n - from - lost >= (n - from < 20 ? n - from : 20));
        }
        const void *payload;
        uint32_t length;
        CHECK_STATUS(acquire_bytes(&reader, &payload, &length), ASP_E_INVALID);
        tear_down(&b);
    }
}

static void loses_everything(void) {
    bench b;
    asp_ring_reader reader;
    void *payload;
    set_up(&b, ASP_OVERFLOW_DROP_OLDEST);
    join(&b, &reader, 0);
    send_ready(&b, 0, MAX_MESSAGE);
    send_ready(&b, 1, 500);
    CHECK_STATUS(asp_ring_claim(&b.writer, MAX_MESSAGE, &payload), ASP_READY);
    CHECK_U64(b.ring.control->writer.tail, b.ring.control->writer.head);
    /* all gone, and nothing there to count from: not yet */
    CHECK_STATUS(copy(&reader), ASP_WOULD_BLOCK);
    CHECK(!look(&reader.watch));
    CHECK_U64(asp_ring_lag(&reader), 2);
    fill(payload, 2, MAX_MESSAGE);
    CHECK_STATUS(asp_ring_publish(&b.writer, MAX_MESSAGE, ASP_FORMAT_BYTES), ASP_READY);
    CHECK_STATUS(copy(&reader), ASP_LAGGED);
    CHECK_U64(reader.skipped, 2);
    expect(&reader, 2, MAX_MESSAGE);

    /* the same, but the next thing to come is the end */
    send_ready(&b, 3, 10);
    CHECK_STATUS(asp_ring_claim(&b.writer, MAX_MESSAGE, &payload), ASP_READY);
    asp_ring_abandon(&b.writer);
    CHECK_STATUS(asp_ring_claim(&b.writer, MAX_MESSAGE, &payload), ASP_READY);
    b.ring.control->writer.tail = b.ring.control->writer.head; /* as a longer claim would */
    CHECK_STATUS(copy(&reader), ASP_WOULD_BLOCK);
    asp_ring_writer_close(&b.writer);
    CHECK_STATUS(copy(&reader), ASP_LAGGED);
    CHECK_U64(reader.skipped, 1);
    CHECK_STATUS(copy(&reader), ASP_END);
    tear_down(&b);
}

static void evicts(void) {
    bench b;
    asp_ring_reader dead;
    set_up(&b, ASP_OVERFLOW_BLOCK);
    join(&b, &dead, 2);
    uint64_t n = 0;
    while (send(&b, n, 100) == ASP_READY) {
        n++;
    }
    const void *payload;
    uint32_t length;
    uint64_t cursor;
    CHECK_STATUS(acquire_bytes(&dead, &payload, &length), ASP_READY);
    CHECK(asp_ring_slowest(&b.ring, &cursor) == 2);
    asp_ring_evict(&b.ring, 2);
    CHECK(look(&b.writer.watch));
    CHECK(asp_ring_slowest(&b.ring, &cursor) == -1);
    send_ready(&b, n, 100);
    tear_down(&b);
}

/* ---- a writer that goes on where another one died ---- */

static void takes_over(void) {
    for (int mode = 0; mode < 2; mode++) {
        /* whether the message needs a pad, and whether its head was stored */
        for (unsigned round = 0; round < 4; round++) {
            const bool pad = round & 1, finished = round & 2;
            bench b;
            asp_ring_reader reader, late;
            set_up_at(&b, (asp_overflow)mode, pad ? CAPACITY - 128 : CAPACITY - 640);
            join(&b, &reader, 0);
            send_ready(&b, 0, 10);
            const uint64_t before = b.ring.control->writer.head;
            send_ready(&b, 1, 200);
            CHECK_U64(b.ring.control->writer.sequence, 2);
            if (!finished) { /* killed before the store of head, after that of sequence */
                b.ring.control->writer.head = before;
            }
            memset(&b.writer, 0, sizeof b.writer);
            open_bench(&b);
            join(&b, &late, 1);
            CHECK_U64(late.sequence, finished ? 2 : 1);
            CHECK_STATUS(asp_ring_writer_init(&b.writer, &b.ring), ASP_READY);
            CHECK_U64(b.writer.sequence, finished ? 2 : 1);
            CHECK_U64(b.ring.control->writer.sequence, b.writer.sequence);
            send_ready(&b, 7, 300);
            expect(&reader, 0, 10);
            if (finished) {
                expect(&reader, 1, 200);
            }
            expect(&reader, 7, 300);
            expect(&late, 7, 300);
            asp_ring_writer_close(&b.writer);
            CHECK_STATUS(copy(&reader), ASP_END);
            tear_down(&b);
        }
    }
    /* what readers have not read yet binds the successor too */
    bench b;
    asp_ring_reader reader;
    set_up(&b, ASP_OVERFLOW_BLOCK);
    join(&b, &reader, 0);
    send_ready(&b, 0, MAX_MESSAGE);
    CHECK_STATUS(asp_ring_writer_init(&b.writer, &b.ring), ASP_READY);
    CHECK_STATUS(send(&b, 1, MAX_MESSAGE), ASP_WOULD_BLOCK);
    expect(&reader, 0, MAX_MESSAGE);
    send_ready(&b, 1, MAX_MESSAGE);
    tear_down(&b);
}

static void carries_formats(void) {
    for (int mode = 0; mode < 2; mode++) {
        bench b;
        asp_ring_reader reader;
        asp_ring_message message;
        set_up(&b, (asp_overflow)mode);
        join(&b, &reader, 0);
        for (int format = 0; format <= ASP_FORMAT_LAST; format++) {
            CHECK_STATUS(asp_ring_send(&b.writer, "abc", 3, (asp_format)format), ASP_READY);
            CHECK_STATUS(asp_ring_peek(&reader, &message), ASP_READY);
            CHECK(message.format == (asp_format)format && message.length == 3 && !message.large);
            CHECK_U64(message.sequence, (uint64_t)format);
            CHECK_STATUS(copy(&reader), ASP_READY);
        }
        void *payload;
        CHECK_STATUS(asp_ring_claim(&b.writer, 1, &payload), ASP_READY);
        CHECK_STATUS(asp_ring_publish(&b.writer, 1, (asp_format)(ASP_FORMAT_LAST + 1)),
                     ASP_E_INVALID);
        CHECK_STATUS(copy(&reader), ASP_WOULD_BLOCK);
        tear_down(&b);
    }
}

static void large_messages_are_referred_to(void) {
    for (int mode = 0; mode < 2; mode++) {
        bench b;
        asp_ring_reader reader, other;
        asp_ring_message message;
        const void *payload;
        set_up_at(&b, (asp_overflow)mode, 4032); /* the record fills the last line of the area */
        CHECK_U64(asp_ring_oldest(&b.ring), UINT64_MAX);
        join(&b, &reader, 0);
        join(&b, &other, 1);
        const uint64_t length = UINT64_C(5) << 32, position = b.writer.head;
        CHECK_STATUS(asp_ring_publish_large(&b.writer, length, ASP_FORMAT_PICKLE), ASP_E_INVALID);
        CHECK_STATUS(asp_ring_claim_large(&b.writer), ASP_READY);
        CHECK_STATUS(asp_ring_publish_large(&b.writer, length, ASP_FORMAT_PICKLE), ASP_READY);
        CHECK_STATUS(asp_ring_peek(&reader, &message), ASP_READY);
        CHECK(message.large && message.format == ASP_FORMAT_PICKLE);
        CHECK_U64(message.length, length);
        CHECK_U64(message.position, position);
        CHECK_STATUS(copy(&reader), ASP_E_TOO_LARGE);
        if (mode == ASP_OVERFLOW_BLOCK) {
            CHECK_STATUS(asp_ring_acquire(&reader, &payload, &message), ASP_READY);
            CHECK(message.large && payload == NULL);
            CHECK_U64(message.length, length);
            asp_ring_release(&reader);
        } else {
            asp_ring_pass(&reader);
        }
        CHECK(reader.published_ns > 0);
        CHECK_STATUS(copy(&reader), ASP_WOULD_BLOCK);
        CHECK_U64(asp_ring_oldest(&b.ring), position); /* the other has not seen it */
        if (mode == ASP_OVERFLOW_BLOCK) { /* a writer that wants all to be past it */
            asp_ring_want_past(&b.writer, b.writer.head);
            CHECK(!look(&b.writer.watch));
        }
        CHECK_STATUS(asp_ring_peek(&other, &message), ASP_READY);
        asp_ring_pass(&other);
        CHECK_U64(asp_ring_oldest(&b.ring), b.writer.head);
        CHECK(look(&b.writer.watch));
        tear_down(&b);
    }
}

static void a_batch_wakes_once(void) {
    bench b;
    asp_ring_reader reader;
    set_up(&b, ASP_OVERFLOW_BLOCK);
    join(&b, &reader, 0);
    uint32_t *word = &b.ring.control->readable.word;
    const uint32_t expected = asp_park_prepare(word);
    for (uint64_t n = 0; n < 5; n++) {
        CHECK_STATUS(asp_ring_append(&b.writer, &n, sizeof n, ASP_FORMAT_BYTES), ASP_READY);
    }
    CHECK(*word == expected); /* but they are there to be found */
    for (uint64_t n = 0; n < 5; n++) {
        uint64_t got;
        uint32_t length;
        CHECK_STATUS(asp_ring_copy(&reader, &got, sizeof got, &length), ASP_READY);
        CHECK_U64(got, n);
    }
    asp_ring_wake_readers(&b.writer);
    CHECK(*word == (expected & ~ASP_PARK_SLEEPER) + ASP_PARK_STEP);
    tear_down(&b);
}

/* From who woke it, else from the clock: by what means the room came, and a stamp that no healthy reader leaves. */
static void a_writer_learns_when_there_is_room(void) {
    static const uint64_t forged[] = {0, 1, UINT64_MAX};
    enum { ROOM = 1024 - ASP_RECORD_BYTES }; /* no pads: each that goes makes room for one */
    enum { WOKEN, SPUN, FORGED, WAYS = FORGED + sizeof forged / sizeof forged[0] };
    bench b;
    asp_ring_reader reader;
    set_up(&b, ASP_OVERFLOW_BLOCK);
    join(&b, &reader, 0);
    asp_watch *watch = &b.writer.watch;
    uint64_t *told_ns = &b.ring.control->writable.notified_ns;
    const asp_price price = {25, 5000000};
    uint64_t n = 0, last_ns = 0;
    while (send(&b, n, ROOM) == ASP_READY) n++;
    for (unsigned way = 0; way < WAYS; way++) {
        asp_futex_word word;
        const uint64_t before_ns = asp_now_ns(), stamp = *told_ns;
        CHECK(!look(watch));
        asp_predict_plan(watch->predict, before_ns, &price);
        if (way != SPUN) CHECK(watch->prepare(watch, &word, 1) == 1);
        CHECK_STATUS(copy(&reader), ASP_READY);
        const uint64_t after_ns = asp_now_ns();
        if (way == WOKEN) CHECK(*told_ns >= before_ns && *told_ns <= after_ns);
        if (way == SPUN) CHECK_U64(*told_ns, stamp); /* nobody was parked: no time was taken */
        if (way >= FORGED) *told_ns = forged[way - FORGED];
        CHECK(look(watch));
        const uint64_t room_ns = watch->published(watch);
        if (way == WOKEN) CHECK_U64(room_ns, *told_ns);
        else CHECK(room_ns >= after_ns && room_ns <= asp_now_ns());
        asp_predict_outcome(watch->predict, way == SPUN ? ASP_PREDICT_SPUN : ASP_PREDICT_WOKEN, room_ns, asp_now_ns(), 0);
        CHECK_U64(b.writer.predict.last_ns, last_ns); /* a gap is learned when the room is taken */
        send_ready(&b, n++, ROOM);
        CHECK_U64(b.writer.predict.last_ns, room_ns);
        last_ns = room_ns;
    }
    /* Who woke it made too little room, and whoever made the rest found it awake: the room is of then, not earlier. */
    for (unsigned rehearsed = 0; rehearsed < 2; rehearsed++) {
        asp_futex_word word;
        CHECK_STATUS(send(&b, n, 2 * ROOM), ASP_WOULD_BLOCK);
        asp_predict_plan(watch->predict, asp_now_ns(), &price);
        CHECK(watch->prepare(watch, &word, 1) == 1);
        CHECK_STATUS(copy(&reader), ASP_READY);
        CHECK(!look(watch));
        while (copy(&reader) == ASP_READY && !look(watch)) {
        }
        const uint64_t after_ns = asp_now_ns();
        if (!rehearsed) {
            CHECK(watch->published(watch) >= *told_ns);
            CHECK(watch->published(watch) >= after_ns);
            asp_predict_outcome(watch->predict, ASP_PREDICT_SPUN, b.writer.room_ns, asp_now_ns(), 0);
        } /* else the operation that ends the rehearsal finds it */
        send_ready(&b, n++, 2 * ROOM);
        CHECK(b.writer.predict.last_ns >= after_ns);
        asp_predict_outcome(watch->predict, ASP_PREDICT_FOUND, 0, 0, 0);
        while (send(&b, n, ROOM) == ASP_READY) n++;
    }
    last_ns = b.writer.predict.last_ns;
    /* What needed no wait says nothing of when there is room. */
    CHECK_STATUS(copy(&reader), ASP_READY);
    send_ready(&b, n, ROOM);
    CHECK_U64(b.writer.predict.last_ns, last_ns);
    tear_down(&b);
}

int main(void) {
    a_writer_learns_when_there_is_room();
    carries_formats();
    large_messages_are_referred_to();
    a_batch_wakes_once();
    geometries();
    every_size_from_every_position();
    a_spilled_record_spares_its_neighbours();
    the_longest_message_needs_no_second_reader_call();
    claims();
    blocks_when_full();
    parks_and_notifies();
    a_close_wakes_who_waits_for_room();
    readers_come_and_go();
    ends();
    sizes_a_buffer();
    random_operations(ASP_OVERFLOW_BLOCK);
    random_operations(ASP_OVERFLOW_DROP_OLDEST);
    counts_what_was_lost();
    loses_everything();
    evicts();
    takes_over();
    return 0;
}
