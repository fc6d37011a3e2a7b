"""The breakages that tools/mutants.py makes, and for each the check that is expected to notice it.

A check is a native test in a flavour of the Makefile (test, asan, tsan) with its arguments, or "model" and a test of
tests/models in which the same breakage is made: for what x86 cannot show.

Left out, because nothing could notice them: what only costs time (the wake of the waiter by a cancel, tail moving a
stride further than it must), and orderings that are free on x86 and guard plain integers that a later check validates.
"""

from __future__ import annotations

from dataclasses import dataclass

PARK = "csrc/core/park.h"
RECORD = "csrc/core/ring_record.h"
RING = "csrc/core/ring.c"
WRITER = "csrc/core/ring_writer.c"
READER = "csrc/core/ring_reader.c"
BELLS = "csrc/core/bells.c"
WAIT = "csrc/core/wait.c"
WAITER = "csrc/core/waiter.c"
FUTEX = "csrc/core/futex.c"
PREDICT = "csrc/core/predict.c"
PREDICATE = "csrc/core/predicate.c"
CHANGED = "csrc/core/changed.c"
WORD = "csrc/core/word.c"
LOCK = "csrc/core/lock.c"
CLOCK = "csrc/core/clock.h"
ATOMICS = "csrc/core/atomics.h"

PARKING = "model test_park.py::test_a_mutant_of_parking_is_caught"
ON_BELL = "model test_park.py::test_a_mutant_of_the_bell_is_caught"
JOINING = "model test_ring.py::test_a_mutant_of_joining_is_caught"
LAPPING = "model test_ring.py::test_a_mutant_of_lapping_is_caught"
TO_TAIL = "model test_ring.py::test_a_mutant_of_going_to_tail_is_caught"


@dataclass(frozen=True)
class Mutant:
    name: str
    file: str
    text: str  # occurs once in the file
    replacement: str
    check: str


