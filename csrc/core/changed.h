/* changed.h - did any byte of a buffer change: a snapshot to compare with.
 *
 * What waits for a Python predicate: the predicate runs only after a change was seen here. */
#ifndef ASP_CHANGED_H
#define ASP_CHANGED_H

#include <stddef.h>
#include <stdint.h>

#include "status.h"
#include "watch.h"

typedef struct asp_changed {
    asp_watch watch; /* a look that is true takes the next snapshot */
    const uint8_t *buffer;
    uint8_t *snapshot; /* malloc; free with asp_changed_free */
    uint64_t bytes;
} asp_changed;

asp_status asp_changed_init(asp_changed *changed, const void *buffer, uint64_t bytes, bool notified);
void asp_changed_free(asp_changed *changed);

#endif
