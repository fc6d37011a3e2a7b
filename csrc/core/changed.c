#include "changed.h"

#include <stdlib.h>
#include <string.h>

#include "atomics.h"
#include "predicate.h"

/* Compare with the snapshot and bring it up to date; a writer may be storing meanwhile, so the
 * buffer is read with atomic loads, in words where its alignment allows. Acquire, because the
 * predicate that runs next reads what the writer stored before. */
static bool refresh(asp_changed *changed) {
    bool differs = false;
    uint64_t i = 0;
    while (i < changed->bytes && (uintptr_t)(changed->buffer + i) % 8) {
        uint8_t now = asp_load_acquire_u8(changed->buffer + i);
        differs |= now != changed->snapshot[i];
        changed->snapshot[i++] = now;
    }
    for (; changed->bytes - i >= 8; i += 8) {
        uint64_t now = asp_load_acquire_u64((const uint64_t *)(changed->buffer + i)), before;
        memcpy(&before, changed->snapshot + i, 8);
        if (now != before) {
            differs = true;
            memcpy(changed->snapshot + i, &now, 8);
        }
    }
    for (; i < changed->bytes; i++) {
        uint8_t now = asp_load_acquire_u8(changed->buffer + i);
        differs |= now != changed->snapshot[i];
        changed->snapshot[i] = now;
    }
    return differs;
}

static bool look(asp_watch *watch) { return refresh((asp_changed *)watch); }

static unsigned prepare(asp_watch *watch, asp_futex_word *words, unsigned room) {
    const asp_changed *changed = (const asp_changed *)watch;
    return asp_words_over(changed->buffer, changed->bytes, words, room);
}

asp_status asp_changed_init(asp_changed *changed, const void *buffer, uint64_t bytes, bool notified) {
    memset(changed, 0, sizeof *changed);
    changed->buffer = buffer;
    changed->bytes = bytes;
    changed->snapshot = calloc(bytes ? bytes : 1, 1);
    if (!changed->snapshot) return ASP_E_MEMORY;
    refresh(changed);
    changed->watch.look = look;
    changed->watch.prepare = notified ? prepare : NULL;
    changed->watch.address = buffer;
    changed->watch.span = bytes <= UINT32_MAX ? (uint32_t)bytes : 0;
    return ASP_READY;
}

void asp_changed_free(asp_changed *changed) {
    free(changed->snapshot);
    changed->snapshot = NULL;
}
