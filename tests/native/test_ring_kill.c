/* test_ring_kill.c - a process stops, or dies, at every instruction of every operation on the ring.
 *
 * The victim is a child that is single-stepped through one operation. After each instruction
 *   - that changed the segment, it counts as dead: the survivors must go on, all see the same, what
 *     it published or not, find its slot free again, and a new writer goes on where it ended. To
 *     those who share nothing with a process but the segment, one that is never continued is a dead
 *     one;
 *   - a clone of it is halted while the survivors use the ring, and then continued to the end:
 *     every interleaving of the operation with one visit of the others.
 * The segment and the survivors are put back after each of these, and the victim goes on.
 *
 * The order of stores is that of x86; test_ring_litmus.c and docs/memory-model.md are about weaker
 * ones. Real deaths, with locks and files, are in tests/broadcast/test_kill.py. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE /* sched_getcpu */
#endif
#include "check.h"

#if !defined(__x86_64__) || !defined(__linux__)
int main(void) { SKIP("single steps through atomic operations are safe on x86-64 Linux only"); }
#elif defined(__SANITIZE_THREAD__)
int main(void) { SKIP("single steps would lead through all of the sanitizer's own code"); }
#else

#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <sys/auxv.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <unistd.h>

#include "ring_bench.h"

#define VICTIM 0u   /* the slot of a victim that reads, */
#define WITNESS 1u  /* of a survivor that reads all the time, */
#define LAGGARD 2u  /* of one that has not read anything yet, */
#define NEWCOMER 3u /* and of one that joins in between */
#define BEFORE 10u  /* messages sent before the operation */
#define LAPS 70u    /* messages that go twice around the ring */
#define MESSAGE_BYTES 180u /* the longest here */
#define SEGMENT_BYTES (4 * ASP_RING_LINE + READERS * ASP_RING_LINE + CAPACITY + ASP_RING_SPILL)
#define VDSO_BYTES 16384u /* more than it has; in front of the libraries, as the kernel maps it */
#define LARGE 1000000u /* bytes */
#define NEVER (~0ul)
/* AddressSanitizer makes several instructions of one, and its shadow makes a clone cost milliseconds: there
 * every 31st of them, since the others test the order of stores, which is the same without it. */
#if defined(__SANITIZE_ADDRESS__)
#define STRIDE 31u
#else
#define STRIDE 1u
#endif
#define TRACE_OPTIONS ((void *)(PTRACE_O_EXITKILL | PTRACE_O_TRACEFORK))

typedef struct world {
    bench b;
    asp_ring_reader readers[READERS]; /* joined or not */
    bool lossy;
} world;

typedef struct scenario {
    const char *name;
    asp_overflow overflow;
    uint64_t start;               /* position of the first record */
    void (*prepare)(world *w);
    void (*operation)(world *w);  /* in the victim */
    void (*survive)(world *w, bool over); /* over: the victim is no more; else it is halted */
    /* do it again with a visit before that lasts, after each so many steps; 0: never */
    unsigned long visits;
} scenario;

static const scenario *current;
static unsigned long step; /* of the victim; for what CHECK says */

static uint8_t messages[256][MESSAGE_BYTES];

static const uint8_t *content_of(uint64_t n) { return messages[n % 256]; }
static uint64_t size_of(uint64_t n) { return (n * 37 + 150) % MESSAGE_BYTES; }

/* Some have a file of their own. Nobody opens it here. */
static bool is_large(uint64_t n) { return n % 11 == 5; }

static asp_status send_next(world *w) {
    const uint64_t n = w->b.writer.sequence;
    if (!is_large(n)) {
        return asp_ring_send(&w->b.writer, content_of(n), size_of(n), ASP_FORMAT_BYTES);
    }
    const asp_status status = asp_ring_claim_large(&w->b.writer);
    return status == ASP_READY ? asp_ring_publish_large(&w->b.writer, LARGE + n, ASP_FORMAT_PICKLE)
                               : status;
}

