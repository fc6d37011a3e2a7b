/* x86.h - what the x86-64 backends share: feature bits, the monitor line, the time stamp counter
 * and the plain pause. */
#ifndef ASP_X86_H
#define ASP_X86_H

#include <stdbool.h>
#include <stdint.h>

bool asp_x86_has_mwaitx(void);
bool asp_x86_has_waitpkg(void);
/* Smallest monitor line, in bytes: what MONITORX and UMONITOR are sure to cover. */
uint32_t asp_x86_line_bytes(void);
/* Ticks a second of the counter that RDTSC reads; measured at the first call, then kept. */
uint64_t asp_x86_tsc_hz(void);
void asp_x86_pause(uint64_t slice_ns);

#endif
