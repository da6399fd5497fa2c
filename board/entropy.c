/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Random bytes for every firmware board: ChaCha20 as a generator whose key is stirred.
 *
 * board_entropy_add and the processor's own generator are mixed into the key by running the cipher
 * over key XOR input; each request takes a fresh key out of its own first block, so that what was
 * given out cannot be computed back. Without either source the key has only the cycle counter in
 * it, and board_entropy says so by returning false. Loop 0.
 */
#include "boot/arch.h"
#include "board/board.h"
#include "kernel/board.h"
#include "kernel/compiler.h"
#include <string.h>

static uint32_t key[8];
static uint64_t counter;
static bool seeded;

static void quarter(uint32_t *a, uint32_t *b, uint32_t *c, uint32_t *d)
{
#define ROTATE(v, n) ((v) << (n) | (v) >> (32 - (n)))
    *a += *b, *d ^= *a, *d = ROTATE(*d, 16);
    *c += *d, *b ^= *c, *b = ROTATE(*b, 12);
    *a += *b, *d ^= *a, *d = ROTATE(*d, 8);
    *c += *d, *b ^= *c, *b = ROTATE(*b, 7);
#undef ROTATE
}

/* One block of RFC 8439, section 2.3, with a 64-bit counter. */
static void block(uint32_t out[16])
{
    uint32_t in[16] = {0x61707865, 0x3320646e, 0x79622d32, 0x6b206574};
    memcpy(in + 4, key, sizeof(key));
    in[12] = (uint32_t)counter;
    in[13] = (uint32_t)(counter++ >> 32);
    memcpy(out, in, sizeof(in));
    for (int i = 0; i < 10; i++) {
        for (int c = 0; c < 4; c++)
            quarter(&out[c], &out[4 + c], &out[8 + c], &out[12 + c]);
        for (int c = 0; c < 4; c++)
            quarter(&out[c], &out[4 + (c + 1) % 4], &out[8 + (c + 2) % 4], &out[12 + (c + 3) % 4]);
    }
    for (int i = 0; i < 16; i++)
        out[i] += in[i];
}

static void rekey(void)
{
    uint32_t b[16];
    block(b);
    memcpy(key, b, sizeof(key));
}

static void stir(const uint8_t *p, size_t len)
{
    while (len) {
        uint8_t piece[sizeof(key)] = {0};
        size_t n = MIN(len, sizeof(piece));
        memcpy(piece, p, n);
        for (size_t i = 0; i < ARRAY_LEN(key); i++) {
            uint32_t word;
            memcpy(&word, piece + 4 * i, 4);
            key[i] ^= word;
        }
        rekey();
        p += n;
        len -= n;
    }
}

void board_entropy_add(const void *data, size_t len)
{
    stir(data, len);
    seeded = seeded || len >= sizeof(key) / 2;
}

bool board_entropy(void *buf, size_t len)
{
    uint64_t hw[4], now = arch_cycles();
    bool from_cpu = true;
    for (unsigned i = 0; i < ARRAY_LEN(hw) && from_cpu; i++)
        from_cpu = board_hw_random(&hw[i]);
    if (from_cpu)
        board_entropy_add(hw, sizeof(hw));
    stir((const uint8_t *)&now, sizeof(now));
    uint8_t *p = buf;
    while (len) {
        uint32_t b[16];
        size_t n = MIN(len, sizeof(b));
        block(b);
        memcpy(p, b, n);
        p += n;
        len -= n;
    }
    rekey();
    return seeded;
}