static void check_message(const asp_ring_message *message, const void *payload, uint64_t n) {
    const bool whole = is_large(n)
                           ? message->large && message->length == LARGE + n
                           : !message->large && message->length == size_of(n) &&
                                 memcmp(payload, content_of(n), size_of(n)) == 0;
    CHECK_SAY(whole && message->sequence == n,
              "%s, step %lu: message %" PRIu64 " instead of %" PRIu64, current->name, step,
              message->sequence, n);
}

/* Read one message and check it. */
static asp_status read_next(world *w, asp_ring_reader *reader) {
    uint8_t data[MAX_MESSAGE];
    asp_ring_message message;
    const uint64_t n = reader->sequence;
    asp_status status = asp_ring_peek(reader, &message);
    if (status == ASP_READY && message.large) {
        asp_ring_pass(reader);
        check_message(&message, NULL, n);
    } else if (status == ASP_READY) {
        uint32_t length;
        status = asp_ring_copy(reader, data, sizeof data, &length);
        if (status == ASP_READY) {
            CHECK_U64(length, message.length);
            check_message(&message, data, n);
        }
    }
    if (status == ASP_READY) {
        CHECK_U64(reader->sequence, n + 1);
    } else if (status == ASP_LAGGED) {
        CHECK(w->lossy);
        CHECK_U64(reader->sequence, n + reader->skipped);
    } else {
        CHECK_SAY(status == ASP_WOULD_BLOCK || status == ASP_END, "%s, step %lu: status %d",
                  current->name, step, (int)status);
    }
    return status;
}

/* Read all that is there. */
static asp_status drain(world *w, asp_ring_reader *reader) {
    asp_status status;
    do {
        status = read_next(w, reader);
    } while (status == ASP_READY || status == ASP_LAGGED);
    return status;
}

static void drain_all(world *w) {
    for (unsigned i = 0; i < READERS; i++) {
        if (w->readers[i].joined) {
            drain(w, &w->readers[i]);
        }
    }
}

static void join_in(world *w, uint32_t slot) { join(&w->b, &w->readers[slot], slot); }

/* The writer and the readers that are left exchange messages, twice around the ring. */
static void go_on(world *w) {
    for (unsigned i = 0; i < LAPS; i++) {
        const asp_status status = send_next(w);
        CHECK_SAY(status == ASP_READY, "%s, step %lu: cannot send, status %d", current->name, step,
                  (int)status);
        drain_all(w);
    }
    for (unsigned i = 0; i < READERS; i++) {
        CHECK(!w->readers[i].joined || w->readers[i].sequence == w->b.writer.sequence);
    }
}

/* ---- a writer is the victim ---- */

static void send_one(world *w) { CHECK_STATUS(send_next(w), ASP_READY); }

/* Parked, so that the writer goes all the way to the system call. */
static void park(world *w) {
    asp_ring_reader *reader = &w->readers[WITNESS];
    asp_futex_word word;
    drain(w, reader);
    CHECK(reader->watch.prepare(&reader->watch, &word, 1) == 1);
}

static void two_readers(world *w) {
    join_in(w, WITNESS);
    join_in(w, LAGGARD);
    for (unsigned i = 0; i < BEFORE; i++) {
        CHECK_STATUS(send_next(w), ASP_READY);
    }
    park(w);
}

static bool a_pad_comes(const world *w) {
    const uint64_t room = CAPACITY + ASP_RING_SPILL - w->b.writer.head % CAPACITY;
    return ASP_RECORD_BYTES + size_of(w->b.writer.sequence) > room;
}

static void two_readers_before_a_pad(world *w) {
    two_readers(w);
    while (!a_pad_comes(w)) {
        CHECK_STATUS(send_next(w), ASP_READY);
        CHECK_STATUS(read_next(w, &w->readers[LAGGARD]), ASP_READY);
        park(w);
    }
}

static void two_readers_before_a_large_one(world *w) {
    two_readers(w);
    while (!is_large(w->b.writer.sequence)) {
        send_one(w);
    }
    park(w);
}

static void two_readers_before_three_small(world *w) {
    two_readers_before_a_large_one(w);
    send_one(w);
    park(w);
}

