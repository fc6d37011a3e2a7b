/* broadcast.h - aiospin's broadcast for C11 and C++17: one process sends, every reader gets it all.
 *
 * This one file is the whole of it: copy it or add its folder to the include path, and include it
 * wherever it is wanted; there is nothing to link. Linux, 64 bits, gcc or clang. It needs what the
 * C library offers beyond the standard: compile with -std=gnu11, or include it first.
 *
 *     aiospin_writer writer;
 *     aiospin_writer_create(&writer, "engine", NULL);
 *     aiospin_writer_send(&writer, data, length, AIOSPIN_FOREVER);
 *     aiospin_writer_close(&writer);
 *
 *     aiospin_reader reader;
 *     aiospin_reader_attach(&reader, "engine");
 *     aiospin_reader_copy(&reader, buffer, room, &message, AIOSPIN_FOREVER);
 *     aiospin_reader_close(&reader);
 *
 * The other side may be Python (aiospin.BroadcastWriter, aiospin.BroadcastReader), in any container
 * that shares /dev/shm. docs/c.md is the introduction; docs/layout.md says what the bytes in the
 * segment are, and why the order of the stores below suffices.
 *
 * Invariants: a word that a peer can change is loaded once, checked, and used from there; what the
 * segment's header says is copied when it is attached. Nothing is allocated: a writer and a reader
 * are structs of the caller. One object is used by one thread at a time. Names with aiospin_ in
 * front are the interface, those with asph_ are not. */
#ifndef AIOSPIN_BROADCAST_H
#define AIOSPIN_BROADCAST_H

#ifndef _DEFAULT_SOURCE
#define _DEFAULT_SOURCE 1
#endif

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <time.h>
#include <unistd.h>

#if !defined(__linux__)
#error "aiospin/broadcast.h: Linux only: it sleeps on futexes and asks record locks who lives"
#elif !defined(CLOCK_MONOTONIC)
#error "aiospin/broadcast.h: compile with -std=gnu11, or include it before any other header"
#endif

/* ---- what the caller may set before the inclusion ---- */

#ifndef AIOSPIN_FOLDER
#define AIOSPIN_FOLDER "/dev/shm" /* where segments lie; Python looks there */
#endif
/* How long a wait spins before it sleeps: about what going to sleep and being woken costs, so that
 * a wait never costs more than twice what it would have if the moment had been known. */
#ifndef AIOSPIN_SPIN_NS
#define AIOSPIN_SPIN_NS 20000 /* nanoseconds */
#endif
/* Who waits asks this often whether the other side still lives: the kernel drops the lock of a
 * process that dies, but tells nobody. Half of the 100 ms in which a death shall be noticed. */
#ifndef AIOSPIN_LIVENESS_NS
#define AIOSPIN_LIVENESS_NS 50000000 /* nanoseconds */
#endif

/* ---- statuses ---- */

typedef enum aiospin_status {
    AIOSPIN_OK = 0,
    AIOSPIN_TIMED_OUT, /* no message, no room, too few readers in that time; nothing has changed */
    AIOSPIN_END,       /* the writer closed, and everything was read */
    AIOSPIN_BROKEN,    /* the writer died, and everything that it published was read */
    AIOSPIN_LAGGED,    /* drop_oldest: reader.skipped messages were lost; the next call goes on */
    AIOSPIN_TOO_SMALL, /* the buffer is: message.length says how much it takes; nothing was read */
    AIOSPIN_BUSY,      /* a claim or an acquired message is still open */
    AIOSPIN_INVALID,   /* an argument that is not allowed, or a call on what is closed */
    AIOSPIN_NOT_FOUND, /* no broadcast of that name: not created yet, or closed */
    AIOSPIN_EXISTS,    /* a living broadcast has that name */
    AIOSPIN_NO_SLOT,   /* as many readers as it was created for are attached */
    AIOSPIN_NO_MEMORY, /* too little shared memory */
    AIOSPIN_DENIED,    /* it belongs to another user, who did not share it */
    AIOSPIN_LAYOUT,    /* what is there is no healthy segment */
    AIOSPIN_SYSTEM,    /* a system call failed that should not */
} aiospin_status;

/* A sentence for each. For all from AIOSPIN_INVALID on `segment.why` of the writer or reader says
 * more. */
static inline const char *aiospin_strerror(aiospin_status status);

/* ---- types and limits ---- */

#define AIOSPIN_FOREVER INT64_C(-1) /* a timeout; 0 looks once */
#define AIOSPIN_MIN_CAPACITY UINT64_C(4096)
#define AIOSPIN_MAX_CAPACITY (UINT64_C(1) << 46)
#define AIOSPIN_MAX_READERS 1024u
#define AIOSPIN_MAX_NAME 200u /* characters */
#define AIOSPIN_WHY_BYTES 320u

typedef enum aiospin_overflow {
    AIOSPIN_BLOCK = 0,       /* the writer waits for the slowest reader; nothing is lost */
    AIOSPIN_DROP_OLDEST = 1, /* it never waits; a reader that is too slow gets AIOSPIN_LAGGED */
} aiospin_overflow;

/* What a message holds; see docs/layout.md. */
typedef enum aiospin_format {
    AIOSPIN_BYTES = 0,
    AIOSPIN_PICKLE = 1,
    AIOSPIN_PICKLE_BUFFERS = 2,
    AIOSPIN_CODEC = 3,
} aiospin_format;

/* Zeroed is the default of each. */
typedef struct aiospin_options {
    uint64_t capacity;    /* bytes of the ring, rounded up to a power of two; 0: 16 MiB */
    uint32_t max_readers; /* attached at once; 0: 16 */
    aiospin_overflow overflow;
    uint32_t mode; /* permissions of the segment's file; 0: 0600, this user alone */
} aiospin_options;

typedef struct aiospin_bytes { /* one message of aiospin_writer_send_many */
    const void *data;
    uint64_t length;
} aiospin_bytes;

typedef struct aiospin_message {
    const void *data; /* 32-byte aligned where it is acquired */
    uint64_t length;
    uint64_t sequence;     /* its number; the first that the writer ever sent has 0 */
    uint64_t published_ns; /* CLOCK_MONOTONIC */
    aiospin_format format;
} aiospin_message;

typedef struct aiospin_reader_state { /* a reader, as the writer sees it */
    uint32_t slot;
    uint32_t pid; /* in its own PID namespace */
    uint64_t lag; /* bytes of the ring that it has not released */
} aiospin_reader_state;

/* ---- the segment, to the byte (docs/layout.md, version 2) ---- */

#define ASPH_MAGIC UINT64_C(0x31676e6972707361) /* "aspring1" on a little-endian machine */
#define ASPH_VERSION 2u
#define ASPH_LINE 128u          /* bytes; words that different processes store to never share one */
#define ASPH_ALIGN 64u          /* bytes, of a record */
#define ASPH_SPILL 64u          /* bytes, behind the capacity */
#define ASPH_RECORD 32u         /* bytes, before the payload */
#define ASPH_LARGE 8u           /* bytes, the payload of the record of a large message */
#define ASPH_FLAGS UINT64_C(63) /* of a word with a position */
#define ASPH_CLOSED UINT64_C(1)
#define ASPH_ODD UINT64_C(2)
#define ASPH_JOINING UINT64_C(1)
#define ASPH_SLEEPER 1u /* of a park word */
#define ASPH_BELL 2u
#define ASPH_WAKE 4u
#define ASPH_WRITER_BYTE INT64_C(0x7fff000000000000) /* readers have those that follow */

typedef struct asph_header {
    uint64_t magic;
    uint32_t version, header_bytes;
    uint64_t total_bytes, capacity;
    uint32_t max_readers, overflow;
    uint64_t writer_offset, readers_offset, data_offset;
    uint32_t byte_order, line_bytes;
    uint64_t created_ns;
    uint32_t writer_pid, reserved;
    uint64_t id;
} asph_header;

typedef struct asph_control {
    uint64_t head, tail, sequence;
    uint8_t pad0[ASPH_LINE - 24];
    uint32_t readable;
    uint8_t pad1[ASPH_LINE - 4];
    uint32_t writable, reserved;
    uint64_t notified_ns;
    uint8_t pad2[ASPH_LINE - 16];
} asph_control;

typedef enum asph_bell {
    ASPH_BELL_NONE,
    ASPH_BELL_REQUESTED,
    ASPH_BELL_READY,
    ASPH_BELL_PARKED,
    ASPH_BELL_REFUSED,
} asph_bell;

typedef struct asph_slot {
    uint64_t cursor;
    uint32_t state, pid; /* state: 0 free, 1 active */
    uint64_t sequence;
    uint32_t bell, parked;
    uint8_t pad[ASPH_LINE - 32];
} asph_slot;

typedef enum asph_kind { ASPH_DATA = 1, ASPH_PAD = 2, ASPH_IN_FILE = 3 } asph_kind;

typedef struct asph_record {
    uint64_t position, sequence, published_ns;
    uint32_t length;
    uint16_t kind, format;
} asph_record;

typedef struct asph_large { /* at the begin of the file of a large message */
    uint64_t id, sequence, length, reserved;
} asph_large;

#ifdef __cplusplus
#define ASPH_CHECK static_assert
#else
#define ASPH_CHECK _Static_assert
#endif
ASPH_CHECK(sizeof(asph_header) == 96, "docs/layout.md");
ASPH_CHECK(sizeof(asph_control) == 384, "docs/layout.md");
ASPH_CHECK(sizeof(asph_slot) == ASPH_LINE, "docs/layout.md");
ASPH_CHECK(sizeof(asph_record) == ASPH_RECORD, "docs/layout.md");
ASPH_CHECK(sizeof(asph_large) == 32, "docs/layout.md");
ASPH_CHECK(sizeof(void *) == 8 && sizeof(off_t) == 8, "a 64-bit system");
#undef ASPH_CHECK

/* ---- the two objects; to be read: what has a comment without "private" ---- */

typedef struct aiospin_segment {
    char name[AIOSPIN_MAX_NAME + 1];
    char why[AIOSPIN_WHY_BYTES]; /* after AIOSPIN_INVALID and those behind it: what was wrong */
    uint64_t capacity;           /* bytes of the ring */
    uint64_t max_message;        /* bytes; longer ones lie in files of their own */
    uint32_t max_readers;
    aiospin_overflow overflow;
    /* private */
    unsigned char *base; /* the mapping */
    size_t bytes;
    asph_control *control;
    asph_slot *slots;
    unsigned char *data;
    uint64_t id;
    uid_t owner;
    mode_t mode;
    int lock_fd;     /* holds the lock of this member; the mapping, which would keep a lock alive in
                        the child of a fork, is of another open file description */
    uint64_t ask_ns; /* CLOCK_MONOTONIC: when to ask again who lives */
} aiospin_segment;

typedef struct aiospin_writer {
    aiospin_segment segment;
    uint64_t sequence;     /* number of messages published */
    aiospin_format format; /* of the messages published from now on; for the caller to set */
    /* private */
    bool closed;
    bool unannounced; /* something was published, and nobody was woken for it */
    uint64_t head;
    uint64_t limit;        /* may write up to here without asking the readers, or moving tail */
    uint64_t pad;          /* bytes of the pad in front of the claimed record */
    uint64_t claimed;      /* bytes of the claimed record, 0 when there is none */
    uint64_t large_length; /* of the claimed message that lies in a file, 0 when it does not */
    unsigned char *large_map;
    int large_fd;
    uint64_t large_count; /* files of published messages that are not removed yet */
    uint64_t large_bytes; /* the lengths of these messages */
    uint64_t large_from;  /* the oldest of them is that of this record, or of one behind it */
    int bells[AIOSPIN_MAX_READERS]; /* the writing ends of readers' doorbells, or -1 */
} aiospin_writer;

typedef struct aiospin_reader {
    aiospin_segment segment;
    uint64_t sequence; /* of the next message */
    uint64_t skipped;  /* after AIOSPIN_LAGGED: how many messages were lost, exactly */
    uint32_t slot;
    /* private */
    bool closed;
    uint64_t cursor;          /* everything before it is released */
    uint64_t next;            /* where the next message to be read begins */
    uint64_t seen_head;       /* head as last loaded: up to here no shared word need be read */
    uint64_t held;            /* messages acquired and not yet released */
    unsigned char *large_map; /* the file of the one that is acquired */
    uint64_t large_length;
} aiospin_reader;

/* ---- the writer ---- */

/* Make a broadcast that readers find by this name: 1 to 200 of the characters A-Z a-z 0-9 _ . -,
 * the first a letter, a digit or _. What a dead writer left under the name is removed; its readers
 * read on. options may be NULL. AIOSPIN_EXISTS, AIOSPIN_NO_MEMORY (before anything is written),
 * AIOSPIN_INVALID. */
static inline aiospin_status aiospin_writer_create(aiospin_writer *writer, const char *name,
                                                   const aiospin_options *options);

