/* select.c - which backend waits on this machine, and the sentence that says why.
 *
 * Only feature bits and the probe decide, never the name of a vendor or a model (T12). A name
 * that was asked for is honoured or refused, never exchanged for another. The environment is
 * read by the caller. */
#include "arch.h"

#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

/* Best first. An instruction that watches the line beats one that only passes time, and a wait
 * with a deadline beats one without. */
static const asp_backend *const backends[] = {
#if defined(__x86_64__)
    &asp_backend_mwaitx, &asp_backend_umwait, &asp_backend_tpause, &asp_backend_pause,
#elif defined(__aarch64__)
    &asp_backend_wfet,   &asp_backend_wfe,    &asp_backend_isb,    &asp_backend_yield,
#elif defined(__riscv) && __riscv_xlen == 64
    &asp_backend_zawrs,  &asp_backend_pause,
#endif
    &asp_backend_generic,
};
#define ASP_BACKENDS (sizeof backends / sizeof backends[0])

/* Every name of every architecture: what is here but not above is right elsewhere. */
static const char *const all_names[] = {"mwaitx", "umwait", "tpause", "pause", "wfet",
                                        "wfe",    "isb",    "yield",  "zawrs", "generic"};

static const char *missing(const asp_backend *backend) {
    return backend->missing ? backend->missing() : NULL;
}

static const asp_backend *find(const asp_backend *const *table, size_t count, const char *name) {
    for (size_t i = 0; i < count; i++) {
        if (strcmp(table[i]->monitor.name, name) == 0) {
            return table[i];
        }
    }
    return NULL;
}

static bool known_anywhere(const char *name) {
    for (size_t i = 0; i < sizeof all_names / sizeof all_names[0]; i++) {
        if (strcmp(all_names[i], name) == 0) {
            return true;
        }
    }
    return false;
}

/* Append to selection->why; what does not fit is cut off. */
__attribute__((format(printf, 2, 3))) static void say(asp_selection *selection,
                                                      const char *format, ...) {
    const size_t length = strlen(selection->why);
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(selection->why + length, sizeof selection->why - length, format, arguments);
    va_end(arguments);
}

static void say_what_there_is(asp_selection *selection, const asp_backend *const *table,
                              size_t count) {
    say(selection, "; this machine has auto");
    for (size_t i = 0; i < count; i++) {
        if (!missing(table[i])) {
            say(selection, ", %s", table[i]->monitor.name);
        }
    }
}

/* Does it sleep? When not, say so with the figure. A backend that does not watch has nothing to
 * be probed: its pause ends by the clock or is one instruction. */
static bool sleeps(asp_selection *selection, const asp_backend *backend) {
    if (!backend->monitor.watches) {
        return true;
    }
    const uint64_t dwell_ns = asp_probe_dwell_ns(&backend->monitor);
    if (dwell_ns >= ASP_PROBE_SLEEPS_NS) {
        return true;
    }
    say(selection, "; %s: does not sleep, a wait of %u ns took %u ns", backend->monitor.name,
        ASP_PROBE_SLICE_NS, (unsigned)dwell_ns);
    return false;
}

static asp_status choose(asp_selection *selection, const asp_backend *backend) {
    selection->monitor = &backend->monitor;
    selection->line_bytes = backend->line_bytes ? backend->line_bytes() : 0;
    return ASP_READY;
}

static asp_status choose_best(asp_selection *selection, const asp_backend *const *table,
                              size_t count) {
    const asp_backend *best = NULL;
    asp_selection against = {0}; /* its `why` collects what speaks against the better ones */
    for (size_t i = 0; i < count && !best; i++) {
        const char *lack = missing(table[i]);
        if (lack) {
            say(&against, "; %s: %s", table[i]->monitor.name, lack);
        } else if (sleeps(&against, table[i])) {
            best = table[i];
        }
    }
    if (!best) {
        say(selection, "nothing here can wait%s", against.why);
        return ASP_E_UNSUPPORTED;
    }
    say(selection, "%s: the best here%s", best->monitor.name, against.why);
    return choose(selection, best);
}

asp_status asp_select_from(const asp_backend *const *table, size_t count, const char *wanted,
                           asp_selection *selection) {
    *selection = (asp_selection){0};
    if (!wanted || strcmp(wanted, "auto") == 0) {
        return choose_best(selection, table, count);
    }
    const asp_backend *backend = find(table, count, wanted);
    if (backend) {
        const char *lack = missing(backend);
        if (lack) {
            say(selection, "%s: %s", wanted, lack);
            say_what_there_is(selection, table, count);
            return ASP_E_UNSUPPORTED;
        }
        say(selection, "%s: asked for by name", wanted);
        sleeps(selection, backend); /* honoured all the same, but not without saying it */
        return choose(selection, backend);
    }
    if (known_anywhere(wanted)) {
        say(selection, "%s: belongs to another architecture", wanted);
        say_what_there_is(selection, table, count);
        return ASP_E_UNSUPPORTED;
    }
    /* From the environment, so it may be anything: shortened, and only its printable ASCII. */
    char shown[33];
    size_t length = 0;
    for (; wanted[length] && length < sizeof shown - 1; length++) {
        const char c = wanted[length];
        shown[length] = c >= ' ' && c <= '~' ? c : '?';
    }
    shown[length] = 0;
    say(selection, "\"%s\" is not a backend", shown);
    say_what_there_is(selection, table, count);
    return ASP_E_INVALID;
}

const asp_backend *asp_backend_find(const char *name) {
    return find(backends, ASP_BACKENDS, name);
}

asp_status asp_select(const char *wanted, asp_selection *selection) {
    return asp_select_from(backends, ASP_BACKENDS, wanted, selection);
}

size_t asp_supported(const char **names, size_t max) {
    size_t count = 0;
    for (size_t i = 0; i < ASP_BACKENDS; i++) {
        if (!missing(backends[i])) {
            if (count < max) {
                names[count] = backends[i]->monitor.name;
            }
            count++;
        }
    }
    return count;
}
