#include "predicate.h"

#include <stdio.h>
#include <string.h>

#include "atomics.h"

uint64_t asp_load_bits(const void *address, uint8_t width) {
    /* Acquire: what the writer stored before this element is seen after it. Pairs with the writer's
     * release store, Word.store here or any release store of another language. */
    switch (width) {
    case 1: return asp_load_acquire_u8(address);
    case 2: return asp_load_acquire_u16(address);
    case 4: return asp_load_acquire_u32(address);
    default: return asp_load_acquire_u64(address);
    }
}

/* IEEE 754 binary16; few compilers of our age convert it without a library call. */
static double decode_half(uint16_t bits) {
    uint64_t sign = (uint64_t)(bits >> 15) << 63;
    uint64_t exponent = bits >> 10 & 0x1f, fraction = bits & 0x3ff, wide;
    if (exponent == 0x1f) {
        wide = sign | UINT64_C(0x7ff) << 52 | fraction << 42;
    } else if (exponent) {
        wide = sign | (exponent - 15 + 1023) << 52 | fraction << 42;
    } else {
        double tiny = (double)fraction * 0x1p-24; /* subnormal: exact in a double */
        return sign ? -tiny : tiny;
    }
    double value;
    memcpy(&value, &wide, sizeof value);
    return value;
}

asp_value asp_value_decode(uint64_t bits, asp_kind kind, uint8_t width, bool swapped) {
    if (swapped) bits = __builtin_bswap64(bits) >> (64 - 8 * width);
    asp_value value = {.kind = kind, .as = {.u = bits}};
    if (kind == ASP_SIGNED) {
        unsigned unused = 64u - 8u * width;
        value.as.i = (int64_t)(bits << unused) >> unused;
    } else if (kind == ASP_FLOAT && width == 4) {
        uint32_t narrow = (uint32_t)bits;
        float single;
        memcpy(&single, &narrow, sizeof single);
        value.as.f = (double)single;
    } else if (kind == ASP_FLOAT && width == 2) {
        value.as.f = decode_half((uint16_t)bits);
    } else if (kind == ASP_FLOAT) {
        memcpy(&value.as.f, &bits, sizeof bits);
    } else if (kind == ASP_BOOL) {
        value.as.u = bits != 0;
    }
    return value;
}

#define ASP_COMPARE(op, a, b)                  \
    ((op) == ASP_EQ   ? (a) == (b)             \
     : (op) == ASP_NE ? (a) != (b)             \
     : (op) == ASP_LT ? (a) < (b)              \
     : (op) == ASP_LE ? (a) <= (b)             \
     : (op) == ASP_GT ? (a) > (b)              \
                      : (a) >= (b))

static bool holds(const asp_term *term, asp_value seen) {
    switch (term->op) {
    case ASP_BITS_SET: return (seen.as.u & term->operand.as.u) == term->operand.as.u;
    case ASP_BITS_CLEAR: return (seen.as.u & term->operand.as.u) == 0;
    default: break;
    }
    switch (seen.kind) {
    case ASP_SIGNED: return ASP_COMPARE(term->op, seen.as.i, term->operand.as.i);
    case ASP_FLOAT: return ASP_COMPARE(term->op, seen.as.f, term->operand.as.f);
    default: return ASP_COMPARE(term->op, seen.as.u, term->operand.as.u);
    }
}

/* Is the term true? *value becomes the element that decides: the first for "first" and "all", the first
 * that matches for "any". */
static bool evaluate(const asp_term *term, asp_value *value) {
    for (uint64_t i = 0; i < term->count; i++) {
        asp_value seen = asp_value_decode(asp_load_bits(term->address + i * term->width, term->width),
                                          term->operand.kind, term->width, term->swapped);
        bool is = holds(term, seen);
        if (i == 0 || (is && term->elements == ASP_ANY)) *value = seen;
        if (is != (term->elements == ASP_ALL)) return is;
    }
    return term->elements == ASP_ALL;
}

static bool look(asp_watch *watch) {
    asp_predicate *predicate = (asp_predicate *)watch;
    asp_value values[ASP_PREDICATE_TERMS];
    unsigned row = 0;
    for (uint32_t i = 0; i < predicate->count; i++)
        row |= (unsigned)evaluate(&predicate->terms[i], &values[i]) << i;
    if (!(predicate->table[row >> 3] >> (row & 7) & 1)) return false;
    /* "and" and "or" have no negation, so a true whole has a true term; the leftmost one speaks. */
    predicate->value = values[row ? __builtin_ctz(row) : 0];
    return true;
}