/* Send one message, copied from data, to all readers. "block": waits for room for so many
 * nanoseconds. AIOSPIN_TIMED_OUT, AIOSPIN_NO_MEMORY (only a message of more than
 * segment.max_message bytes), AIOSPIN_LAYOUT. */
static inline aiospin_status aiospin_writer_send(aiospin_writer *writer, const void *data,
                                                 uint64_t length, int64_t timeout_ns);
/* The same without waiting: AIOSPIN_TIMED_OUT when there is no room just now. */
static inline aiospin_status aiospin_writer_try_send(aiospin_writer *writer, const void *data,
                                                     uint64_t length);
/* Send several, in order, and wake the readers once. *sent, which may be NULL, is how many went
 * out; fewer than count only when the status is not AIOSPIN_OK. */
static inline aiospin_status aiospin_writer_send_many(aiospin_writer *writer,
                                                      const aiospin_bytes *messages, size_t count,
                                                      int64_t timeout_ns, size_t *sent);

/* Room for one message, to be filled in place: *payload is 32-byte aligned and contiguous. Nobody
 * sees it before it is published; to publish fewer bytes than were claimed is allowed (of a large
 * message not fewer than make it one). An abandoned claim leaves no trace. */
static inline aiospin_status aiospin_writer_claim(aiospin_writer *writer, uint64_t length,
                                                  int64_t timeout_ns, void **payload);
static inline aiospin_status aiospin_writer_publish(aiospin_writer *writer, uint64_t length);
static inline void aiospin_writer_abandon(aiospin_writer *writer);

/* Wait until so many readers are attached: they get everything that is sent from then on. */
static inline aiospin_status aiospin_writer_wait_for_readers(aiospin_writer *writer, uint32_t count,
                                                             int64_t timeout_ns);
/* How many are attached now, dead ones that were not noticed yet included. */
static inline uint32_t aiospin_writer_readers(const aiospin_writer *writer);
/* The reader that holds a "block" writer up, for a log line; false when there is none. */
static inline bool aiospin_writer_slowest(const aiospin_writer *writer,
                                          aiospin_reader_state *state);

/* End the broadcast: readers get AIOSPIN_END after what was published. Removes the name. An open
 * claim is dropped. Idempotent. */
static inline void aiospin_writer_close(aiospin_writer *writer);
/* In the child of a fork: let go of the parent's writer, so that it does not look alive when it is
 * dead. Tells nobody anything. */
static inline void aiospin_writer_forget(aiospin_writer *writer);

/* ---- a reader ---- */

/* Attach. The first message is the next one published. AIOSPIN_NOT_FOUND, AIOSPIN_BROKEN (its
 * writer is dead), AIOSPIN_NO_SLOT, AIOSPIN_DENIED, AIOSPIN_LAYOUT. */
static inline aiospin_status aiospin_reader_attach(aiospin_reader *reader, const char *name);

/* Wait until a call that reads would not say AIOSPIN_TIMED_OUT. */
static inline aiospin_status aiospin_reader_wait(aiospin_reader *reader, int64_t timeout_ns);

/* The next message, copied to `to`, in both modes. AIOSPIN_TIMED_OUT, AIOSPIN_TOO_SMALL,
 * AIOSPIN_LAGGED, AIOSPIN_END, AIOSPIN_BROKEN, AIOSPIN_LAYOUT. A message is either delivered whole
 * or not at all. */
static inline aiospin_status aiospin_reader_copy(aiospin_reader *reader, void *to, uint64_t room,
                                                 aiospin_message *message, int64_t timeout_ns);

/* "block" only: the next message in place. It stays until it is released, and so long it takes up
 * room that the writer may wait for. Statuses as above, and AIOSPIN_BUSY before the release of the
 * last one. */
static inline aiospin_status aiospin_reader_acquire(aiospin_reader *reader,
                                                    aiospin_message *message, int64_t timeout_ns);
/* All messages that are there, at least one and at most `room`, to be released together. (A large
 * one comes alone.) */
static inline aiospin_status aiospin_reader_acquire_many(aiospin_reader *reader,
                                                         aiospin_message *messages, size_t room,
                                                         size_t *count, int64_t timeout_ns);
static inline void aiospin_reader_release(aiospin_reader *reader);

/* Messages published and not yet read. */
static inline uint64_t aiospin_reader_lag(const aiospin_reader *reader);

/* Leave; an acquired message is released. Idempotent. */
static inline void aiospin_reader_close(aiospin_reader *reader);
/* In the child of a fork, as aiospin_writer_forget. */
static inline void aiospin_reader_forget(aiospin_reader *reader);

/* ==== the rest is implementation ==== */

static inline const char *aiospin_strerror(aiospin_status status) {
    switch (status) {
    case AIOSPIN_OK: return "success";
    case AIOSPIN_TIMED_OUT: return "nothing to read, or no room, in that time";
    case AIOSPIN_END: return "the writer closed, and everything was read";
    case AIOSPIN_BROKEN: return "the writer died, and everything that it published was read";
    case AIOSPIN_LAGGED: return "messages were overwritten before this reader came to them";
    case AIOSPIN_TOO_SMALL: return "the buffer is smaller than the message";
    case AIOSPIN_BUSY: return "a message is still claimed or acquired";
    case AIOSPIN_INVALID: return "an argument that is not allowed, or a call on what is closed";
    case AIOSPIN_NOT_FOUND: return "there is no broadcast of that name";
    case AIOSPIN_EXISTS: return "a living broadcast has that name";
    case AIOSPIN_NO_SLOT: return "all reader slots are taken";
    case AIOSPIN_NO_MEMORY: return "not enough shared memory";
    case AIOSPIN_DENIED: return "the broadcast belongs to another user, who did not share it";
    case AIOSPIN_LAYOUT: return "what is there is no healthy segment";
    case AIOSPIN_SYSTEM: return "a system call failed";
    }
    return "not a status of aiospin";
}

__attribute__((format(printf, 3, 4))) static inline aiospin_status
asph_fail(aiospin_segment *segment, aiospin_status status, const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(segment->why, sizeof segment->why, format, arguments);
    va_end(arguments);
    return status;
}

/* ---- atomics; every use names its partner ---- */

static inline uint64_t asph_load(const uint64_t *p) { return __atomic_load_n(p, __ATOMIC_RELAXED); }
static inline uint64_t asph_acquire(const uint64_t *p) {
    return __atomic_load_n(p, __ATOMIC_ACQUIRE);
}
static inline void asph_store(uint64_t *p, uint64_t v) { __atomic_store_n(p, v, __ATOMIC_RELAXED); }
static inline void asph_release(uint64_t *p, uint64_t v) {
    __atomic_store_n(p, v, __ATOMIC_RELEASE);
}
static inline uint32_t asph_load32(const uint32_t *p) {
    return __atomic_load_n(p, __ATOMIC_RELAXED);
}
static inline uint32_t asph_acquire32(const uint32_t *p) {
    return __atomic_load_n(p, __ATOMIC_ACQUIRE);
}
static inline void asph_store32(uint32_t *p, uint32_t v) {
    __atomic_store_n(p, v, __ATOMIC_RELAXED);
}
static inline void asph_release32(uint32_t *p, uint32_t v) {
    __atomic_store_n(p, v, __ATOMIC_RELEASE);
}
static inline uint16_t asph_load16(const uint16_t *p) {
    return __atomic_load_n(p, __ATOMIC_RELAXED);
}
static inline void asph_store16(uint16_t *p, uint16_t v) {
    __atomic_store_n(p, v, __ATOMIC_RELAXED);
}
static inline bool asph_exchange_if(uint32_t *p, uint32_t *expected, uint32_t v) {
    return __atomic_compare_exchange_n(p, expected, v, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);
}

#if defined(__SANITIZE_THREAD__)
#define ASPH_TSAN 1
#elif defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define ASPH_TSAN 1
#endif
#endif

/* ThreadSanitizer does not model fences; a read-modify-write of one word it does. */
#ifdef ASPH_TSAN
static inline void asph_fence_tsan(void) {
    static uint32_t word;
    __atomic_fetch_add(&word, 1, __ATOMIC_SEQ_CST);
}
#define ASPH_FENCE(order) asph_fence_tsan()
#else
#define ASPH_FENCE(order) __atomic_thread_fence(order)
#endif
static inline void asph_fence(void) { ASPH_FENCE(__ATOMIC_SEQ_CST); }
static inline void asph_fence_acquire(void) { ASPH_FENCE(__ATOMIC_ACQUIRE); }
static inline void asph_fence_release(void) { ASPH_FENCE(__ATOMIC_RELEASE); }
#undef ASPH_FENCE
#undef ASPH_TSAN

/* Copies of bytes that another process may be overwriting or reading: in words, by accesses that
 * may race. The shared side is 8-byte aligned and has room for n rounded up to 8. */
static inline void asph_copy_from(void *to, const void *shared, uint64_t n) {
    unsigned char *out = (unsigned char *)to;
    const uint64_t *from = (const uint64_t *)shared;
    for (; n >= 8; n -= 8, out += 8, from++) {
        const uint64_t word = asph_load(from);
        memcpy(out, &word, 8);
    }
    if (n) {
        const uint64_t word = asph_load(from);
        memcpy(out, &word, (size_t)n);
    }
}

static inline void asph_copy_to(void *shared, const void *from, uint64_t n) {
    const unsigned char *in = (const unsigned char *)from;
    uint64_t *to = (uint64_t *)shared;
    uint64_t word = 0;
    for (; n >= 8; n -= 8, in += 8, to++) {
        memcpy(&word, in, 8);
        asph_store(to, word);
    }
    if (n) {
        word = 0;
        memcpy(&word, in, (size_t)n);
        asph_store(to, word);
    }
}

/* ---- time and waiting ---- */

#define ASPH_NS_PER_S UINT64_C(1000000000)

static inline uint64_t asph_clock_ns(clockid_t clock) {
    struct timespec now;
    clock_gettime(clock, &now);
    return (uint64_t)now.tv_sec * ASPH_NS_PER_S + (uint64_t)now.tv_nsec;
}

static inline uint64_t asph_now_ns(void) { return asph_clock_ns(CLOCK_MONOTONIC); }

static inline uint64_t asph_deadline(int64_t timeout_ns) {
    return timeout_ns < 0 ? UINT64_MAX : asph_now_ns() + (uint64_t)timeout_ns;
}

static inline void asph_pause(void) {
#ifdef __has_builtin /* asks the compiler what it can do, not which machine it compiles for */
#if __has_builtin(__builtin_ia32_pause)
    __builtin_ia32_pause();
#elif __has_builtin(__builtin_arm_isb)
    __builtin_arm_isb(15); /* yield is no pause on cores without hardware threads */
#elif __has_builtin(__builtin_riscv_pause)
    __builtin_riscv_pause();
#endif
#endif
    __atomic_signal_fence(__ATOMIC_SEQ_CST);
}

#define ASPH_FUTEX_WAIT 0 /* of linux/futex.h; not private: the word is other processes' too */
#define ASPH_FUTEX_WAKE 1

static inline void asph_sleep(uint32_t *word, uint32_t expected, uint64_t ns) {
    struct timespec left;
    left.tv_sec = (time_t)(ns / ASPH_NS_PER_S);
    left.tv_nsec = (long)(ns % ASPH_NS_PER_S);
    syscall(SYS_futex, word, ASPH_FUTEX_WAIT, expected, &left, NULL, 0);
}

/* Wake who sleeps on the word, after the store that they sleep for. Returns the flags that were
 * set; if any, and unless at_ns is NULL, *at_ns tells the sleeper when. */
static inline uint32_t asph_notify(uint32_t *word, uint64_t *at_ns) {
    asph_fence(); /* pairs with the fence in asph_wait(), or where a reader parks on its bell */
    uint32_t seen = asph_load32(word);
    while (seen & (ASPH_SLEEPER | ASPH_BELL)) {
        if (at_ns) {
            asph_store(at_ns, asph_now_ns()); /* a statistic, so nothing orders it */
        }
        if (asph_exchange_if(word, &seen, (seen & ~(ASPH_SLEEPER | ASPH_BELL)) + ASPH_WAKE)) {
            if (seen & ASPH_SLEEPER) {
                syscall(SYS_futex, word, ASPH_FUTEX_WAKE, INT_MAX, NULL, NULL, 0);
            }
            return seen;
        }
    }
    return 0;
}

/* There may be more room than before. */
static inline void asph_notify_writer(asph_control *control) {
    asph_notify(&control->writable, &control->notified_ns);
}

/* Looks, or asks who lives and then looks: AIOSPIN_TIMED_OUT is "not yet", anything else ends the
 * wait. */
typedef aiospin_status (*asph_look)(void *self);

