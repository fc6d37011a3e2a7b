/* predicate.h - when is a word ready: up to eight terms and a truth table over them.
 *
 * A predicate is data, so that no Python runs while one waits (T10). The package compiles it into
 * a program (aiospin/_predicate.py says the bytes); here it is checked against a buffer and
 * evaluated. With the truth table any nesting of "and" and "or" costs the same: evaluate every term,
 * look the answer up. */
#ifndef ASP_PREDICATE_H
#define ASP_PREDICATE_H

#include <stddef.h>
#include <stdint.h>

#include "status.h"
#include "watch.h"

#define ASP_PREDICATE_TERMS 8  /* 2^8 rows make a truth table of 32 bytes */
#define ASP_PREDICATE_TABLE 32 /* bytes */
#define ASP_PREDICATE_TERM 24  /* bytes of a packed term */

typedef enum asp_op {
    ASP_EQ, ASP_NE, ASP_LT, ASP_LE, ASP_GT, ASP_GE, ASP_BITS_SET, ASP_BITS_CLEAR, ASP_OPS
} asp_op;
typedef enum asp_kind { ASP_UNSIGNED, ASP_SIGNED, ASP_FLOAT, ASP_BOOL, ASP_KINDS } asp_kind;
typedef enum asp_elements { ASP_FIRST, ASP_ALL, ASP_ANY, ASP_ELEMENTS } asp_elements;

typedef struct asp_value {
    asp_kind kind;
    union {
        uint64_t u; /* ASP_UNSIGNED, ASP_BOOL */
        int64_t i;  /* ASP_SIGNED */
        double f;   /* ASP_FLOAT */
    } as;
} asp_value;

typedef struct asp_term {
    const uint8_t *address; /* of the first element, aligned to width */
    uint64_t count;         /* elements to look at, at least 1 */
    asp_value operand;
    uint8_t op;
    uint8_t width; /* 1, 2, 4 or 8 bytes */
    uint8_t elements;
    bool swapped; /* stored in the other byte order */
} asp_term;

typedef struct asp_predicate {
    asp_watch watch;
    asp_value value; /* observed by the last look that was true */
    uint32_t count;
    uint8_t table[ASP_PREDICATE_TABLE];
    asp_term terms[ASP_PREDICATE_TERMS];
} asp_predicate;

/* Check a program against a buffer. ASP_E_INVALID with a sentence in `why` when an element lies
 * outside, or is unaligned (its load would not be atomic, and might straddle two lines, T13).
 * notified: the writer will knock on the futex words that hold the elements. */
asp_status asp_predicate_init(asp_predicate *predicate, const uint8_t *program,
                              size_t program_bytes, const void *buffer, uint64_t buffer_bytes,
                              bool notified, char *why, size_t why_bytes);

/* Bits of an element as a value of its kind; also used by atomic words. */
asp_value asp_value_decode(uint64_t bits, asp_kind kind, uint8_t width, bool swapped);
/* The bits of `width` bytes at an aligned address, loaded with acquire. */
uint64_t asp_load_bits(const void *address, uint8_t width);
/* The futex words over [address, address + span), with the values that they hold now. 0 when there are
 * more than room. */
unsigned asp_words_over(const void *address, uint64_t span, asp_futex_word *words, unsigned room);

#endif
