/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef TESTS_UNIT_SUPPORT_DUPLEX_H
#define TESTS_UNIT_SUPPORT_DUPLEX_H
/*
 * Two streams in memory, back to back, as strict as a stream may be: what is lent is looked at only
 * at the end of the turn and given back then or later; received bytes come in segments of their own
 * memory, exactly as long as they are, which go when their loans do; windows are small.
 */
#include "kernel/stream.h"

struct duplex_options {
    size_t window;  /* bytes that an end holds unread or lent: max_wait; 0: 64 KiB */
    size_t segment; /* longest piece of received memory; 0: 1460 */
    size_t queue;   /* bytes an end queues before a sender waits; 0: 64 KiB */
};
void duplex_open(struct stream *end[2], const struct duplex_options *o);
/* While set, nothing that `s` sends arrives: its peer does not read, or is far away. */
void duplex_stall(struct stream *s, bool on);
/* Ends that exist: 0 when everything was closed. */
extern unsigned duplex_ends;
#endif
