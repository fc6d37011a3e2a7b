#include "word.h"

#include <string.h>

#include "atomics.h"

void asp_store_bits(void *address, uint8_t width, uint64_t bits) {
    /* Release: pairs with the acquire load of asp_load_bits in the waiter. */
    switch (width) {
    case 1: asp_store_release_u8(address, (uint8_t)bits); break;
    case 2: asp_store_release_u16(address, (uint16_t)bits); break;
    case 4: asp_store_release_u32(address, (uint32_t)bits); break;
    default: asp_store_release_u64(address, bits); break;
    }
}

uint64_t asp_exchange_bits(void *address, uint8_t width, uint64_t bits) {
    switch (width) {
    case 1: return asp_exchange_u8(address, (uint8_t)bits);
    case 2: return asp_exchange_u16(address, (uint16_t)bits);
    case 4: return asp_exchange_u32(address, (uint32_t)bits);
    default: return asp_exchange_u64(address, bits);
    }
}

#define ASP_COMPARE_EXCHANGE(bits)                                                             \
    {                                                                                          \
        uint##bits##_t seen = (uint##bits##_t)*expected;                                       \
        bool swapped = asp_compare_exchange_u##bits(address, &seen, (uint##bits##_t)desired); \
        *expected = seen;                                                                      \
        return swapped;                                                                        \
    }

bool asp_compare_exchange_bits(void *address, uint8_t width, uint64_t *expected, uint64_t desired) {
    switch (width) {
    case 1: ASP_COMPARE_EXCHANGE(8)
    case 2: ASP_COMPARE_EXCHANGE(16)
    case 4: ASP_COMPARE_EXCHANGE(32)
    default: ASP_COMPARE_EXCHANGE(64)
    }
}

uint16_t asp_encode_half(double number) {
    uint64_t wide;
    memcpy(&wide, &number, sizeof wide);
    uint16_t sign = (uint16_t)(wide >> 48 & 0x8000);
    int exponent = (int)(wide >> 52 & 0x7ff) - 1023;
    uint64_t fraction = wide & ((UINT64_C(1) << 52) - 1);
    if (exponent == 1024) /* infinity or NaN */
        return (uint16_t)(sign | 0x7c00 | (fraction ? 0x200 : 0));
    if (exponent < -25) return sign; /* less than half of the smallest subnormal */
    /* The significand with its leading one, to be cut down to 11 bits, fewer for a subnormal. */
    uint64_t significand = fraction | UINT64_C(1) << 52;
    int drop = exponent < -14 ? 42 + (-14 - exponent) : 42;
    uint64_t kept = significand >> drop, rest = significand & ((UINT64_C(1) << drop) - 1);
    uint64_t half = UINT64_C(1) << (drop - 1);
    if (rest > half || (rest == half && (kept & 1))) kept++;
    /* A carry out of the fraction moves into the exponent, as it should. */
    uint64_t bits = exponent < -14 ? kept : ((uint64_t)(exponent + 14) << 10) + kept;
    return (uint16_t)(sign | (bits < 0x7c00 ? bits : 0x7c00));
}
