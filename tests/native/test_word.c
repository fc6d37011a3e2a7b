/* test_word.c - atomic operations on raw bits of every width, and half floats in both directions. */
#include <inttypes.h>
#include <math.h>
#include <pthread.h>
#include <stdint.h>
#include <string.h>

#include "check.h"
#include "predicate.h"
#include "word.h"

static const uint8_t widths[] = {1, 2, 4, 8};

static uint64_t mask(uint8_t width) { return UINT64_MAX >> (64 - 8 * width); }

/* Each operation on an element in the middle of a line of 0xa5: the neighbours stay. */
static void operations_touch_their_element_only(void) {
    const uint64_t value = UINT64_C(0x0123456789abcdef), other = UINT64_C(0xfedcba9876543210);
    for (int w = 0; w < 4; w++) {
        const uint8_t width = widths[w];
        const uint64_t ones = mask(width);
        for (unsigned at = 8; at < 24; at += width) {
            _Alignas(8) uint8_t line[32], before[32];
            memset(line, 0xa5, sizeof line);
            void *address = line + at;
            asp_store_bits(address, width, value);
            CHECK(asp_load_bits(address, width) == (value & ones));
            CHECK(asp_exchange_bits(address, width, other) == (value & ones));
            uint64_t expected = value & ones;
            CHECK(!asp_compare_exchange_bits(address, width, &expected, 7));
            CHECK(expected == (other & ones));
            CHECK(asp_load_bits(address, width) == (other & ones));
            CHECK(asp_compare_exchange_bits(address, width, &expected, value));
            CHECK(asp_load_bits(address, width) == (value & ones));
            memset(before, 0xa5, sizeof before);
            memcpy(before + at, line + at, width);
            CHECK(memcmp(before, line, sizeof line) == 0);
        }
    }
}

enum { ADDERS = 2, ADDS = 20000 };
static _Alignas(8) uint8_t shared[8];

static void *add_many(void *argument) {
    const uint8_t width = *(const uint8_t *)argument;
    for (int i = 0; i < ADDS; i++) {
        uint64_t seen = asp_load_bits(shared, width);
        while (!asp_compare_exchange_bits(shared, width, &seen, seen + 1)) {
        }
    }
    return NULL;
}

static void no_addition_is_lost(void) {
    for (int w = 0; w < 4; w++) {
        pthread_t threads[ADDERS];
        uint8_t width = widths[w];
        memset(shared, 0, sizeof shared);
        for (int i = 0; i < ADDERS; i++) CHECK(pthread_create(&threads[i], NULL, add_many, &width) == 0);
        for (int i = 0; i < ADDERS; i++) CHECK(pthread_join(threads[i], NULL) == 0);
        CHECK(asp_load_bits(shared, width) == (ADDERS * ADDS & mask(width)));
    }
}

static double power_of_two(int exponent) {
    double power = 1;
    for (; exponent > 0; exponent--) power *= 2;
    for (; exponent < 0; exponent++) power /= 2;
    return power;
}

/* What the bits mean, by the book. */
static double half_by_the_book(unsigned bits) {
    const double sign = bits >> 15 ? -1.0 : 1.0;
    const int exponent = bits >> 10 & 31, fraction = bits & 1023;
    if (exponent == 31) return fraction ? (double)NAN : sign * (double)INFINITY;
    return sign * (exponent ? (1024 + fraction) * power_of_two(exponent - 25) : fraction * power_of_two(-24));
}

static double decode(unsigned bits) { return asp_value_decode(bits, ASP_FLOAT, 2, false).as.f; }

static void every_half_goes_round(void) {
    for (unsigned bits = 0; bits < 65536; bits++) {
        const double got = decode(bits), want = half_by_the_book(bits);
        if (isnan(want)) {
            CHECK_SAY(isnan(got) && isnan(decode(asp_encode_half(got))), "0x%04x", bits);
            CHECK((asp_encode_half(got) & 0x8000) == (bits & 0x8000));
        } else {
            CHECK_SAY(memcmp(&got, &want, 8) == 0, "0x%04x: %a, by the book %a", bits, got, want);
            CHECK_SAY(asp_encode_half(got) == bits, "0x%04x", bits);
        }
    }
}

/* The neighbour of a positive double. */
static double beside(double number, int64_t step) {
    int64_t bits;
    memcpy(&bits, &number, 8);
    bits += step;
    memcpy(&number, &bits, 8);
    return number;
}

/* Around the middle of every two neighbours: below goes down, above up, the middle to the even one. */
static void rounds_to_nearest_even(void) {
    for (unsigned bits = 0; bits < 0x7c00; bits++) {
        const double low = half_by_the_book(bits);
        const double high = bits == 0x7bff ? 65536.0 : half_by_the_book(bits + 1);
        const double middle = low + (high - low) / 2; /* exact: 12 significant bits */
        const unsigned even = bits & 1 ? bits + 1 : bits;
        for (unsigned sign = 0; sign <= 0x8000; sign += 0x8000) {
            const double s = sign ? -1 : 1;
            CHECK_SAY(asp_encode_half(s * middle) == (sign | even), "0x%04x: middle", bits);
            CHECK_SAY(asp_encode_half(s * beside(middle, -1)) == (sign | bits), "0x%04x: below", bits);
            CHECK_SAY(asp_encode_half(s * beside(middle, 1)) == (sign | (bits + 1)), "0x%04x: above", bits);
        }
    }
}

static void the_extremes(void) {
    CHECK(asp_encode_half(0.0) == 0 && asp_encode_half(-0.0) == 0x8000);
    CHECK(asp_encode_half(5e-324) == 0 && asp_encode_half(-5e-324) == 0x8000);
    CHECK(asp_encode_half(65504) == 0x7bff && asp_encode_half(65519.99) == 0x7bff);
    CHECK(asp_encode_half(65520) == 0x7c00 && asp_encode_half(1e308) == 0x7c00);
    CHECK(asp_encode_half((double)INFINITY) == 0x7c00 && asp_encode_half(-(double)INFINITY) == 0xfc00);
    CHECK(isnan(decode(asp_encode_half((double)NAN))));
}

int main(void) {
    operations_touch_their_element_only();
    no_addition_is_lost();
    every_half_goes_round();
    rounds_to_nearest_even();
    the_extremes();
    printf("test_word: passed\n");
    return 0;
}
