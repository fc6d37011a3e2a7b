/* test_ring_hostile.c - bytes that no healthy peer writes: each is refused as ASP_E_LAYOUT, however
 * often one asks, and nothing outside of the segment is touched. */
#include "ring_bench.h"

typedef struct corruption {
    const char *named; /* what `why` has to name */
    size_t offset, size;
    uint64_t value;
} corruption;

#define FIELD(field, value)                                                            \
    {                                                                                  \
        #field, offsetof(asp_ring_header, field), sizeof(((asp_ring_header *)0)->field), value \
    }

static void corrupt_headers(void) {
    const corruption all[] = {
        FIELD(magic, 0),
        FIELD(magic, ASP_RING_MAGIC + 1),
        FIELD(version, 0),
        FIELD(version, 1),
        FIELD(version, 3),
        FIELD(header_bytes, 0),
        FIELD(header_bytes, 88),
        FIELD(header_bytes, 95),
        FIELD(header_bytes, UINT32_MAX),
        FIELD(total_bytes, 0),
        FIELD(total_bytes, UINT64_MAX),
        FIELD(capacity, 0),
        FIELD(capacity, 4095),
        FIELD(capacity, 2048),
        FIELD(capacity, UINT64_C(1) << 63),
        FIELD(capacity, UINT64_MAX),
        FIELD(max_readers, 0),
        FIELD(max_readers, 1025),
        FIELD(max_readers, UINT32_MAX),
        FIELD(overflow, 2),
        FIELD(overflow, UINT32_MAX),
        FIELD(writer_offset, 0),
        FIELD(writer_offset, 64),
        FIELD(writer_offset, 129),
        FIELD(writer_offset, UINT64_MAX),
        FIELD(writer_offset, UINT64_MAX - 127),
        FIELD(readers_offset, 0),
        FIELD(readers_offset, 384),
        FIELD(readers_offset, 520),
        FIELD(readers_offset, UINT64_MAX - 127),
        FIELD(data_offset, 0),
        FIELD(data_offset, 896),
        FIELD(data_offset, 1032),
        FIELD(data_offset, 1152),
        FIELD(data_offset, UINT64_MAX - 127),
        FIELD(data_offset, UINT64_MAX - 4095),
        FIELD(byte_order, 0),
        FIELD(byte_order, 0x04030201),
        FIELD(line_bytes, 0),
        FIELD(line_bytes, 64),
        FIELD(id, 0),
        /* valid by themselves, too large for this segment */
        {"data_offset", offsetof(asp_ring_header, capacity), 8, 8192},
        {"data_offset", offsetof(asp_ring_header, capacity), 8, ASP_RING_MAX_CAPACITY},
        {"data_offset", offsetof(asp_ring_header, max_readers), 4, 5},
        {"readers_offset", offsetof(asp_ring_header, max_readers), 4, 1024},
        {"data_offset", offsetof(asp_ring_header, total_bytes), 8, 5183},
        {"writer_offset", offsetof(asp_ring_header, total_bytes), 8, 511},
        {"readers_offset", offsetof(asp_ring_header, total_bytes), 8, 1023},
    };
    bench b;
    set_up(&b, ASP_OVERFLOW_BLOCK);
    CHECK_U64(b.bytes, 5184);
    asp_ring ring;
    char why[256];
    for (unsigned i = 0; i < sizeof all / sizeof all[0]; i++) {
        uint8_t *field = (uint8_t *)b.memory + all[i].offset;
        uint64_t saved = 0;
        const uint32_t narrow = (uint32_t)all[i].value;
        memcpy(&saved, field, all[i].size);
        memcpy(field, all[i].size == 4 ? (const void *)&narrow : (const void *)&all[i].value,
               all[i].size);
        why[0] = 0;
        const asp_status status = asp_ring_open(b.memory, b.bytes, &ring, why, sizeof why);
        CHECK_SAY(status == ASP_E_LAYOUT && strstr(why, all[i].named) != NULL,
                  "%s set to %" PRIu64 ": status %d, why: %s", all[i].named, all[i].value,
                  (int)status, why);
        memcpy(field, &saved, all[i].size);
    }
    open_bench(&b);
    /* every truncation; a length of 0 for `why` is allowed */
    for (uint64_t bytes = 0; bytes < b.bytes; bytes++) {
        CHECK_STATUS(asp_ring_open(b.memory, bytes, &ring, why, sizeof why), ASP_E_LAYOUT);
        CHECK_STATUS(asp_ring_open(b.memory, bytes, &ring, NULL, 0), ASP_E_LAYOUT);
    }
    tear_down(&b);
}

