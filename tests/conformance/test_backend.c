/* test_backend.c - every backend that can be executed here, put through the contract.
 *
 *   test_backend                      those that detection finds
 *   test_backend NAME...              these; 77 when the machine lacks one
 *   test_backend --force [NAME...]    whatever detection says, since emulators run instructions
 *                                     that they do not advertise; without names all of the
 *                                     architecture
 *
 * Prints a line RESULT for each (tests/emulated/README.md). A backend that returns at once instead
 * of sleeping keeps the contract, but then the probe has to know and `auto` to pass it over. */
#include "contract.h"

#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "check.h"

#define MAX_BACKENDS 16

static const char *const all_names[] = {"mwaitx", "umwait", "tpause", "pause", "wfet",
                                        "wfe",    "isb",    "yield",  "zawrs", "generic"};

static void conform(const asp_backend *backend) {
    const char *name = backend->monitor.name;
    const findings found = asp_check_contract(backend);
    asp_print_findings(name, &found);
    const bool hot = asp_is_hot(found.idle_wakes_per_s);
    CHECK_SAY(strcmp(found.verdict, "deaf") != 0, "%s: no store ends its wait", name);
    CHECK_SAY(!hot || backend->monitor.watches, "%s: %lu wakes a second", name,
              found.idle_wakes_per_s);

    /* the probe of T5 and the count agree about it */
    const asp_backend *const table[] = {&(asp_backend){.monitor = backend->monitor,
                                                       .line_bytes = backend->line_bytes},
                                        &asp_backend_generic};
    asp_selection selection;
    CHECK(asp_select_from(table, 2, "auto", &selection) == ASP_READY);
    CHECK_SAY(hot == (selection.monitor != &table[0]->monitor), "%s: %lu wakes a second, but %s",
              name, found.idle_wakes_per_s, selection.why);
    if (asp_select("auto", &selection) == ASP_READY && selection.monitor == &backend->monitor) {
        CHECK_SAY(!hot, "auto chose it: %s", selection.why);
    }
}

/* In a process of its own, so that one that breaks its promises does not hide the others. */
static bool conforms(const asp_backend *backend) {
    fflush(stdout);
    const pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        conform(backend);
        exit(0);
    }
    int status = 0;
    CHECK(waitpid(child, &status, 0) == child);
    if (status == 0) {
        return true;
    }
    if (WIFEXITED(status) && WEXITSTATUS(status) == ASP_EXIT_SKIP) {
        exit(ASP_EXIT_SKIP); /* the child said why */
    }
    const bool killed = WIFSIGNALED(status);
    printf("FAILED %s: %s %d\n", backend->monitor.name, killed ? "signal" : "exit status",
           killed ? WTERMSIG(status) : WEXITSTATUS(status));
    return false;
}

int main(int argc, char **argv) {
    const bool force = argc > 1 && strcmp(argv[1], "--force") == 0;
    char **asked = argv + 1 + force;
    const char *names[MAX_BACKENDS];
    size_t count = 0;
    for (; asked[count]; count++) {
        CHECK(count < MAX_BACKENDS);
        names[count] = asked[count];
        asp_selection selection;
        if (!force && asp_select(names[count], &selection) != ASP_READY) {
            SKIP("%s", selection.why);
        }
    }
    if (count == 0 && !force) {
        count = asp_supported(names, MAX_BACKENDS);
    }
    if (count == 0) {
        for (size_t i = 0; i < sizeof all_names / sizeof all_names[0]; i++) {
            if (asp_backend_find(all_names[i])) {
                names[count++] = all_names[i];
            }
        }
    }
    bool good = true;
    for (size_t i = 0; i < count; i++) {
        const asp_backend *backend = asp_backend_find(names[i]);
        CHECK_SAY(backend, "%s is no backend of this architecture", names[i]);
        good &= conforms(backend);
    }
    return !good;
}
