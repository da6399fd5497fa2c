/* SPDX-License-Identifier: BSD-2-Clause */
#include "tests/sim/stamp.h"
#include "tests/sim/sim.h"

#include <stdio.h>

static uint64_t word(uint32_t seq, uint64_t off)
{
    uint64_t w = (uint64_t)seq << 40 | (off / 8 & 0xffffffff) << 8;
    return w | mix64(w) >> 56;
}

void stamp_fill(uint8_t *to, uint32_t seq, uint64_t off, size_t len)
{
    while (len) {
        uint64_t w = word(seq, off);
        size_t in = off % 8, n = MIN(8 - in, len);
        memcpy(to, (char *)&w + in, n);
        to += n;
        off += n;
        len -= n;
    }
}

uint64_t sector_hash(const uint8_t *data)
{
    static const uint8_t zeroes[SECTOR];
    return memcmp(data, zeroes, SECTOR) ? hash_bytes(data, SECTOR) : 0;
}

/* What one word says, as if it were the first of its sector, so that all words of a write to one
 * sector say the same. */
static void tell_word(uint64_t w, uint64_t off, unsigned in, char *text, size_t size)
{
    uint32_t seq = (uint32_t)(w >> 40);
    uint64_t where = (w >> 8 & 0xffffffff) * 8;
    char who[24];
    if (!w || w != word(seq, where)) {
        snprintf(text, size, w ? "garbage" : "zeroes");
        return;
    }
    snprintf(who, sizeof(who), "write %u", seq);
    if (seq == SEQ_BACKING || seq == SEQ_JUNK)
        strcpy(who, seq == SEQ_JUNK ? "never written" : "backing");
    if (where == off + in)
        snprintf(text, size, "%s", who);
    else
        snprintf(text, size, "%s of offset %#llx", who, (unsigned long long)(where - in));
}

/* Runs of words that say the same are told once. */
const char *stamp_tell(const uint8_t *data, uint64_t off, char *text, size_t size)
{
    char last[80] = "", now[80];
    size_t used = 0;
    for (unsigned in = 0; in < SECTOR && used + sizeof(now) + 8 < size; in += 8) {
        uint64_t w;
        memcpy(&w, data + in, 8);
        tell_word(w, off, in, now, sizeof(now));
        if (strcmp(now, last))
            used += (size_t)snprintf(text + used, size - used, "%s%s", used ? " | " : "", now);
        memcpy(last, now, sizeof(last));
    }
    return text;
}
