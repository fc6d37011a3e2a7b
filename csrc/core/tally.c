#include "tally.h"

asp_tally asp_counters;
