#include "tally.h"

static asp_tally_shard shards[ASP_TALLY_SHARDS];
static uint32_t threads;

__thread asp_tally *asp_tally_mine __attribute__((tls_model("initial-exec")));

asp_tally *asp_tally_choose_shard(void) {
    asp_tally_mine = &shards[asp_fetch_add_u32(&threads, 1) % ASP_TALLY_SHARDS].counts;
    return asp_tally_mine;
}

asp_tally asp_tally_read(void) {
    asp_tally sum = {0};
    for (unsigned i = 0; i < ASP_TALLY_SHARDS; i++) {
        const uint64_t *from = (const uint64_t *)&shards[i].counts; /* all fields are uint64_t */
        uint64_t *to = (uint64_t *)&sum;
        for (unsigned field = 0; field < sizeof sum / sizeof *to; field++)
            to[field] += asp_load_relaxed_u64(&from[field]);
    }
    return sum;
}
