/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Disks and CD-ROMs in memory, for the model of a controller: what the commands of ahci_hw.h do
 * (ACS-3; packets: SPC-4, MMC-6). A command that a driver must not send is refused (ABRT) and counted.
 */
#include "ahci/device/media.h"

#include <limits.h>
#include <string.h>

#define CD_BLOCK 2048u

/* ---- Memory ---------------------------------------------------------------------------------- */

/* Between `at` and the memory of the PRDs; false: they are too short, or not as they must be. */
static bool transfer(struct ahci_model *m, const struct ahci_model_disk *d,
                     const struct media_command *c, uint8_t *at, size_t len, bool in)
{
    unsigned n = le16_get(c->header->prdtl);
    size_t done = 0, stop = in && d->short_by <= len ? len - d->short_by : len;
    for (unsigned i = 0; i < n && done < len; i++) {
        uint64_t base = le64_get(c->table->prd[i].base);
        size_t some = PRD_COUNT(le32_get(c->table->prd[i].count));
        if (base & 1 || some & 1 || (!(m->cap & CAP_S64A) && (base + some - 1) >> 32))
            ahci_model_complain(m, "a PRD that the controller cannot do");
        some = MIN(some, len - done);
        size_t move = done < stop ? MIN(some, stop - done) : 0;
        if (in)
            memcpy((void *)(uintptr_t)base, at + done, move);
        else
            memcpy(at + done, (void *)(uintptr_t)base, move);
        done += some;
    }
    if (done < len) {
        ahci_model_complain(m, "PRDs that are too short");
        return false;
    }
    le32_set(&c->header->prdbc, (uint32_t)MIN(done, stop));
    return true;
}

/* ---- Disks ----------------------------------------------------------------------------------- */

static uint64_t lba_of(const struct fis_h2d *f)
{
    uint64_t lba = f->lba0 | (uint32_t)f->lba1 << 8 | (uint32_t)f->lba2 << 16;
    return lba | (uint64_t)f->lba3 << 24 | (uint64_t)f->lba4 << 32 | (uint64_t)f->lba5 << 40;
}

struct range {
    uint64_t lba, count;
    bool write, fua;
};

/* False: no transfer of sectors. */
static bool range_of(const struct media_command *c, struct range *r)
{
    const struct fis_h2d *f = &c->table->fis;
    *r = (struct range){.lba = lba_of(f), .count = f->count | (uint32_t)f->count_high << 8};
    switch (f->command) {
    case ATA_WRITE_FPDMA:
        r->write = true; /* fallthrough */
    case ATA_READ_FPDMA:
        r->count = f->feature | (uint32_t)f->feature_high << 8;
        r->fua = f->device & DEVICE_FUA;
        break;
    case ATA_WRITE_DMA_FUA_EXT:
        r->fua = true; /* fallthrough */
    case ATA_WRITE_DMA_EXT:
        r->write = true; /* fallthrough */
    case ATA_READ_DMA_EXT:
        break;
    case ATA_WRITE_DMA:
        r->write = true; /* fallthrough */
    case ATA_READ_DMA:
        r->lba = (r->lba & 0xffffff) | (uint64_t)(f->device & 15) << 24;
        r->count = f->count ? f->count : 256;
        return true;
    default:
        return false;
    }
    r->count = r->count ? r->count : 65536;
    return true;
}

static bool overlaps(const struct range *r, uint64_t first, uint64_t count)
{
    return r->lba < first + count && first < r->lba + r->count;
}

bool media_stuck(struct ahci_model_disk *d, const struct media_command *c)
{
    struct range r;
    if (!range_of(c, &r))
        return false;
    return d->stuck_once || (d->stuck_lba != UINT64_MAX && overlaps(&r, d->stuck_lba, 1));
}

static int do_range(struct ahci_model *m, struct ahci_model_disk *d, const struct media_command *c,
                    const struct range *r)
{
    if (!range_ok(r->lba, r->count, d->size / d->block)) {
        ahci_model_complain(m, "sectors behind the end");
        return ATA_IDNF;
    }
    if (!!(le16_get(c->header->flags) & HEADER_WRITE) != r->write)
        ahci_model_complain(m, "the wrong direction");
    d->fua += r->fua;
    if (d->bad_left && overlaps(r, d->bad_first, d->bad_count)) {
        d->bad_left -= d->bad_left != UINT_MAX;
        return ATA_UNC;
    }
    bool ok = transfer(m, d, c, d->data + r->lba * d->block, r->count * d->block, !r->write);
    return ok ? 0 : ATA_ABRT;
}

