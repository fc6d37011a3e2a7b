/* predict_simulation.c - what each strategy of waiting costs with each writer on each machine,
 * in simulated time.
 *
 *     predict_simulation            every strategy
 *     predict_simulation PRICE      the predicting one alone, at this price of latency
 *
 * One line a figure: machine, process, strategy, p50 and p99 of the latency (us), share of a
 * core, cost of a message (price x latency + CPU, us), separated by tabs. predict_simulation.py
 * compiles this, and draws the tables. */
#include <stdio.h>

#include "predict_model.h"

#define SEEDS 3u
#define WARM_UP 100u /* messages */
#define COUNT 3000u

static void print_figure(const named_machine *m, const arrivals *a, const strategy *s,
                         const asp_price *price) {
    outcome mean = {0};
    double costs = 0;
    for (uint64_t seed = 1; seed <= SEEDS; seed++) {
        const outcome one = simulate(m->machine, a, s, WARM_UP, COUNT, seed);
        mean.p50 += one.p50 / SEEDS;
        mean.p99 += one.p99 / SEEDS;
        mean.cpu += one.cpu / SEEDS;
        costs += cost(&one, price) / one.waits / SEEDS;
    }
    printf("%s\t%s\t%s\t%.6g\t%.6g\t%.6g\t%.6g\n", m->name, a->name, s->name, mean.p50 / US,
           mean.p99 / US, mean.cpu, costs / US);
}

int main(int argc, char **argv) {
    asp_price price = BALANCED;
    if (argc > 2 || (argc == 2 && atoi(argv[1]) <= 0)) {
        fprintf(stderr, "usage: %s [PRICE, a whole number of CPU ns for one of latency]\n",
                argv[0]);
        return 2;
    }
    if (argc == 2) price.cpu_per_latency = (uint32_t)atoi(argv[1]);
    for (unsigned m = 0; m < MACHINES; m++) {
        for (unsigned a = 0; a < PROCESSES; a++) {
            for (unsigned i = 0; i < STRATEGIES; i++) {
                strategy s = every_strategy[i];
                s.price = price;
                if (argc == 1 || s.kind == PREDICT)
                    print_figure(&every_machine[m], &every_process[a], &s, &price);
            }
        }
    }
    return 0;
}
