/* check.h - the whole test framework of the C tests: one program a subject, exit status 0 for
 * passed, 77 for skipped (with the reason on stdout), 1 for failed. */
#ifndef ASP_CHECK_H
#define ASP_CHECK_H

#include <stdio.h>
#include <stdlib.h>

#define ASP_EXIT_SKIP 77 /* what automake and meson mean by skipped */

/* Stops the program: after the first broken promise the rest of a native test means little. */
#define CHECK_SAY(condition, ...)                                                          \
    do {                                                                                   \
        if (!(condition)) {                                                                \
            fprintf(stderr, "%s:%d: %s: failed: %s: ", __FILE__, __LINE__, __func__, #condition); \
            fprintf(stderr, __VA_ARGS__);                                                  \
            fputc('\n', stderr);                                                           \
            exit(1);                                                                       \
        }                                                                                  \
    } while (0)

#define CHECK(condition) CHECK_SAY(condition, "expected to be true")

#define SKIP(...)                 \
    do {                          \
        printf("skipped: ");      \
        printf(__VA_ARGS__);      \
        putchar('\n');            \
        exit(ASP_EXIT_SKIP);      \
    } while (0)

#endif
