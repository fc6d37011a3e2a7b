/* ring_bytes.h - messages of plain bytes, for tests that know nothing of formats and large messages. */
#ifndef ASP_RING_BYTES_H
#define ASP_RING_BYTES_H

#include "ring.h"

static inline asp_status acquire_bytes(asp_ring_reader *reader, const void **payload,
                                       uint32_t *length) {
    asp_ring_message message;
    const asp_status status = asp_ring_acquire(reader, payload, &message);
    if (status == ASP_READY) *length = (uint32_t)message.length;
    return status;
}

static inline asp_status peek_bytes(asp_ring_reader *reader, uint32_t *length) {
    asp_ring_message message;
    const asp_status status = asp_ring_peek(reader, &message);
    if (status == ASP_READY) *length = (uint32_t)message.length;
    return status;
}

#endif
