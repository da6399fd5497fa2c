/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * What IDENTIFY (PACKET) DEVICE said (ACS-3 7.12.7, 7.13.6): 256 words, foreign. Text is two
 * characters per word, the first in the high byte. Where a word has validity bits (15:14 = 01), it
 * counts only with them.
 */
#include "ahci/port.h"

#include <string.h>

#define LBA28_MAX (1ull << 28)
#define LBA48_MAX (1ull << 48)

static uint16_t word(const uint8_t *id, unsigned i)
{
    return (uint16_t)(id[2 * i] | id[2 * i + 1] << 8);
}

static uint32_t word32(const uint8_t *id, unsigned i)
{
    return word(id, i) | (uint32_t)word(id, i + 1) << 16;
}

static uint16_t valid_word(const uint8_t *id, unsigned i)
{
    uint16_t w = word(id, i);
    return w >> 14 == 1 ? w : 0;
}

/* Trims blanks at both ends. out: 2 * words + 1 bytes. */
static void text(char *out, const uint8_t *id, unsigned at, unsigned words)
{
    unsigned n = 0;
    for (unsigned i = 0; i < 2 * words; i++) {
        char c = (char)id[2 * at + (i ^ 1)];
        if (!c)
            break;
        if (c != ' ' || n)
            out[n++] = c >= ' ' && c <= '~' ? c : '?';
    }
    while (n && out[n - 1] == ' ')
        n--;
    out[n] = 0;
}

/* The sum over all bytes is 0 where the word says that there is one. */
static bool checksum_ok(const uint8_t *id)
{
    uint8_t sum = 0;
    if ((word(id, ID_INTEGRITY) & 0xff) != 0xa5)
        return true;
    for (unsigned i = 0; i < ATA_IDENTIFY_BYTES; i++)
        sum = (uint8_t)(sum + id[i]);
    return !sum;
}

static void sector_sizes(struct ahci_ident *d, const uint8_t *id)
{
    uint16_t w = valid_word(id, ID_SECTOR_SIZE);
    uint64_t logical = 512;
    if (w & 1u << 12)
        logical = 2ull * word32(id, ID_LOGICAL_WORDS);
    d->block_size = logical > UINT32_MAX ? 0 : (uint32_t)logical;
    d->physical = w & 1u << 13 ? d->block_size << (w & 7) : d->block_size;
}

static void features(struct ahci_ident *d, const uint8_t *id)
{
    uint16_t sets = valid_word(id, ID_COMMANDS2);
    uint16_t sata = word(id, ID_SATA);
    d->lba48 = sets & 1u << 10;
    d->flush = sets & 1u << 12;
    d->flush_ext = d->lba48 && sets & 1u << 13;
    d->fua = d->lba48 && valid_word(id, ID_COMMANDS3) & 1u << 6;
    d->ncq = d->lba48 && sata != 0xffff && sata & 1u << 8;
    d->depth = (word(id, ID_QUEUE_DEPTH) & 31u) + 1;
    d->trim = d->lba48 && word(id, ID_DSM) & 1;
    d->trim_blocks = MAX(word(id, ID_TRIM_BLOCKS), (uint16_t)1);
    d->rotation = word(id, ID_ROTATION);
}

static int refuse(const char **reason, const char *why)
{
    *reason = why;
    return SR_EINVAL;
}

static int disk(struct ahci_ident *d, const uint8_t *id, const char **reason)
{
    features(d, id);
    sector_sizes(d, id);
    if (!(word(id, ID_CAPABILITIES) & 1u << 8) || !(word(id, ID_CAPABILITIES) & 1u << 9))
        return refuse(reason, "a disk without DMA or LBA");
    d->sectors = word32(id, ID_SECTORS28);
    uint64_t max = LBA28_MAX;
    if (d->lba48) {
        d->sectors = word32(id, ID_SECTORS48) | (uint64_t)word32(id, ID_SECTORS48 + 2) << 32;
        max = LBA48_MAX;
    }
    if (!is_pow2(d->block_size) || d->block_size < 512 || d->block_size > 4096)
        return refuse(reason, "its sector size makes no sense");
    if (!d->sectors || d->sectors > max)
        return refuse(reason, "its capacity makes no sense");
    return 0;
}

int ahci_identify_parse(struct ahci_ident *d, const uint8_t *id, bool packet, const char **reason)
{
    *d = (struct ahci_ident){.packet = packet, .block_size = 2048, .physical = 2048, .depth = 1};
    if (!checksum_ok(id))
        return refuse(reason, "its IDENTIFY data have a wrong checksum");
    text(d->serial, id, ID_SERIAL, 10);
    text(d->firmware, id, ID_FIRMWARE, 4);
    text(d->model, id, ID_MODEL, 20);
    bool is_packet = word(id, ID_CONFIG) >> 14 == 2;
    if (is_packet != packet)
        return refuse(reason, "its IDENTIFY data are of another kind of device");
    if (!packet)
        return disk(d, id, reason);
    d->dmadir = word(id, ID_DMADIR) >> 15;
    if ((word(id, ID_CONFIG) >> 8 & 31) != 5 || word(id, ID_CONFIG) & 3)
        return refuse(reason, "a packet device that is no CD-ROM");
    return 0;
}
