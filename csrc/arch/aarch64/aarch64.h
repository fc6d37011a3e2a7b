/* aarch64.h - what the AArch64 backends share: capabilities, the exclusive monitor, pausing. */
#ifndef ASP_AARCH64_H
#define ASP_AARCH64_H

#include <stdbool.h>
#include <stdint.h>

bool asp_aarch64_has_wfxt(void);
/* Does the kernel send every CPU an event about every 100 us (T4)? */
bool asp_aarch64_has_event_stream(void);
/* Bytes that an exclusive load reserves at least: the exclusives reservation granule. */
uint32_t asp_aarch64_granule_bytes(void);
/* Mark the granule of this address exclusive, so that a store to it sends this CPU an event. */
void asp_aarch64_arm(const void *address);
void asp_aarch64_isb(uint64_t slice_ns);

#endif