unsigned asp_words_over(const void *address, uint64_t span, asp_futex_word *words, unsigned room) {
    uintptr_t first = (uintptr_t)address & ~(uintptr_t)3;
    uint64_t count = ((uintptr_t)address + span - first + 3) / 4;
    if (!span || count > room) return 0;
    for (unsigned i = 0; i < count; i++) {
        words[i].word = (const uint32_t *)(first + 4 * i);
        words[i].expected = asp_load_acquire_u32_around(words[i].word);
    }
    return (unsigned)count;
}

static unsigned prepare(asp_watch *watch, asp_futex_word *words, unsigned room) {
    asp_predicate *predicate = (asp_predicate *)watch;
    unsigned count = 0;
    for (uint32_t i = 0; i < predicate->count; i++) {
        const asp_term *term = &predicate->terms[i];
        unsigned more = asp_words_over(term->address, term->count * term->width, words + count, room - count);
        if (!more) return 0;
        count += more;
    }
    return count;
}

/* Bounded reads of the packed program, which the binding passes on unchecked. */
static uint64_t read_u64(const uint8_t *bytes) {
    uint64_t value = 0;
    for (int i = 7; i >= 0; i--) value = value << 8 | bytes[i];
    return value;
}

asp_status asp_predicate_init(asp_predicate *predicate, const uint8_t *program,
                              size_t program_bytes, const void *buffer, uint64_t buffer_bytes,
                              bool notified, char *why, size_t why_bytes) {
    memset(predicate, 0, sizeof *predicate);
    size_t packed = program_bytes - ASP_PREDICATE_TABLE;
    if (program_bytes <= ASP_PREDICATE_TABLE || packed % ASP_PREDICATE_TERM ||
        packed / ASP_PREDICATE_TERM > ASP_PREDICATE_TERMS) {
        snprintf(why, why_bytes, "a predicate program has 1 to %d terms, this one has %zu bytes",
                 ASP_PREDICATE_TERMS, program_bytes);
        return ASP_E_INVALID;
    }
    memcpy(predicate->table, program, ASP_PREDICATE_TABLE);
    predicate->count = (uint32_t)(packed / ASP_PREDICATE_TERM);
    uint64_t low = UINT64_MAX, high = 0;
    for (uint32_t i = 0; i < predicate->count; i++) {
        const uint8_t *from = program + ASP_PREDICATE_TABLE + i * ASP_PREDICATE_TERM;
        asp_term *term = &predicate->terms[i];
        uint64_t offset = read_u64(from);
        uint8_t kind = from[17], width = from[18];
        term->op = from[16];
        term->width = width;
        term->elements = from[19];
        term->swapped = from[20] != 0;
        if (term->op >= ASP_OPS || kind >= ASP_KINDS || term->elements >= ASP_ELEMENTS ||
            !(width == 1 || width == 2 || width == 4 || width == 8) ||
            (kind == ASP_FLOAT && (width == 1 || term->op >= ASP_BITS_SET))) {
            snprintf(why, why_bytes, "term %u of the predicate program is malformed", i);
            return ASP_E_INVALID;
        }
        /* The operand has 64 bits whatever the width: already sign-extended, or a double. */
        term->operand = asp_value_decode(read_u64(from + 8), (asp_kind)kind, 8, false);
        if (offset > buffer_bytes || buffer_bytes - offset < width) {
            snprintf(why, why_bytes,
                     "the buffer is too short: it has %llu bytes, and the predicate looks at %u "
                     "bytes from offset %llu",
                     (unsigned long long)buffer_bytes, width, (unsigned long long)offset);
            return ASP_E_INVALID;
        }
        term->address = (const uint8_t *)buffer + offset;
        if ((uintptr_t)term->address % width) {
            snprintf(why, why_bytes,
                     "the element at offset %llu is unaligned: its address %p is no multiple of "
                     "its width %u, so it cannot be loaded atomically",
                     (unsigned long long)offset, (const void *)term->address, width);
            return ASP_E_INVALID;
        }
        term->count = term->elements == ASP_FIRST ? 1 : (buffer_bytes - offset) / width;
        uint64_t end = offset + term->count * width;
        if (offset < low) low = offset;
        if (end > high) high = end;
    }
    predicate->watch.look = look;
    predicate->watch.prepare = notified ? prepare : NULL;
    predicate->watch.address = (const uint8_t *)buffer + low;
    predicate->watch.span = high - low <= UINT32_MAX ? (uint32_t)(high - low) : 0;
    return ASP_READY;
}