/* So full that the next message needs a look at the readers (or a new tail). */
static void full_ring(world *w) {
    two_readers(w);
    while (w->b.writer.head + 256 <= w->b.writer.limit) {
        CHECK_STATUS(send_next(w), ASP_READY);
    }
    if (!w->lossy) {
        for (unsigned i = 0; i < 20; i++) {
            CHECK_STATUS(read_next(w, &w->readers[LAGGARD]), ASP_READY);
        }
    }
    park(w);
}

static void send_three(world *w) {
    for (unsigned i = 0; i < 3; i++) {
        CHECK_STATUS(send_next(w), ASP_READY);
    }
}

static void send_until_full(world *w) {
    for (unsigned i = 0; i < 8; i++) {
        const asp_status status = send_next(w);
        CHECK(status == ASP_READY || status == ASP_WOULD_BLOCK);
    }
}

static void claim_and_abandon(world *w) {
    void *payload;
    CHECK_STATUS(asp_ring_claim(&w->b.writer, 1000, &payload), ASP_READY);
    memset(payload, 0xee, 1000);
    asp_ring_abandon(&w->b.writer);
}

static void send_batch(world *w) {
    asp_ring_writer *writer = &w->b.writer;
    for (unsigned i = 0; i < 3; i++) {
        const uint64_t n = writer->sequence;
        CHECK_STATUS(asp_ring_append(writer, content_of(n), size_of(n), ASP_FORMAT_BYTES),
                     ASP_READY);
    }
    asp_ring_wake_readers(writer);
}

/* As it does when the large messages have too many bytes. */
static void drop_some(world *w) {
    asp_ring_writer *writer = &w->b.writer;
    CHECK_STATUS(asp_ring_drop_before(writer, writer->head), ASP_READY);
}

static void close_writer(world *w) { asp_ring_writer_close(&w->b.writer); }

static void take_over(world *w) {
    CHECK_STATUS(asp_ring_writer_init(&w->b.writer, &w->b.ring), ASP_READY);
    send_one(w);
}

static void without_the_writer(world *w, bool over) {
    const uint64_t before = w->b.writer.sequence; /* this process's copy has not moved */
    const asp_status end = drain(w, &w->readers[WITNESS]);
    if (!over) {
        if (end != ASP_END) {
            join_in(w, NEWCOMER);
            drain(w, &w->readers[NEWCOMER]);
        }
        return;
    }
    const uint64_t published = w->readers[WITNESS].sequence;
    CHECK_SAY(published >= before && published <= before + 8,
              "%s, step %lu: %" PRIu64 " after %" PRIu64, current->name, step, published, before);
    CHECK(drain(w, &w->readers[LAGGARD]) == end);
    /* One that finds nothing left cannot count what it lost before the next message comes. */
    const asp_ring_writer_line *line = &w->b.ring.control->writer;
    const bool nothing_left = w->lossy && line->tail >= w->readers[LAGGARD].cursor;
    CHECK(nothing_left || w->readers[LAGGARD].sequence == published);
    if (w->readers[NEWCOMER].joined) {
        CHECK(drain(w, &w->readers[NEWCOMER]) == end);
        CHECK_U64(w->readers[NEWCOMER].sequence, published);
        asp_ring_leave(&w->readers[NEWCOMER]);
    }
    const asp_status status = asp_ring_writer_init(&w->b.writer, &w->b.ring);
    if (end == ASP_END) {
        CHECK_STATUS(status, ASP_END);
        return;
    }
    CHECK_STATUS(status, ASP_READY);
    CHECK_U64(w->b.writer.sequence, published);
    join_in(w, NEWCOMER);
    CHECK_U64(w->readers[NEWCOMER].sequence, published);
    go_on(w);
}

/* ---- a reader is the victim ---- */

static void victim_lags(world *w) {
    CHECK(w->b.writer.head == 0 || a_pad_comes(w));
    join_in(w, VICTIM);
    join_in(w, WITNESS);
    for (unsigned i = 0; i < BEFORE; i++) {
        CHECK_STATUS(send_next(w), ASP_READY);
    }
    drain(w, &w->readers[WITNESS]);
}

/* The writer wants room that only the victim can give. */
static void victim_holds_the_writer(world *w) {
    victim_lags(w);
    while (send_next(w) == ASP_READY) {
        drain(w, &w->readers[WITNESS]);
    }
    asp_futex_word word;
    CHECK(w->b.writer.watch.prepare(&w->b.writer.watch, &word, 1) == 1);
}