static void corrupt_records(void) {
    const struct {
        const char *what;
        asp_record record; /* at position 4032, where the area has 64 bytes left */
    } all[] = {
        {"position", {.position = 0, .sequence = 1, .length = 10, .kind = ASP_RECORD_DATA}},
        {"position", {.position = 4033, .sequence = 1, .length = 10, .kind = ASP_RECORD_DATA}},
        {"sequence back", {.position = 4032, .sequence = 0, .length = 10, .kind = ASP_RECORD_DATA}},
        {"sequence", {.position = 4032, .sequence = 64, .length = 10, .kind = ASP_RECORD_DATA}},
        {"sequence", {.position = 4032, .sequence = UINT64_MAX, .kind = ASP_RECORD_DATA}},
        {"kind", {.position = 4032, .sequence = 1, .length = 10, .kind = 0}},
        {"kind", {.position = 4032, .sequence = 1, .length = 10, .kind = 4}},
        {"kind", {.position = 4032, .sequence = 1, .length = 10, .kind = 0x101}},
        {"format", {.position = 4032, .sequence = 1, .length = 10, .kind = ASP_RECORD_DATA, .format = 4}},
        {"length of large", {.position = 4032, .sequence = 1, .length = 7, .kind = ASP_RECORD_LARGE}},
        {"length of large", {.position = 4032, .sequence = 1, .length = 9, .kind = ASP_RECORD_LARGE}},
        {"pad's format", {.position = 4032, .sequence = 1, .kind = ASP_RECORD_PAD, .format = 1}},
        {"past head", {.position = 4032, .sequence = 1, .length = 33, .kind = ASP_RECORD_DATA}},
        {"past the area", {.position = 4032, .sequence = 1, .length = 97, .kind = ASP_RECORD_DATA}},
        {"max_message", {.position = 4032, .sequence = 1, .length = 2049, .kind = ASP_RECORD_DATA}},
        {"max_message",
         {.position = 4032, .sequence = 1, .length = UINT32_MAX, .kind = ASP_RECORD_DATA}},
        {"pad with length", {.position = 4032, .sequence = 1, .length = 1, .kind = ASP_RECORD_PAD}},
        {"pad's sequence", {.position = 4032, .sequence = 64, .length = 0, .kind = ASP_RECORD_PAD}},
    };
    for (unsigned i = 0; i < sizeof all / sizeof all[0]; i++) {
        for (int mode = 0; mode < 2; mode++) {
            bench b;
            asp_ring_reader reader;
            const void *payload;
            uint32_t length;
            set_up_at(&b, (asp_overflow)mode, 4032 - 64);
            join(&b, &reader, 0);
            send_ready(&b, 0, 10);
            expect(&reader, 0, 10);
            send_ready(&b, 1, 10);
            memcpy(b.ring.data + 4032, &all[i].record, sizeof(asp_record));
            const uint64_t cursor = reader.cursor;
            for (unsigned again = 0; again < 2; again++) {
                const asp_status status = copy(&reader);
                CHECK_SAY(status == ASP_E_LAYOUT, "%s, mode %d: status %d", all[i].what, mode,
                          (int)status);
                CHECK_STATUS(peek_bytes(&reader, &length), ASP_E_LAYOUT);
                if (mode == ASP_OVERFLOW_BLOCK) {
                    CHECK_STATUS(acquire_bytes(&reader, &payload, &length), ASP_E_LAYOUT);
                }
            }
            CHECK_U64(reader.cursor, cursor);
            tear_down(&b);
        }
    }
}

/* Each of these is wrong in one respect only, so that no other check stands in for the one meant:
 * the record, or what stores it, fits in all others. */
