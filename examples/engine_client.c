/* engine_client.c - a reader in C: of engine.c, or of any writer, in Python or in C.
 *
 *   cc -std=gnu11 -O2 -Icsrc/include examples/engine_client.c -o engine_client
 *   ./engine_client decode
 *
 * Prints how many messages came, how many bytes they had, and how many were lost; the checksum is
 * the sum of all bytes. Exit status 0 after a clean end, 3 when the writer died, else 1. */
#include <aiospin/broadcast.h>

#include <stdlib.h>

#define BATCH 64

typedef struct totals {
    uint64_t messages, bytes, lost, checksum;
} totals;

static void count(totals *t, const aiospin_message *message) {
    const unsigned char *byte = (const unsigned char *)message->data;
    t->messages++;
    t->bytes += message->length;
    for (uint64_t i = 0; i < message->length; i++) t->checksum += byte[i];
}

/* In place, all that is there at a time. */
static aiospin_status read_in_place(aiospin_reader *reader, totals *t) {
    for (;;) {
        aiospin_message messages[BATCH];
        size_t got;
        const aiospin_status status =
            aiospin_reader_acquire_many(reader, messages, BATCH, &got, AIOSPIN_FOREVER);
        if (status != AIOSPIN_OK) return status;
        for (size_t i = 0; i < got; i++) count(t, &messages[i]);
        aiospin_reader_release(reader);
    }
}

/* A drop_oldest writer overwrites what it likes, so there messages are copied out. */
static aiospin_status read_copies(aiospin_reader *reader, totals *t) {
    uint64_t room = 4096;
    void *buffer = malloc(room);
    aiospin_status status = buffer ? AIOSPIN_OK : AIOSPIN_NO_MEMORY;
    while (status == AIOSPIN_OK) {
        aiospin_message message;
        status = aiospin_reader_copy(reader, buffer, room, &message, AIOSPIN_FOREVER);
        if (status == AIOSPIN_OK) {
            count(t, &message);
        } else if (status == AIOSPIN_LAGGED) {
            t->lost += reader->skipped;
            status = AIOSPIN_OK;
        } else if (status == AIOSPIN_TOO_SMALL) { /* nothing was read: once more, with more room */
            void *larger = realloc(buffer, message.length);
            if (larger) buffer = larger;
            room = message.length;
            status = larger ? AIOSPIN_OK : AIOSPIN_NO_MEMORY;
        }
    }
    free(buffer);
    return status;
}

int main(int argc, char **argv) {
    static aiospin_reader reader;
    totals t;
    memset(&t, 0, sizeof t);
    if (argc != 2) {
        fprintf(stderr, "usage: engine_client NAME\n");
        return 2;
    }
    aiospin_status status = aiospin_reader_attach(&reader, argv[1]);
    if (status != AIOSPIN_OK) {
        fprintf(stderr, "engine_client: attach: %s: %s\n", aiospin_strerror(status),
                reader.segment.why);
        return 1;
    }
    printf("attached\n");
    fflush(stdout);
    status = reader.segment.overflow == AIOSPIN_BLOCK ? read_in_place(&reader, &t)
                                                      : read_copies(&reader, &t);
    printf("%llu messages, %llu bytes, %llu lost, checksum %llu\n", (unsigned long long)t.messages,
           (unsigned long long)t.bytes, (unsigned long long)t.lost, (unsigned long long)t.checksum);
    if (status != AIOSPIN_END) {
        fprintf(stderr, "engine_client: %s: %s\n", aiospin_strerror(status), reader.segment.why);
    }
    aiospin_reader_close(&reader);
    return status == AIOSPIN_END ? 0 : status == AIOSPIN_BROKEN ? 3 : 1;
}
