/* lock.h - who lives: record locks on the file of a segment, which the kernel drops with the process
 * (docs/layout.md, "Who lives"). Only asking; aiospin/_lock.py takes them. */
#ifndef ASP_LOCK_H
#define ASP_LOCK_H

#include <stdbool.h>
#include <stdint.h>

/* The byte that each member has locked, behind any size that a file can have. */
#define ASP_LOCK_WRITER UINT64_C(0x7fff000000000000)
#define ASP_LOCK_READER (ASP_LOCK_WRITER + 1) /* + slot */

/* Can this system be asked? */
bool asp_lock_available(void);

/* Does another open file description have the lock on this byte? False where the descriptor cannot be asked. */
bool asp_lock_is_taken(int fd, uint64_t byte);

#endif