static void wrong_in_one_respect(void) {
    const uint64_t at = 4096, closed_odd = ASP_HEAD_CLOSED | ASP_HEAD_ODD;
    const struct {
        const char *what;
        uint64_t start; /* position of the reader and of the record */
        uint64_t head, tail;
        uint64_t sequence; /* of the record */
        uint32_t length;
        asp_status block, drop_oldest;
    } all[] = {
        {"nothing wrong", at, at + 128, 0, 0, 10, ASP_READY, ASP_READY},
        {"nothing wrong", at, at + 4096, 0, 0, 2048, ASP_READY, ASP_READY},
        {"nothing wrong", at - 64, at + 64, 0, 0, 96, ASP_READY, ASP_READY},
        {"nothing wrong", at, (at + 64) | closed_odd, 0, 0, 10, ASP_READY, ASP_READY},
        {"above max_message", at, at + 4096, 0, 0, 2049, ASP_E_LAYOUT, ASP_E_LAYOUT},
        {"over the end of the area", at - 64, at + 4032, 0, 0, 97, ASP_E_LAYOUT, ASP_E_LAYOUT},
        {"over the end, short", at - 128, at + 128, 0, 0, 161, ASP_E_LAYOUT, ASP_E_LAYOUT},
        {"a message is missing", at, at + 64, 0, 1, 10, ASP_E_LAYOUT, ASP_LAGGED},
        {"head behind the reader", at, at - 64, 0, 0, 10, ASP_E_LAYOUT, ASP_E_LAYOUT},
        {"head overran the reader", at, at + 4096 + 64, 0, 0, 10, ASP_E_LAYOUT, ASP_READY},
        {"head with a flag too many", at, (at + 64) | 4, 0, 0, 10, ASP_E_LAYOUT, ASP_E_LAYOUT},
        {"tail ahead of head", at, at + 64, at + 128, 0, 10, ASP_READY, ASP_E_LAYOUT},
    };
    for (unsigned i = 0; i < sizeof all / sizeof all[0]; i++) {
        for (int mode = 0; mode < 2; mode++) {
            bench b;
            asp_ring_reader reader;
            set_up_at(&b, (asp_overflow)mode, all[i].start);
            join(&b, &reader, 0);
            const asp_record record = {.position = all[i].start,
                                       .sequence = all[i].sequence,
                                       .length = all[i].length,
                                       .kind = ASP_RECORD_DATA};
            memcpy(b.ring.data + (all[i].start & (CAPACITY - 1)), &record, sizeof record);
            if (all[i].tail) { /* there is one too */
                asp_record next = record;
                next.position = all[i].tail;
                next.sequence++;
                memcpy(b.ring.data + (all[i].tail & (CAPACITY - 1)), &next, sizeof next);
            }
            b.ring.control->writer.head = all[i].head;
            b.ring.control->writer.tail = all[i].tail;
            uint8_t data[CAPACITY];
            uint32_t length;
            const asp_status expected = mode ? all[i].drop_oldest : all[i].block;
            const asp_status status = asp_ring_copy(&reader, data, sizeof data, &length);
            CHECK_SAY(status == expected, "%s, mode %d: status %d, expected %d", all[i].what, mode,
                      (int)status, (int)expected);
            CHECK(status != ASP_READY || length == all[i].length);
            tear_down(&b);
        }
    }
}

static void corrupt_pads(void) {
    bench b;
    asp_ring_reader reader;
    /* longer than any pad: it could be followed by another, and so on */
    set_up(&b, ASP_OVERFLOW_BLOCK);
    join(&b, &reader, 0);
    send_ready(&b, 0, MAX_MESSAGE);
    asp_record *record = (asp_record *)(void *)b.ring.data;
    *record = (asp_record){.position = 0, .kind = ASP_RECORD_PAD};
    b.ring.control->writer.head = CAPACITY;
    CHECK_STATUS(copy(&reader), ASP_E_LAYOUT);
    tear_down(&b);

    /* one that ends after head */
    set_up_at(&b, ASP_OVERFLOW_BLOCK, 3072);
    join(&b, &reader, 0);
    send_ready(&b, 0, 10);
    record = (asp_record *)(void *)(b.ring.data + 3072);
    *record = (asp_record){.position = 3072, .kind = ASP_RECORD_PAD};
    CHECK_STATUS(copy(&reader), ASP_E_LAYOUT);
    /* one published by itself is fine: there is just nothing after it yet */
    b.ring.control->writer.head = CAPACITY;
    CHECK_STATUS(copy(&reader), ASP_E_LAYOUT); /* not seen yet: that head was loaded before */
    asp_ring_leave(&reader);
    b.ring.control->writer = (asp_ring_writer_line){.head = 3072};
    join(&b, &reader, 0);
    b.ring.control->writer.head = CAPACITY;
    CHECK_STATUS(copy(&reader), ASP_WOULD_BLOCK);
    CHECK_U64(b.ring.readers[0].cursor, CAPACITY);
    tear_down(&b);
}

