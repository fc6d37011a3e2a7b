/* word.h - atomic operations on one element of 1, 2, 4 or 8 bytes, as raw bits. */
#ifndef ASP_WORD_H
#define ASP_WORD_H

#include <stdbool.h>
#include <stdint.h>

/* All sequentially consistent but load (acquire, asp_load_bits in predicate.h) and store (release):
 * what one thread stored before a store or a read-modify-write is seen by who loads its result. */
void asp_store_bits(void *address, uint8_t width, uint64_t bits);
uint64_t asp_exchange_bits(void *address, uint8_t width, uint64_t bits);
/* *expected becomes what was there when it fails. */
bool asp_compare_exchange_bits(void *address, uint8_t width, uint64_t *expected, uint64_t desired);
/* IEEE 754 binary16 bits of a number, rounded to nearest even; infinity when it is too large. */
uint16_t asp_encode_half(double number);

#endif