static int do_trim(struct ahci_model *m, struct ahci_model_disk *d, const struct media_command *c)
{
    le64 ranges[8 * ATA_TRIM_ENTRIES];
    size_t bytes = c->table->fis.count * 512u;
    if (!bytes || bytes > sizeof(ranges) || !transfer(m, d, c, (uint8_t *)ranges, bytes, false))
        return ATA_ABRT;
    for (size_t i = 0; i < bytes / sizeof(ranges[0]); i++) {
        uint64_t v = le64_get(ranges[i]), lba = v << 16 >> 16, count = v >> 48;
        if (!range_ok(lba, count, d->size / d->block))
            return ATA_IDNF;
        memset(d->data + lba * d->block, 0xdd, count * d->block);
        d->trimmed += count;
    }
    return 0;
}

static int do_log(struct ahci_model *m, struct ahci_model_disk *d, const struct media_command *c)
{
    struct ata_ncq_log log = {.tag = d->log_tag, .status = 0x41, .error = d->log_error};
    const uint8_t *b = (const uint8_t *)&log;
    if (d->no_log || c->table->fis.lba0 != ATA_LOG_NCQ)
        return ATA_ABRT;
    if (!d->log_pending)
        log.tag = NCQ_LOG_NOT_QUEUED;
    for (size_t i = 0; i < sizeof(log) - 1; i++)
        log.checksum = (uint8_t)(log.checksum - b[i]);
    d->log_pending = false;
    return transfer(m, d, c, (uint8_t *)&log, sizeof(log), true) ? 0 : ATA_ABRT;
}

/* ---- CD-ROM ---------------------------------------------------------------------------------- */

static int sense(struct ahci_model_disk *d, uint8_t key, uint8_t asc, uint8_t ascq)
{
    d->key = key;
    d->asc = asc;
    d->ascq = ascq;
    return key << 4 | ATA_ABRT;
}

static uint32_t get_be32(const uint8_t *b)
{
    return (uint32_t)b[0] << 24 | (uint32_t)b[1] << 16 | (uint32_t)b[2] << 8 | b[3];
}

static int reply(struct ahci_model *m, struct ahci_model_disk *d, const struct media_command *c,
                 const uint8_t *data, size_t len)
{
    uint8_t copy[32];
    memcpy(copy, data, len);
    return transfer(m, d, c, copy, len, true) ? 0 : ATA_ABRT;
}

static int do_sense(struct ahci_model *m, struct ahci_model_disk *d, const struct media_command *c)
{
    uint8_t data[SENSE_BYTES] = {0x70, 0, d->key, [7] = 10, [12] = d->asc, [13] = d->ascq};
    d->key = d->asc = d->ascq = 0;
    return reply(m, d, c, data, sizeof(data));
}

static int do_event(struct ahci_model *m, struct ahci_model_disk *d, const struct media_command *c)
{
    uint8_t data[8] = {0, 6, 4, 0x10, 0, d->tray_open ? 1 : d->no_medium ? 0 : 2};
    return reply(m, d, c, data, sizeof(data));
}

static int do_capacity(struct ahci_model *m, struct ahci_model_disk *d,
                       const struct media_command *c)
{
    uint32_t last = (uint32_t)(d->size / CD_BLOCK - 1);
    uint8_t data[8] = {(uint8_t)(last >> 24),
                       (uint8_t)(last >> 16),
                       (uint8_t)(last >> 8),
                       (uint8_t)last,
                       0,
                       0,
                       CD_BLOCK >> 8,
                       0};
    return reply(m, d, c, data, sizeof(data));
}

static int do_read12(struct ahci_model *m, struct ahci_model_disk *d, const struct media_command *c)
{
    uint64_t lba = get_be32(c->table->packet + 2), count = get_be32(c->table->packet + 6);
    if (!range_ok(lba, count, d->size / CD_BLOCK))
        return sense(d, 5, 0x21, 0);
    if (d->bad_left && lba <= d->bad_first && d->bad_first < lba + count)
        return sense(d, 3, 0x11, 0);
    return transfer(m, d, c, d->data + lba * CD_BLOCK, count * CD_BLOCK, true) ? 0 : ATA_ABRT;
}