static void corrupt_heads(void) {
    for (int mode = 0; mode < 2; mode++) {
        const struct {
            uint64_t head;
            bool lossy_too; /* in drop_oldest mode a reader may be any distance behind */
        } all[] = {
            {4096 + 64 + 4, true},          /* a flag that does not exist */
            {4096 + 64 + 32, true},
            {UINT64_MAX, true},
            {4096 - 64, true},              /* went back */
            {0, true},
            {4096 + 4096 + 64, false},      /* overran this reader */
            {UINT64_MAX & ~UINT64_C(63), false},
        };
        for (unsigned i = 0; i < sizeof all / sizeof all[0]; i++) {
            bench b;
            asp_ring_reader reader;
            set_up_at(&b, (asp_overflow)mode, 4096);
            join(&b, &reader, 0);
            b.ring.control->writer.head = all[i].head;
            CHECK(look(&reader.watch));
            CHECK_STATUS(copy(&reader), ASP_E_LAYOUT); /* the last two: there is no such record */
            CHECK_U64(reader.cursor, 4096);
            if (all[i].lossy_too) {
                asp_ring_reader other;
                asp_ring_writer other_writer;
                const bool flags = (all[i].head & 60) != 0;
                CHECK_STATUS(asp_ring_join(&other, &b.ring, 1, PID),
                             flags ? ASP_E_LAYOUT : ASP_READY);
                CHECK_U64(b.ring.readers[1].state, flags ? ASP_READER_FREE : ASP_READER_ACTIVE);
                if (flags) {
                    CHECK_STATUS(asp_ring_writer_init(&other_writer, &b.ring), ASP_E_LAYOUT);
                }
            }
            tear_down(&b);
        }
        /* a sequence that cannot be, at join, for a second writer, and at the end */
        bench b;
        asp_ring_reader reader, other;
        asp_ring_writer other_writer;
        set_up(&b, (asp_overflow)mode);
        join(&b, &reader, 0);
        b.ring.control->writer.sequence = 1000;
        CHECK_STATUS(asp_ring_join(&other, &b.ring, 1, PID), ASP_E_LAYOUT);
        CHECK_STATUS(asp_ring_writer_init(&other_writer, &b.ring), ASP_E_LAYOUT);
        asp_ring_writer_close(&b.writer);
        CHECK_STATUS(copy(&reader), ASP_E_LAYOUT);
        tear_down(&b);
    }
}

static void corrupt_tails(void) {
    const uint64_t all[] = {64 + 1, CAPACITY * 2, UINT64_MAX, UINT64_MAX & ~UINT64_C(63)};
    for (unsigned i = 0; i < sizeof all / sizeof all[0]; i++) {
        bench b;
        asp_ring_reader reader;
        asp_ring_writer other;
        set_up(&b, ASP_OVERFLOW_DROP_OLDEST);
        join(&b, &reader, 0);
        send_ready(&b, 0, 10);
        send_ready(&b, 1, 10);
        b.ring.control->writer.tail = all[i];
        CHECK_STATUS(copy(&reader), ASP_E_LAYOUT);
        CHECK_STATUS(asp_ring_writer_init(&other, &b.ring), ASP_E_LAYOUT);
        tear_down(&b);
    }
    /* into the middle of a message: what is there is no record */
    bench b;
    asp_ring_reader reader;
    set_up(&b, ASP_OVERFLOW_DROP_OLDEST);
    join(&b, &reader, 0);
    send_ready(&b, 0, 1000);
    b.ring.control->writer.tail = 256;
    CHECK_STATUS(copy(&reader), ASP_E_LAYOUT);
    tear_down(&b);

    /* the writer walks its records, and does not believe them either */
    const struct {
        size_t offset;
        uint32_t value;
    } bad[] = {{offsetof(asp_record, position), 64},
               {offsetof(asp_record, length), 1}, /* to the middle of it */
               {offsetof(asp_record, length), UINT32_MAX},
               {offsetof(asp_record, kind), 0},
               {offsetof(asp_record, kind), ASP_RECORD_PAD}};
    for (unsigned i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        set_up(&b, ASP_OVERFLOW_DROP_OLDEST);
        for (uint64_t n = 0; n < CAPACITY / 192; n++) {
            send_ready(&b, n, 100);
        }
        const uint64_t tail = b.ring.control->writer.tail;
        const uint64_t head = b.ring.control->writer.head;
        uint8_t *oldest = b.ring.data + (tail & (CAPACITY - 1));
        memcpy(oldest + bad[i].offset, &bad[i].value, 4);
        CHECK_STATUS(send(&b, 0, MAX_MESSAGE), ASP_E_LAYOUT);
        CHECK(b.writer.suspect == -1);
        CHECK_U64(b.ring.control->writer.tail, tail);
        CHECK_U64(b.ring.control->writer.head, head);
        tear_down(&b);
    }
}

