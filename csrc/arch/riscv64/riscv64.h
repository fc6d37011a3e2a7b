/* riscv64.h - what the RISC-V backends share: what the kernel reports, and pausing. */
#ifndef ASP_RISCV64_H
#define ASP_RISCV64_H

#include <stdbool.h>
#include <stdint.h>

bool asp_riscv64_has_zawrs(void);
void asp_riscv64_pause(uint64_t slice_ns);

#endif