static int do_packet(struct ahci_model *m, struct ahci_model_disk *d, const struct media_command *c)
{
    uint8_t op = c->table->packet[0];
    if (!(le16_get(c->header->flags) & HEADER_ATAPI))
        ahci_model_complain(m, "a packet that is not marked as one");
    d->packets[op]++;
    if (op == SCSI_REQUEST_SENSE)
        return do_sense(m, d, c);
    if (op == SCSI_EVENT_STATUS)
        return do_event(m, d, c);
    if (d->attention) {
        uint8_t asc = d->attention;
        d->attention = 0;
        return sense(d, SENSE_ATTENTION, asc, 0);
    }
    if (d->no_medium)
        return sense(d, SENSE_NOT_READY, ASC_NO_MEDIUM, 0);
    if (op == SCSI_TEST_UNIT_READY)
        return 0;
    if (op == SCSI_READ_CAPACITY)
        return do_capacity(m, d, c);
    return op == SCSI_READ_12 ? do_read12(m, d, c) : sense(d, 5, 0x20, 0);
}

/* ---- All commands ---------------------------------------------------------------------------- */

int media_execute(struct ahci_model *m, struct ahci_model_disk *d, const struct media_command *c)
{
    const struct fis_h2d *f = &c->table->fis;
    struct range r;
    if (f->type != FIS_H2D || f->flags != FIS_IS_COMMAND)
        ahci_model_complain(m, "no command in the FIS");
    d->commands[f->command]++;
    if (f->command == (d->cd ? ATA_IDENTIFY_PACKET : ATA_IDENTIFY))
        return transfer(m, d, c, d->id, sizeof(d->id), true) ? 0 : ATA_ABRT;
    if (d->cd)
        return f->command == ATA_PACKET ? do_packet(m, d, c) : (int)ATA_ABRT;
    if (range_of(c, &r))
        return do_range(m, d, c, &r);
    switch (f->command) {
    case ATA_FLUSH:
    case ATA_FLUSH_EXT:
        return 0;
    case ATA_DSM:
        return do_trim(m, d, c);
    case ATA_READ_LOG_EXT:
        return do_log(m, d, c);
    default:
        ahci_model_complain(m, "a command that this disk does not know");
        return ATA_ABRT;
    }
}

/* ---- IDENTIFY -------------------------------------------------------------------------------- */

void ahci_model_id(struct ahci_model_disk *d, unsigned word, uint16_t value)
{
    d->id[2 * word] = (uint8_t)value;
    d->id[2 * word + 1] = (uint8_t)(value >> 8);
}

static void set_text(struct ahci_model_disk *d, unsigned word, unsigned words, const char *text)
{
    for (unsigned i = 0; i < 2 * words; i++)
        d->id[2 * word + (i ^ 1)] = *text ? (uint8_t)*text++ : ' ';
}

static void set_sectors(struct ahci_model_disk *d)
{
    uint64_t n = d->size / d->block, small = MIN(n, 0xfffffffu);
    ahci_model_id(d, ID_SECTORS28, (uint16_t)small);
    ahci_model_id(d, ID_SECTORS28 + 1, (uint16_t)(small >> 16));
    for (unsigned i = 0; i < 4; i++)
        ahci_model_id(d, ID_SECTORS48 + i, (uint16_t)(n >> 16 * i));
}

void ahci_model_disk_init(struct ahci_model_disk *d, uint8_t *data, uint64_t size, uint32_t block,
                          const char *serial)
{
    *d = (struct ahci_model_disk){.data = data, .size = size, .block = block};
    d->stuck_lba = UINT64_MAX;
    set_text(d, ID_SERIAL, 10, serial);
    set_text(d, ID_FIRMWARE, 4, "1.0");
    set_text(d, ID_MODEL, 20, "MODEL DISK");
    ahci_model_id(d, ID_CAPABILITIES, 3u << 8);
    ahci_model_id(d, ID_QUEUE_DEPTH, 31);
    ahci_model_id(d, ID_SATA, 1u << 8);
    ahci_model_id(d, ID_COMMANDS2, 1u << 14 | 1u << 13 | 1u << 12 | 1u << 10);
    ahci_model_id(d, ID_COMMANDS3, 1u << 14 | 1u << 6);
    ahci_model_id(d, ID_TRIM_BLOCKS, 8);
    ahci_model_id(d, ID_DSM, 1);
    ahci_model_id(d, ID_ROTATION, 1);
    if (block != 512) {
        ahci_model_id(d, ID_SECTOR_SIZE, 1u << 14 | 1u << 12);
        ahci_model_id(d, ID_LOGICAL_WORDS, (uint16_t)(block / 2));
    }
    set_sectors(d);
}

void ahci_model_cd_init(struct ahci_model_disk *d, uint8_t *data, uint64_t size, const char *serial)
{
    ahci_model_disk_init(d, data, size, CD_BLOCK, serial);
    d->cd = true;
    ahci_model_id(d, ID_CONFIG, 2u << 14 | 5u << 8 | 1u << 7);
}