/* Spin, then sleep on the word, and ask now and then. `parked` is for people, and may be NULL. */
static inline aiospin_status asph_wait(aiospin_segment *segment, uint32_t *word, uint32_t *parked,
                                       asph_look look, asph_look ask, void *self,
                                       uint64_t deadline) {
    uint64_t now = asph_now_ns();
    const uint64_t spin_until = now + AIOSPIN_SPIN_NS;
    for (;;) {
        aiospin_status status = look(self);
        if (status != AIOSPIN_TIMED_OUT) {
            return status;
        }
        if (now >= segment->ask_ns) {
            segment->ask_ns = now + AIOSPIN_LIVENESS_NS;
            status = ask(self);
            if (status != AIOSPIN_TIMED_OUT) {
                return status;
            }
        }
        if (now >= deadline) {
            return AIOSPIN_TIMED_OUT;
        }
        if (now < spin_until) {
            asph_pause();
        } else {
            const uint64_t until = deadline < segment->ask_ns ? deadline : segment->ask_ns;
            const uint32_t expected =
                __atomic_fetch_or(word, ASPH_SLEEPER, __ATOMIC_SEQ_CST) | ASPH_SLEEPER;
            asph_fence(); /* pairs with that in asph_notify(): it sees the flag, or we the store */
            status = look(self);
            if (status != AIOSPIN_TIMED_OUT) {
                return status;
            }
            if (parked) {
                asph_store32(parked, 1);
            }
            asph_sleep(word, expected, until > now ? until - now : 0);
            if (parked) {
                asph_store32(parked, 0);
            }
        }
        now = asph_now_ns();
    }
}

/* ---- files and locks ---- */

#define ASPH_PATH_BYTES (sizeof AIOSPIN_FOLDER + 256u) /* a file name has 255 at most */
#define ASPH_ID_DIGITS 16u

static inline void asph_path(char *path, const char *name) {
    snprintf(path, ASPH_PATH_BYTES, AIOSPIN_FOLDER "/aiospin-%s", name);
}

/* The companion of a segment with this id. */
__attribute__((format(printf, 4, 5))) static inline void
asph_companion(char *path, const char *name, uint64_t id, const char *kind, ...) {
    char text[32]; /* "message-" and 20 digits */
    va_list arguments;
    va_start(arguments, kind);
    vsnprintf(text, sizeof text, kind, arguments);
    va_end(arguments);
    snprintf(path, ASPH_PATH_BYTES, AIOSPIN_FOLDER "/aiospin-%s+%016llx.%s", name,
             (unsigned long long)id, text);
}

static inline void asph_remove_message(const aiospin_segment *segment, uint64_t sequence) {
    char path[ASPH_PATH_BYTES];
    asph_companion(path, segment->name, segment->id, "message-%llu", (unsigned long long)sequence);
    unlink(path); /* somebody else may have done it already, or own it */
}

static inline bool asph_name_valid(const char *name) {
    static const char allowed[] =
        "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_.-";
    const size_t length = name ? strlen(name) : 0;
    return length >= 1 && length <= AIOSPIN_MAX_NAME && name[0] != '.' && name[0] != '-' &&
           strspn(name, allowed) == length;
}

#define ASPH_OFD_GETLK 36 /* F_OFD_GETLK and F_OFD_SETLK, which glibc shows to _GNU_SOURCE only */
#define ASPH_OFD_SETLK 37

static inline struct flock asph_range(short type, int64_t first, int64_t count) {
    struct flock range;
    memset(&range, 0, sizeof range);
    range.l_type = type;
    range.l_whence = SEEK_SET;
    range.l_start = first;
    range.l_len = count;
    return range;
}

/* False: somebody has it. */
static inline bool asph_lock(int fd, int64_t byte) {
    struct flock range = asph_range(F_WRLCK, byte, 1);
    return fcntl(fd, ASPH_OFD_SETLK, &range) == 0;
}

static inline void asph_unlock(int fd, int64_t byte) {
    struct flock range = asph_range(F_UNLCK, byte, 1);
    fcntl(fd, ASPH_OFD_SETLK, &range);
}

/* Does another open file description hold one of these locks? */
static inline bool asph_locked(int fd, int64_t first, int64_t count) {
    struct flock range = asph_range(F_WRLCK, first, count);
    return fcntl(fd, ASPH_OFD_GETLK, &range) == 0 && range.l_type != F_UNLCK;
}

static inline bool asph_is_file_of(const char *path, const struct stat *expected) {
    struct stat found;
    return lstat(path, &found) == 0 && found.st_dev == expected->st_dev &&
           found.st_ino == expected->st_ino;
}

static inline int asph_reserve(int fd, uint64_t bytes) {
    int error;
    do {
        error = posix_fallocate(fd, 0, (off_t)bytes);
    } while (error == EINTR);
    return error;
}

static inline aiospin_status asph_no_memory(aiospin_segment *segment, int fd, int error,
                                            const char *what, uint64_t bytes) {
    struct statvfs room;
    if (error != ENOSPC && error != EFBIG && error != ENOMEM) {
        return asph_fail(segment, AIOSPIN_SYSTEM, "posix_fallocate of %llu bytes: %s",
                         (unsigned long long)bytes, strerror(error));
    }
    return asph_fail(segment, AIOSPIN_NO_MEMORY, "%s needs %llu bytes, and %llu are free in %s",
                     what, (unsigned long long)bytes,
                     fstatvfs(fd, &room) ? 0ULL : (unsigned long long)room.f_bavail * room.f_frsize,
                     AIOSPIN_FOLDER);
}

static inline aiospin_status asph_failed_call(aiospin_segment *segment, const char *call,
                                              const char *path) {
    const int error = errno;
    const bool denied = error == EACCES || error == EPERM;
    return asph_fail(segment, denied ? AIOSPIN_DENIED : AIOSPIN_SYSTEM, "%s %s: %s", call, path,
                     strerror(error));
}

/* Let go of the descriptor, and with it of the lock, and of the mapping. */
static inline void asph_let_go(aiospin_segment *segment) {
    if (segment->base) {
        munmap(segment->base, segment->bytes);
        segment->base = NULL;
    }
    if (segment->lock_fd >= 0) {
        close(segment->lock_fd);
        segment->lock_fd = -1;
    }
}

/* ---- the header ---- */

static inline bool asph_capacity_valid(uint64_t capacity) {
    return capacity >= AIOSPIN_MIN_CAPACITY && capacity <= AIOSPIN_MAX_CAPACITY &&
           (capacity & (capacity - 1)) == 0;
}

/* Check the header of what is mapped, and keep what it says. */
static inline aiospin_status asph_open(aiospin_segment *segment) {
#define ASPH_ULL(x) ((unsigned long long)(x))
#define ASPH_REFUSE(...) return asph_fail(segment, AIOSPIN_LAYOUT, __VA_ARGS__)
    if (segment->bytes < sizeof(asph_header)) {
        ASPH_REFUSE("the segment has %llu bytes, its header alone needs %llu",
                    ASPH_ULL(segment->bytes), ASPH_ULL(sizeof(asph_header)));
    }
    asph_header h; /* checked and used from here: a peer cannot change it any more */
    /* pairs with the store in aiospin_writer_create(): who sees the magic sees the rest */
    const uint64_t magic = asph_acquire((const uint64_t *)(const void *)segment->base);
    asph_copy_from(&h, segment->base, sizeof h);
    if (magic == 0) {
        ASPH_REFUSE("magic is 0: the segment is not finished, or none");
    }
    if (h.byte_order == 0x04030201u) {
        ASPH_REFUSE("byte_order says that a machine of the other byte order made the segment");
    }
    if (magic != ASPH_MAGIC) {
        ASPH_REFUSE("magic is 0x%016llx, should be 0x%016llx", ASPH_ULL(magic),
                    ASPH_ULL(ASPH_MAGIC));
    }
    if (h.version != ASPH_VERSION) {
        ASPH_REFUSE("version is %u, this header knows %u", h.version, ASPH_VERSION);
    }
    if (h.byte_order != 0x01020304u) {
        ASPH_REFUSE("byte_order is 0x%08x, should be 0x01020304", h.byte_order);
    }
    if (h.header_bytes != sizeof h) {
        ASPH_REFUSE("header_bytes is %u, should be %llu", h.header_bytes, ASPH_ULL(sizeof h));
    }
    if (h.line_bytes != ASPH_LINE) {
        ASPH_REFUSE("line_bytes is %u, should be %u", h.line_bytes, ASPH_LINE);
    }
    if (!asph_capacity_valid(h.capacity)) {
        ASPH_REFUSE("capacity is %llu, should be a power of two from %llu to %llu",
                    ASPH_ULL(h.capacity), ASPH_ULL(AIOSPIN_MIN_CAPACITY),
                    ASPH_ULL(AIOSPIN_MAX_CAPACITY));
    }
    if (h.max_readers < 1 || h.max_readers > AIOSPIN_MAX_READERS) {
        ASPH_REFUSE("max_readers is %u, should be 1 to %u", h.max_readers, AIOSPIN_MAX_READERS);
    }
    if (h.overflow > AIOSPIN_DROP_OLDEST) {
        ASPH_REFUSE("overflow is %u, should be 0 (block) or 1 (drop_oldest)", h.overflow);
    }
    if (h.id == 0) {
        ASPH_REFUSE("id is 0");
    }
    if (h.total_bytes > segment->bytes) {
        ASPH_REFUSE("total_bytes is %llu, but the segment has only %llu: it was truncated",
                    ASPH_ULL(h.total_bytes), ASPH_ULL(segment->bytes));
    }
    /* The areas, in order. Their sizes are bounded above, so `end` cannot wrap. */
    const struct {
        const char *name;
        uint64_t offset, size;
    } areas[] = {
        {"writer_offset", h.writer_offset, sizeof(asph_control)},
        {"readers_offset", h.readers_offset, h.max_readers * (uint64_t)sizeof(asph_slot)},
        {"data_offset", h.data_offset, h.capacity + ASPH_SPILL},
    };
    uint64_t end = sizeof h;
    for (unsigned i = 0; i < 3; i++) {
        if (areas[i].offset % ASPH_LINE != 0) {
            ASPH_REFUSE("%s is %llu, should be a multiple of %u", areas[i].name,
                        ASPH_ULL(areas[i].offset), ASPH_LINE);
        }
        if (areas[i].offset < end) {
            ASPH_REFUSE("%s is %llu, but what lies before it ends at %llu", areas[i].name,
                        ASPH_ULL(areas[i].offset), ASPH_ULL(end));
        }
        if (areas[i].offset > h.total_bytes || areas[i].size > h.total_bytes - areas[i].offset) {
            ASPH_REFUSE("%s is %llu, and %llu bytes from there do not fit into total_bytes, %llu",
                        areas[i].name, ASPH_ULL(areas[i].offset), ASPH_ULL(areas[i].size),
                        ASPH_ULL(h.total_bytes));
        }
        end = areas[i].offset + areas[i].size;
    }
#undef ASPH_REFUSE
#undef ASPH_ULL
    segment->capacity = h.capacity;
    /* the record, header included, still has to have a length of 32 bits */
    segment->max_message = h.capacity / 2 < UINT32_MAX - 63 ? h.capacity / 2 : UINT32_MAX - 63;
    segment->max_readers = h.max_readers;
    segment->overflow = (aiospin_overflow)h.overflow;
    segment->id = h.id;
    segment->control = (asph_control *)(void *)(segment->base + h.writer_offset);
    segment->slots = (asph_slot *)(void *)(segment->base + h.readers_offset);
    segment->data = segment->base + h.data_offset;
    return AIOSPIN_OK;
}

/* ---- records ---- */

static inline uint64_t asph_record_bytes(uint64_t length) {
    return (ASPH_RECORD + length + ASPH_ALIGN - 1) & ~(uint64_t)(ASPH_ALIGN - 1);
}

static inline uint64_t asph_offset(const aiospin_segment *segment, uint64_t position) {
    return position & (segment->capacity - 1);
}

static inline asph_record *asph_record_at(const aiospin_segment *segment, uint64_t position) {
    return (asph_record *)(void *)(segment->data + asph_offset(segment, position));
}

static inline unsigned char *asph_payload_at(const aiospin_segment *segment, uint64_t position) {
    return segment->data + asph_offset(segment, position) + ASPH_RECORD;
}

/* What the record of a large message says; orders nothing, as the loads of the record. */
static inline uint64_t asph_large_length(const aiospin_segment *segment, uint64_t position) {
    return asph_load((const uint64_t *)(const void *)asph_payload_at(segment, position));
}

/* Each field once; in drop_oldest mode the writer may be overwriting them. Head was acquired
 * before. */
static inline void asph_load_record(const aiospin_segment *segment, uint64_t position,
                                    asph_record *record) {
    const asph_record *shared = asph_record_at(segment, position);
    record->position = asph_load(&shared->position);
    record->sequence = asph_load(&shared->sequence);
    record->published_ns = asph_load(&shared->published_ns);
    record->length = asph_load32(&shared->length);
    record->kind = asph_load16(&shared->kind);
    record->format = asph_load16(&shared->format);
}

