/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef TESTS_SIM_STAMP_H
#define TESTS_SIM_STAMP_H
/*
 * What the bytes of a disk say about themselves. Every eight bytes that a write puts down are a
 * word:
 *
 *     63          40 39                     8 7      0
 *     | sequence    | offset / 8             | check  |      little-endian
 *
 * so that data of another place or another time, or garbage, are recognised for what they are.
 * A write may begin and end inside a word. Zeroes are zeroes; sequence numbers of guests begin
 * with 1.
 */
#include "tests/sim/util.h"

#define SEQ_BACKING 0xfffff0u /* content of the backing file */
#define SEQ_JUNK    0xffffffu /* of a disk's space that nobody wrote, or that was discarded */

/* Bytes [off, off + len) of what `seq` writes. */
void stamp_fill(uint8_t *to, uint32_t seq, uint64_t off, size_t len);
/* Of a whole sector; 0: zeroes. */
uint64_t sector_hash(const uint8_t *data);
/* What the sector at `off` holds, as words for people: at most `size` bytes. */
const char *stamp_tell(const uint8_t *data, uint64_t off, char *text, size_t size);
#endif
