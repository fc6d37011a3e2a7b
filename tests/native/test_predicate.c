/* test_predicate.c - every operation on every kind, width and set of elements against an oracle; the truth
 * table; programs that are wrong. */
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "check.h"
#include "predicate.h"
#include "word.h"

typedef struct program {
    uint8_t bytes[ASP_PREDICATE_TABLE + (ASP_PREDICATE_TERMS + 1) * ASP_PREDICATE_TERM];
    size_t size;
} program;

static void put_u64(uint8_t *to, uint64_t value) {
    for (int i = 0; i < 8; i++) to[i] = (uint8_t)(value >> 8 * i);
}

static void start(program *p) {
    memset(p, 0, sizeof *p);
    p->size = ASP_PREDICATE_TABLE;
}

static void row(program *p, unsigned r) { p->bytes[r >> 3] |= (uint8_t)(1u << (r & 7)); }

static uint8_t *term(program *p, uint64_t offset, uint64_t operand, asp_op op, asp_kind kind, unsigned width,
                     asp_elements elements, bool swapped) {
    uint8_t *t = p->bytes + p->size;
    put_u64(t, offset);
    put_u64(t + 8, operand);
    t[16] = (uint8_t)op;
    t[17] = (uint8_t)kind;
    t[18] = (uint8_t)width;
    t[19] = (uint8_t)elements;
    t[20] = swapped;
    p->size += ASP_PREDICATE_TERM;
    return t;
}

static asp_status init(asp_predicate *predicate, const program *p, const void *buffer, uint64_t bytes) {
    char why[200] = "";
    asp_status status = asp_predicate_init(predicate, p->bytes, p->size, buffer, bytes, true, why, sizeof why);
    CHECK((status == ASP_READY) == (why[0] == 0));
    return status;
}

static bool look(asp_predicate *predicate) { return predicate->watch.look(&predicate->watch); }

/* ---- the oracle: comparison of widened values ---- */

static uint64_t bits_of(double number, unsigned width) {
    if (width == 2) return asp_encode_half(number);
    if (width == 4) {
        float single = (float)number;
        uint32_t bits;
        memcpy(&bits, &single, 4);
        return bits;
    }
    uint64_t bits;
    memcpy(&bits, &number, 8);
    return bits;
}

static bool by_order(asp_op op, bool less, bool equal, bool greater) {
    switch (op) {
    case ASP_EQ: return equal;
    case ASP_NE: return !equal;
    case ASP_LT: return less;
    case ASP_LE: return less || equal;
    case ASP_GT: return greater;
    default: return greater || equal;
    }
}

/* values by index: the same for memory and operand, so that equality happens */
enum { VALUES = 7 };

static uint64_t raw(asp_kind kind, unsigned width, int value) {
    const uint64_t ones = UINT64_MAX >> (64 - 8 * width);
    const uint64_t top = UINT64_C(1) << (8 * width - 1);
    const uint64_t integers[VALUES] = {0, 1, top, top - 1, ones, 0x5a & ones, ones - 1};
    const double floats[VALUES] = {0, -0.0, 1.5, -2, (double)INFINITY, -(double)INFINITY, (double)NAN};
    if (kind == ASP_FLOAT) return bits_of(floats[value], width);
    if (kind == ASP_BOOL) return value & 1;
    return integers[value];
}

static uint64_t widened(asp_kind kind, unsigned width, uint64_t bits) { /* as the package packs operands */
    if (kind == ASP_SIGNED && bits >> (8 * width - 1) && width < 8) return bits | UINT64_MAX << 8 * width;
    if (kind != ASP_FLOAT) return bits;
    const double floats[VALUES] = {0, -0.0, 1.5, -2, (double)INFINITY, -(double)INFINITY, (double)NAN};
    for (int i = 0; i < VALUES; i++)
        if (bits_of(floats[i], width) == bits) {
            uint64_t wide;
            memcpy(&wide, &floats[i], 8);
            return wide;
        }
    abort();
}