/* What its predecessor left in the slot is from long ago. */
static void victim_is_not_there(world *w) {
    victim_lags(w);
    asp_ring_leave(&w->readers[VICTIM]);
    go_on(w);
}

/* One that was killed has left its slot as it was. */
static void victim_has_a_dead_predecessor(world *w) {
    victim_holds_the_writer(w);
    w->readers[VICTIM].joined = false;
}

static void receive_one(world *w) { CHECK_STATUS(read_next(w, &w->readers[VICTIM]), ASP_READY); }

static void receive_lossy(world *w) {
    for (unsigned i = 0; i < 4; i++) {
        read_next(w, &w->readers[VICTIM]);
    }
}

static void acquire_and_release(world *w) {
    asp_ring_reader *reader = &w->readers[VICTIM];
    for (unsigned i = 0; i < 6; i++) { /* so much room that the writer has use for it */
        const void *payload;
        asp_ring_message message;
        const uint64_t n = reader->sequence;
        CHECK_STATUS(asp_ring_acquire(reader, &payload, &message), ASP_READY);
        check_message(&message, payload, n);
        asp_ring_release(reader);
    }
}

static void join_only(world *w) { join_in(w, VICTIM); }

static void join_and_read(world *w) {
    join_in(w, VICTIM);
    drain(w, &w->readers[VICTIM]);
}

static void leave(world *w) { asp_ring_leave(&w->readers[VICTIM]); }

static void without_the_reader(world *w, bool over) {
    if (!over) {
        for (unsigned i = 0; i < LAPS; i++) { /* as far as the victim lets it */
            const asp_status status = send_next(w);
            CHECK_SAY(status == ASP_READY || (status == ASP_WOULD_BLOCK && !w->lossy),
                      "%s, step %lu: cannot send, status %d", current->name, step, (int)status);
            drain(w, &w->readers[WITNESS]);
        }
        return;
    }
    asp_ring_evict(&w->b.ring, VICTIM);
    drain(w, &w->readers[WITNESS]);
    CHECK_U64(w->readers[WITNESS].sequence, w->b.writer.sequence);
    join_in(w, VICTIM); /* another one, in the same slot */
    go_on(w);
}

/* ---- halting and killing ---- */

#define BLOCK ASP_OVERFLOW_BLOCK
#define LOSSY ASP_OVERFLOW_DROP_OLDEST

static const scenario scenarios[] = {
    {"send", BLOCK, 0, two_readers, send_three, without_the_writer, 0},
    {"send behind a pad", BLOCK, 0, two_readers_before_a_pad, send_one, without_the_writer, 0},
    {"send with a look at the readers", BLOCK, 0, full_ring, send_until_full,
     without_the_writer, 0},
    {"send over the oldest", LOSSY, 0, full_ring, send_three, without_the_writer, 0},
    {"send a batch", BLOCK, 0, two_readers_before_three_small, send_batch, without_the_writer, 0},
    {"send a large one", BLOCK, 0, two_readers_before_a_large_one, send_one, without_the_writer, 0},
    {"drop some", LOSSY, 0, two_readers, drop_some, without_the_writer, 0},
    {"abandon", BLOCK, 0, two_readers, claim_and_abandon, without_the_writer, 0},
    {"close", BLOCK, 0, two_readers, close_writer, without_the_writer, 0},
    {"close a lossy ring", LOSSY, 0, full_ring, close_writer, without_the_writer, 0},
    {"take over", BLOCK, 0, two_readers, take_over, without_the_writer, 0},
    {"take over a lossy ring", LOSSY, 0, full_ring, take_over, without_the_writer, 0},
    {"join", BLOCK, 0, victim_is_not_there, join_and_read, without_the_reader, 0},
    {"join in a dead reader's slot", BLOCK, 0, victim_has_a_dead_predecessor, join_and_read,
     without_the_reader, 0},
    {"join between visits", BLOCK, 0, victim_is_not_there, join_only, without_the_reader, 8},
    {"join a lossy ring", LOSSY, 0, victim_is_not_there, join_and_read, without_the_reader, 0},
    {"receive", BLOCK, 0, victim_holds_the_writer, receive_one, without_the_reader, 0},
    {"receive behind a pad", BLOCK, CAPACITY - 64, victim_holds_the_writer, receive_one,
     without_the_reader, 0},
    {"receive lossy", LOSSY, 0, victim_lags, receive_lossy, without_the_reader, 0},
    {"acquire and release", BLOCK, 0, victim_holds_the_writer, acquire_and_release,
     without_the_reader, 0},
    {"leave", BLOCK, 0, victim_holds_the_writer, leave, without_the_reader, 0},
};

