/* learnt_period.h - a predictor that knows a steady stream, for tests of what goes by its plans. */
#ifndef ASP_LEARNT_PERIOD_H
#define ASP_LEARNT_PERIOD_H

#include "clock.h"
#include "predict.h"

/* A stream with this period, whose last message came just now. Its reader was woken until it began to spin. */
static inline void learn_period(asp_predict *predict, const asp_price *price, uint64_t period_ns) {
    const uint64_t now = asp_now_ns();
    asp_predict_init(predict);
    for (uint64_t i = 60; i-- > 0;) {
        const uint64_t published = now - i * period_ns;
        const asp_plan plan = asp_predict_plan(predict, published - period_ns / 2, price);
        if (plan.spin_from_ns < published) {
            asp_predict_overslept(predict, plan.spin_from_ns, plan.spin_from_ns + 5000);
            asp_predict_outcome(predict, ASP_PREDICT_SPUN, published, published + 300, published - plan.spin_from_ns);
        } else {
            asp_predict_outcome(predict, ASP_PREDICT_WOKEN, published, published + 30000, 0);
        }
        asp_predict_arrival(predict, published);
    }
}

#endif