static bool oracle(asp_op op, asp_kind kind, unsigned width, uint64_t seen, uint64_t operand) {
    uint64_t a = widened(kind, width, seen), b = widened(kind, width, operand);
    if (op == ASP_BITS_SET) return (~a & b) == 0;
    if (op == ASP_BITS_CLEAR) return (a & b) == 0;
    if (kind == ASP_FLOAT) {
        double x, y;
        memcpy(&x, &a, 8);
        memcpy(&y, &b, 8);
        if (isnan(x) || isnan(y)) return op == ASP_NE;
        return by_order(op, isless(x, y), !islessgreater(x, y), isgreater(x, y));
    }
    if (kind == ASP_SIGNED) a ^= UINT64_C(1) << 63, b ^= UINT64_C(1) << 63; /* order of the signed */
    return by_order(op, a < b, a == b, a > b);
}

static void write_element(uint8_t *to, uint64_t bits, unsigned width, bool swapped) {
    for (unsigned i = 0; i < width; i++) to[swapped ? width - 1 - i : i] = (uint8_t)(bits >> 8 * i);
}

static uint64_t read_value(const asp_predicate *p, unsigned width) { /* back to raw bits */
    if (p->value.kind == ASP_FLOAT) return bits_of(p->value.as.f, width);
    return p->value.as.u & UINT64_MAX >> (64 - 8 * width);
}

static unsigned looked;

static void one_case(asp_op op, asp_kind kind, unsigned width, bool swapped, int operand) {
    static _Alignas(8) uint8_t buffer[4 * 8];
    const uint64_t wanted = raw(kind, width, operand);
    asp_predicate predicates[ASP_ELEMENTS];
    for (int e = 0; e < ASP_ELEMENTS; e++) {
        program p;
        start(&p);
        row(&p, 1);
        term(&p, width, widened(kind, width, wanted), op, kind, width, (asp_elements)e, swapped);
        CHECK(init(&predicates[e], &p, buffer, 4 * width) == ASP_READY);
    }
    for (int v = 0; v < VALUES * VALUES * VALUES; v++) { /* element 0 is before the offset */
        const int values[4] = {operand, v % VALUES, v / VALUES % VALUES, v / VALUES / VALUES};
        bool is[4], all = true, any = false;
        uint64_t first_match = 0;
        for (unsigned i = 0; i < 4; i++) {
            const uint64_t bits = raw(kind, width, values[i]);
            write_element(buffer + i * width, bits, width, swapped);
            is[i] = oracle(op, kind, width, bits, wanted);
            if (!i) continue;
            if (is[i] && !any) first_match = bits;
            all = all && is[i];
            any = any || is[i];
        }
        const bool want[ASP_ELEMENTS] = {is[1], all, any};
        const uint64_t first = raw(kind, width, values[1]);
        const uint64_t speaks[ASP_ELEMENTS] = {first, first, first_match};
        for (int e = 0; e < ASP_ELEMENTS; e++) {
            CHECK_SAY(look(&predicates[e]) == want[e], "op %d kind %d width %u swapped %d elements %d operand %d case %d",
                      op, kind, width, swapped, e, operand, v);
            if (want[e]) CHECK(read_value(&predicates[e], width) == speaks[e]);
            looked++;
        }
    }
}

static void everything_against_the_oracle(void) {
    for (int op = 0; op < ASP_OPS; op++)
        for (int kind = 0; kind < ASP_KINDS; kind++)
            for (unsigned width = 1; width <= 8; width *= 2) {
                if (kind == ASP_FLOAT && (width == 1 || op >= ASP_BITS_SET)) continue;
                if (kind == ASP_BOOL && width > 1) continue;
                for (int swapped = 0; swapped <= (width > 1); swapped++)
                    for (int operand = 0; operand < VALUES; operand++)
                        one_case((asp_op)op, (asp_kind)kind, width, swapped, operand);
            }
    CHECK(looked > 100000);
}

