/* test_broadcast_header.c - csrc/include/aiospin/broadcast.h: its writer against its readers, and
 * both against the core, in threads and in processes that are killed.
 *
 * ThreadSanitizer tells two mappings of one file apart, so the threads of the stress test share the
 * writer's. */
#include "aiospin/broadcast.h"

#include <dirent.h>
#include <inttypes.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/wait.h>

#include "check.h"
#include "ring.h"

#define CAPACITY 4096u
#define MAX_MESSAGE (CAPACITY / 2)
#define LARGE (3 * CAPACITY)
#define PATIENCE_NS INT64_C(30000000000)
#define MS_NS INT64_C(1000000)

#define CHECK_STATUS(expression, expected)                                                         \
    do {                                                                                           \
        const aiospin_status got_ = (expression);                                                  \
        CHECK_SAY(got_ == (expected), "%s is '%s'", #expression, aiospin_strerror(got_));          \
    } while (0)

#define CHECK_U64(a, b)                                                                            \
    do {                                                                                           \
        const uint64_t a_ = (a), b_ = (b);                                                         \
        CHECK_SAY(a_ == b_, "%s is %" PRIu64 ", expected %" PRIu64, #a, a_, b_);                   \
    } while (0)

/* The header says the same bytes as the core. */
#define SAME(ours, field, theirs, other)                                                           \
    _Static_assert(offsetof(ours, field) == offsetof(theirs, other), #ours "." #field)
SAME(asph_header, capacity, asp_ring_header, capacity);
SAME(asph_header, data_offset, asp_ring_header, data_offset);
SAME(asph_header, line_bytes, asp_ring_header, line_bytes);
SAME(asph_header, id, asp_ring_header, id);
SAME(asph_control, tail, asp_ring_control, writer.tail);
SAME(asph_control, sequence, asp_ring_control, writer.sequence);
SAME(asph_control, readable, asp_ring_control, readable.word);
SAME(asph_control, writable, asp_ring_control, writable.word);
SAME(asph_control, notified_ns, asp_ring_control, writable.notified_ns);
SAME(asph_slot, sequence, asp_ring_reader_line, sequence);
SAME(asph_slot, bell, asp_ring_reader_line, bell);
SAME(asph_slot, parked, asp_ring_reader_line, parked);
SAME(asph_record, length, asp_record, length);
SAME(asph_record, format, asp_record, format);
_Static_assert(sizeof(asph_header) == sizeof(asp_ring_header), "header");
_Static_assert(ASPH_MAGIC == ASP_RING_MAGIC && ASPH_VERSION == ASP_RING_VERSION, "version");

static char name[AIOSPIN_MAX_NAME + 1]; /* of the broadcast of the running test */
static aiospin_writer writer;

static void open_writer(aiospin_overflow overflow, uint32_t max_readers) {
    static unsigned count;
    const aiospin_options options = {
        .capacity = CAPACITY, .max_readers = max_readers, .overflow = overflow};
    snprintf(name, sizeof name, "test-header-%d-%u", (int)getpid(), count++);
    const aiospin_status status = aiospin_writer_create(&writer, name, &options);
    CHECK_SAY(status == AIOSPIN_OK, "%s", writer.segment.why);
}

static void attach(aiospin_reader *reader) {
    const aiospin_status status = aiospin_reader_attach(reader, name);
    CHECK_SAY(status == AIOSPIN_OK, "%s: %s", aiospin_strerror(status), reader->segment.why);
}

/* Files of this broadcast in the folder whose name has this in it. */
static unsigned files(const char *part) {
    char prefix[300];
    unsigned found = 0;
    DIR *folder = opendir(AIOSPIN_FOLDER);
    CHECK(folder != NULL);
    snprintf(prefix, sizeof prefix, "aiospin-%s", name);
    for (const struct dirent *entry; (entry = readdir(folder)) != NULL;) {
        const size_t length = strlen(prefix);
        found += strncmp(entry->d_name, prefix, length) == 0 &&
                 (entry->d_name[length] == 0 || entry->d_name[length] == '+') &&
                 strstr(entry->d_name + length, part) != NULL;
    }
    closedir(folder);
    return found;
}

static void companion(char *path, const char *kind, unsigned number) {
    asph_companion(path, name, writer.segment.id, "%s-%u", kind, number);
}

/* Byte i of message n. */
static uint8_t byte_of(uint64_t n, uint64_t i) { return (uint8_t)(n * 31 + i * 7 + (i >> 8)); }

static void fill(uint8_t *to, uint64_t n, uint64_t length) {
    for (uint64_t i = 0; i < length; i++) to[i] = byte_of(n, i);
}

static bool holds(const void *data, uint64_t n, uint64_t length) {
    for (uint64_t i = 0; i < length; i++) {
        if (((const uint8_t *)data)[i] != byte_of(n, i)) return false;
    }
    return true;
}

static uint8_t buffer[4 * LARGE];

static aiospin_status send_at(uint64_t n, uint64_t length, int64_t timeout_ns) {
    static uint8_t data[4 * LARGE];
    fill(data, n, length);
    return aiospin_writer_send(&writer, data, length, timeout_ns);
}

static void send(uint64_t n, uint64_t length) { CHECK_STATUS(send_at(n, length, 0), AIOSPIN_OK); }

static aiospin_status copy(aiospin_reader *reader) {
    aiospin_message message;
    return aiospin_reader_copy(reader, buffer, sizeof buffer, &message, 0);
}

static void expect(aiospin_reader *reader, uint64_t n, uint64_t length) {
    aiospin_message message;
    memset(buffer, 0, sizeof buffer);
    CHECK_STATUS(aiospin_reader_copy(reader, buffer, sizeof buffer, &message, 0), AIOSPIN_OK);
    CHECK_U64(message.sequence, n);
    CHECK_U64(message.length, length);
    CHECK(message.published_ns != 0 && message.published_ns <= asph_now_ns());
    CHECK(holds(buffer, n, length));
}

/* ---- one process, one thread ---- */

static void test_every_length(void) {
    for (aiospin_overflow overflow = AIOSPIN_BLOCK; overflow <= AIOSPIN_DROP_OLDEST; overflow++) {
        aiospin_reader readers[2];
        open_writer(overflow, 2);
        attach(&readers[0]);
        attach(&readers[1]);
        for (uint64_t n = 0; n <= MAX_MESSAGE; n++) {
            send(n, n);
            expect(&readers[0], n, n);
            expect(&readers[1], n, n);
            CHECK_STATUS(copy(&readers[0]), AIOSPIN_TIMED_OUT);
        }
        CHECK_U64(aiospin_writer_readers(&writer), 2);
        aiospin_writer_close(&writer);
        CHECK_STATUS(copy(&readers[0]), AIOSPIN_END);
        CHECK_STATUS(copy(&readers[0]), AIOSPIN_END);
        aiospin_reader_close(&readers[0]);
        aiospin_reader_close(&readers[1]);
        CHECK_STATUS(copy(&readers[0]), AIOSPIN_INVALID);
        CHECK_U64(files(""), 0);
    }
}

static void test_in_place(void) {
    aiospin_reader reader;
    aiospin_message message;
    void *payload;
    open_writer(AIOSPIN_BLOCK, 1);
    attach(&reader);
    CHECK_STATUS(aiospin_writer_publish(&writer, 0), AIOSPIN_INVALID);
    CHECK_STATUS(aiospin_writer_claim(&writer, 100, 0, &payload), AIOSPIN_OK);
    CHECK((uintptr_t)payload % 32 == 0);
    CHECK_STATUS(aiospin_writer_try_send(&writer, "x", 1), AIOSPIN_BUSY);
    aiospin_writer_abandon(&writer);
    CHECK_STATUS(copy(&reader), AIOSPIN_TIMED_OUT);

    CHECK_STATUS(aiospin_writer_claim(&writer, 100, 0, &payload), AIOSPIN_OK);
    fill(payload, 0, 40);
    CHECK_STATUS(aiospin_writer_publish(&writer, 200), AIOSPIN_INVALID);
    writer.format = AIOSPIN_CODEC;
    CHECK_STATUS(aiospin_writer_publish(&writer, 40), AIOSPIN_OK);
    CHECK_STATUS(aiospin_reader_acquire(&reader, &message, 0), AIOSPIN_OK);
    CHECK_U64(message.length, 40);
    CHECK_U64(message.format, AIOSPIN_CODEC);
    CHECK((uintptr_t)message.data % 32 == 0 && holds(message.data, 0, 40));
    CHECK_STATUS(aiospin_reader_acquire(&reader, &message, 0), AIOSPIN_BUSY);
    CHECK_STATUS(copy(&reader), AIOSPIN_BUSY);
    CHECK_U64(aiospin_reader_lag(&reader), 0);
    aiospin_reader_release(&reader);
    CHECK_STATUS(aiospin_reader_acquire(&reader, &message, 0), AIOSPIN_TIMED_OUT);

    send(1, 33);
    CHECK_STATUS(aiospin_reader_copy(&reader, buffer, 32, &message, 0), AIOSPIN_TOO_SMALL);
    CHECK_U64(message.length, 33);
    CHECK_U64(aiospin_reader_lag(&reader), 1);
    expect(&reader, 1, 33);
    aiospin_reader_close(&reader);
    aiospin_writer_close(&writer);
}

static void test_batches(void) {
    aiospin_reader reader;
    aiospin_message messages[128];
    aiospin_bytes parts[100];
    uint8_t data[100];
    size_t count;
    open_writer(AIOSPIN_BLOCK, 1);
    attach(&reader);
    for (unsigned i = 0; i < 100; i++) {
        data[i] = (uint8_t)i;
        parts[i] = (aiospin_bytes){&data[i], 1};
    }
    uint64_t n = 0;
    for (unsigned round = 0; round < 5; round++) {
        size_t sent;
        /* a record of 64 bytes each: 64 of them fill the ring */
        CHECK_STATUS(aiospin_writer_send_many(&writer, parts, 100, 0, &sent), AIOSPIN_TIMED_OUT);
        CHECK_U64(sent, CAPACITY / 64);
        CHECK_STATUS(aiospin_reader_acquire_many(&reader, messages, 10, &count, 0), AIOSPIN_OK);
        CHECK_U64(count, 10);
        CHECK_STATUS(aiospin_writer_try_send(&writer, "x", 1), AIOSPIN_TIMED_OUT);
        for (unsigned i = 0; i < 10; i++) CHECK_U64(messages[i].sequence, n++);
        aiospin_reader_release(&reader);
        CHECK_STATUS(aiospin_writer_send_many(&writer, parts, 10, 0, &sent), AIOSPIN_OK);
        CHECK_U64(sent, 10);
        CHECK_STATUS(aiospin_reader_acquire_many(&reader, messages, 128, &count, 0), AIOSPIN_OK);
        CHECK_U64(count, CAPACITY / 64);
        for (unsigned i = 0; i < count; i++) {
            CHECK_U64(messages[i].sequence, n++);
            CHECK(*(const uint8_t *)messages[i].data ==
                  (i < count - 10 ? i + 10 : i - (count - 10)));
        }
        aiospin_reader_release(&reader);
    }
    aiospin_reader_close(&reader);
    aiospin_writer_close(&writer);
}

static void test_full_and_empty(void) {
    aiospin_reader reader;
    aiospin_reader_state state;
    uint64_t n = 0;
    open_writer(AIOSPIN_BLOCK, 4);
    CHECK(!aiospin_writer_slowest(&writer, &state));
    CHECK_STATUS(aiospin_writer_wait_for_readers(&writer, 1, 0), AIOSPIN_TIMED_OUT);
    CHECK_STATUS(aiospin_writer_wait_for_readers(&writer, 5, 0), AIOSPIN_INVALID);
    for (; n < 100; n++) send(n, 200); /* nobody is there to wait for */
    attach(&reader);
    CHECK_STATUS(aiospin_writer_wait_for_readers(&writer, 1, 0), AIOSPIN_OK);
    CHECK_STATUS(copy(&reader), AIOSPIN_TIMED_OUT);
    while (send_at(n, 200, 0) == AIOSPIN_OK) n++;
    const uint64_t before = asph_now_ns();
    CHECK_STATUS(send_at(n, 200, 5 * MS_NS), AIOSPIN_TIMED_OUT);
    CHECK(asph_now_ns() - before >= 5 * (uint64_t)MS_NS);
    CHECK(aiospin_writer_slowest(&writer, &state));
    CHECK_U64(state.slot, 0);
    CHECK_U64(state.pid, (uint64_t)getpid());
    CHECK(state.lag > CAPACITY - 512 && state.lag <= CAPACITY);
    CHECK_U64(aiospin_reader_lag(&reader), n - 100);
    for (uint64_t i = 100; i < n; i++) expect(&reader, i, 200);
    CHECK_STATUS(aiospin_reader_wait(&reader, 5 * MS_NS), AIOSPIN_TIMED_OUT);
    send(n, 200);
    CHECK_STATUS(aiospin_reader_wait(&reader, 0), AIOSPIN_OK);
    aiospin_reader_close(&reader);
    for (uint64_t i = 0; i < 100; i++) send(n + 1 + i, 200); /* who left holds nobody up */
    aiospin_writer_close(&writer);
    CHECK_STATUS(aiospin_writer_try_send(&writer, "x", 1), AIOSPIN_INVALID);
}

static void test_lagged_exactly(void) {
    aiospin_reader reader;
    aiospin_message message;
    open_writer(AIOSPIN_DROP_OLDEST, 1);
    attach(&reader);
    CHECK_STATUS(aiospin_reader_acquire(&reader, &message, 0), AIOSPIN_INVALID);
    uint64_t n = 0, expected = 0, lost = 0;
    for (unsigned round = 1; round < 60; round++) {
        for (unsigned i = 0; i < round * 3; i++, n++) send(n, n * 53 % (MAX_MESSAGE + 1));
        for (;;) {
            const aiospin_status status = copy(&reader);
            if (status == AIOSPIN_TIMED_OUT) break;
            if (status == AIOSPIN_LAGGED) {
                CHECK(reader.skipped > 0);
                expected += reader.skipped;
                lost += reader.skipped;
                continue;
            }
            CHECK_STATUS(status, AIOSPIN_OK);
            CHECK(holds(buffer, expected, expected * 53 % (MAX_MESSAGE + 1)));
            expected++;
        }
        CHECK_U64(expected, n);
    }
    CHECK(lost > 0);
    /* what was lost before the end is told too */
    for (unsigned i = 0; i < 1000; i++, n++) send(n, 100);
    aiospin_writer_close(&writer);
    CHECK_STATUS(copy(&reader), AIOSPIN_LAGGED);
    expected += reader.skipped;
    while (copy(&reader) == AIOSPIN_OK) expected++;
    CHECK_U64(expected, n);
    CHECK_STATUS(copy(&reader), AIOSPIN_END);
    aiospin_reader_close(&reader);
}

static void test_large(void) {
    for (aiospin_overflow overflow = AIOSPIN_BLOCK; overflow <= AIOSPIN_DROP_OLDEST; overflow++) {
        aiospin_reader readers[2];
        aiospin_message message;
        void *payload;
        open_writer(overflow, 2);
        attach(&readers[0]);
        attach(&readers[1]);
        send(0, LARGE);
        send(1, 10);
        send(2, MAX_MESSAGE + 1);
        CHECK_U64(files(".message-"), 2);
        CHECK_STATUS(aiospin_reader_copy(&readers[0], buffer, LARGE - 1, &message, 0),
                     AIOSPIN_TOO_SMALL);
        CHECK_U64(message.length, LARGE);
        expect(&readers[0], 0, LARGE);
        CHECK_U64(files(".message-"), 2);
        if (overflow == AIOSPIN_BLOCK) {
            CHECK_STATUS(aiospin_reader_acquire(&readers[1], &message, 0), AIOSPIN_OK);
            CHECK_U64(message.length, LARGE);
            CHECK((uintptr_t)message.data % 32 == 0 && holds(message.data, 0, LARGE));
            aiospin_reader_release(&readers[1]);
        } else {
            expect(&readers[1], 0, LARGE);
        }
        CHECK_U64(files(".message-"), 1); /* the last reader is past it */
        for (unsigned i = 0; i < 2; i++) {
            expect(&readers[i], 1, 10);
            expect(&readers[i], 2, MAX_MESSAGE + 1);
        }
        CHECK_U64(files(".message-"), 0);

        CHECK_STATUS(aiospin_writer_claim(&writer, LARGE, 0, &payload), AIOSPIN_OK);
        CHECK_U64(files(".message-"), 1);
        aiospin_writer_abandon(&writer);
        CHECK_U64(files(".message-"), 0);
        CHECK_STATUS(aiospin_writer_claim(&writer, LARGE, 0, &payload), AIOSPIN_OK);
        fill(payload, 3, LARGE);
        CHECK_STATUS(aiospin_writer_publish(&writer, MAX_MESSAGE), AIOSPIN_INVALID);
        CHECK_STATUS(aiospin_writer_publish(&writer, LARGE - 5), AIOSPIN_OK);
        expect(&readers[0], 3, LARGE - 5);
        aiospin_reader_close(&readers[1]);
        send(4, 0); /* a writer that publishes removes what nobody waits for */
        CHECK_U64(files(".message-"), 0);
        aiospin_reader_close(&readers[0]);

        for (uint64_t n = 5; n < 1000; n++) send(n, n % 3 ? 10 : LARGE); /* nobody reads */
        CHECK_U64(files(".message-"), 0);
        aiospin_writer_close(&writer);
        CHECK_U64(files(""), 0);
    }
}

static void test_large_and_lagging(void) {
    aiospin_reader reader;
    open_writer(AIOSPIN_DROP_OLDEST, 1);
    attach(&reader);
    for (uint64_t n = 0; n < 300; n++) send(n, n % 2 ? 100 : LARGE);
    CHECK_U64(files(".message-"), 1); /* 4 * CAPACITY bytes of them may be unread */
    CHECK_STATUS(copy(&reader), AIOSPIN_LAGGED);
    for (uint64_t n = reader.skipped; n < 300; n++) expect(&reader, n, n % 2 ? 100 : LARGE);
    CHECK_U64(files(".message-"), 0);
    aiospin_reader_close(&reader);
    aiospin_writer_close(&writer);
    CHECK_U64(files(""), 0);
}

static void test_large_and_full(void) {
    aiospin_reader reader;
    open_writer(AIOSPIN_BLOCK, 1);
    attach(&reader);
    send(0, 2 * CAPACITY);
    send(1, 2 * CAPACITY);
    CHECK_STATUS(send_at(2, MAX_MESSAGE + 1, MS_NS), AIOSPIN_TIMED_OUT);
    send(2, 10); /* what lies in the ring has room */
    expect(&reader, 0, 2 * CAPACITY);
    send(3, 2 * CAPACITY);
    for (unsigned n = 1; n < 4; n++) expect(&reader, n, n == 2 ? 10 : 2 * CAPACITY);
    send(4, 8 * CAPACITY); /* a single one may be as large as it likes */
    expect(&reader, 4, 8 * CAPACITY);
    aiospin_reader_close(&reader);
    aiospin_writer_close(&writer);
}

static void test_large_outlive_the_writer(void) {
    for (aiospin_overflow overflow = AIOSPIN_BLOCK; overflow <= AIOSPIN_DROP_OLDEST; overflow++) {
        /* which of the two readers read before they leave */
        for (unsigned reads = 0; reads < 4; reads++) {
            aiospin_reader readers[2], late;
            open_writer(overflow, 3);
            attach(&readers[0]);
            attach(&readers[1]);
            send(0, 10);
            send(1, LARGE);
            aiospin_writer_close(&writer);
            CHECK_U64(files(".message-"), 1);
            CHECK_U64(files(".closed"), 1);
            CHECK_U64(files(""), 2);
            CHECK_STATUS(aiospin_reader_attach(&late, name), AIOSPIN_NOT_FOUND);
            for (unsigned i = 0; i < 2; i++) {
                if (reads & (1u << i)) {
                    expect(&readers[i], 0, 10);
                    expect(&readers[i], 1, LARGE);
                    CHECK_STATUS(copy(&readers[i]), AIOSPIN_END);
                }
                aiospin_reader_close(&readers[i]);
                CHECK_U64(files(".closed"), 1 - i);
            }
            CHECK_U64(files(""), 0);
        }
    }
}

static void test_names_and_limits(void) {
    aiospin_writer second;
    aiospin_reader readers[2], reader;
    aiospin_options options = {.capacity = 5000};
    static const char *const bad[] = {NULL, "", "a/b", ".a", "-a", "a b", "a+b"};
    char path[300];
    for (unsigned i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        CHECK_STATUS(aiospin_writer_create(&second, bad[i], NULL), AIOSPIN_INVALID);
        CHECK_STATUS(aiospin_reader_attach(&reader, bad[i]), AIOSPIN_INVALID);
    }
    open_writer(AIOSPIN_BLOCK, 2);
    CHECK_STATUS(aiospin_writer_create(&second, name, &options), AIOSPIN_EXISTS);
    CHECK_U64(files(""), 1);
    attach(&readers[0]);
    attach(&readers[1]);
    CHECK_U64(readers[1].slot, 1);
    CHECK_STATUS(aiospin_reader_attach(&reader, name), AIOSPIN_NO_SLOT);
    aiospin_reader_close(&readers[0]);
    attach(&readers[0]);
    CHECK_U64(readers[0].slot, 0);
    aiospin_reader_close(&readers[0]);
    aiospin_reader_close(&readers[0]);
    aiospin_reader_close(&readers[1]);
    aiospin_writer_close(&writer);
    aiospin_writer_close(&writer);
    CHECK_STATUS(aiospin_reader_attach(&reader, name), AIOSPIN_NOT_FOUND);

    CHECK_STATUS(aiospin_writer_create(&writer, name, &options), AIOSPIN_OK);
    CHECK_U64(writer.segment.capacity, 8192);
    struct stat found;
    snprintf(path, sizeof path, AIOSPIN_FOLDER "/aiospin-%s", name);
    CHECK(stat(path, &found) == 0 && (found.st_mode & 07777) == 0600);
    aiospin_writer_close(&writer);

    /* more than any memory has: refused before anything is written */
    options.capacity = AIOSPIN_MAX_CAPACITY;
    CHECK_STATUS(aiospin_writer_create(&second, name, &options), AIOSPIN_NO_MEMORY);
    CHECK_SAY(strstr(second.segment.why, "70368744") && strstr(second.segment.why, "free"), "%s",
              second.segment.why);
    options.capacity = AIOSPIN_MAX_CAPACITY + 1;
    CHECK_STATUS(aiospin_writer_create(&second, name, &options), AIOSPIN_INVALID);
    CHECK_U64(files(""), 0);

    void *payload;
    options.capacity = CAPACITY;
    CHECK_STATUS(aiospin_writer_create(&writer, name, &options), AIOSPIN_OK);
    CHECK_STATUS(aiospin_writer_claim(&writer, AIOSPIN_MAX_CAPACITY, 0, &payload),
                 AIOSPIN_NO_MEMORY);
    CHECK_U64(files(".message-"), 0);
    send(0, 10); /* no harm done */
    aiospin_writer_close(&writer);

    /* a file that is no broadcast is not removed for one */
    FILE *other = fopen(path, "w");
    CHECK(other && fputs("not ours", other) >= 0 && fclose(other) == 0);
    CHECK_STATUS(aiospin_writer_create(&second, name, NULL), AIOSPIN_EXISTS);
    CHECK(strstr(second.segment.why, "is no broadcast"));
    CHECK_U64(files(""), 1);
    CHECK(unlink(path) == 0);
    CHECK(symlink("/dev/null", path) == 0);
    CHECK_STATUS(aiospin_writer_create(&second, path + strlen(AIOSPIN_FOLDER "/aiospin-"), NULL),
                 AIOSPIN_EXISTS);
    CHECK_STATUS(aiospin_reader_attach(&reader, path + strlen(AIOSPIN_FOLDER "/aiospin-")),
                 AIOSPIN_LAYOUT);
    unlink(path);
}

/* ---- with the core ---- */

static void test_the_core_reads(void) {
    for (aiospin_overflow overflow = AIOSPIN_BLOCK; overflow <= AIOSPIN_DROP_OLDEST; overflow++) {
        asp_ring ring;
        asp_ring_reader theirs;
        aiospin_reader ours;
        char why[256];
        open_writer(overflow, 2);
        const asp_status opened =
            asp_ring_open(writer.segment.base, writer.segment.bytes, &ring, why, sizeof why);
        CHECK_SAY(opened == ASP_READY, "%s", why);
        CHECK_U64(ring.id, writer.segment.id);
        attach(&ours);
        CHECK(asp_ring_join(&theirs, &ring, 1, 4711) == ASP_READY);
        uint64_t lost = 0;
        for (uint64_t n = 0; n < 3000; n++) {
            send(n, n * 37 % (MAX_MESSAGE + 1));
            expect(&ours, n, n * 37 % (MAX_MESSAGE + 1));
            if (overflow == AIOSPIN_BLOCK || n % 300 > 280) {
                uint32_t length;
                asp_status status;
                while ((status = asp_ring_copy(&theirs, buffer, sizeof buffer, &length)) ==
                       ASP_LAGGED) {
                    lost += theirs.skipped;
                }
                while (status == ASP_READY && theirs.sequence <= n) {
                    CHECK(holds(buffer, theirs.sequence - 1, length));
                    status = asp_ring_copy(&theirs, buffer, sizeof buffer, &length);
                }
                CHECK(status == ASP_READY && holds(buffer, n, length));
            }
        }
        CHECK(overflow == AIOSPIN_BLOCK ? lost == 0 : lost > 0);
        aiospin_writer_close(&writer);
        aiospin_reader_close(&ours);
    }
}

static void test_the_core_writes(void) {
    for (asp_overflow overflow = ASP_OVERFLOW_BLOCK; overflow <= ASP_OVERFLOW_DROP_OLDEST;
         overflow++) {
        aiospin_reader reader;
        asp_ring ring;
        asp_ring_writer theirs;
        char why[256];
        open_writer((aiospin_overflow)overflow, 2); /* holds the lock; never writes */
        CHECK(asp_ring_open(writer.segment.base, writer.segment.bytes, &ring, why, sizeof why) ==
              ASP_READY);
        CHECK(asp_ring_writer_init(&theirs, &ring) == ASP_READY);
        attach(&reader);
        uint64_t expected = 0;
        for (uint64_t n = 0; n < 3000; n++) {
            static uint8_t data[MAX_MESSAGE];
            const uint64_t length = n * 41 % (MAX_MESSAGE + 1);
            fill(data, n, length);
            CHECK(asp_ring_send(&theirs, data, length, ASP_FORMAT_BYTES) == ASP_READY);
            if (overflow == ASP_OVERFLOW_BLOCK || n % 100 == 99) {
                aiospin_status status = copy(&reader);
                if (status == AIOSPIN_LAGGED) {
                    expected += reader.skipped;
                    status = copy(&reader);
                }
                for (; status == AIOSPIN_OK; status = copy(&reader)) {
                    CHECK(holds(buffer, expected, expected * 41 % (MAX_MESSAGE + 1)));
                    expected++;
                }
                CHECK_STATUS(status, AIOSPIN_TIMED_OUT);
                CHECK_U64(expected, n + 1);
            }
        }
        aiospin_reader_close(&reader);
        aiospin_writer_close(&writer);
    }
}

/* ---- doorbells ---- */

static uint32_t request_bell(aiospin_reader *reader, int *fifo) {
    char path[ASPH_PATH_BYTES];
    asph_slot *slot = &reader->segment.slots[reader->slot];
    companion(path, "bell", reader->slot);
    if (fifo) {
        unlink(path);
        CHECK(mkfifo(path, 0600) == 0);
        *fifo = open(path, O_RDONLY | O_NONBLOCK | O_CLOEXEC);
        CHECK(*fifo >= 0);
    }
    asph_release32(&slot->bell, ASPH_BELL_REQUESTED); /* pairs with asph_ring_bells() */
    __atomic_fetch_or(&reader->segment.control->readable, ASPH_BELL, __ATOMIC_SEQ_CST);
    CHECK_STATUS(aiospin_writer_try_send(&writer, "x", 1), AIOSPIN_OK);
    CHECK_STATUS(copy(reader), AIOSPIN_OK);
    return asph_acquire32(&slot->bell);
}

static bool park_on_bell(aiospin_reader *reader) {
    uint32_t ready = ASPH_BELL_READY;
    if (!asph_exchange_if(&reader->segment.slots[reader->slot].bell, &ready, ASPH_BELL_PARKED))
        return false;
    __atomic_fetch_or(&reader->segment.control->readable, ASPH_BELL, __ATOMIC_SEQ_CST);
    asph_fence(); /* pairs with the fence in asph_notify() */
    return asph_look_for_message(reader) == AIOSPIN_TIMED_OUT;
}

static void test_bells(void) {
    aiospin_reader readers[2];
    char path[ASPH_PATH_BYTES], byte;
    int fifo, fifo_again;
    open_writer(AIOSPIN_BLOCK, 2);
    attach(&readers[0]);
    CHECK_U64(request_bell(&readers[0], NULL), ASPH_BELL_REFUSED); /* there is none */
    CHECK_U64(request_bell(&readers[0], &fifo), ASPH_BELL_READY);
    CHECK(read(fifo, &byte, 1) < 0 && errno == EAGAIN);
    CHECK_STATUS(aiospin_writer_try_send(&writer, "x", 1), AIOSPIN_OK);
    CHECK(read(fifo, &byte, 1) < 0 && errno == EAGAIN); /* nobody is parked */
    CHECK_STATUS(copy(&readers[0]), AIOSPIN_OK);
    for (unsigned i = 0; i < 3; i++) {
        CHECK(park_on_bell(&readers[0]));
        CHECK_STATUS(aiospin_writer_try_send(&writer, "x", 1), AIOSPIN_OK);
        CHECK(read(fifo, &byte, 1) == 1);
        CHECK(!park_on_bell(&readers[0])); /* ready, and there is something */
        CHECK_STATUS(copy(&readers[0]), AIOSPIN_OK);
        CHECK_STATUS(aiospin_writer_try_send(&writer, "x", 1), AIOSPIN_OK);
        CHECK(read(fifo, &byte, 1) == 1); /* that of the park which the look ended */
        CHECK_STATUS(copy(&readers[0]), AIOSPIN_OK);
    }

    /* A new reader in the slot. The old one's FIFO is not rung any more. */
    aiospin_reader_forget(&readers[0]); /* as if it had died */
    attach(&readers[1]);
    CHECK_U64(readers[1].slot, 0);
    CHECK_U64(asph_acquire32(&readers[1].segment.slots[0].bell), ASPH_BELL_NONE);
    companion(path, "bell", 0);
    CHECK(access(path, F_OK) != 0); /* what the dead one left */
    CHECK_U64(request_bell(&readers[1], &fifo_again), ASPH_BELL_READY);
    CHECK(park_on_bell(&readers[1]));
    aiospin_writer_close(&writer); /* rings too, and hangs up */
    CHECK(read(fifo, &byte, 1) == 0);
    CHECK(read(fifo_again, &byte, 1) == 1);
    CHECK(read(fifo_again, &byte, 1) == 0);
    CHECK_STATUS(copy(&readers[1]), AIOSPIN_END);
    unlink(path);
    close(fifo);
    close(fifo_again);
    aiospin_reader_close(&readers[1]);
}

/* ---- death ---- */

/* Fork a child that runs and then waits to be killed. */
static pid_t child_that(void (*runs)(void)) {
    int ready[2];
    char byte;
    CHECK(pipe(ready) == 0);
    const pid_t pid = fork();
    CHECK(pid >= 0);
    if (pid == 0) {
        close(ready[0]);
        runs();
        if (write(ready[1], "", 1) != 1) _exit(2);
        for (;;) pause();
    }
    close(ready[1]);
    CHECK(read(ready[0], &byte, 1) == 1);
    close(ready[0]);
    return pid;
}

static void kill_now(pid_t pid) {
    int status;
    CHECK(kill(pid, SIGKILL) == 0 && waitpid(pid, &status, 0) == pid && WIFSIGNALED(status));
}

static void create_and_wait(void) {
    const aiospin_options options = {.capacity = CAPACITY};
    CHECK_STATUS(aiospin_writer_create(&writer, name, &options), AIOSPIN_OK);
}

static void create_and_write(void) {
    create_and_wait();
    CHECK_STATUS(aiospin_writer_wait_for_readers(&writer, 2, PATIENCE_NS), AIOSPIN_OK);
    send(0, 10);
    send(1, LARGE);
    send(2, 20);
}

static void attach_and_hang(void) {
    static aiospin_reader reader;
    aiospin_writer_forget(&writer);
    attach(&reader);
}

static void test_a_dead_writer(void) {
    aiospin_reader readers[2], late;
    snprintf(name, sizeof name, "test-header-%d-dead", (int)getpid());
    pid_t pid = child_that(create_and_wait);
    attach(&readers[0]);
    kill_now(pid);
    const uint64_t before = asph_now_ns();
    aiospin_message message;
    CHECK_STATUS(aiospin_reader_copy(&readers[0], buffer, 1, &message, AIOSPIN_FOREVER),
                 AIOSPIN_BROKEN);
    CHECK_SAY(asph_now_ns() - before < 1000 * (uint64_t)MS_NS, "it took %" PRIu64 " ns",
              asph_now_ns() - before);
    CHECK_STATUS(aiospin_reader_attach(&late, name), AIOSPIN_BROKEN);
    aiospin_reader_close(&readers[0]);
    CHECK_U64(files(""), 1);
    create_and_wait(); /* takes the name over */
    CHECK_U64(files(""), 1);
    aiospin_writer_close(&writer);
    CHECK_U64(files(""), 0);

    /* What it published is read before its death is told, also when a new writer has taken its
     * name. */
    snprintf(name, sizeof name, "test-header-%d-read-on", (int)getpid());
    pid = fork();
    CHECK(pid >= 0);
    if (pid == 0) {
        create_and_write();
        for (;;) pause();
    }
    const uint64_t until = asph_now_ns() + (uint64_t)PATIENCE_NS;
    aiospin_status status;
    while ((status = aiospin_reader_attach(&readers[0], name)) == AIOSPIN_NOT_FOUND &&
           asph_now_ns() < until) {
        sched_yield();
    }
    CHECK_STATUS(status, AIOSPIN_OK);
    attach(&readers[1]);
    while (aiospin_reader_lag(&readers[1]) < 3 && asph_now_ns() < until) sched_yield();
    CHECK_U64(aiospin_reader_lag(&readers[1]), 3);
    kill_now(pid);
    create_and_wait();
    CHECK_U64(files(".message-1"), 1);
    CHECK_U64(files(".closed"), 1);
    for (unsigned i = 0; i < 2; i++) {
        expect(&readers[i], 0, 10);
        expect(&readers[i], 1, LARGE);
        expect(&readers[i], 2, 20);
        CHECK_STATUS(aiospin_reader_copy(&readers[i], buffer, 1, &message, PATIENCE_NS),
                     AIOSPIN_BROKEN);
        aiospin_reader_close(&readers[i]);
    }
    CHECK_U64(files(""), 1);
    aiospin_writer_close(&writer);
    CHECK_U64(files(""), 0);
}

static void test_a_dead_reader(void) {
    open_writer(AIOSPIN_BLOCK, 2);
    pid_t pid = child_that(attach_and_hang);
    CHECK_STATUS(aiospin_writer_wait_for_readers(&writer, 1, PATIENCE_NS), AIOSPIN_OK);
    uint64_t n = 0;
    send(n++, LARGE);
    while (send_at(n, 100, 0) == AIOSPIN_OK) n++;
    CHECK_STATUS(send_at(n, 100, 150 * MS_NS), AIOSPIN_TIMED_OUT); /* it lives */
    kill_now(pid);
    CHECK_STATUS(send_at(n, 100, PATIENCE_NS), AIOSPIN_OK); /* it does not */
    CHECK_U64(aiospin_writer_readers(&writer), 0);
    CHECK_U64(files(".message-"), 0);

    /* One that dies after the writer closed; the other removes what was kept for it. */
    aiospin_reader reader;
    attach(&reader);
    pid = child_that(attach_and_hang);
    n++;
    send(n, LARGE);
    aiospin_writer_close(&writer);
    expect(&reader, n, LARGE);
    CHECK_U64(files(""), 2);
    kill_now(pid);
    aiospin_reader_close(&reader);
    CHECK_U64(files(""), 0);
}

static void test_leftovers(void) {
    /* What killed processes left is removed by the next writer of the name; what lives, and what is
     * not ours, is not. */
    static const char *const kinds[] = {"message-0", "bell-3", "closed", "new"};
    char path[ASPH_PATH_BYTES], other[ASPH_PATH_BYTES];
    aiospin_reader reader;
    open_writer(AIOSPIN_BLOCK, 1);
    attach(&reader);
    send(0, LARGE);
    const uint64_t alive = writer.segment.id;
    aiospin_writer_close(&writer);
    for (unsigned i = 0; i < sizeof kinds / sizeof kinds[0]; i++) {
        asph_companion(path, name, UINT64_C(0xabcdef), "%s", kinds[i]);
        close(open(path, O_CREAT | O_RDWR, 0600));
    }
    const struct timespec long_ago[2] = {{0}};
    CHECK(utimensat(AT_FDCWD, path, long_ago, 0) == 0); /* a new one may just be in the making */
    snprintf(other, sizeof other, AIOSPIN_FOLDER "/aiospin-%s+note", name);
    close(open(other, O_CREAT | O_RDWR, 0600));
    CHECK_U64(files("+0000000000abcdef."), 4);
    create_and_wait();
    CHECK_U64(files("+0000000000abcdef."), 0);
    CHECK(access(other, F_OK) == 0);
    unlink(other);
    asph_companion(path, name, alive, "%s", "message-0");
    CHECK(access(path, F_OK) == 0);
    expect(&reader, 0, LARGE);
    aiospin_reader_close(&reader);
    CHECK_U64(files(""), 1);
    aiospin_writer_close(&writer);
}

/* ---- what no healthy peer writes ---- */

static void test_corrupt_header(void) {
    static const struct {
        size_t offset, bytes;
        uint64_t value;
        const char *says;
    } faults[] = {
        {offsetof(asph_header, magic), 8, 0, "not finished"},
        {offsetof(asph_header, magic), 8, 1, "magic"},
        {offsetof(asph_header, version), 4, 1, "version is 1"},
        {offsetof(asph_header, header_bytes), 4, 88, "header_bytes"},
        {offsetof(asph_header, total_bytes), 8, UINT64_MAX, "truncated"},
        {offsetof(asph_header, capacity), 8, 4097, "capacity"},
        {offsetof(asph_header, capacity), 8, UINT64_C(1) << 63, "capacity"},
        {offsetof(asph_header, capacity), 8, 8192, "data_offset"},
        {offsetof(asph_header, max_readers), 4, 0, "max_readers"},
        {offsetof(asph_header, max_readers), 4, 1025, "max_readers"},
        {offsetof(asph_header, max_readers), 4, 1024, "readers_offset"},
        {offsetof(asph_header, overflow), 4, 2, "overflow"},
        {offsetof(asph_header, writer_offset), 8, 64, "writer_offset"},
        {offsetof(asph_header, readers_offset), 8, 384, "readers_offset"},
        {offsetof(asph_header, data_offset), 8, UINT64_MAX - 127, "data_offset"},
        {offsetof(asph_header, byte_order), 4, 0x04030201, "byte order"},
        {offsetof(asph_header, byte_order), 4, 0, "byte_order"},
        {offsetof(asph_header, line_bytes), 4, 64, "line_bytes"},
        {offsetof(asph_header, id), 8, 0, "id is 0"},
    };
    aiospin_reader reader;
    open_writer(AIOSPIN_BLOCK, 1);
    for (unsigned i = 0; i < sizeof faults / sizeof faults[0]; i++) {
        uint8_t *at = writer.segment.base + faults[i].offset;
        uint64_t old = 0;
        memcpy(&old, at, faults[i].bytes);
        memcpy(at, &faults[i].value, faults[i].bytes);
        CHECK_STATUS(aiospin_reader_attach(&reader, name), AIOSPIN_LAYOUT);
        CHECK_SAY(strstr(reader.segment.why, faults[i].says), "%s: %s", faults[i].says,
                  reader.segment.why);
        memcpy(at, &old, faults[i].bytes);
    }
    char path[300];
    snprintf(path, sizeof path, AIOSPIN_FOLDER "/aiospin-%s", name);
    aiospin_writer_close(&writer);
    for (off_t bytes = 0; bytes <= 95; bytes += 95) {
        const int fd = open(path, O_CREAT | O_RDWR, 0600);
        CHECK(fd >= 0 && ftruncate(fd, bytes) == 0);
        CHECK_STATUS(aiospin_reader_attach(&reader, name), AIOSPIN_LAYOUT);
        close(fd);
        unlink(path);
    }
}

/* splitmix64: the same numbers in every run */
static uint64_t random_u64(uint64_t *state) {
    uint64_t z = *state += UINT64_C(0x9e3779b97f4a7c15);
    z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
    return z ^ (z >> 31);
}

static void test_corrupt_words(void) {
    /* Any word of the control lines, reader lines and records may become anything at any time: a
     * status, no crash, no hang, no access beyond the mapping (which AddressSanitizer cannot see,
     * but the kernel does). */
    uint64_t seed = 1, found = 0;
    for (unsigned round = 0; round < 300; round++) {
        aiospin_reader readers[2];
        const aiospin_overflow overflow = round % 2 ? AIOSPIN_DROP_OLDEST : AIOSPIN_BLOCK;
        open_writer(overflow, 2);
        attach(&readers[0]);
        attach(&readers[1]);
        for (unsigned step = 0; step < 60; step++) {
            const uint64_t dice = random_u64(&seed);
            aiospin_status status;
            aiospin_message messages[4];
            size_t count;
            switch (dice % 5) {
            case 0:
            case 1:
                status = send_at(0, dice % 11 == 0 ? LARGE : dice / 8 % (MAX_MESSAGE + 1), 0);
                break;
            case 2: status = copy(&readers[0]); break;
            case 3:
                status = aiospin_reader_acquire_many(&readers[1], messages, 4, &count, 0);
                aiospin_reader_release(&readers[1]);
                break;
            default: {
                const uint64_t words = (writer.segment.bytes - ASPH_LINE) / 8;
                uint64_t *word =
                    (uint64_t *)(void *)(writer.segment.base + ASPH_LINE) + dice / 8 % words;
                if (dice & UINT64_C(1) << 40) { /* near the head: where it is looked at */
                    word = (uint64_t *)(void *)(writer.segment.data +
                                                asph_offset(&writer.segment, readers[0].next)) +
                           dice / 8 % 5;
                } else if (dice & UINT64_C(1) << 41) {
                    word = (uint64_t *)(void *)writer.segment.control + dice / 8 % 3;
                }
                *word = dice & UINT64_C(1) << 42 ? *word + 64 * (dice >> 56)
                                                 : random_u64(&seed) >> (dice >> 58);
                status = AIOSPIN_OK;
            }
            }
            CHECK_SAY(
                status == AIOSPIN_OK || status == AIOSPIN_TIMED_OUT || status == AIOSPIN_LAGGED ||
                    status == AIOSPIN_LAYOUT || status == AIOSPIN_END ||
                    (status == AIOSPIN_INVALID && overflow == AIOSPIN_DROP_OLDEST) ||
                    status == AIOSPIN_SYSTEM,
                "%s: %s %s", aiospin_strerror(status), writer.segment.why, readers[0].segment.why);
            found += status == AIOSPIN_LAYOUT;
        }
        aiospin_reader_close(&readers[0]);
        aiospin_writer_close(&writer);
        aiospin_reader_close(&readers[1]);
        /* files whose records were destroyed stay for the next writer of the name */
        const aiospin_options options = {.capacity = CAPACITY};
        CHECK_STATUS(aiospin_writer_create(&writer, name, &options), AIOSPIN_OK);
        aiospin_writer_close(&writer);
        CHECK_U64(files(""), 0);
    }
    CHECK(found > 100);
}

static void test_corrupt_large(void) {
    aiospin_reader reader;
    aiospin_message message;
    char path[ASPH_PATH_BYTES];
    open_writer(AIOSPIN_BLOCK, 1);
    attach(&reader);
    send(0, LARGE);
    companion(path, "message", 0);
    const int fd = open(path, O_RDWR);
    CHECK(fd >= 0);
    for (off_t at = 0; at < 32; at += 8) { /* each of its four words */
        uint64_t old, wrong;
        CHECK(pread(fd, &old, 8, at) == 8);
        wrong = old + 1;
        CHECK(pwrite(fd, &wrong, 8, at) == 8);
        CHECK_STATUS(copy(&reader), AIOSPIN_LAYOUT);
        CHECK_STATUS(aiospin_reader_acquire(&reader, &message, 0), AIOSPIN_LAYOUT);
        CHECK(pwrite(fd, &old, 8, at) == 8);
    }
    CHECK(ftruncate(fd, LARGE + 31) == 0);
    CHECK_STATUS(copy(&reader), AIOSPIN_LAYOUT);
    CHECK(ftruncate(fd, LARGE + 32) == 0);
    close(fd);
    CHECK_STATUS(aiospin_reader_acquire(&reader, &message, 0), AIOSPIN_OK);
    aiospin_reader_release(&reader);
    send(1, LARGE);
    companion(path, "message", 1);
    CHECK(unlink(path) == 0);
    CHECK_STATUS(copy(&reader), AIOSPIN_LAYOUT);
    CHECK(mkfifo(path, 0600) == 0); /* must not hang */
    CHECK_STATUS(copy(&reader), AIOSPIN_LAYOUT);
    unlink(path);
    aiospin_reader_close(&reader);
    aiospin_writer_close(&writer);
}

/* ---- threads ---- */

#define STRESS_READERS 3u
#define STRESS_MESSAGES 30000u

static uint64_t stress_length(uint64_t n) {
    uint64_t seed = n;
    const uint64_t dice = random_u64(&seed);
    return dice % 400 == 0 ? MAX_MESSAGE + 1 + dice / 400 % 4096
                           : 8 + dice / 400 % (dice % 5 == 0 ? MAX_MESSAGE - 7 : 90);
}

/* Use the writer's mapping, so that ThreadSanitizer sees one memory. */
static void share_mapping(aiospin_reader *reader) {
    munmap(reader->segment.base, reader->segment.bytes);
    reader->segment.base = NULL;
    reader->segment.control = writer.segment.control;
    reader->segment.slots = writer.segment.slots;
    reader->segment.data = writer.segment.data;
}

typedef struct stress {
    aiospin_reader reader;
    uint64_t seed, messages, lost;
} stress;

static void check_stress(const stress *s, const aiospin_message *message, uint64_t n) {
    CHECK_U64(message->sequence, n);
    CHECK_U64(message->length, stress_length(n));
    CHECK_SAY(holds(message->data, n, message->length),
              "message %" PRIu64 " of seed %" PRIu64 " is torn", n, s->seed);
}

static void *read_all(void *argument) {
    stress *s = argument;
    aiospin_message messages[8];
    static _Thread_local uint8_t copied[3 * CAPACITY];
    uint64_t expected = 0;
    for (;;) {
        const uint64_t dice = random_u64(&s->seed);
        const bool in_place = s->reader.segment.overflow == AIOSPIN_BLOCK && dice % 2;
        size_t count = 1;
        const aiospin_status status =
            in_place
                ? aiospin_reader_acquire_many(&s->reader, messages, 1 + dice / 2 % 8, &count,
                                              PATIENCE_NS)
                : aiospin_reader_copy(&s->reader, copied, sizeof copied, messages, PATIENCE_NS);
        if (status == AIOSPIN_END) break;
        if (status == AIOSPIN_LAGGED) {
            expected += s->reader.skipped;
            s->lost += s->reader.skipped;
            continue;
        }
        CHECK_SAY(status == AIOSPIN_OK, "%s: %s", aiospin_strerror(status), s->reader.segment.why);
        for (size_t i = 0; i < count; i++) check_stress(s, &messages[i], expected++);
        s->messages += count;
        aiospin_reader_release(&s->reader);
    }
    CHECK_U64(expected, STRESS_MESSAGES);
    return NULL;
}

static void test_threads(aiospin_overflow overflow) {
    static stress readers[STRESS_READERS];
    static uint8_t data[3 * CAPACITY];
    pthread_t threads[STRESS_READERS];
    memset(readers, 0, sizeof readers);
    open_writer(overflow, STRESS_READERS);
    for (unsigned i = 0; i < STRESS_READERS; i++) {
        attach(&readers[i].reader);
        share_mapping(&readers[i].reader);
        readers[i].seed = i + 1;
        CHECK(pthread_create(&threads[i], NULL, read_all, &readers[i]) == 0);
    }
    for (uint64_t n = 0; n < STRESS_MESSAGES; n++) {
        const uint64_t length = stress_length(n);
        fill(data, n, length);
        if (n % 7 == 0 && overflow == AIOSPIN_BLOCK) {
            void *payload;
            CHECK_STATUS(aiospin_writer_claim(&writer, length, PATIENCE_NS, &payload), AIOSPIN_OK);
            memcpy(payload, data, length);
            CHECK_STATUS(aiospin_writer_publish(&writer, length), AIOSPIN_OK);
        } else {
            CHECK_STATUS(aiospin_writer_send(&writer, data, length, PATIENCE_NS), AIOSPIN_OK);
        }
    }
    /* a closed writer unmaps what the readers share here */
    asph_release(&writer.segment.control->head,
                 asph_head_word(writer.head, writer.sequence) | ASPH_CLOSED);
    asph_announce(&writer);
    for (unsigned i = 0; i < STRESS_READERS; i++) {
        CHECK(pthread_join(threads[i], NULL) == 0);
        CHECK(overflow == AIOSPIN_DROP_OLDEST || readers[i].messages == STRESS_MESSAGES);
        CHECK_U64(readers[i].messages + readers[i].lost, STRESS_MESSAGES);
        aiospin_reader_close(&readers[i].reader);
    }
    aiospin_writer_close(&writer);
    CHECK_U64(files(""), 0);
}

static void *wait_then_send(void *argument) {
    aiospin_reader *reader = argument;
    aiospin_message message;
    uint8_t byte[64];
    CHECK_STATUS(aiospin_reader_copy(reader, byte, sizeof byte, &message, PATIENCE_NS), AIOSPIN_OK);
    return NULL;
}

/* Both sides asleep on the futex, woken by the other and by nothing else. */
static void test_park(void) {
    static aiospin_reader reader;
    pthread_t thread;
    open_writer(AIOSPIN_BLOCK, 1);
    attach(&reader);
    share_mapping(&reader);
    CHECK(pthread_create(&thread, NULL, wait_then_send, &reader) == 0);
    while (!asph_load32(&reader.segment.slots[0].parked))
        sched_yield(); /* for people, and for this */
    CHECK_STATUS(aiospin_writer_try_send(&writer, "x", 1), AIOSPIN_OK);
    CHECK(pthread_join(thread, NULL) == 0);
    CHECK_U64(asph_load32(&reader.segment.slots[0].parked), 0);
    CHECK((asph_load32(&writer.segment.control->readable) & ASPH_SLEEPER) == 0);

    uint64_t n = 1;
    while (send_at(n, 10, 0) == AIOSPIN_OK) n++;
    CHECK(pthread_create(&thread, NULL, wait_then_send, &reader) == 0);
    CHECK_STATUS(send_at(n, 10, PATIENCE_NS), AIOSPIN_OK);
    CHECK(pthread_join(thread, NULL) == 0);
    aiospin_reader_close(&reader);
    aiospin_writer_close(&writer);
}

int main(void) {
    test_every_length();
    test_in_place();
    test_batches();
    test_full_and_empty();
    test_lagged_exactly();
    test_large();
    test_large_and_lagging();
    test_large_and_full();
    test_large_outlive_the_writer();
    test_names_and_limits();
    test_the_core_reads();
    test_the_core_writes();
    test_bells();
    test_a_dead_writer();
    test_a_dead_reader();
    test_leftovers();
    test_corrupt_header();
    test_corrupt_words();
    test_corrupt_large();
    test_park();
    test_threads(AIOSPIN_BLOCK);
    test_threads(AIOSPIN_DROP_OLDEST);
    return 0;
}