static void build(world *w) {
    *w = (world){.lossy = current->overflow == ASP_OVERFLOW_DROP_OLDEST};
    bench *b = &w->b;
    b->bytes = asp_ring_bytes(CAPACITY, READERS);
    b->memory = mmap(NULL, (size_t)b->bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS,
                     -1, 0);
    CHECK(b->memory != MAP_FAILED);
    CHECK_STATUS(asp_ring_create(b->memory, b->bytes, CAPACITY, READERS, current->overflow, PID, 1,
                                 1),
                 ASP_READY);
    open_bench(b);
    b->ring.control->writer.head = current->start;
    b->ring.control->writer.tail = current->start;
    CHECK_STATUS(asp_ring_writer_init(&b->writer, &b->ring), ASP_READY);
    current->prepare(w);
}

static void tear_down_world(world *w) { CHECK(munmap(w->b.memory, (size_t)w->b.bytes) == 0); }

/* The signal that stopped it, and the event of ptrace in the bits above. */
static int wait_for_stop(pid_t pid) {
    int status;
    CHECK(waitpid(pid, &status, 0) == pid);
    CHECK_SAY(WIFSTOPPED(status), "%s, step %lu: the victim ended with %#x", current->name, step,
              (unsigned)status);
    return status >> 8;
}

static void trace(enum __ptrace_request request, pid_t pid, void *data) {
    CHECK_SAY(ptrace(request, pid, NULL, data) == 0, "%s, step %lu: errno %d", current->name, step,
              errno);
}

static void end(pid_t pid) {
    CHECK(kill(pid, SIGKILL) == 0);
    CHECK(waitpid(pid, NULL, 0) == pid);
}

/* Not raise(), which in a clone would name the process that it was cloned from. */
static void stop_here(void) { kill(getpid(), SIGSTOP); }

__attribute__((noinline)) static void operation_is_over(void) { stop_here(); }

/* Fork the victim and halt it before its operation. */
static pid_t start(world *w) {
    const pid_t pid = fork();
    CHECK(pid >= 0);
    if (pid == 0) {
        if (ptrace(PTRACE_TRACEME, 0, NULL, NULL) != 0) {
            _exit(ASP_EXIT_SKIP);
        }
        stop_here();
        current->operation(w);
        operation_is_over();
        _exit(0);
    }
    int status;
    CHECK(waitpid(pid, &status, 0) == pid);
    if (WIFEXITED(status) && WEXITSTATUS(status) == ASP_EXIT_SKIP) {
        SKIP("this system does not allow a process to trace its child");
    }
    CHECK(WIFSTOPPED(status));
    trace(PTRACE_SETOPTIONS, pid, TRACE_OPTIONS);
    return pid;
}

/* Where a halted process is sent to fork. */
void fork_here(void);
__asm__(".text\n.globl fork_here\nfork_here: syscall\nint3\n");

/* A second victim in the same state, halted as well. */
static pid_t clone_of(pid_t pid) {
    struct user_regs_struct before, there;
    trace(PTRACE_GETREGS, pid, &before);
    there = before;
    there.rip = (unsigned long long)(uintptr_t)fork_here;
    there.rax = SYS_clone;
    there.rdi = CLONE_PARENT | SIGCHLD; /* ours, to be reaped here */
    there.rsi = there.rdx = there.r10 = there.r8 = 0;
    there.orig_rax = ~0ull; /* no system call that the kernel might restart */
    trace(PTRACE_SETREGS, pid, &there);
    trace(PTRACE_CONT, pid, NULL);
    const int forked = wait_for_stop(pid);
    CHECK_SAY(forked == (SIGTRAP | PTRACE_EVENT_FORK << 8), "%#x at %lu", (unsigned)forked, step);
    unsigned long message;
    trace(PTRACE_GETEVENTMSG, pid, &message);
    trace(PTRACE_CONT, pid, NULL);
    CHECK(wait_for_stop(pid) == SIGTRAP);
    trace(PTRACE_SETREGS, pid, &before);
    const pid_t clone = (pid_t)message;
    CHECK(wait_for_stop(clone) == SIGSTOP);
    trace(PTRACE_SETREGS, clone, &before);
    return clone;
}