static void any_bits_of_a_bool_are_true(void) {
    uint8_t byte = 2;
    asp_predicate predicate;
    program p;
    start(&p);
    row(&p, 1);
    term(&p, 0, 1, ASP_EQ, ASP_BOOL, 1, ASP_FIRST, false);
    CHECK(init(&predicate, &p, &byte, 1) == ASP_READY);
    CHECK(look(&predicate) && predicate.value.as.u == 1);
    byte = 0;
    CHECK(!look(&predicate));
}

/* Random tables over eight terms, each of which is one byte that is 1 or not. */
static void the_truth_table_decides(void) {
    uint8_t buffer[ASP_PREDICATE_TERMS];
    uint32_t random = 1;
    for (int round = 0; round < 50; round++) {
        asp_predicate predicate;
        program p;
        start(&p);
        for (int i = 0; i < ASP_PREDICATE_TABLE; i++) p.bytes[i] = (uint8_t)((random = random * 1664525 + 1013904223) >> 24);
        for (unsigned i = 0; i < ASP_PREDICATE_TERMS; i++) term(&p, i, 1, ASP_GE, ASP_UNSIGNED, 1, ASP_FIRST, false);
        CHECK(init(&predicate, &p, buffer, sizeof buffer) == ASP_READY);
        for (unsigned r = 0; r < 256; r++) {
            for (unsigned i = 0; i < 8; i++) buffer[i] = r >> i & 1 ? (uint8_t)(10 + i) : 0;
            const bool want = p.bytes[r / 8] >> r % 8 & 1;
            CHECK_SAY(look(&predicate) == want, "row %u", r);
            if (want && r) { /* the leftmost true term speaks */
                unsigned leftmost = 0;
                while (!(r >> leftmost & 1)) leftmost++;
                CHECK(predicate.value.as.u == 10 + leftmost);
            }
        }
    }
}

/* The watch covers all terms; the futex words are those over the elements. */
static void the_watch_knows_its_words(void) {
    static _Alignas(64) uint8_t buffer[64 * 8];
    asp_predicate predicate;
    asp_futex_word words[32];
    program p;
    start(&p);
    row(&p, 3);
    term(&p, 8, 0, ASP_EQ, ASP_UNSIGNED, 8, ASP_FIRST, false);
    term(&p, 23, 0, ASP_EQ, ASP_UNSIGNED, 1, ASP_FIRST, false);
    buffer[23] = 9;
    CHECK(init(&predicate, &p, buffer, sizeof buffer) == ASP_READY);
    CHECK(predicate.watch.address == buffer + 8 && predicate.watch.span == 16);
    CHECK(predicate.watch.prepare(&predicate.watch, words, 3) == 3);
    CHECK((const uint8_t *)words[0].word == buffer + 8 && (const uint8_t *)words[1].word == buffer + 12);
    CHECK((const uint8_t *)words[2].word == buffer + 20);
    uint32_t held;
    memcpy(&held, buffer + 20, 4);
    CHECK(words[2].expected == held && held != 0);
    CHECK(predicate.watch.prepare(&predicate.watch, words, 2) == 0);
    start(&p);
    row(&p, 1);
    term(&p, 0, 0, ASP_EQ, ASP_UNSIGNED, 1, ASP_ALL, false);
    CHECK(init(&predicate, &p, buffer, sizeof buffer) == ASP_READY);
    CHECK(predicate.watch.prepare(&predicate.watch, words, 32) == 0);
    char why[100];
    CHECK(asp_predicate_init(&predicate, p.bytes, p.size, buffer, 1, false, why, sizeof why) == ASP_READY);
    CHECK(predicate.watch.prepare == NULL);
}