static void misbehaving_readers(void) {
    const struct {
        const char *what;
        uint64_t cursor;
        uint32_t state;
    } all[] = {
        {"ahead of head", 8192 + 64, ASP_READER_ACTIVE},
        {"far ahead", UINT64_MAX & ~UINT64_C(63), ASP_READER_ACTIVE},
        {"further back than the capacity", 8192 - 4096 - 64, ASP_READER_ACTIVE},
        {"at 0", 0, ASP_READER_ACTIVE},
        {"no position", 8192 - 2, ASP_READER_ACTIVE},
        {"joining ahead of head", (8192 + 64) | ASP_CURSOR_JOINING, ASP_READER_ACTIVE},
        {"no state", 8192, 2},
    };
    for (unsigned i = 0; i < sizeof all / sizeof all[0]; i++) {
        bench b;
        asp_ring_reader healthy;
        set_up_at(&b, ASP_OVERFLOW_BLOCK, 8192);
        join(&b, &healthy, 1);
        b.ring.readers[2].cursor = all[i].cursor;
        b.ring.readers[2].state = all[i].state;
        b.writer.limit = b.writer.head; /* ask now */
        const asp_status status = send(&b, 0, 10);
        CHECK_SAY(status == ASP_E_LAYOUT && b.writer.suspect == 2, "%s: status %d, suspect %d",
                  all[i].what, (int)status, (int)b.writer.suspect);
        CHECK(look(&b.writer.watch)); /* does not wait for it: the claim says so again */
        CHECK_STATUS(copy(&healthy), ASP_WOULD_BLOCK);
        asp_ring_evict(&b.ring, 2);
        send_ready(&b, 0, 10);
        expect(&healthy, 0, 10);
        tear_down(&b);
    }
    /* one that is just joining may be any distance behind: wait a moment, no fault */
    bench b;
    set_up_at(&b, ASP_OVERFLOW_BLOCK, 8192);
    b.ring.readers[2].cursor = ASP_CURSOR_JOINING;
    b.ring.readers[2].state = ASP_READER_ACTIVE;
    CHECK_STATUS(send(&b, 0, 10), ASP_WOULD_BLOCK);
    CHECK(!look(&b.writer.watch));
    b.ring.readers[2].cursor = 8192;
    CHECK(look(&b.writer.watch));
    send_ready(&b, 0, 10);
    tear_down(&b);
}

/* A peer that scribbles behind the header while both ends work. Whatever they find, they come back,
 * and they write nowhere but in the segment (the guards, and AddressSanitizer, know). */
static void scribbles(void) {
    uint64_t seed = 7;
    for (unsigned round = 0; round < 4000; round++) {
        bench b;
        asp_ring_reader reader;
        set_up_at(&b, (asp_overflow)(round & 1), round % 64 * 64);
        join(&b, &reader, 0);
        uint8_t *segment = b.memory;
        const uint64_t control = ASP_RING_LINE, data = (uint64_t)(b.ring.data - segment);
        for (unsigned step = 0; step < 100; step++) {
            const uint64_t dice = random_u64(&seed);
            uint8_t to[MAX_MESSAGE];
            uint32_t length;
            switch (dice % 8) {
            case 0: /* one byte of the positions and slots, or of the first words of a record */
                segment[control + (dice >> 8) % (data - control)] = (uint8_t)(dice >> 56);
                break;
            case 1:
                segment[data + (dice >> 8) % (CAPACITY / 64) * 64 + (dice >> 32) % 32] =
                    (uint8_t)(dice >> 56);
                break;
            case 2: case 3: case 4: send(&b, step, (dice >> 8) % (MAX_MESSAGE / 4)); break;
            case 5: send(&b, step, MAX_MESSAGE); break;
            default:
                if (asp_ring_copy(&reader, to, sizeof to, &length) == ASP_READY) {
                    CHECK(length <= MAX_MESSAGE);
                }
            }
        }
        asp_ring_writer_close(&b.writer);
        asp_ring_leave(&reader);
        tear_down(&b);
    }
}

int main(void) {
    corrupt_headers();
    corrupt_records();
    wrong_in_one_respect();
    corrupt_pads();
    corrupt_heads();
    corrupt_tails();
    misbehaving_readers();
    scribbles();
    return 0;
}