MUTANTS = (
    # ---- parking ----
    Mutant(
        "a notify looks at the word before what it published is visible",
        PARK,
        "    asp_fence(); /* pairs with the fences in asp_park_prepare and asp_park_prepare_bell */\n",
        "",
        "test soak_park 200000",
    ),
    Mutant(
        "a sleeper looks before its announcement is visible",
        PARK,
        "    asp_fence();\n    return expected;",
        "    return expected;",
        f"{PARKING}[prepare without a fence]",
    ),
    Mutant(
        "who parks on a bell looks before its announcement is visible",
        PARK,
        "    asp_fence(); /* pairs with the fence in asp_park_notify */",
        "",
        f"{ON_BELL}[park without a fence]",
    ),
    Mutant(
        "a wake does not change the word",
        PARK,
        "(seen & ~flags) + ASP_PARK_STEP",
        "(seen & ~flags)",
        "test test_park",
    ),
    Mutant(
        "a wake leaves the flags, so no later one is elided",
        PARK,
        "(seen & ~flags) + ASP_PARK_STEP",
        "seen + ASP_PARK_STEP",
        "test test_park",
    ),
    Mutant(
        "a wake changes the word and calls nobody",
        PARK,
        "            if (seen & ASP_PARK_SLEEPER) asp_futex_wake(word);\n",
        "",
        "test test_park",
    ),
    Mutant(
        "a wake gives up when somebody announces himself meanwhile",
        PARK,
        "    while (seen & flags) {",
        "    if (seen & flags) {",
        "test test_park_steps",
    ),
    Mutant(
        "a sleeper announces himself with a load and a store",
        PARK,
        "    uint32_t expected = asp_fetch_or_u32(word, ASP_PARK_SLEEPER) | ASP_PARK_SLEEPER;",
        "    uint32_t expected = asp_load_relaxed_u32(word) | ASP_PARK_SLEEPER;\n"
        "    asp_store_relaxed_u32(word, expected);",
        "test test_park_steps",
    ),
    Mutant(
        "a wake wakes one sleeper of many",
        FUTEX,
        "syscall(SYS_futex, word, FUTEX_WAKE, INT_MAX, NULL, NULL, 0);",
        "syscall(SYS_futex, word, FUTEX_WAKE, 1, NULL, NULL, 0);",
        "test test_park",
    ),
    Mutant(
        "futexes are private to the process",
        FUTEX,
        "syscall(SYS_futex, words[0].word, FUTEX_WAIT_BITSET, words[0].expected,",
        "syscall(SYS_futex, words[0].word, FUTEX_WAIT_BITSET | FUTEX_PRIVATE_FLAG, words[0].expected,",
        "test test_futex",
    ),
    # ---- one blocking wait ----
    Mutant(
        "a wait does not look again after it said that it would sleep",
        WAIT,
        "        if (watch->look(watch)) return satisfied(pace);\n        if (now >= deadline_ns) return",
        "        if (now >= deadline_ns) return",
        "test test_wait",
    ),
    Mutant(
        "a wait does not look again after arming the monitor",
        WAIT,
        "        if (watch->look(watch)) return true;\n        current.monitor->wait(",
        "        current.monitor->wait(",
        "test test_wait",
    ),
    Mutant(
        "a watch that reaches into the next line is taken for one line",
        WAIT,
        "(first + watch->span - 1) / current.line_bytes",
        "first / current.line_bytes",
        "test test_wait",
    ),
    Mutant(
        "a deadline far away wraps into the past",
        CLOCK,
        "return ns > ASP_FOREVER - now_ns ? ASP_FOREVER : now_ns + ns;",
        "return now_ns + ns;",
        "test test_clock",
    ),
    Mutant(
        "a deadline that has passed is far away",
        CLOCK,
        "return deadline_ns > now_ns ? deadline_ns - now_ns : 0;",
        "return deadline_ns - now_ns;",
        "test test_clock",
    ),
    # ---- the waiter ----
    Mutant(
        "the waiter does not look again after it said that it would sleep",
        WAITER,
        "        if (ticket->watch->look(ticket->watch)) complete(waiter, ticket, ASP_READY);\n"
        "        else ticket->pace.parked = true;",
        "        ticket->pace.parked = true;",
        "test test_waiter",
    ),
    Mutant(
        "a submit does not wake the waiter",
        WAITER,
        "    leave(waiter);\n    asp_park_notify(&waiter->control);\n    return status;",
        "    leave(waiter);\n    return status;",
        "test test_waiter",
    ),
    Mutant(
        "a stop does not wake the waiter",
        WAITER,
        "    waiter->stopped = true;\n    leave(waiter);\n    asp_park_notify(&waiter->control);",
        "    waiter->stopped = true;\n    leave(waiter);",
        "test test_waiter",
    ),
    Mutant(
        "a cancel leaves the ticket in the table",
        WAITER,
        "        *token = take_live(waiter, ticket);\n        if (!ticket->pace.uncounted) ASP_COUNT(cancelled, 1);",
        "        *token = ticket->token;\n        ASP_COUNT(cancelled, 1);",
        "test test_waiter",
    ),
    Mutant(
        "a cancel leaves the completion to be taken",
        WAITER,
        "        *token = take_done(waiter, ticket);\n    }\n    leave(waiter);\n    /* A parked",
        "        *token = ticket->token;\n    }\n    leave(waiter);\n    /* A parked",
        "test test_waiter",
    ),
    Mutant(
        "a cancel touches the ticket of another waiter",
        WAITER,
        "    bool mine = ticket->waiter == waiter;",
        "    bool mine = true;",
        "test test_waiter",
    ),
    Mutant(
        "a cancel does not take the lock",
        WAITER,
        "    *token = NULL;\n    enter(waiter);\n    bool mine",
        "    *token = NULL;\n    bool mine",
        "tsan test_waiter 0.2",
    ),
    Mutant(
        "a hot ticket is taken out as if it were cold",
        WAITER,
        "    if (ticket->place < waiter->hot) swap(waiter, ticket->place, --waiter->hot);\n    swap(",
        "    swap(",
        "test test_waiter",
    ),
    Mutant(
        "of two completions the first is lost",
        WAITER,
        "    waiter->done_end = &ticket->next;\n}",
        "}",
        "test test_waiter",
    ),
    Mutant(
        "who wants the lock waits until the loop is done",
        WAITER,
        "        give_way(waiter);\n",
        "",
        "test test_waiter",
    ),
    # ---- the ring: publish and release ----
    Mutant(
        "head is stored before the record is",
        WRITER,
        "    asp_store_release_u64(&ring->control->writer.head, head_word(writer->head, writer->sequence));\n"
        "    return ASP_READY;",
        "    asp_store_relaxed_u64(&ring->control->writer.head, head_word(writer->head, writer->sequence));\n"
        "    return ASP_READY;",
        "tsan test_ring_stress 0.5",
    ),
    Mutant(
        "head is loaded without what lies before it",
        READER,
        "    /* pairs with the stores in asp_ring_publish and asp_ring_writer_close */\n"
        "    const uint64_t word = asp_load_acquire_u64(&ring->control->writer.head);\n"
        "    const uint64_t head",
        "    const uint64_t word = asp_load_relaxed_u64(&ring->control->writer.head);\n"
        "    const uint64_t head",
        "tsan test_ring_stress 0.5",
    ),
    Mutant(
        "a cursor is stored before the last look at the record",
        READER,
        "    asp_store_release_u64(&line->cursor, reader->cursor);",
        "    asp_store_relaxed_u64(&line->cursor, reader->cursor);",
        "tsan test_ring_stress 0.5",
    ),
    Mutant(
        "a cursor is loaded after the overwriting",
        WRITER,
        "const uint64_t word = asp_load_acquire_u64(&line->cursor);",
        "const uint64_t word = asp_load_relaxed_u64(&line->cursor);",
        "tsan test_ring_stress 0.5",
    ),
    Mutant(
        "a release does not wake the writer",
        READER,
        "    if (ring->overflow == ASP_OVERFLOW_BLOCK) { /* nobody waits for room in the other */\n"
        "        notify_writer(ring);\n    }",
        "",
        "test test_ring",
    ),
    Mutant(
        "a pad is forgotten in the head",
        WRITER,
        "        head += writer->pad;\n",
        "",
        "test test_ring",
    ),
    Mutant(
        "a record may end a line further than there is room",
        WRITER,
        "offset + size <= ring->capacity + ASP_RING_SPILL ? 0",
        "offset + size <= ring->capacity + 2 * ASP_RING_SPILL ? 0",
        "test test_ring",
    ),
    Mutant(
        "a record that just fits is padded",
        WRITER,
        "offset + size <= ring->capacity + ASP_RING_SPILL ? 0",
        "offset + size < ring->capacity + ASP_RING_SPILL ? 0",
        "test test_ring",
    ),
    Mutant(
        "a record that just fits is refused by readers",
        RECORD,
        "offset + size > ring->capacity + ASP_RING_SPILL",
        "offset + size >= ring->capacity + ASP_RING_SPILL",
        "test test_ring",
    ),
    Mutant(
        "a record that reaches past the segment is taken",
        RECORD,
        "        if (offset + size > ring->capacity + ASP_RING_SPILL) {\n            return 0;\n        }\n",
        "",
        "test test_ring_hostile",
    ),
    Mutant(
        "the slowest reader is overwritten by one record",
        WRITER,
        "    *limit = oldest + ring->capacity;",
        "    *limit = oldest + ring->capacity + ASP_RECORD_ALIGN;",
        "test test_ring",
    ),
    Mutant(
        "a ring that could be full to the brim blocks before",
        WRITER,
        "            if (writer->head + pad + size > writer->limit) {\n                writer->wanted",
        "            if (writer->head + pad + size >= writer->limit) {\n                writer->wanted",
        "test test_ring",
    ),
    Mutant(
        "the watch of the writer forgets how much is wanted",
        WRITER,
        "    if (writer->head + writer->wanted <= limit) {\n        return true;",
        "    if (writer->head < limit) {\n        return true;",
        "test test_ring",
    ),
    Mutant(
        "a head does not say whether the count before it is odd",
        RECORD,
        "    return head | (sequence & 1 ? ASP_HEAD_ODD : 0);",
        "    return head;",
        "test test_ring",
    ),
    Mutant(
        "a count stored ahead of its head is believed",
        RECORD,
        "    return sequence - ((sequence & 1) != ((head & ASP_HEAD_ODD) != 0));",
        "    (void)head;\n    return sequence;",
        "test test_ring",
    ),
    # ---- join, leave, evict, close ----
    Mutant(
        "a joining reader looks at head before its slot is visible",
        READER,
        "    asp_fence(); /* slot before head; pairs with the fence in ask_readers() */\n",
        "",
        f"{JOINING}[joins without a fence]",
    ),
    Mutant(
        "the writer looks at the slots before its head is visible",
        WRITER,
        "     * had one too, but the proof shall not hang on how parking is done. */\n    asp_fence();\n",
        "     * had one too, but the proof shall not hang on how parking is done. */\n",
        f"{JOINING}[asks without a fence]",
    ),
    Mutant(
        "a reader that joins believes a head and a count of different publishes",
        READER,
        "        if (again == word) {",
        "        if (again >= word) {",
        "test test_ring_kill",
    ),
    Mutant(
        "a reader that is joining is taken for a broken one",
        WRITER,
        "(!joining && writer->head - cursor > ring->capacity)",
        "writer->head - cursor > ring->capacity",
        "test test_ring_hostile",
    ),
    Mutant(
        "a reader further back than the capacity is waited for",
        WRITER,
        " || (!joining && writer->head - cursor > ring->capacity)",
        "",
        "test test_ring_hostile",
    ),
    Mutant(
        "a reader that joined does not wake the writer that waited for it",
        READER,
        "    asp_store_release_u64(&line->cursor, head); /* pairs with the load in ask_readers() */\n"
        "    notify_writer(ring);",
        "    asp_store_release_u64(&line->cursor, head); /* pairs with the load in ask_readers() */",
        "test test_ring",
    ),
    Mutant(
        "an evicted reader does not wake the writer",
        RING,
        "    notify_writer(ring);\n",
        "",
        "test test_ring",
    ),
    Mutant(
        "a close does not say that it is one",
        WRITER,
        "head_word(writer->head, writer->sequence) | ASP_HEAD_CLOSED);",
        "head_word(writer->head, writer->sequence));",
        "test test_ring",
    ),
    Mutant(
        "a close wakes nobody",
        WRITER,
        "| ASP_HEAD_CLOSED);\n        asp_ring_wake_readers(writer);",
        "| ASP_HEAD_CLOSED);",
        "test test_ring",
    ),
    # ---- lapping ----
    Mutant(
        "a copy is not checked against tail afterwards",
        READER,
        "        asp_copy_from_shared(to, payload, record.length);\n        if (lapped(reader)) {",
        "        asp_copy_from_shared(to, payload, record.length);\n        if (false) {",
        "test test_ring_stress",
    ),
    Mutant(
        "a header is not checked against tail afterwards",
        READER,
        "        if (ring->overflow == ASP_OVERFLOW_DROP_OLDEST && lapped(reader)) {",
        "        if (false) {",
        "test test_ring_stress",
    ),
    Mutant(
        "the record at tail is taken for overwritten",
        READER,
        "    return asp_load_relaxed_u64(&reader->ring.control->writer.tail) > reader->cursor;",
        "    return asp_load_relaxed_u64(&reader->ring.control->writer.tail) >= reader->cursor;",
        "test test_ring",
    ),
    Mutant(
        "tail is not announced",
        WRITER,
        "    asp_store_release_u64(&ring->control->writer.tail, tail);\n    asp_fence_release();\n",
        "    asp_fence_release();\n",
        "test test_ring",
    ),
    Mutant(
        "the overwriting may be seen before tail",
        WRITER,
        "    asp_fence_release();\n",
        "",
        f"{LAPPING}[announces without a fence]",
    ),
    Mutant(
        "tail may be loaded before the copy is done",
        READER,
        "    asp_fence_acquire(); /* pairs with the fence in drop_oldest() */\n",
        "",
        f"{LAPPING}[looks at tail without a fence]",
    ),
    Mutant(
        "tail may be seen before the head that it follows",
        WRITER,
        "    asp_store_release_u64(&ring->control->writer.tail, tail);",
        "    asp_store_relaxed_u64(&ring->control->writer.tail, tail);",
        f"{TO_TAIL}[tail is stored relaxed]",
    ),
    Mutant(
        "a lapped reader may load head before tail",
        READER,
        "    const uint64_t tail = asp_load_acquire_u64(&line->tail); /* pairs with drop_oldest() */",
        "    const uint64_t tail = asp_load_relaxed_u64(&line->tail);",
        f"{TO_TAIL}[tail is loaded relaxed]",
    ),
    Mutant(
        "one record too few is dropped",
        WRITER,
        "    const uint64_t fits = writer->ring.capacity - bytes;",
        "    const uint64_t fits = writer->ring.capacity - bytes + STRIDE_DIVISOR * ASP_RECORD_ALIGN * 2;",
        "test test_ring",
    ),
    Mutant(
        "a gap in the numbers is not told",
        READER,
        "    if (sequence == reader->sequence) {\n        return ASP_READY;",
        "    if (sequence >= reader->sequence) {\n        return ASP_READY;",
        "test test_ring",
    ),
    # ---- what a peer wrote ----
    Mutant(
        "an area of the segment may reach past its end",
        RING,
        " || areas[i].size > h.total_bytes - areas[i].offset",
        "",
        "test test_ring_hostile",
    ),
    Mutant(
        "a length is believed",
        RECORD,
        "        if (record->length > ring->max_message ||\n",
        "        if (\n",
        "test test_ring_hostile",
    ),
    Mutant(
        "a record that ends behind head is taken",
        RECORD,
        "    return size <= end - position ? size : 0;",
        "    (void)end;\n    return size;",
        "test test_ring_hostile",
    ),
    # ---- doorbells ----
    Mutant(
        "who parks on a bell does not look again",
        READER,
        "    if (reader_look(&reader->watch)) {\n        asp_ring_bell_unpark(reader);\n        return false;\n    }\n",
        "",
        "test test_bells",
    ),
    Mutant(
        "who parks on a bell does not tell the writer",
        READER,
        "    asp_park_prepare_bell(&ring->control->readable.word);\n    if (reader_look",
        "    if (reader_look",
        "test test_bells",
    ),
    Mutant(
        "a bell is called ready and not rung",
        WRITER,
        "                asp_bells_ring(writer->bells, slot);\n",
        "",
        "test test_bells",
    ),
    Mutant(
        "a bell is rung again though nobody is parked any more",
        WRITER,
        "&bell, open ? ASP_BELL_READY : ASP_BELL_REFUSED) && open) {",
        "&bell, open ? ASP_BELL_PARKED : ASP_BELL_REFUSED) && open) {",
        "test test_bells",
    ),
    Mutant(
        "a request keeps the bell of the dead reader before",
        BELLS,
        "    drop(bells, slot);\n    /* For",
        "    if (bells->fds[slot] >= 0) return true;\n    /* For",
        "test test_bells",
    ),
    Mutant(
        "a bell whose reader died kills the writer",
        BELLS,
        "O_RDWR | O_NONBLOCK | O_CLOEXEC | O_NOFOLLOW",
        "O_WRONLY | O_NONBLOCK | O_CLOEXEC | O_NOFOLLOW",
        "test test_bells",
    ),
    Mutant(
        "a link is followed to another bell",
        BELLS,
        "O_RDWR | O_NONBLOCK | O_CLOEXEC | O_NOFOLLOW",
        "O_RDWR | O_NONBLOCK | O_CLOEXEC",
        "test test_bells",
    ),
    Mutant(
        "a reader that left asks for its successor's bell",
        READER,
        "    if (!reader->joined) { /* the slot may be another's */\n        return;\n    }\n",
        "",
        "test test_bells",
    ),
    Mutant(
        "a reader that left parks on its successor's bell",
        READER,
        "    if (!reader->joined) { /* the slot may be another's */\n        return false;\n    }\n",
        "",
        "test test_bells",
    ),
    Mutant(
        "a reader that left unparks its successor",
        READER,
        "    if (!reader->joined) { /* left while it slept: the slot may be another's, who sleeps now */\n"
        "        return false;\n    }\n",
        "",
        "test test_bells",
    ),
    Mutant(
        "a plain file is taken for a bell",
        BELLS,
        "fstat(fd, &found) != 0 || !S_ISFIFO(found.st_mode)",
        "fstat(fd, &found) != 0",
        "test test_bells",
    ),
    # ---- prediction ----
    Mutant(
        "a spin is begun that the purse cannot pay",
        PREDICT,
        "        if (!is_free && cost > p->purse_ns + CREDIT * prize(p)) return park_for_good;\n",
        "",
        "test test_predict",
    ),
    Mutant(
        "the purse holds all that was ever saved",
        PREDICT,
        "    if (purse > most) purse = most;\n",
        "    (void)most;\n",
        "test test_predict",
    ),
    Mutant(
        "a plan is followed before it has shown itself",
        PREDICT,
        " || p->worth_ns <= WORTH_LEAST * prize(p)) return park_for_good;",
        ") return park_for_good;",
        "test test_predict",
    ),
    Mutant(
        "one freak latency is learned in full",
        PREDICT,
        "    if (sample > most) sample = most;\n",
        "    (void)most;\n",
        "test test_predict",
    ),
    Mutant(
        "a window lasts longer than the policy allows",
        PREDICT,
        "    if (until - from > p->price.max_spin_ns) until = from + p->price.max_spin_ns;\n",
        "",
        "test test_predict",
    ),
    Mutant(
        "windows overlap",
        PREDICT,
        "        from = p->window[p->window_count - 1].until_ns;\n",
        "",
        "test test_predict",
    ),
    Mutant(
        "sleeps of all lengths have one lead",
        PREDICT,
        "elapsed_ns >= (uint64_t)SHORT_SLEEP_NS << 2 * i",
        "elapsed_ns == 0",
        "test test_predict",
    ),
    Mutant(
        "what other tasks did in a park is taken for its price",
        PREDICT,
        "    if (cpu_ns > most) cpu_ns = most;\n",
        "    (void)most;\n",
        "test test_predict",
    ),
    Mutant(
        "a writer that was woken takes the time of the wake for that of the room",
        PARK,
        "        if (at_ns) asp_store_relaxed_u64(at_ns, asp_now_ns()); /* a statistic, so nothing orders it */\n",
        "        (void)at_ns;\n",
        "test test_ring",
    ),
    Mutant(
        "a writer believes any time that a reader left",
        WRITER,
        "of_this && told_ns <= now_ns ? told_ns : now_ns",
        "of_this || told_ns ? told_ns : now_ns",
        "test test_ring",
    ),
    Mutant(
        "a writer learns nothing from its waits",
        WRITER,
        "        asp_predict_arrival(&writer->predict, writer->room_ns);\n",
        "",
        "test test_ring",
    ),
    # ---- who lives ----
    Mutant(
        "a blocking wait asks after nobody",
        WAIT,
        "return asp_peers_live(watch) ? ASP_INTERRUPTED : timed_out();",
        "return asp_peers_live(watch) ? ASP_INTERRUPTED : ASP_INTERRUPTED;",
        "test test_wait",
    ),
    Mutant(
        "the waiter asks after nobody",
        WAITER,
        "(now >= ticket->recheck_ns && !asp_peers_live(ticket->watch))",
        "(now >= ticket->recheck_ns && asp_peers_live(ticket->watch) && !ticket->watch)",
        "test test_waiter",
    ),
    Mutant(
        "the waiter asks once only",
        WAITER,
        "            if (now >= ticket->recheck_ns) ticket->recheck_ns = next_recheck(ticket, now);\n",
        "            if (now >= ticket->recheck_ns) ticket->recheck_ns = ASP_FOREVER;\n",
        "test test_waiter",
    ),
    Mutant(
        "the waiter asks for one who is told, too",
        WAITER,
        "ticket->watch->peers_live && !ticket->pace.told",
        "ticket->watch->peers_live",
        "test test_waiter",
    ),
    Mutant(
        "a close does not wake who waits for room",
        WRITER,
        "        asp_park_notify(&control->writable.word); /* no room was made, so not with its time */\n",
        "",
        "test test_ring",
    ),
    Mutant(
        "who waits for room sleeps on after a close",
        WRITER,
        "if (asp_load_relaxed_u32(&writer->closed)) {",
        "if (false) {",
        "test test_ring",
    ),
    Mutant(
        "a writer asks after the reader in the first slot only",
        WRITER,
        "live = asp_ring_member_lives(ring, ASP_LOCK_READER + slot);",
        "live = asp_ring_member_lives(ring, ASP_LOCK_READER);",
        "test test_lock",
    ),
    Mutant(
        "a slot that is free is asked after",
        WRITER,
        "asp_load_relaxed_u32(&ring->readers[slot].state) == ASP_READER_ACTIVE &&\n            cursor",
        "cursor",
        "test test_lock",
    ),
    Mutant(
        "who died is asked after where a writer does not wait for it",
        WRITER,
        "cursor + ring->capacity < writer->head + writer->wanted) {\n            live",
        "cursor <= writer->head) {\n            live",
        "test test_lock",
    ),
    Mutant(
        "a release that made too little room is taken for the one that made enough",
        WRITER,
        "    writer->told_ns = told_ns; /*",
        "    (void)told_ns; /*",
        "test test_ring",
    ),
    Mutant(
        "room that a rehearsal found is not learned from",
        WRITER,
        "        writer->room_ns = asp_now_ns(); /* the rehearsal",
        "        writer->room_ns = 0; /* the rehearsal",
        "test test_ring",
    ),
    Mutant(
        "a signal puts off the question after the peers",
        WAIT,
        "    if (!pace->recheck_ns) pace->recheck_ns =",
        "    pace->recheck_ns =",
        "test test_wait",
    ),
    Mutant(
        "a lock that nobody holds is taken for one that somebody does",
        LOCK,
        " && lock.l_type != F_UNLCK",
        "",
        "test test_lock",
    ),
    # ---- spinning ----
    Mutant(
        "a spinner keeps the CPU from the writer that it waits for",
        WAIT,
        "    sched_yield();\n",
        "",
        "test test_wait",
    ),
    Mutant(
        "the waiter thread keeps the CPU from the writers that it waits for",
        WAITER,
        "            asp_step_back(&yield_ns, now);\n",
        "",
        "test test_waiter",
    ),
    Mutant(
        "a planned sleep ends without a rehearsal",
        WAIT,
        "            if (pace->rehearses) return ASP_DUE;\n",
        "",
        "test test_wait",
    ),
    # ---- what is looked at ----
    Mutant(
        "an unaligned element is loaded",
        PREDICATE,
        "(uintptr_t)term->address % width",
        "width == 0",
        "test test_predicate",
    ),
    Mutant(
        "a flag may be seen before what was stored ahead of it",
        WORD,
        "    case 4: asp_store_release_u32(address, (uint32_t)bits); break;",
        "    case 4: asp_store_relaxed_u32(address, (uint32_t)bits); break;",
        "tsan test_handover",
    ),
    Mutant(
        "what was stored ahead of a flag may not be seen with it",
        PREDICATE,
        "    case 2: return asp_load_acquire_u16(address);",
        "    case 2: return asp_load_relaxed_u16(address);",
        "tsan test_handover",
    ),
    Mutant(
        "what was stored ahead of a change may not be seen with it",
        CHANGED,
        "        uint64_t now = asp_load_acquire_u64(",
        "        uint64_t now = asp_load_relaxed_u64(",
        "tsan test_handover",
    ),
    Mutant(
        "the magic may be seen before the header",
        RING,
        "    asp_store_release_u64(&header->magic, ASP_RING_MAGIC);",
        "    asp_store_relaxed_u64(&header->magic, ASP_RING_MAGIC);",
        "tsan test_handover",
    ),
    Mutant(
        "the header may be loaded before the magic",
        RING,
        "    const uint64_t magic = asp_load_acquire_u64(&shared->magic);",
        "    const uint64_t magic = asp_load_relaxed_u64(&shared->magic);",
        "tsan test_handover",
    ),
    Mutant(
        "the last byte of a buffer is not looked at",
        CHANGED,
        "    for (; i < changed->bytes; i++) {",
        "    for (; i + 1 < changed->bytes; i++) {",
        "test test_changed",
    ),
    Mutant(
        "a copy for a reader ends in the middle of its last word",
        ATOMICS,
        "        uint64_t word = asp_load_relaxed_u64(from);\n        memcpy(out, &word, n);",
        "        uint64_t word = asp_load_relaxed_u64(from);\n        memcpy(out, &word, n & 4);",
        "test test_ring",
    ),
)
