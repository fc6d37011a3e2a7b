/* ring_layout.h - the bytes of a broadcast segment. docs/layout.md says the same in prose.
 *
 *   offset 0        asp_ring_header   what the creator fixed; read-only afterwards
 *   writer_offset   asp_ring_writer_line, asp_ring_park_line x 2
 *   readers_offset  max_readers x asp_ring_reader_line
 *   data_offset     capacity bytes of records, ASP_RING_SPILL more
 *
 * All integers are in the byte order of the machine. Positions count bytes since the segment was
 * made, only grow, and are multiples of ASP_RECORD_ALIGN; the record at position p begins at
 * data_offset + (p & (capacity - 1)) and lies contiguous. Words that different sides write lie
 * on lines of their own, ASP_RING_LINE apart (T14).
 *
 * A record may reach ASP_RING_SPILL bytes past the end of the record area. These bytes stand in for
 * the first ones of the area, at the same positions, so nothing else is there. They are what
 * makes a message of half the capacity fit into an empty ring from every position: the longest
 * record has capacity / 2 + 64 bytes, so a pad in front of it has at most capacity / 2 - 64. */
#ifndef ASP_RING_LAYOUT_H
#define ASP_RING_LAYOUT_H

#include <stdint.h>

#define ASP_RING_MAGIC UINT64_C(0x31676e6972707361) /* "aspring1" on a little-endian machine */
#define ASP_RING_VERSION 2u
#define ASP_RING_LINE 128u          /* bytes; two cache lines: x86 prefetches the adjacent one */
#define ASP_RECORD_ALIGN 64u        /* bytes; a small record touches one line */
#define ASP_RING_SPILL ASP_RECORD_ALIGN /* bytes */
#define ASP_RING_MIN_CAPACITY 4096u /* bytes */
#define ASP_RING_MAX_CAPACITY (UINT64_C(1) << 46) /* bytes; keeps every sum of sizes in 64 bits */
#define ASP_RING_MAX_READERS 1024u

typedef struct asp_ring_header {
    uint64_t magic;
    uint32_t version;
    uint32_t header_bytes;   /* sizeof(asp_ring_header) */
    uint64_t total_bytes;    /* of the whole segment, the file's size */
    uint64_t capacity;       /* of the record area, a power of two */
    uint32_t max_readers;
    uint32_t overflow;       /* asp_overflow */
    uint64_t writer_offset;
    uint64_t readers_offset;
    uint64_t data_offset;
    uint32_t byte_order;     /* 0x01020304 as the creator stores it */
    uint32_t line_bytes;     /* ASP_RING_LINE */
    uint64_t created_ns;     /* CLOCK_REALTIME ns, for people */
    uint32_t writer_pid;     /* for people; liveness is the lock, not this */
    uint32_t reserved;
    uint64_t id;             /* random, not 0: names the files that belong to this segment */
} asp_ring_header;

typedef enum asp_overflow { ASP_OVERFLOW_BLOCK = 0, ASP_OVERFLOW_DROP_OLDEST = 1 } asp_overflow;

/* Positions are multiples of 64: the low six bits of a word that holds one are free for flags,
 * which change together with it. Bits without a name here are 0. */
#define ASP_POSITION_FLAGS UINT64_C(63)
#define ASP_HEAD_CLOSED UINT64_C(1)    /* in head: the writer closed cleanly */
#define ASP_HEAD_ODD UINT64_C(2)       /* in head: an odd number of messages lies before it. Ties
                                          head to `sequence`, which is stored just before it */
#define ASP_CURSOR_JOINING UINT64_C(1) /* in cursor: the reader is about to move up to head */

/* Written by the writer only. */
typedef struct asp_ring_writer_line {
    uint64_t head;   /* end of what is published | ASP_HEAD_...; the word that readers watch */
    uint64_t tail;   /* drop_oldest: start of the oldest whole record; what lies before it may be
                        being overwritten. Stored before the overwriting, checked after a copy */
    uint64_t sequence; /* messages published so far */
    uint8_t pad[ASP_RING_LINE - 24];
} asp_ring_writer_line;

/* An eventcount of park.h. */
typedef struct asp_ring_park_line {
    uint32_t word;
    uint32_t reserved;
    uint64_t notified_ns; /* of `writable`: when a sleeper was last woken, CLOCK_MONOTONIC; a statistic, 0: unknown */
    uint8_t pad[ASP_RING_LINE - 16];
} asp_ring_park_line;

typedef struct asp_ring_control {
    asp_ring_writer_line writer;
    asp_ring_park_line readable; /* parked readers; the writer notifies after publish and close. Bit 1:
                                    a bell was requested or parked on */
    asp_ring_park_line writable; /* the parked writer; notified after release, join and leave */
} asp_ring_control;

typedef enum asp_reader_state { ASP_READER_FREE = 0, ASP_READER_ACTIVE = 1 } asp_reader_state;

/* Where the doorbell of a reader stands: a FIFO that it polls in its event loop. It parks on the bell only
 * after the writer has said that it holds the other end. */
typedef enum asp_bell {
    ASP_BELL_NONE = 0,
    ASP_BELL_REQUESTED = 1, /* the FIFO is there */
    ASP_BELL_READY = 2,     /* the writer has it open */
    ASP_BELL_PARKED = 3,    /* ring it after the next publish */
    ASP_BELL_REFUSED = 4,   /* the writer cannot open it: park on the word */
} asp_bell;

/* Written by the reader that holds the slot (and freed by the writer when that reader is dead). */
typedef struct asp_ring_reader_line {
    uint64_t cursor; /* everything before it is released | ASP_CURSOR_JOINING */
    uint32_t state;  /* asp_reader_state */
    uint32_t pid;    /* for people */
    uint64_t sequence; /* messages released or skipped so far + those before it joined */
    uint32_t bell;     /* asp_bell; the writer stores to it too */
    uint32_t parked;   /* 1 while the reader may be asleep on `readable`; for people */
    uint8_t pad[ASP_RING_LINE - 32];
} asp_ring_reader_line;

typedef enum asp_record_kind {
    ASP_RECORD_DATA = 1,
    ASP_RECORD_PAD = 2, /* to the end of the record area: the next record would not have fit. At
                           most capacity / 2 bytes, so two never follow each other */
    ASP_RECORD_LARGE = 3, /* the message is in a file of its own; the payload is its length, 8 bytes */
} asp_record_kind;

/* What a message's bytes are; the ring only carries the number. */
typedef enum asp_format {
    ASP_FORMAT_BYTES = 0,
    ASP_FORMAT_PICKLE = 1,
    ASP_FORMAT_PICKLE_BUFFERS = 2, /* a pickle and the buffers it refers to, aligned */
    ASP_FORMAT_CODEC = 3,
} asp_format;
#define ASP_FORMAT_LAST ASP_FORMAT_CODEC

/* In front of every payload, at a multiple of ASP_RECORD_ALIGN. */
typedef struct asp_record {
    uint64_t position;     /* its own: a stale, torn or forged record does not match */
    uint64_t sequence;     /* of this message, from 0; in a pad that of the next message */
    uint64_t published_ns; /* CLOCK_MONOTONIC, stamped just before head is stored */
    uint32_t length;       /* payload bytes; 0 in a pad */
    uint16_t kind;         /* asp_record_kind */
    uint16_t format;       /* asp_format; 0 in a pad */
} asp_record;              /* the payload follows, ASP_RECORD_BYTES after the record's start, and
                              the record ends at the next multiple of ASP_RECORD_ALIGN */

#define ASP_RECORD_BYTES 32u /* sizeof(asp_record); a payload of up to 32 bytes shares its line */

#endif