/* Ordered by the store of head that follows. */
static inline void asph_store_record(const aiospin_segment *segment, const asph_record *record) {
    asph_record *shared = asph_record_at(segment, record->position);
    asph_store(&shared->position, record->position);
    asph_store(&shared->sequence, record->sequence);
    asph_store(&shared->published_ns, record->published_ns);
    asph_store32(&shared->length, record->length);
    asph_store16(&shared->kind, record->kind);
    asph_store16(&shared->format, record->format);
}

/* Bytes of the record that was loaded from `position`, 0 when it is none that a healthy writer
 * could have published there with head at `end`. Any other lies within the area and before
 * `end`. */
static inline uint64_t asph_record_size(const aiospin_segment *segment, uint64_t position,
                                        uint64_t end, const asph_record *record) {
    const uint64_t offset = asph_offset(segment, position);
    uint64_t size = 0;
    if (record->position != position || record->format > AIOSPIN_CODEC) {
        return 0;
    }
    switch (record->kind) {
    case ASPH_IN_FILE:
    case ASPH_DATA:
        if (record->kind == ASPH_DATA ? record->length > segment->max_message
                                      : record->length != ASPH_LARGE) {
            return 0;
        }
        size = asph_record_bytes(record->length);
        if (offset + size > segment->capacity + ASPH_SPILL) {
            return 0;
        }
        break;
    case ASPH_PAD:
        size = segment->capacity - offset;
        if (record->length != 0 || record->format != 0 || size > segment->capacity / 2) {
            return 0;
        }
        break;
    default: return 0;
    }
    return size <= end - position ? size : 0;
}

static inline aiospin_status asph_bad_record(aiospin_segment *segment, uint64_t position,
                                             const asph_record *record) {
    return asph_fail(segment, AIOSPIN_LAYOUT,
                     "at position %llu there is no record: position %llu, sequence %llu, length "
                     "%u, kind %u, format %u",
                     (unsigned long long)position, (unsigned long long)record->position,
                     (unsigned long long)record->sequence, record->length, record->kind,
                     record->format);
}

static inline bool asph_head_valid(uint64_t word) {
    return (word & ASPH_FLAGS & ~(ASPH_CLOSED | ASPH_ODD)) == 0;
}

static inline uint64_t asph_head_word(uint64_t head, uint64_t sequence) {
    return head | ((sequence & 1) ? ASPH_ODD : 0);
}

/* Where the slowest active reader is, or `none`; what was published before it is read by all. */
static inline uint64_t asph_oldest_cursor(const aiospin_segment *segment, uint64_t none,
                                          const asph_slot *except) {
    uint64_t oldest = none;
    /* Own cursor, state or head before the others' slots. Pairs with itself in another reader (of
     * two that release or leave at once, one sees the other's store) and with the fence in
     * asph_join(). */
    asph_fence();
    for (uint32_t i = 0; i < segment->max_readers; i++) {
        const asph_slot *slot = &segment->slots[i];
        /* pairs with the stores in asph_join() and asph_advance() */
        if (slot != except && asph_acquire32(&slot->state) == 1) {
            const uint64_t cursor = asph_acquire(&slot->cursor) & ~ASPH_FLAGS;
            if (cursor < oldest) {
                oldest = cursor;
            }
        }
    }
    return oldest;
}

typedef struct asph_removal {
    uint64_t at; /* how far it came: not to the end where there is no record */
    uint64_t files, bytes;
} asph_removal;

/* Remove the files of the large messages in [from, to), which no reader needs; nobody overwrites
 * the records meanwhile. */
static inline asph_removal asph_remove_large(const aiospin_segment *segment, uint64_t from,
                                             uint64_t to) {
    asph_removal removed = {from, 0, 0};
    while (removed.at < to) {
        asph_record record;
        asph_load_record(segment, removed.at, &record);
        const uint64_t size = asph_record_size(segment, removed.at, UINT64_MAX, &record);
        if (size == 0) {
            break;
        }
        if (record.kind == ASPH_IN_FILE) {
            asph_remove_message(segment, record.sequence);
            removed.files++;
            removed.bytes += asph_large_length(segment, removed.at);
        }
        removed.at += size;
    }
    return removed;
}

/* Free the slot, and tell the writer, which may wait for it. */
static inline void asph_free_slot(const aiospin_segment *segment, uint32_t slot) {
    asph_release32(&segment->slots[slot].state, 0); /* pairs with the loads of the state */
    asph_notify_writer(segment->control);
}

/* Free the slots of dead readers, except for one's own. Returns the lowest cursor of those, or
 * `none`. */
static inline uint64_t asph_evict_dead(const aiospin_segment *segment, const asph_slot *own,
                                       uint64_t none) {
    uint64_t lowest = none;
    for (uint32_t i = 0; i < segment->max_readers; i++) {
        asph_slot *slot = &segment->slots[i];
        /* With its lock in hand nobody can join in that slot meanwhile. */
        if (slot == own || asph_acquire32(&slot->state) != 1 ||
            !asph_lock(segment->lock_fd, ASPH_WRITER_BYTE + 1 + i)) {
            continue;
        }
        if (asph_acquire32(&slot->state) == 1) {
            char path[ASPH_PATH_BYTES];
            const uint64_t cursor = asph_load(&slot->cursor) & ~ASPH_FLAGS;
            lowest = cursor < lowest ? cursor : lowest;
            asph_companion(path, segment->name, segment->id, "bell-%u", i);
            unlink(path);
            asph_free_slot(segment, i);
        }
        asph_unlock(segment->lock_fd, ASPH_WRITER_BYTE + 1 + i);
    }
    return lowest;
}

/* ---- creating ---- */

/* Make way under the name: AIOSPIN_OK when there is nothing any more, AIOSPIN_EXISTS when it is in
 * use. */
