/* test_park_steps.c - two announcements or wakes of park.h at once, the second of which runs as a whole after
 * each instruction of the first: no announcement is overwritten, and none hides another from a wake.
 *
 * The first is done by a child that is single-stepped; stress alone meets these few nanoseconds too seldom. */
#include "check.h"

#if !defined(__x86_64__) || !defined(__linux__)
int main(void) { SKIP("single steps through atomic operations are safe on x86-64 Linux only"); }
#elif defined(__SANITIZE_THREAD__) || defined(__SANITIZE_ADDRESS__)
int main(void) { SKIP("single steps would lead through all of the sanitizer's own code"); }
#else

#include <errno.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/wait.h>
#include <unistd.h>

#include "park.h"

#define FLAGS (ASP_PARK_SLEEPER | ASP_PARK_BELL)
#define MOST_STEPS 2000u /* no operation here has a tenth of it */

/* Returns the flags that it took out of the word. */
typedef uint32_t operation(uint32_t *word);

static uint32_t prepare(uint32_t *word) {
    asp_park_prepare(word);
    return 0;
}

static uint32_t prepare_bell(uint32_t *word) {
    asp_park_prepare_bell(word);
    return 0;
}

static uint32_t announced_by(operation *one) {
    return one == prepare ? ASP_PARK_SLEEPER : one == prepare_bell ? ASP_PARK_BELL : 0;
}

typedef struct shared {
    uint32_t word;
    uint32_t taken; /* by the first operation */
} shared;

static void trace(enum __ptrace_request request, pid_t pid, void *data) {
    CHECK_SAY(ptrace(request, pid, NULL, data) == 0, "errno %d", errno);
}

/* Halted again, by this signal; 0 when tracing is not allowed. */
static int next_stop(pid_t pid) {
    int status;
    CHECK(waitpid(pid, &status, 0) == pid);
    if (WIFEXITED(status) && WEXITSTATUS(status) == ASP_EXIT_SKIP) return 0;
    CHECK_SAY(WIFSTOPPED(status), "the child ended with %#x", (unsigned)status);
    return WSTOPSIG(status);
}

/* The second after so many instructions of the first. False: it does not have so many. */
static bool visit(shared *s, operation *first, operation *second, uint32_t before, unsigned steps) {
    s->word = before;
    s->taken = 0;
    const pid_t pid = fork();
    CHECK(pid >= 0);
    if (pid == 0) {
        if (ptrace(PTRACE_TRACEME, 0, NULL, NULL) != 0) _exit(ASP_EXIT_SKIP);
        kill(getpid(), SIGSTOP);
        s->taken = first(&s->word);
        kill(getpid(), SIGSTOP);
        _exit(0);
    }
    if (next_stop(pid) == 0) SKIP("this system does not allow a process to trace its child");
    trace(PTRACE_SETOPTIONS, pid, (void *)PTRACE_O_EXITKILL);
    bool over = false;
    for (unsigned i = 0; i < steps && !over; i++) {
        trace(PTRACE_SINGLESTEP, pid, NULL);
        over = next_stop(pid) == SIGSTOP;
    }
    uint32_t taken = 0;
    if (!over) {
        taken = second(&s->word);
        trace(PTRACE_CONT, pid, NULL);
        CHECK(next_stop(pid) == SIGSTOP);
        const uint32_t announced = (before & FLAGS) | announced_by(first) | announced_by(second);
        const unsigned wakes = (taken ? 1u : 0u) + (s->taken ? 1u : 0u);
        CHECK_SAY(((s->word | taken | s->taken) & announced) == announced,
                  "after %u instructions an announcement is lost: %#x of %#x, %#x and %#x were taken", steps, s->word,
                  announced, taken, s->taken);
        CHECK_SAY(s->word / ASP_PARK_STEP == before / ASP_PARK_STEP + wakes,
                  "after %u instructions: %u wakes, and the word went from %#x to %#x", steps, wakes, before, s->word);
        if ((before & ASP_PARK_SLEEPER) && first == asp_park_notify)
            CHECK_SAY((taken | s->taken) & ASP_PARK_SLEEPER, "after %u instructions nobody woke the sleeper", steps);
    }
    CHECK(kill(pid, SIGKILL) == 0 && waitpid(pid, NULL, 0) == pid);
    return !over;
}

int main(void) {
    operation *const all[] = {prepare, prepare_bell, asp_park_notify};
    shared *s = mmap(NULL, sizeof *s, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    CHECK(s != MAP_FAILED);
    unsigned visits = 0;
    for (int first = 0; first < 3; first++)
        for (int second = 0; second < 3; second++)
            for (uint32_t flags = 0; flags <= ASP_PARK_SLEEPER; flags++) {
                unsigned steps = 0;
                while (visit(s, all[first], all[second], 8 | flags, steps)) CHECK(++steps < MOST_STEPS);
                visits += steps;
                CHECK(steps > 3);
            }
    printf("test_park_steps: passed, %u visits\n", visits);
    return 0;
}
#endif
