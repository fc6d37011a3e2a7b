/* step_back.h - sched_yield, for tests of spinners that give their CPU to the writer that they wait for.
 *
 * For one source file of a program: what is here takes the place of the C library's. */
#ifndef ASP_STEP_BACK_H
#define ASP_STEP_BACK_H

#include <sched.h>
#include <stdint.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "atomics.h"

/* Of this thread: what it has called, and the word that a writer stores to who had to wait for it. */
static _Thread_local unsigned steps_back;
static _Thread_local uint32_t *stepping_back_stores;

int sched_yield(void) {
    steps_back++;
    if (stepping_back_stores) asp_store_release_u32(stepping_back_stores, 1);
    return (int)syscall(SYS_sched_yield);
}

#endif
