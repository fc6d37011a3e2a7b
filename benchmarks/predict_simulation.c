#include <stdio.h>

#include "predict_model.h"

int main(void) {
    const machine *machines[] = {&event_loop, &futex_caller, &one_core};
    const char *names[] = {"event loop", "blocking caller", "one core, two threads"};
    for (unsigned k = 0; k < 3; k++) {
        printf("\n%s\n%-28s", names[k], "p50 p99 us, cpu %");
        for (unsigned s = 0; s < STRATEGIES; s++) printf("| %-18s", every_strategy[s].name);
        for (unsigned a = 0; a < PROCESSES; a++) {
            printf("\n%-28s", every_process[a].name);
            for (unsigned s = 0; s < STRATEGIES; s++) {
                outcome o = simulate(machines[k], &every_process[a], &every_strategy[s], 100, 4000, 42);
                printf("|%5.1f %5.1f %6.2f ", o.p50 / 1e3, o.p99 / 1e3, o.cpu * 100);
            }
        }
        printf("\n");
    }
    return 0;
}