static void finish(pid_t pid) {
    trace(PTRACE_CONT, pid, NULL);
    CHECK(wait_for_stop(pid) == SIGSTOP); /* the end of the operation */
    end(pid);
}

static uintptr_t instruction_of(pid_t pid) {
    struct user_regs_struct registers;
    trace(PTRACE_GETREGS, pid, &registers);
    return registers.rip;
}

/* It reads the clock: that touches nothing of ours, and begins again whenever a tick comes in
 * between, so with a visit after each instruction it would never end. */
static bool in_vdso(pid_t pid) {
    return instruction_of(pid) - getauxval(AT_SYSINFO_EHDR) < VDSO_BYTES;
}

typedef struct state {
    world w;
    uint8_t segment[SEGMENT_BYTES];
} state;

static void save(state *to, const world *w) {
    to->w = *w;
    memcpy(to->segment, w->b.memory, sizeof to->segment);
}

static void restore(const state *from, world *w) {
    *w = from->w;
    memcpy(w->b.memory, from->segment, sizeof from->segment);
}

/* With a visit that is not undone after so many steps, if there are so many. How many there are. */
static unsigned long run_scenario(unsigned long visited) {
    world w;
    static state before, now;
    build(&w);
    CHECK_U64(w.b.bytes, SEGMENT_BYTES);
    const pid_t victim = start(&w);
    save(&before, &w);
    for (step = 0; instruction_of(victim) != (uintptr_t)operation_is_over; step++) {
        if (step == visited) {
            current->survive(&w, false);
        }
        save(&now, &w);
        if (step == 0 || memcmp(now.segment, before.segment, sizeof now.segment) != 0) {
            before = now;
            current->survive(&w, true);
            restore(&now, &w);
            current->survive(&w, false);
            current->survive(&w, true);
            restore(&now, &w);
        }
        if (step % STRIDE == 0 && !in_vdso(victim)) {
            const pid_t clone = clone_of(victim);
            current->survive(&w, false);
            finish(clone);
            current->survive(&w, true);
            restore(&now, &w);
        }

        trace(PTRACE_SINGLESTEP, victim, NULL);
        CHECK(wait_for_stop(victim) == SIGTRAP);
    }
    end(victim);
    tear_down_world(&w);
    return step;
}

int main(int argc, char **argv) {
    (void)argc;
    if (!getenv("LD_BIND_NOW")) { /* or most steps would lead through the dynamic linker */
        setenv("LD_BIND_NOW", "1", 1);
        execv("/proc/self/exe", argv);
        CHECK_SAY(false, "cannot start again, errno %d", errno);
    }
    /* On one CPU a step costs a sixth of what it costs on two, which have to wake each other up. */
    cpu_set_t here;
    CPU_ZERO(&here);
    CPU_SET((size_t)sched_getcpu(), &here);
    sched_setaffinity(0, sizeof here, &here);
    for (unsigned n = 0; n < 256; n++) {
        fill(messages[n], n, MESSAGE_BYTES);
    }
    for (unsigned i = 0; i < sizeof scenarios / sizeof scenarios[0]; i++) {
        current = &scenarios[i];
        const unsigned long steps = run_scenario(NEVER);
        CHECK_SAY(steps > 20, "%s: %lu steps are no operation", current->name, steps);
        printf("%5lu instructions: %s\n", steps, current->name);
        for (unsigned long at = 0; current->visits && at < steps; at += current->visits * STRIDE) {
            run_scenario(at);
        }
    }
    return 0;
}
#endif
