/* bells.h - the writer's ends of the readers' doorbells: one FIFO a slot, rung with one byte.
 *
 * A reader in an event loop sleeps in its loop's own poll, on a FIFO beside the segment, so that a
 * publish wakes it in one hop, from any container or network namespace that has the folder. This side
 * holds the descriptors; who is parked is in the reader's line of the ring. The kernel closes them with
 * the process, which is how a parked reader learns of the writer's death (POLLHUP). */
#ifndef ASP_BELLS_H
#define ASP_BELLS_H

#include <stdbool.h>
#include <stdint.h>

typedef struct asp_bells asp_bells;

/* Nothing is opened yet. `prefix` is the path of the FIFOs up to the number of the slot. NULL: no memory. */
asp_bells *asp_bells_new(const char *prefix, uint32_t slots);
/* Close them all. NULL is none. */
void asp_bells_free(asp_bells *bells);
/* Close them all, for the child after a fork: it would keep a dead parent's readers from seeing its death. */
void asp_bells_close(asp_bells *bells);

/* Open the FIFO of a slot, instead of the one held for it before. False: there is none, or it is denied. */
bool asp_bells_open(asp_bells *bells, uint32_t slot);
/* Does the path still lead to the FIFO that is held? A dead reader's may have been replaced by its successor's. */
bool asp_bells_current(const asp_bells *bells, uint32_t slot);
bool asp_bells_held(const asp_bells *bells, uint32_t slot);
/* Ring one that is held. */
void asp_bells_ring(asp_bells *bells, uint32_t slot);

#endif
