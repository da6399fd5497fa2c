/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef KERNEL_TRACE_H
#define KERNEL_TRACE_H
/*
 * Tracing, always on: TRACE(event, a, b) writes one 32-byte record into the calling loop's ring
 * (overwriting the oldest). Panic prints the tail. Cost: 26 instructions as measured, so it stands
 * on the data path once per request per layer at most. Event names are an X-macro so that a dump has names.
 * Any context on a loop.
 */
#include "kernel/compiler.h"

#define TRACE_EVENTS(X) \
    X(nbd_request)      \
    X(nbd_reply)        \
    X(blk_read)         \
    X(blk_write)        \
    X(blk_flush)        \
    X(blk_done)         \
    X(vq_submit)        \
    X(vq_done)          \
    X(stream_open)      \
    X(stream_close)     \
    X(l2_load)          \
    X(fault)            \
    X(drain)

enum trace_event {
#define TRACE_ENUM(e) TRACE_##e,
    TRACE_EVENTS(TRACE_ENUM)
#undef TRACE_ENUM
};
struct trace_record {
    uint64_t time; /* arch_cycles */
    uint32_t event, seq;
    uint64_t a, b;
};
#define TRACE_RECORDS 512 /* per loop, power of two */
void trace_put(enum trace_event e, uint64_t a, uint64_t b);
#define TRACE(e, a, b) trace_put(TRACE_##e, (uint64_t)(a), (uint64_t)(b))
void trace_init(unsigned loops); /* by loop_init */
void trace_dump(unsigned last);  /* newest `last` records through board_console_write */
#endif
