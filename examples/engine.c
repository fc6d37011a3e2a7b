/* engine.c - an engine in C that broadcasts every step it takes to readers in any language.
 *
 *   cc -std=gnu11 -O2 -Icsrc/include examples/engine.c -o engine
 *   ./engine decode --interval-us 1000
 *
 * and in other shells, as many as there shall be readers:
 *
 *   python examples/engine_reader.py decode
 *
 * The message of step n is n, as 8 little-endian bytes, and then the low byte of n up to --size. */
#include <aiospin/broadcast.h>

#include <stdlib.h>

#define MAX_BATCH 256

typedef struct settings {
    const char *name;
    uint64_t steps, size, batch, interval_us, readers;
    aiospin_options options;
} settings;

static int fail(const char *what, aiospin_status status, const aiospin_writer *writer) {
    fprintf(stderr, "engine: %s: %s: %s\n", what, aiospin_strerror(status), writer->segment.why);
    return 1;
}

static int usage(void) {
    fprintf(stderr, "usage: engine NAME [--steps N] [--size BYTES] [--batch N] [--interval-us N]\n"
                    "              [--readers N] [--capacity BYTES] [--drop-oldest]\n");
    return 2;
}

static bool parse(settings *s, int argc, char **argv) {
    const struct {
        const char *option;
        uint64_t *value;
    } numbers[] = {
        {"--steps", &s->steps},     {"--size", &s->size},
        {"--batch", &s->batch},     {"--interval-us", &s->interval_us},
        {"--readers", &s->readers}, {"--capacity", &s->options.capacity},
    };
    const size_t count = sizeof numbers / sizeof numbers[0];
    if (argc < 2) return false;
    s->name = argv[1];
    for (int i = 2; i < argc; i++) {
        size_t n = 0;
        if (strcmp(argv[i], "--drop-oldest") == 0) {
            s->options.overflow = AIOSPIN_DROP_OLDEST;
            continue;
        }
        while (n < count && strcmp(argv[i], numbers[n].option) != 0) n++;
        if (n == count || ++i == argc) return false;
        *numbers[n].value = strtoull(argv[i], NULL, 10);
    }
    return s->size >= 8 && s->batch >= 1 && s->batch <= MAX_BATCH;
}

/* What step n comes to. */
static void compute(unsigned char *result, uint64_t size, uint64_t n) {
    for (unsigned i = 0; i < 8; i++) result[i] = (unsigned char)(n >> (8 * i));
    memset(result + 8, (int)(n & 0xff), size - 8);
}

/* One message, computed where the readers will find it: nothing is copied. */
static aiospin_status send_in_place(aiospin_writer *writer, uint64_t size, uint64_t n) {
    void *room;
    const aiospin_status status = aiospin_writer_claim(writer, size, AIOSPIN_FOREVER, &room);
    if (status != AIOSPIN_OK) return status;
    compute((unsigned char *)room, size, n);
    return aiospin_writer_publish(writer, size);
}

/* Several at once wake the readers once. */
static aiospin_status send_batch(aiospin_writer *writer, unsigned char *results, uint64_t size,
                                 uint64_t n, size_t count) {
    aiospin_bytes messages[MAX_BATCH];
    for (size_t i = 0; i < count; i++) {
        messages[i].data = results + i * size;
        messages[i].length = size;
        compute(results + i * size, size, n + i);
    }
    return aiospin_writer_send_many(writer, messages, count, AIOSPIN_FOREVER, NULL);
}

static aiospin_status run(aiospin_writer *writer, const settings *s, unsigned char *results) {
    aiospin_status status = AIOSPIN_OK;
    for (uint64_t n = 0; n < s->steps && status == AIOSPIN_OK;) {
        const uint64_t left = s->steps - n;
        const size_t count = (size_t)(left < s->batch ? left : s->batch);
        if (s->batch > 1) {
            status = send_batch(writer, results, s->size, n, count);
        } else if (s->options.overflow == AIOSPIN_BLOCK) {
            status = send_in_place(writer, s->size, n);
        } else { /* readers may be copying what is overwritten: let the library do that */
            compute(results, s->size, n);
            status = aiospin_writer_send(writer, results, s->size, AIOSPIN_FOREVER);
        }
        n += count;
        if (s->interval_us) {
            const struct timespec pause = {(time_t)(s->interval_us / 1000000),
                                           (long)(s->interval_us % 1000000 * 1000)};
            nanosleep(&pause, NULL);
        }
    }
    return status;
}

int main(int argc, char **argv) {
    static aiospin_writer writer;
    settings s;
    memset(&s, 0, sizeof s);
    s.steps = 10000;
    s.size = 64;
    s.batch = s.readers = 1;
    if (!parse(&s, argc, argv)) return usage();

    aiospin_status status = aiospin_writer_create(&writer, s.name, &s.options);
    if (status != AIOSPIN_OK) return fail("create", status, &writer);
    printf("broadcasting as %s\n", s.name);
    fflush(stdout);
    status = aiospin_writer_wait_for_readers(&writer, (uint32_t)s.readers, AIOSPIN_FOREVER);
    if (status != AIOSPIN_OK) return fail("wait for readers", status, &writer);

    unsigned char *results = (unsigned char *)malloc((size_t)(s.size * s.batch));
    if (!results) return 1;
    status = run(&writer, &s, results);
    free(results);
    if (status != AIOSPIN_OK) return fail("send", status, &writer);
    printf("%llu steps of %llu bytes\n", (unsigned long long)s.steps, (unsigned long long)s.size);
    aiospin_writer_close(&writer);
    return 0;
}