static inline aiospin_status asph_remove_dead(aiospin_segment *segment, const char *path) {
    asph_header header;
    struct stat found;
    const int fd = open(path, O_RDWR | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
    if (fd < 0 && errno == ENOENT) {
        return AIOSPIN_OK;
    }
    memset(&header, 0, sizeof header);
    if (fd < 0 || fstat(fd, &found) != 0 || !S_ISREG(found.st_mode) ||
        pread(fd, &header, sizeof header, 0) < (ssize_t)sizeof header.magic ||
        header.magic != ASPH_MAGIC) {
        if (fd >= 0) {
            close(fd);
        }
        return asph_fail(segment, AIOSPIN_EXISTS,
                         "%s is no broadcast, or another user's: choose another name", path);
    }
    if (!asph_lock(fd, ASPH_WRITER_BYTE)) {
        close(fd);
        return asph_fail(segment, AIOSPIN_EXISTS,
                         "a living broadcast has the name %s: choose another, or close it",
                         segment->name);
    }
    /* Two that clean up at once exclude each other by the lock, and the check of identity keeps the
     * second from removing what the first has already replaced. */
    if (asph_is_file_of(path, &found)) {
        /* What its readers, if some live, have still to read stays, under the name of a closed
         * one. */
        if (header.version == ASPH_VERSION &&
            asph_locked(fd, ASPH_WRITER_BYTE + 1, AIOSPIN_MAX_READERS)) {
            char closed[ASPH_PATH_BYTES];
            asph_companion(closed, segment->name, header.id, "closed");
            if (rename(path, closed) == 0 &&
                !asph_locked(fd, ASPH_WRITER_BYTE + 1, AIOSPIN_MAX_READERS)) {
                unlink(closed); /* the last of them left meanwhile, and found no such file */
            }
        } else {
            unlink(path);
        }
    }
    close(fd);
    return AIOSPIN_OK;
}

/* A file that is being made has no lock for the moment between its creation and the lock, in which
 * its process may be descheduled; so long is it left alone. */
#define ASPH_UNLOCKED_S 10

/* Does any member of the segment in this file live? */
static inline bool asph_file_lives(const char *path, bool unfinished) {
    struct stat found;
    const int fd = open(path, O_RDWR | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
    if (fd < 0) {
        return errno != ENOENT;
    }
    const bool lives =
        asph_locked(fd, ASPH_WRITER_BYTE, 1 + (int64_t)AIOSPIN_MAX_READERS) ||
        (unfinished && fstat(fd, &found) == 0 && time(NULL) - found.st_mtime < ASPH_UNLOCKED_S);
    close(fd);
    return lives;
}

/* Remove what dead segments of this name left beside it. Whoever has the name is the only writer
 * that lives, so other ids can only be those of segments that are still read, or being made. */
static inline void asph_clean(const aiospin_segment *segment) {
    char prefix[ASPH_PATH_BYTES], path[ASPH_PATH_BYTES];
    const int prefix_length = snprintf(prefix, sizeof prefix, "aiospin-%s+", segment->name);
    DIR *folder = opendir(AIOSPIN_FOLDER);
    if (!folder || prefix_length < 0) {
        return;
    }
    for (const struct dirent *entry; (entry = readdir(folder)) != NULL;) {
        unsigned long long id;
        int digits = 0;
        if (strncmp(entry->d_name, prefix, (size_t)prefix_length) != 0) {
            continue;
        }
        const char *rest = entry->d_name + prefix_length;
        if (sscanf(rest, "%16llx%n", &id, &digits) != 1 || digits != (int)ASPH_ID_DIGITS ||
            rest[digits] != '.' || id == segment->id) {
            continue;
        }
        /* A message and a bell live as long as their segment, which is a closed one. */
        const bool unfinished = strcmp(rest + digits, ".new") == 0;
        asph_companion(path, segment->name, id, "%s", unfinished ? "new" : "closed");
        if (!asph_file_lives(path, unfinished)) {
            unlinkat(dirfd(folder), entry->d_name, 0);
        }
    }
    closedir(folder);
}

/* Make, lock, reserve and map a file for the segment. */
static inline aiospin_status asph_make_file(aiospin_segment *segment, const char *path) {
    struct stat found;
    const int fd = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (fd < 0) {
        return asph_failed_call(segment, "create", path);
    }
    aiospin_status status = AIOSPIN_OK;
    segment->lock_fd = open(path, O_RDWR | O_CLOEXEC | O_NOFOLLOW);
    if (segment->lock_fd < 0 || !asph_lock(segment->lock_fd, ASPH_WRITER_BYTE) ||
        fstat(fd, &found) != 0 || found.st_nlink == 0) {
        status = asph_fail(segment, AIOSPIN_SYSTEM, "%s was removed while it was being made", path);
    } else {
        const int error = asph_reserve(fd, segment->bytes);
        if (error) {
            status = asph_no_memory(segment, fd, error, "the broadcast", segment->bytes);
        } else if (fchmod(fd, segment->mode) != 0) {
            status = asph_failed_call(segment, "chmod", path);
        } else {
            void *base = mmap(NULL, segment->bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
            if (base == MAP_FAILED) {
                status = asph_failed_call(segment, "mmap", path);
            } else {
                segment->base = (unsigned char *)base;
            }
        }
    }
    close(fd);
    if (status != AIOSPIN_OK) {
        unlink(path);
    }
    return status;
}

static inline aiospin_status aiospin_writer_create(aiospin_writer *writer, const char *name,
                                                   const aiospin_options *options) {
    const uint64_t wanted = options && options->capacity ? options->capacity : UINT64_C(16) << 20;
    const uint32_t max_readers = options && options->max_readers ? options->max_readers : 16;
    const aiospin_overflow overflow = options ? options->overflow : AIOSPIN_BLOCK;
    aiospin_segment *segment = &writer->segment;
    char path[ASPH_PATH_BYTES], temporary[ASPH_PATH_BYTES];

    memset(writer, 0, sizeof *writer);
    writer->closed = true;
    writer->large_fd = -1;
    segment->lock_fd = -1;
    memset(writer->bells, 0xff, sizeof writer->bells); /* -1 */
    if (!asph_name_valid(name)) {
        return asph_fail(segment, AIOSPIN_INVALID,
                         "the name must be 1 to %u of the characters A-Z a-z 0-9 _ . -, the first "
                         "a letter, a digit or _",
                         AIOSPIN_MAX_NAME);
    }
    memcpy(segment->name, name, strlen(name) + 1);
    if (wanted > AIOSPIN_MAX_CAPACITY || max_readers > AIOSPIN_MAX_READERS ||
        (overflow != AIOSPIN_BLOCK && overflow != AIOSPIN_DROP_OLDEST) ||
        (options && options->mode > 0777)) {
        return asph_fail(
            segment, AIOSPIN_INVALID,
            "capacity must be at most %llu bytes, max_readers at most %u, overflow a constant of "
            "aiospin_overflow and mode at most 0777",
            (unsigned long long)AIOSPIN_MAX_CAPACITY, AIOSPIN_MAX_READERS);
    }
    segment->mode = options && options->mode ? options->mode : 0600;

    asph_header header;
    memset(&header, 0, sizeof header);
    header.version = ASPH_VERSION;
    header.header_bytes = sizeof header;
    header.capacity = AIOSPIN_MIN_CAPACITY;
    while (header.capacity < wanted) {
        header.capacity *= 2;
    }
    header.max_readers = max_readers;
    header.overflow = (uint32_t)overflow;
    header.writer_offset = ASPH_LINE;
    header.readers_offset = header.writer_offset + sizeof(asph_control);
    header.data_offset = header.readers_offset + max_readers * (uint64_t)sizeof(asph_slot);
    header.total_bytes = header.data_offset + header.capacity + ASPH_SPILL;
    header.byte_order = 0x01020304u;
    header.line_bytes = ASPH_LINE;
    header.created_ns = asph_clock_ns(CLOCK_REALTIME);
    header.writer_pid = (uint32_t)getpid();
    while (header.id == 0) {
        if (syscall(SYS_getrandom, &header.id, sizeof header.id, 0) != (long)sizeof header.id) {
            return asph_failed_call(segment, "getrandom", "for an id");
        }
    }
    segment->bytes = header.total_bytes;
    asph_path(path, name);
    asph_companion(temporary, name, header.id, "new");
    aiospin_status status = asph_make_file(segment, temporary);
    if (status == AIOSPIN_OK) {
        memcpy(segment->base, &header, sizeof header);
        /* pairs with the load in asph_open() */
        asph_release((uint64_t *)(void *)segment->base, ASPH_MAGIC);
        status = asph_open(segment);
        while (status == AIOSPIN_OK && link(temporary, path) != 0) {
            status = errno == EEXIST ? asph_remove_dead(segment, path)
                                     : asph_failed_call(segment, "link", path);
        }
        unlink(temporary);
    }
    if (status != AIOSPIN_OK) {
        asph_let_go(segment);
        return status;
    }
    struct stat made;
    segment->owner = fstat(segment->lock_fd, &made) == 0 ? made.st_uid : geteuid();
    asph_clean(segment);
    writer->limit = overflow == AIOSPIN_DROP_OLDEST ? segment->capacity : 0;
    writer->closed = false;
    return AIOSPIN_OK;
}

/* ---- writing: waking ---- */

/* Take hold of the FIFO that the reader in this slot made, instead of the one before it. */
static inline void asph_open_bell(aiospin_writer *writer, uint32_t slot, const char *path,
                                  struct stat *found) {
    int *bell = &writer->bells[slot];
    if (*bell >= 0) {
        close(*bell);
    }
    /* for reading too: a write to a FIFO whose reader has died would raise SIGPIPE */
    *bell = open(path, O_RDWR | O_NONBLOCK | O_CLOEXEC | O_NOFOLLOW);
    if (*bell >= 0 && (fstat(*bell, found) != 0 || !S_ISFIFO(found->st_mode))) {
        close(*bell);
        *bell = -1;
    }
}

/* Open the bells that were asked for, ring those that are parked on. */
static inline void asph_ring_bells(aiospin_writer *writer) {
    const aiospin_segment *segment = &writer->segment;
    for (uint32_t i = 0; i < segment->max_readers; i++) {
        asph_slot *slot = &segment->slots[i];
        char path[ASPH_PATH_BYTES];
        struct stat found;
        if (asph_acquire32(&slot->state) != 1) { /* pairs with the store of the reader that joins */
            continue;
        }
        /* pairs with the reader's store: the FIFO is there */
        uint32_t bell = asph_acquire32(&slot->bell);
        asph_companion(path, segment->name, segment->id, "bell-%u", i);
        if (bell == ASPH_BELL_REQUESTED) {
            /* Once more if a new reader in the slot has put another in its place meanwhile. */
            do {
                asph_open_bell(writer, i, path, &found);
            } while (
                asph_exchange_if(&slot->bell, &bell,
                                 writer->bells[i] >= 0 ? ASPH_BELL_READY : ASPH_BELL_REFUSED) &&
                writer->bells[i] >= 0 && !asph_is_file_of(path, &found));
        } else if (bell == ASPH_BELL_PARKED) {
            if (writer->bells[i] < 0) {
                asph_open_bell(writer, i, path, &found);
            }
            if (!asph_exchange_if(&slot->bell, &bell,
                                  writer->bells[i] >= 0 ? ASPH_BELL_READY : ASPH_BELL_REFUSED) ||
                writer->bells[i] < 0 || write(writer->bells[i], "", 1) < 0) {
                continue; /* it woke by itself, has no bell, or is rung already: the FIFO is full */
            }
        }
    }
}

/* Wake the readers for what was published. */
static inline void asph_announce(aiospin_writer *writer) {
    writer->unannounced = false;
    if (asph_notify(&writer->segment.control->readable, NULL) & ASPH_BELL) {
        asph_ring_bells(writer);
    }
}

/* ---- writing: room ---- */

/* How far the readers let the writer go ("block"). */
static inline aiospin_status asph_ask_readers(aiospin_writer *writer, uint64_t *oldest) {
    aiospin_segment *segment = &writer->segment;
    *oldest = writer->head;
    asph_fence(); /* head before slots; pairs with the fence in asph_join() */
    for (uint32_t i = 0; i < segment->max_readers; i++) {
        const asph_slot *slot = &segment->slots[i];
        const uint32_t state = asph_acquire32(&slot->state); /* pairs with its stores */
        if (state == 0) {
            continue;
        }
        /* pairs with the store in asph_advance(): what the reader did with the bytes is done */
        const uint64_t word = asph_acquire(&slot->cursor);
        const uint64_t cursor = word & ~ASPH_JOINING;
        /* One that joins may be far behind; it will move up. Any other such cursor was never stored
         * by a reader: to guess what it should be is to overwrite somebody's data, or to wait for
         * ever. */
        if (state != 1 || (cursor & ASPH_FLAGS) != 0 || cursor > writer->head ||
            (!(word & ASPH_JOINING) && writer->head - cursor > segment->capacity)) {
            return asph_fail(segment, AIOSPIN_LAYOUT,
                             "reader slot %u (pid %u) has state %u and cursor %llu while head is "
                             "%llu: no reader stores that",
                             i, asph_load32(&slot->pid), state, (unsigned long long)word,
                             (unsigned long long)writer->head);
        }
        if (cursor < *oldest) {
            *oldest = cursor;
        }
    }
    return AIOSPIN_OK;
}

/* No reader needs what lies before `to`: remove the files of large messages there. Their records
 * are still whole; this comes before anything that would overwrite them. */
static inline aiospin_status asph_forget_large(aiospin_writer *writer, uint64_t to) {
    if (writer->large_count) {
        const asph_removal removed = asph_remove_large(&writer->segment, writer->large_from, to);
        writer->large_from = removed.at;
        /* a peer may have spoilt the records */
        writer->large_count -=
            removed.files < writer->large_count ? removed.files : writer->large_count;
        writer->large_bytes -=
            removed.bytes < writer->large_bytes ? removed.bytes : writer->large_bytes;
        if (writer->large_count == 0) {
            writer->large_bytes = 0;
        }
        if (writer->large_from < to) {
            return asph_fail(&writer->segment, AIOSPIN_LAYOUT,
                             "at position %llu there is no record any more",
                             (unsigned long long)writer->large_from);
        }
    }
    return AIOSPIN_OK;
}

/* Ask the readers, and act on it. */
static inline aiospin_status asph_move_limit(aiospin_writer *writer) {
    uint64_t oldest;
    if (writer->segment.overflow == AIOSPIN_DROP_OLDEST) {
        /* only for the files; cursors hold nobody up here */
        return asph_forget_large(writer, asph_oldest_cursor(&writer->segment, writer->head, NULL));
    }
    const aiospin_status status = asph_ask_readers(writer, &oldest);
    if (status != AIOSPIN_OK) {
        return status;
    }
    writer->limit = oldest + writer->segment.capacity;
    return asph_forget_large(writer, oldest);
}

/* drop_oldest: move tail until at most `keep` bytes are left behind it. */
static inline aiospin_status asph_drop(aiospin_writer *writer, uint64_t keep) {
    aiospin_segment *segment = &writer->segment;
    uint64_t tail = writer->limit - segment->capacity;
    while (writer->head - tail > keep) {
        asph_record record;
        asph_load_record(segment, tail, &record); /* its own, but a peer could have changed it */
        const uint64_t size = asph_record_size(segment, tail, writer->head, &record);
        if (size == 0) {
            return asph_bad_record(segment, tail, &record);
        }
        tail += size;
    }
    /* Announce, then overwrite: a reader whose copy has one byte of what is stored from here on
     * finds this tail. The fence pairs with the one in asph_lapped(), the release with the load in
     * asph_go_to_tail(). */
    asph_release(&segment->control->tail, tail);
    asph_fence_release();
    writer->limit = tail + segment->capacity;
    return asph_forget_large(writer, tail);
}

/* drop_oldest: drop the oldest large message, and what lies before it. There is one. */
static inline aiospin_status asph_drop_large(aiospin_writer *writer) {
    return asph_drop(writer, writer->head - writer->large_from - 1);
}

/* drop_oldest: tail moves this part of the capacity further than it must, or a lapped reader that
 * starts at tail would be lapped again at once: it needs a microsecond to get going, and 64 bytes
 * are overwritten in a fraction of that. */
#define ASPH_STRIDE_DIVISOR 8

/* The bytes of large messages that readers have still to read may be so many times the capacity: as
 * the capacity bounds what lies in the ring. */
#define ASPH_WINDOW 4

/* Room for a message; changes nothing that readers see. AIOSPIN_TIMED_OUT: not now. */
static inline aiospin_status asph_try_room(aiospin_writer *writer, uint64_t length) {
    const aiospin_segment *segment = &writer->segment;
    const bool in_file = length > segment->max_message;
    const uint64_t size = asph_record_bytes(in_file ? ASPH_LARGE : length);
    const uint64_t offset = asph_offset(segment, writer->head);
    const uint64_t pad =
        offset + size <= segment->capacity + ASPH_SPILL ? 0 : segment->capacity - offset;
    aiospin_status status = AIOSPIN_OK;
    if (writer->large_count ||
        (segment->overflow == AIOSPIN_BLOCK && writer->head + pad + size > writer->limit)) {
        status = asph_move_limit(writer);
    }
    while (in_file && status == AIOSPIN_OK && writer->large_count &&
           writer->large_bytes + length > ASPH_WINDOW * segment->capacity) {
        if (segment->overflow == AIOSPIN_BLOCK) {
            return AIOSPIN_TIMED_OUT;
        }
        status = asph_drop_large(writer);
    }
    if (status == AIOSPIN_OK && writer->head + pad + size > writer->limit) {
        if (segment->overflow == AIOSPIN_BLOCK) {
            return AIOSPIN_TIMED_OUT;
        }
        const uint64_t fits = segment->capacity - pad - size;
        const uint64_t stride = segment->capacity / ASPH_STRIDE_DIVISOR;
        status = asph_drop(writer, fits > stride ? fits - stride : 0);
    }
    if (status == AIOSPIN_OK) {
        writer->pad = pad;
        writer->claimed = size;
    }
    return status;
}

typedef struct asph_room_wait {
    aiospin_writer *writer;
    uint64_t wanted; /* bytes of a message, or number of readers */
} asph_room_wait;

static inline aiospin_status asph_look_for_room(void *self) {
    const asph_room_wait *wait = (const asph_room_wait *)self;
    return asph_try_room(wait->writer, wait->wanted);
}

static inline aiospin_status asph_ask_for_room(void *self) {
    const asph_room_wait *wait = (const asph_room_wait *)self;
    asph_evict_dead(&wait->writer->segment, NULL, 0);
    return asph_look_for_room(self);
}

static inline aiospin_status asph_make_room(aiospin_writer *writer, uint64_t length,
                                            int64_t timeout_ns) {
    if (writer->closed || length > AIOSPIN_MAX_CAPACITY) {
        return asph_fail(&writer->segment, AIOSPIN_INVALID, "%s",
                         writer->closed ? "the writer is closed"
                                        : "a message has at most 2^46 bytes");
    }
    if (writer->claimed) {
        return AIOSPIN_BUSY;
    }
    const aiospin_status status = asph_try_room(writer, length);
    if (status != AIOSPIN_TIMED_OUT) {
        return status;
    }
    if (writer->unannounced) {
        asph_announce(writer); /* or the readers would not make any */
    }
    asph_room_wait wait = {writer, length};
    return asph_wait(&writer->segment, &writer->segment.control->writable, NULL, asph_look_for_room,
                     asph_ask_for_room, &wait, asph_deadline(timeout_ns));
}

/* ---- writing: large messages ---- */

static inline void asph_large_path(const aiospin_writer *writer, char *path) {
    asph_companion(path, writer->segment.name, writer->segment.id, "message-%llu",
                   (unsigned long long)writer->sequence);
}

/* Make the file of the next message, with all of its bytes reserved. */
static inline aiospin_status asph_make_large(aiospin_writer *writer, uint64_t length) {
    aiospin_segment *segment = &writer->segment;
    char path[ASPH_PATH_BYTES];
    asph_large_path(writer, path);
    const int fd = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (fd < 0) {
        return asph_failed_call(segment, "create", path);
    }
    aiospin_status status = AIOSPIN_OK;
    const uint64_t bytes = sizeof(asph_large) + length;
    int error;
    /* drop_oldest drops large messages too where they are what takes up the memory */
    while ((error = asph_reserve(fd, bytes)) == ENOSPC &&
           segment->overflow == AIOSPIN_DROP_OLDEST && writer->large_count &&
           status == AIOSPIN_OK) {
        status = asph_drop_large(writer);
    }
    if (error && status == AIOSPIN_OK) {
        status = asph_no_memory(segment, fd, error, "the message", bytes);
    } else if (status == AIOSPIN_OK && fchmod(fd, segment->mode) != 0) {
        status = asph_failed_call(segment, "chmod", path);
    }
    if (status != AIOSPIN_OK) {
        close(fd);
        unlink(path);
        return status;
    }
    writer->large_fd = fd;
    writer->large_length = length;
    return AIOSPIN_OK;
}

static inline bool asph_write_all(int fd, const void *data, uint64_t length, uint64_t offset) {
    const unsigned char *from = (const unsigned char *)data;
    while (length) {
        const ssize_t written = pwrite(fd, from, (size_t)length, (off_t)offset);
        if (written < 0 && errno != EINTR) {
            return false;
        }
        if (written > 0) {
            from += written;
            offset += (uint64_t)written;
            length -= (uint64_t)written;
        }
    }
    return true;
}

static inline void asph_drop_large_map(aiospin_writer *writer) {
    if (writer->large_map) {
        munmap(writer->large_map, (size_t)(sizeof(asph_large) + writer->large_length));
        writer->large_map = NULL;
    }
    if (writer->large_fd >= 0) {
        close(writer->large_fd);
        writer->large_fd = -1;
    }
    writer->large_length = 0;
}

/* ---- writing: the interface ---- */

/* Make what is claimed visible, without waking anybody. */
static inline aiospin_status asph_publish(aiospin_writer *writer, uint64_t length) {
    aiospin_segment *segment = &writer->segment;
    const bool in_file = writer->large_length != 0;
    if (!writer->claimed || (uint32_t)writer->format > AIOSPIN_CODEC ||
        (in_file ? length <= segment->max_message || length > writer->large_length
                 : length > segment->max_message || asph_record_bytes(length) > writer->claimed)) {
        return asph_fail(
            segment, AIOSPIN_INVALID,
            writer->claimed
                ? "%llu bytes, format %d: more than was claimed, too few for a large message, "
                  "or no format"
                : "%llu bytes, format %d: nothing is claimed",
            (unsigned long long)length, (int)writer->format);
    }
    asph_record record;
    uint64_t head = writer->head;
    if (in_file) {
        asph_large large;
        memset(&large, 0, sizeof large);
        large.id = segment->id;
        large.sequence = writer->sequence;
        large.length = length;
        if ((length < writer->large_length &&
             ftruncate(writer->large_fd, (off_t)(sizeof large + length)) != 0) ||
            !asph_write_all(writer->large_fd, &large, sizeof large, 0)) {
            return asph_failed_call(segment, "write", "the file of a large message");
        }
        asph_drop_large_map(writer);
        if (!writer->large_count++) {
            writer->large_from = head + writer->pad;
        }
        writer->large_bytes += length;
        asph_store((uint64_t *)(void *)asph_payload_at(segment, head + writer->pad), length);
    }
    record.position = head;
    record.sequence = writer->sequence;
    record.published_ns = asph_now_ns();
    if (writer->pad) {
        record.length = 0;
        record.kind = ASPH_PAD;
        record.format = 0;
        asph_store_record(segment, &record);
        head += writer->pad;
        record.position = head;
    }
    record.length = in_file ? ASPH_LARGE : (uint32_t)length;
    record.kind = in_file ? ASPH_IN_FILE : ASPH_DATA;
    record.format = (uint16_t)writer->format;
    asph_store_record(segment, &record);
    writer->head = head + asph_record_bytes(record.length);
    writer->sequence++;
    writer->pad = 0;
    writer->claimed = 0;
    writer->unannounced = true;
    /* pairs with the load in asph_join(): who sees this sequence sees the head before it */
    asph_release(&segment->control->sequence, writer->sequence);
    /* pairs with the loads in asph_see_head() and asph_join(): who sees this head sees the
     * record */
    asph_release(&segment->control->head, asph_head_word(writer->head, writer->sequence));
    if (in_file) {
        /* Where there is no reader its file goes at once. What else is wrong, the next call
         * says. */
        asph_move_limit(writer);
    }
    return AIOSPIN_OK;
}

static inline void aiospin_writer_abandon(aiospin_writer *writer) {
    if (writer->large_length) {
        char path[ASPH_PATH_BYTES];
        asph_large_path(writer, path);
        unlink(path);
        asph_drop_large_map(writer);
    }
    writer->pad = 0;
    writer->claimed = 0;
}

static inline aiospin_status aiospin_writer_claim(aiospin_writer *writer, uint64_t length,
                                                  int64_t timeout_ns, void **payload) {
    aiospin_segment *segment = &writer->segment;
    const bool in_file = length > segment->max_message;
    *payload = NULL;
    aiospin_status status = asph_make_room(writer, length, timeout_ns);
    if (status == AIOSPIN_OK && in_file) {
        status = asph_make_large(writer, length);
        if (status == AIOSPIN_OK) {
            void *map = mmap(NULL, (size_t)(sizeof(asph_large) + length), PROT_READ | PROT_WRITE,
                             MAP_SHARED, writer->large_fd, 0);
            if (map == MAP_FAILED) {
                status = asph_failed_call(segment, "mmap", "the file of a large message");
            } else {
                writer->large_map = (unsigned char *)map;
                *payload = writer->large_map + sizeof(asph_large);
            }
        }
        if (status != AIOSPIN_OK) {
            aiospin_writer_abandon(writer);
        }
    } else if (status == AIOSPIN_OK) {
        *payload = asph_payload_at(segment, writer->head + writer->pad);
    }
    return status;
}

static inline aiospin_status aiospin_writer_publish(aiospin_writer *writer, uint64_t length) {
    const aiospin_status status = asph_publish(writer, length);
    if (status == AIOSPIN_OK) {
        asph_announce(writer);
    }
    return status;
}

/* aiospin_writer_send without waking anybody. */
static inline aiospin_status asph_append(aiospin_writer *writer, const void *data, uint64_t length,
                                         int64_t timeout_ns) {
    aiospin_segment *segment = &writer->segment;
    aiospin_status status = asph_make_room(writer, length, timeout_ns);
    if (status != AIOSPIN_OK) {
        return status;
    }
    if (length > segment->max_message) {
        status = asph_make_large(writer, length);
        /* written, not mapped: no page faults, and no SIGBUS whatever happens to the file */
        if (status == AIOSPIN_OK &&
            !asph_write_all(writer->large_fd, data, length, sizeof(asph_large))) {
            status = asph_failed_call(segment, "write", "the file of a large message");
        }
    } else {
        unsigned char *payload = asph_payload_at(segment, writer->head + writer->pad);
        if (segment->overflow == AIOSPIN_DROP_OLDEST) {
            /* a reader may be copying these bytes; it will find out */
            asph_copy_to(payload, data, length);
        } else if (length) { /* data may be NULL otherwise */
            memcpy(payload, data, (size_t)length);
        }
    }
    if (status == AIOSPIN_OK) {
        status = asph_publish(writer, length);
    }
    if (status != AIOSPIN_OK) {
        aiospin_writer_abandon(writer);
    }
    return status;
}

static inline aiospin_status aiospin_writer_send(aiospin_writer *writer, const void *data,
                                                 uint64_t length, int64_t timeout_ns) {
    const aiospin_status status = asph_append(writer, data, length, timeout_ns);
    if (status == AIOSPIN_OK) {
        asph_announce(writer);
    }
    return status;
}

static inline aiospin_status aiospin_writer_try_send(aiospin_writer *writer, const void *data,
                                                     uint64_t length) {
    return aiospin_writer_send(writer, data, length, 0);
}

static inline aiospin_status aiospin_writer_send_many(aiospin_writer *writer,
                                                      const aiospin_bytes *messages, size_t count,
                                                      int64_t timeout_ns, size_t *sent) {
    const uint64_t deadline = timeout_ns > 0 ? asph_deadline(timeout_ns) : 0;
    aiospin_status status = AIOSPIN_OK;
    size_t i = 0;
    for (; i < count; i++) {
        /* what there is room for takes no look at the clock */
        status = asph_append(writer, messages[i].data, messages[i].length,
                             timeout_ns > 0 ? 0 : timeout_ns);
        if (status == AIOSPIN_TIMED_OUT && timeout_ns > 0) {
            const uint64_t now = asph_now_ns();
            status = asph_append(writer, messages[i].data, messages[i].length,
                                 deadline > now ? (int64_t)(deadline - now) : 0);
        }
        if (status != AIOSPIN_OK) {
            break;
        }
    }
    if (writer->unannounced) {
        asph_announce(writer);
    }
    if (sent) {
        *sent = i;
    }
    return status;
}

static inline uint32_t aiospin_writer_readers(const aiospin_writer *writer) {
    uint32_t active = 0;
    for (uint32_t i = 0; !writer->closed && i < writer->segment.max_readers; i++) {
        const asph_slot *slot = &writer->segment.slots[i];
        /* pairs with the stores in asph_join() */
        active +=
            asph_acquire32(&slot->state) == 1 && !(asph_acquire(&slot->cursor) & ASPH_JOINING);
    }
    return active;
}

static inline aiospin_status asph_look_for_readers(void *self) {
    const asph_room_wait *wait = (const asph_room_wait *)self;
    if (aiospin_writer_readers(wait->writer) < wait->wanted) {
        return AIOSPIN_TIMED_OUT;
    }
    asph_evict_dead(&wait->writer->segment, NULL, 0); /* of those, some may be dead */
    return aiospin_writer_readers(wait->writer) < wait->wanted ? AIOSPIN_TIMED_OUT : AIOSPIN_OK;
}

static inline aiospin_status aiospin_writer_wait_for_readers(aiospin_writer *writer, uint32_t count,
                                                             int64_t timeout_ns) {
    aiospin_segment *segment = &writer->segment;
    if (writer->closed || count > segment->max_readers) {
        return asph_fail(segment, AIOSPIN_INVALID,
                         writer->closed ? "the writer is closed"
                                        : "there can be no %u readers, only %u",
                         count, segment->max_readers);
    }
    asph_room_wait wait = {writer, count};
    /* whoever joins notifies this word */
    return asph_wait(segment, &segment->control->writable, NULL, asph_look_for_readers,
                     asph_look_for_readers, &wait, asph_deadline(timeout_ns));
}

static inline bool aiospin_writer_slowest(const aiospin_writer *writer,
                                          aiospin_reader_state *state) {
    const asph_slot *slowest = NULL;
    uint64_t oldest = UINT64_MAX;
    for (uint32_t i = 0; !writer->closed && i < writer->segment.max_readers; i++) {
        const asph_slot *slot = &writer->segment.slots[i];
        const uint64_t cursor = asph_load(&slot->cursor) & ~ASPH_FLAGS;
        if (asph_acquire32(&slot->state) == 1 && cursor < oldest) { /* pairs with asph_join() */
            slowest = slot;
            oldest = cursor;
        }
    }
    if (slowest) {
        state->slot = (uint32_t)(slowest - writer->segment.slots);
        state->pid = asph_load32(&slowest->pid);
        state->lag = writer->head > oldest ? writer->head - oldest : 0;
    }
    return slowest != NULL;
}

static inline void aiospin_writer_forget(aiospin_writer *writer) {
    asph_drop_large_map(writer);
    for (uint32_t i = 0; i < AIOSPIN_MAX_READERS; i++) {
        if (writer->bells[i] >= 0) {
            close(writer->bells[i]);
            writer->bells[i] = -1;
        }
    }
    asph_let_go(&writer->segment);
    writer->claimed = 0;
    writer->closed = true;
}

static inline void aiospin_writer_close(aiospin_writer *writer) {
    if (writer->closed) {
        return;
    }
    aiospin_segment *segment = &writer->segment;
    char path[ASPH_PATH_BYTES], closed[ASPH_PATH_BYTES];
    struct stat own;
    aiospin_writer_abandon(writer);
    /* pairs with the load in asph_see_head() */
    asph_release(&segment->control->head,
                 asph_head_word(writer->head, writer->sequence) | ASPH_CLOSED);
    asph_announce(writer);
    asph_path(path, segment->name);
    asph_companion(closed, segment->name, segment->id, "closed");
    const bool named = fstat(segment->lock_fd, &own) == 0 && asph_is_file_of(path, &own);
    if (writer->large_count) {
        asph_evict_dead(segment, NULL, 0);
        asph_move_limit(writer);
    }
    if (named && !writer->large_count) {
        unlink(path);
    } else if (named && rename(path, closed) == 0) {
        /* The last reader may have left before the file had this name; then it is for us to remove.
         * Its store of the state lies before its attempt to, and our load behind the rename. */
        asph_move_limit(writer);
        if (!writer->large_count) {
            unlink(closed);
        }
    }
    aiospin_writer_forget(writer);
}

/* ---- reading: joining ---- */

/* A publish takes tens of nanoseconds and a try a few, so a healthy writer does not spoil even ten
 * in a row. */
#define ASPH_JOIN_TRIES 1000

/* The segment is open and the slot's lock is held; what a dead reader left in the slot does not
 * matter. Either this reader starts at or behind the head from which the writer computes what may
 * be overwritten, or the writer sees the slot: docs/layout.md, Join. */
static inline aiospin_status asph_join(aiospin_reader *reader) {
    aiospin_segment *segment = &reader->segment;
    asph_control *control = segment->control;
    asph_slot *slot = &segment->slots[reader->slot];
    uint64_t word = asph_load(&control->head);
    asph_store32(&slot->pid, (uint32_t)getpid());
    asph_store32(&slot->bell, ASPH_BELL_NONE);
    asph_store32(&slot->parked, 0);
    asph_store(&slot->cursor, (word & ~ASPH_FLAGS) | ASPH_JOINING);
    asph_release32(&slot->state, 1); /* who sees it active sees this cursor, or a later one */
    asph_fence(); /* slot before head; pairs with asph_ask_readers(), asph_oldest_cursor() */
    word = asph_acquire(&control->head); /* pairs with asph_publish() */
    for (unsigned i = 0; i < ASPH_JOIN_TRIES; i++) {
        uint64_t sequence = asph_acquire(&control->sequence); /* pairs with the same */
        const uint64_t again = asph_acquire(&control->head);
        if (again == word) {
            const uint64_t head = word & ~ASPH_FLAGS;
            /* the writer stores sequence first: between the two it is one ahead, which the parity
             * tells */
            sequence -= (sequence & 1) != ((word & ASPH_ODD) != 0);
            if (!asph_head_valid(word) || sequence > head / ASPH_ALIGN) {
                break;
            }
            reader->cursor = reader->next = reader->seen_head = head;
            reader->sequence = sequence;
            asph_store(&slot->sequence, sequence);
            asph_release(&slot->cursor, head); /* pairs with the loads of the cursor */
            asph_notify_writer(control);
            return AIOSPIN_OK;
        }
        word = again;
    }
    asph_free_slot(segment, reader->slot);
    return asph_fail(segment, AIOSPIN_LAYOUT, "head is 0x%llx: no position, or it never rests",
                     (unsigned long long)word);
}

/* Open and map the file at the path. */
static inline aiospin_status asph_map(aiospin_segment *segment, const char *path) {
    struct stat found, again;
    const int fd = open(path, O_RDWR | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
    if (fd < 0) {
        switch (errno) {
        case ENOENT:
            return asph_fail(segment, AIOSPIN_NOT_FOUND,
                             "there is no %s: has the writer created it, and not closed it yet?",
                             path);
        case ELOOP:
        case ENXIO:
        case EISDIR: return asph_fail(segment, AIOSPIN_LAYOUT, "%s is not a plain file", path);
        default: return asph_failed_call(segment, "open", path);
        }
    }
    aiospin_status status = AIOSPIN_OK;
    if (fstat(fd, &found) != 0 || !S_ISREG(found.st_mode)) {
        status = asph_fail(segment, AIOSPIN_LAYOUT, "%s is not a plain file", path);
    } else if (found.st_uid != geteuid() && found.st_uid != 0 && (found.st_mode & 022) == 0) {
        status = asph_fail(segment, AIOSPIN_DENIED, "%s belongs to user %u, who did not share it",
                           path, (unsigned)found.st_uid);
    } else if (found.st_size == 0) {
        status = asph_fail(segment, AIOSPIN_LAYOUT, "%s is empty", path);
    } else {
        segment->lock_fd = open(path, O_RDWR | O_CLOEXEC | O_NOFOLLOW);
        if (segment->lock_fd < 0 || fstat(segment->lock_fd, &again) != 0 ||
            again.st_dev != found.st_dev || again.st_ino != found.st_ino) {
            status = asph_fail(segment, AIOSPIN_NOT_FOUND,
                               "%s was replaced while attaching: try again", path);
        } else {
            void *base =
                mmap(NULL, (size_t)found.st_size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
            if (base == MAP_FAILED) {
                status = asph_failed_call(segment, "mmap", path);
            } else {
                segment->base = (unsigned char *)base;
                segment->bytes = (size_t)found.st_size;
                segment->owner = found.st_uid;
                segment->mode = found.st_mode & 0777;
            }
        }
    }
    close(fd);
    return status;
}

static inline bool asph_writer_lives(const aiospin_segment *segment) {
    return asph_locked(segment->lock_fd, ASPH_WRITER_BYTE, 1);
}

/* ---- reading: finding the next message ---- */

/* Everything before `next` is released. */
static inline void asph_advance(aiospin_reader *reader) {
    const aiospin_segment *segment = &reader->segment;
    asph_slot *slot = &segment->slots[reader->slot];
    reader->cursor = reader->next;
    asph_store(&slot->sequence, reader->sequence);
    /* pairs with the load in asph_ask_readers(): the bytes may be overwritten from here on */
    asph_release(&slot->cursor, reader->cursor);
    if (segment->overflow == AIOSPIN_BLOCK) { /* nobody waits for room in the other */
        asph_notify_writer(segment->control);
    }
}

/* What lies at `next` has this sequence: the expected one, or how many messages are missing? */
static inline aiospin_status asph_settle(aiospin_reader *reader, uint64_t sequence) {
    aiospin_segment *segment = &reader->segment;
    if (sequence == reader->sequence) {
        return AIOSPIN_OK;
    }
    if (segment->overflow == AIOSPIN_BLOCK || sequence < reader->sequence ||
        sequence > reader->next / ASPH_ALIGN) {
        return asph_fail(segment, AIOSPIN_LAYOUT, "message %llu follows where %llu should",
                         (unsigned long long)sequence, (unsigned long long)reader->sequence);
    }
    reader->skipped = sequence - reader->sequence;
    reader->sequence = sequence;
    return AIOSPIN_LAGGED;
}

static inline aiospin_status asph_bad_head(aiospin_segment *segment, uint64_t word, uint64_t tail,
                                           uint64_t next) {
    return asph_fail(segment, AIOSPIN_LAYOUT,
                     "head is 0x%llx and tail 0x%llx, for a reader that is at 0x%llx",
                     (unsigned long long)word, (unsigned long long)tail, (unsigned long long)next);
}

static inline aiospin_status asph_see_head(aiospin_reader *reader) {
    aiospin_segment *segment = &reader->segment;
    /* pairs with asph_publish() and close */
    const uint64_t word = asph_acquire(&segment->control->head);
    const uint64_t head = word & ~ASPH_FLAGS;
    if (!asph_head_valid(word) || head < reader->next ||
        (segment->overflow == AIOSPIN_BLOCK && head - reader->cursor > segment->capacity)) {
        return asph_bad_head(segment, word, asph_load(&segment->control->tail), reader->next);
    }
    if (head == reader->next) {
        if (!(word & ASPH_CLOSED)) {
            return AIOSPIN_TIMED_OUT;
        }
        const aiospin_status status = asph_settle(reader, asph_load(&segment->control->sequence));
        return status == AIOSPIN_OK ? AIOSPIN_END : status;
    }
    reader->seen_head = head;
    return AIOSPIN_OK;
}

/* drop_oldest: has the writer gone past `next`, so that what was loaded from there before means
 * nothing? */
static inline bool asph_lapped(const aiospin_reader *reader) {
    asph_fence_acquire(); /* pairs with the fence in asph_drop() */
    return reader->segment.overflow == AIOSPIN_DROP_OLDEST &&
           asph_load(&reader->segment.control->tail) > reader->next;
}

static inline aiospin_status asph_go_to_tail(aiospin_reader *reader) {
    aiospin_segment *segment = &reader->segment;
    const uint64_t tail = asph_acquire(&segment->control->tail); /* pairs with asph_drop() */
    const uint64_t word = asph_acquire(&segment->control->head); /* pairs with asph_publish() */
    const uint64_t head = word & ~ASPH_FLAGS;
    if (!asph_head_valid(word) || (tail & ASPH_FLAGS) != 0 || tail <= reader->next || tail > head) {
        return asph_bad_head(segment, word, tail, reader->next);
    }
    reader->seen_head = head;
    reader->next = tail; /* asph_settle() will count the messages */
    asph_advance(reader);
    return AIOSPIN_OK;
}

/* In drop_oldest mode each turn means that the writer went a stride ahead meanwhile; in the other
 * two suffice. */
#define ASPH_SEARCH_TURNS 8

/* The next message's record, checked, in private memory, and the bytes that it takes.
 * AIOSPIN_TIMED_OUT: none. */
static inline aiospin_status asph_find(aiospin_reader *reader, asph_record *record,
                                       uint64_t *size) {
    aiospin_segment *segment = &reader->segment;
    for (unsigned turn = 0; turn < ASPH_SEARCH_TURNS; turn++) {
        aiospin_status status =
            reader->next == reader->seen_head ? asph_see_head(reader) : AIOSPIN_OK;
        if (status != AIOSPIN_OK) {
            return status;
        }
        asph_load_record(segment, reader->next, record);
        if (asph_lapped(reader)) {
            status = asph_go_to_tail(reader);
            if (status != AIOSPIN_OK) {
                return status;
            }
            continue;
        }
        *size = asph_record_size(segment, reader->next, reader->seen_head, record);
        if (*size == 0) {
            return asph_bad_record(segment, reader->next, record);
        }
        status = asph_settle(reader, record->sequence);
        if (status != AIOSPIN_OK || record->kind != ASPH_PAD) {
            return status;
        }
        reader->next += *size; /* a pad is released with what follows it */
    }
    return AIOSPIN_TIMED_OUT;
}

static inline aiospin_status asph_look_for_message(void *self) {
    const aiospin_reader *reader = (const aiospin_reader *)self;
    if (reader->next != reader->seen_head) {
        return AIOSPIN_OK;
    }
    /* pairs with asph_publish() and close: any other word means a message, the end or a broken
     * segment */
    const uint64_t word = asph_acquire(&reader->segment.control->head);
    return (word & ~ASPH_ODD) != reader->next ? AIOSPIN_OK : AIOSPIN_TIMED_OUT;
}

static inline aiospin_status asph_ask_for_message(void *self) {
    const bool lives = asph_writer_lives(&((const aiospin_reader *)self)->segment);
    /* The look comes after: what a dying writer published is read before its death is told. */
    const aiospin_status status = asph_look_for_message(self);
    return status == AIOSPIN_TIMED_OUT && !lives ? AIOSPIN_BROKEN : status;
}

static inline aiospin_status asph_wait_for_message(aiospin_reader *reader, uint64_t deadline) {
    aiospin_segment *segment = &reader->segment;
    return asph_wait(segment, &segment->control->readable, &segment->slots[reader->slot].parked,
                     asph_look_for_message, asph_ask_for_message, reader, deadline);
}

static inline aiospin_status aiospin_reader_attach(aiospin_reader *reader, const char *name) {
    aiospin_segment *segment = &reader->segment;
    char path[ASPH_PATH_BYTES];
    memset(reader, 0, sizeof *reader);
    reader->closed = true;
    segment->lock_fd = -1;
    if (!asph_name_valid(name)) {
        return asph_fail(segment, AIOSPIN_INVALID,
                         "the name must be 1 to %u of the characters A-Z a-z 0-9 _ . -, the first "
                         "a letter, a digit or _",
                         AIOSPIN_MAX_NAME);
    }
    memcpy(segment->name, name, strlen(name) + 1);
    asph_path(path, name);
    aiospin_status status = asph_map(segment, path);
    if (status == AIOSPIN_OK) {
        status = asph_open(segment);
    }
    if (status == AIOSPIN_OK) {
        while (reader->slot < segment->max_readers &&
               !asph_lock(segment->lock_fd, ASPH_WRITER_BYTE + 1 + reader->slot)) {
            reader->slot++;
        }
        if (reader->slot == segment->max_readers) {
            status = asph_fail(segment, AIOSPIN_NO_SLOT,
                               "all %u reader slots are taken: create it with more max_readers",
                               segment->max_readers);
        } else {
            asph_companion(path, segment->name, segment->id, "bell-%u", reader->slot);
            unlink(path); /* that of a dead reader */
            status = asph_join(reader);
        }
    }
    if (status != AIOSPIN_OK) {
        asph_let_go(segment);
        return status;
    }
    reader->closed = false;
    /* One that has published or closed since the join is heard out first. */
    if (asph_ask_for_message(reader) == AIOSPIN_BROKEN) {
        aiospin_reader_close(reader);
        return AIOSPIN_BROKEN;
    }
    return AIOSPIN_OK;
}

static inline aiospin_status aiospin_reader_wait(aiospin_reader *reader, int64_t timeout_ns) {
    if (reader->closed) {
        return asph_fail(&reader->segment, AIOSPIN_INVALID, "the reader is closed");
    }
    return asph_wait_for_message(reader, asph_deadline(timeout_ns));
}

static inline void asph_tell(aiospin_message *message, const asph_record *record, const void *data,
                             uint64_t length) {
    message->data = data;
    message->length = length;
    message->sequence = record->sequence;
    message->published_ns = record->published_ns;
    message->format = (aiospin_format)record->format;
}

/* ---- reading: large messages ---- */

/* Open the file of the large message at `next`, and check it. AIOSPIN_LAGGED, TIMED_OUT: it is
 * lapped. */
static inline aiospin_status asph_open_large(aiospin_reader *reader, const asph_record *record,
                                             uint64_t *length, int *fd) {
    aiospin_segment *segment = &reader->segment;
    char path[ASPH_PATH_BYTES];
    struct stat found;
    asph_large large;
    *length = asph_large_length(segment, reader->next);
    asph_companion(path, segment->name, segment->id, "message-%llu",
                   (unsigned long long)record->sequence);
    *fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
    const int error = errno;
    if (asph_lapped(reader)) {
        /* then neither the length nor the absence of the file means anything */
        if (*fd >= 0) {
            close(*fd);
        }
        asph_record next;
        uint64_t size;
        const aiospin_status status = asph_go_to_tail(reader);
        return status == AIOSPIN_OK ? asph_find(reader, &next, &size) : status;
    }
    if (*fd < 0) {
        return asph_fail(segment, AIOSPIN_LAYOUT, "the file of a large message, %s: %s", path,
                         strerror(error));
    }
    if (fstat(*fd, &found) != 0 || !S_ISREG(found.st_mode) || found.st_uid != segment->owner ||
        *length > AIOSPIN_MAX_CAPACITY || (uint64_t)found.st_size != sizeof large + *length ||
        pread(*fd, &large, sizeof large, 0) != (ssize_t)sizeof large || large.id != segment->id ||
        large.sequence != record->sequence || large.length != *length || large.reserved != 0) {
        close(*fd);
        return asph_fail(segment, AIOSPIN_LAYOUT,
                         "%s is not the file of the large message %llu with %llu bytes", path,
                         (unsigned long long)record->sequence, (unsigned long long)*length);
    }
    return AIOSPIN_OK;
}

/* A large message was just released: remove its file if this reader was the last. */
static inline void asph_done_with_large(const aiospin_reader *reader, uint64_t sequence) {
    /* past the record, which has one unit and lies just before the cursor */
    if (asph_oldest_cursor(&reader->segment, UINT64_MAX, NULL) >= reader->cursor) {
        asph_remove_message(&reader->segment, sequence);
    }
}

static inline aiospin_status asph_copy_large(aiospin_reader *reader, const asph_record *record,
                                             uint64_t size, void *to, uint64_t room,
                                             aiospin_message *message) {
    aiospin_segment *segment = &reader->segment;
    uint64_t length, done = 0;
    int fd;
    aiospin_status status = asph_open_large(reader, record, &length, &fd);
    if (status != AIOSPIN_OK) {
        return status;
    }
    asph_tell(message, record, to, length);
    if (length > room) {
        close(fd);
        return AIOSPIN_TOO_SMALL;
    }
    /* read, not mapped: no page faults, and no SIGBUS whatever happens to the file */
    while (done < length) {
        const ssize_t got = pread(fd, (unsigned char *)to + done, (size_t)(length - done),
                                  (off_t)(sizeof(asph_large) + done));
        if (got == 0 || (got < 0 && errno != EINTR)) {
            status = asph_fail(segment, AIOSPIN_LAYOUT,
                               "the file of the large message %llu ends after %llu bytes",
                               (unsigned long long)record->sequence, (unsigned long long)done);
            close(fd);
            return status;
        }
        done += got > 0 ? (uint64_t)got : 0;
    }
    close(fd);
    reader->next += size;
    reader->sequence++;
    asph_advance(reader);
    asph_done_with_large(reader, record->sequence);
    return AIOSPIN_OK;
}

/* ---- reading: the interface ---- */

static inline aiospin_status asph_try_copy(aiospin_reader *reader, void *to, uint64_t room,
                                           aiospin_message *message) {
    aiospin_segment *segment = &reader->segment;
    asph_record record;
    uint64_t size;
    aiospin_status status = asph_find(reader, &record, &size);
    if (status != AIOSPIN_OK) {
        return status;
    }
    if (record.kind == ASPH_IN_FILE) {
        return asph_copy_large(reader, &record, size, to, room, message);
    }
    asph_tell(message, &record, to, record.length);
    if (record.length > room) {
        return AIOSPIN_TOO_SMALL;
    }
    const unsigned char *payload = asph_payload_at(segment, reader->next);
    if (segment->overflow == AIOSPIN_DROP_OLDEST) {
        asph_copy_from(to, payload, record.length);
        if (asph_lapped(reader)) {
            status = asph_go_to_tail(reader);
            return status == AIOSPIN_OK ? asph_find(reader, &record, &size) : status;
        }
    } else if (record.length) { /* `to` may be NULL otherwise */
        memcpy(to, payload, record.length);
    }
    reader->next += size;
    reader->sequence++;
    asph_advance(reader);
    return AIOSPIN_OK;
}

static inline aiospin_status aiospin_reader_copy(aiospin_reader *reader, void *to, uint64_t room,
                                                 aiospin_message *message, int64_t timeout_ns) {
    uint64_t deadline = 0;
    memset(message, 0, sizeof *message);
    if (reader->closed) {
        return asph_fail(&reader->segment, AIOSPIN_INVALID, "the reader is closed");
    }
    if (reader->held) {
        return AIOSPIN_BUSY;
    }
    for (;;) {
        aiospin_status status = asph_try_copy(reader, to, room, message);
        if (status != AIOSPIN_TIMED_OUT) {
            return status;
        }
        if (deadline == 0) {
            deadline = asph_deadline(timeout_ns);
        }
        status = asph_wait_for_message(reader, deadline);
        if (status != AIOSPIN_OK) {
            return status;
        }
    }
}

/* Map the large message at `next`. */
static inline aiospin_status asph_acquire_large(aiospin_reader *reader, const asph_record *record,
                                                aiospin_message *message) {
    uint64_t length;
    int fd;
    const aiospin_status status = asph_open_large(reader, record, &length, &fd);
    if (status != AIOSPIN_OK) {
        return status;
    }
    void *map = mmap(NULL, (size_t)(sizeof(asph_large) + length), PROT_READ, MAP_SHARED, fd, 0);
    close(fd);
    if (map == MAP_FAILED) {
        return asph_failed_call(&reader->segment, "mmap", "the file of a large message");
    }
    reader->large_map = (unsigned char *)map;
    reader->large_length = length;
    asph_tell(message, record, reader->large_map + sizeof(asph_large), length);
    return AIOSPIN_OK;
}

static inline aiospin_status asph_try_acquire(aiospin_reader *reader, aiospin_message *messages,
                                              size_t room) {
    while (reader->held < room) {
        asph_record record;
        uint64_t size;
        aiospin_status status = asph_find(reader, &record, &size);
        const bool in_file = status == AIOSPIN_OK && record.kind == ASPH_IN_FILE;
        if (reader->held && (status != AIOSPIN_OK || in_file)) {
            break; /* the next call says it again */
        }
        if (in_file) {
            status = asph_acquire_large(reader, &record, messages);
        } else if (status == AIOSPIN_OK) {
            asph_tell(&messages[reader->held], &record,
                      asph_payload_at(&reader->segment, reader->next), record.length);
        }
        if (status != AIOSPIN_OK) {
            return status;
        }
        reader->next += size;
        reader->sequence++;
        reader->held++;
        if (in_file) {
            break;
        }
    }
    return AIOSPIN_OK;
}

static inline aiospin_status aiospin_reader_acquire_many(aiospin_reader *reader,
                                                         aiospin_message *messages, size_t room,
                                                         size_t *count, int64_t timeout_ns) {
    uint64_t deadline = 0;
    *count = 0;
    if (reader->closed || room == 0 || reader->segment.overflow == AIOSPIN_DROP_OLDEST) {
        return asph_fail(
            &reader->segment, AIOSPIN_INVALID, "%s",
            reader->closed ? "the reader is closed"
            : room == 0
                ? "there is no room for one message"
                : "a drop_oldest writer overwrites what lies in place: use aiospin_reader_copy");
    }
    if (reader->held) {
        return AIOSPIN_BUSY;
    }
    for (;;) {
        aiospin_status status = asph_try_acquire(reader, messages, room);
        if (status != AIOSPIN_TIMED_OUT) {
            *count = (size_t)reader->held;
            return status;
        }
        if (deadline == 0) {
            deadline = asph_deadline(timeout_ns);
        }
        status = asph_wait_for_message(reader, deadline);
        if (status != AIOSPIN_OK) {
            return status;
        }
    }
}

static inline aiospin_status aiospin_reader_acquire(aiospin_reader *reader,
                                                    aiospin_message *message, int64_t timeout_ns) {
    size_t count;
    memset(message, 0, sizeof *message);
    return aiospin_reader_acquire_many(reader, message, 1, &count, timeout_ns);
}

static inline void aiospin_reader_release(aiospin_reader *reader) {
    if (reader->held) {
        const bool in_file = reader->large_map != NULL;
        if (in_file) {
            munmap(reader->large_map, (size_t)(sizeof(asph_large) + reader->large_length));
            reader->large_map = NULL;
        }
        reader->held = 0;
        asph_advance(reader);
        if (in_file) {
            asph_done_with_large(reader, reader->sequence - 1);
        }
    }
}

static inline uint64_t aiospin_reader_lag(const aiospin_reader *reader) {
    if (reader->closed) {
        return 0;
    }
    /* for people: orders nothing */
    const uint64_t published = asph_load(&reader->segment.control->sequence);
    return published > reader->sequence ? published - reader->sequence : 0;
}

static inline void aiospin_reader_forget(aiospin_reader *reader) {
    if (reader->large_map) {
        munmap(reader->large_map, (size_t)(sizeof(asph_large) + reader->large_length));
        reader->large_map = NULL;
    }
    reader->held = 0;
    reader->closed = true;
    asph_let_go(&reader->segment);
}

static inline void aiospin_reader_close(aiospin_reader *reader) {
    if (reader->closed) {
        return;
    }
    const aiospin_segment *segment = &reader->segment;
    const asph_slot *own = &segment->slots[reader->slot];
    aiospin_reader_release(reader);
    /* Files that are left for this reader alone. It still holds the records in their place; in
     * drop_oldest mode only a writer that is gone leaves them there, and one that lives removes the
     * files itself as it goes on. */
    /* pairs with asph_publish() and close */
    const uint64_t word = asph_acquire(&segment->control->head);
    /* pairs with asph_drop() */
    const uint64_t tail = asph_acquire(&segment->control->tail) & ~ASPH_FLAGS;
    const uint64_t head = word & ~ASPH_FLAGS;
    const uint64_t from = reader->cursor > tail ? reader->cursor : tail;
    const bool over = (word & ASPH_CLOSED) != 0 || !asph_writer_lives(segment);
    if (segment->overflow == AIOSPIN_BLOCK || over) {
        asph_remove_large(segment, from, asph_oldest_cursor(segment, head, own));
    }
    asph_free_slot(segment, reader->slot);
    if (over) {
        /* Nobody publishes any more, so nothing moves. Whoever leaves last removes what is left: it
         * sees all others gone, by the fence in asph_oldest_cursor(). Without its lock, so that who
         * renames the segment just now either does so before the unlink below, or finds nobody
         * there. */
        asph_unlock(segment->lock_fd, ASPH_WRITER_BYTE + 1 + reader->slot);
        const uint64_t lowest = asph_evict_dead(segment, own, from);
        const uint64_t oldest = asph_oldest_cursor(segment, UINT64_MAX, own);
        asph_remove_large(segment, lowest > tail ? lowest : tail, oldest < head ? oldest : head);
        if (oldest == UINT64_MAX) {
            char path[ASPH_PATH_BYTES];
            asph_companion(path, segment->name, segment->id, "closed");
            unlink(path);
        }
    }
    aiospin_reader_forget(reader);
}

#endif