static void a_bad_fit_is_refused(void) {
    static _Alignas(8) uint8_t buffer[16];
    const struct {
        uint64_t offset, bytes;
        unsigned width;
        bool fits;
    } cases[] = {
        {0, 8, 8, true},  {8, 16, 8, true}, {0, 7, 8, false},           {9, 16, 8, false},
        {4, 16, 8, false}, {1, 16, 2, false}, {3, 16, 1, true},          {16, 16, 1, false},
        {17, 16, 1, false}, {0, 0, 1, false}, {UINT64_MAX, 16, 1, false}, {UINT64_MAX - 7, 16, 8, false},
        {14, 16, 4, false}, {12, 16, 4, true}, {UINT64_MAX - 3, 16, 4, false},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        for (int e = 0; e < ASP_ELEMENTS; e++) {
            asp_predicate predicate;
            program p;
            start(&p);
            term(&p, cases[i].offset, 0, ASP_EQ, ASP_UNSIGNED, cases[i].width, (asp_elements)e, false);
            CHECK_SAY((init(&predicate, &p, buffer, cases[i].bytes) == ASP_READY) == cases[i].fits, "case %zu", i);
        }
}

/* Every length, each in a block of its own size, so that a read past it is a sanitizer's business. */
static void every_length_of_a_program(void) {
    static uint8_t buffer[8];
    for (size_t size = 0; size <= ASP_PREDICATE_TABLE + 10 * ASP_PREDICATE_TERM; size++) {
        uint8_t *bytes = calloc(size ? size : 1, 1);
        CHECK(bytes);
        for (size_t at = ASP_PREDICATE_TABLE + 18; at < size; at += ASP_PREDICATE_TERM) bytes[at] = 1; /* width */
        const size_t packed = size - ASP_PREDICATE_TABLE;
        const bool good = size > ASP_PREDICATE_TABLE && packed % ASP_PREDICATE_TERM == 0 && packed / ASP_PREDICATE_TERM <= 8;
        asp_predicate predicate;
        char why[100];
        CHECK_SAY((asp_predicate_init(&predicate, bytes, size, buffer, 8, true, why, sizeof why) == ASP_READY) == good,
                  "%zu bytes", size);
        free(bytes);
    }
}

/* Every byte of a term with every value: accepted only where the contract says so, and then safe. */
static void every_byte_of_a_term(void) {
    uint8_t *buffer = calloc(8, 1); /* of exactly this size, for the same reason */
    CHECK(buffer);
    for (unsigned at = 0; at < ASP_PREDICATE_TERM; at++)
        for (unsigned value = 0; value < 256; value++) {
            asp_predicate predicate;
            program p;
            start(&p);
            p.bytes[0] = 3;
            uint8_t *t = term(&p, 0, 0, ASP_EQ, ASP_UNSIGNED, 2, ASP_ALL, false);
            t[at] = (uint8_t)value;
            const asp_status status = init(&predicate, &p, buffer, 8);
            bool good = true;
            if (at < 8) good = at == 0 ? value <= 6 && value % 2 == 0 : value == 0;
            if (at == 16) good = value < ASP_OPS;
            if (at == 17) good = value < ASP_KINDS;
            if (at == 18) good = value == 1 || value == 2 || value == 4 || value == 8;
            if (at == 19) good = value < ASP_ELEMENTS;
            CHECK_SAY((status == ASP_READY) == good, "byte %u = %u", at, value);
            if (good) {
                asp_futex_word words[8];
                CHECK(predicate.watch.prepare(&predicate.watch, words, 8) >= 1);
                look(&predicate);
            }
        }
    free(buffer);
}

static void a_float_has_neither_bits_nor_one_byte(void) {
    static _Alignas(8) uint8_t buffer[8];
    for (int op = 0; op < ASP_OPS; op++)
        for (unsigned width = 1; width <= 8; width *= 2) {
            asp_predicate predicate;
            program p;
            start(&p);
            term(&p, 0, 0, (asp_op)op, ASP_FLOAT, width, ASP_FIRST, false);
            CHECK((init(&predicate, &p, buffer, 8) == ASP_READY) == (width > 1 && op < ASP_BITS_SET));
        }
}

int main(void) {
    everything_against_the_oracle();
    any_bits_of_a_bool_are_true();
    the_truth_table_decides();
    the_watch_knows_its_words();
    a_bad_fit_is_refused();
    every_length_of_a_program();
    every_byte_of_a_term();
    a_float_has_neither_bits_nor_one_byte();
    printf("test_predicate: passed, %u looks\n", looked);
    return 0;
}
