/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * CD-ROM: packets (ACS-3 7.18; SPC-4, MMC-6), one at a time on a port.
 *
 * A packet that fails says why when it is asked (REQUEST SENSE). "Unit attention" only announces that
 * something happened, and the packet is sent again; unless the medium may be another one: then the
 * read has failed, and what is in the drive is looked at anew. Without a medium the disk has size 0;
 * the tray's state is in a line of the console when it changes.
 *
 * Sense and capacity come to a buffer on the coroutine's stack: stacks are DMA memory, and the limits
 * of odd addresses hold for it, too.
 */
#include "ahci/port.h"

#include <string.h>

#define TRIES             5u
#define ASC_MEDIUM_CHANGE 0x28u

struct sense {
    uint8_t key, asc, ascq;
};

static void put_be32(uint8_t *at, uint32_t v)
{
    be32 b;
    be32_set(&b, v);
    memcpy(at, &b, sizeof(b));
}

static uint32_t get_be32(const uint8_t *at)
{
    be32 b;
    memcpy(&b, at, sizeof(b));
    return be32_get(b);
}

/* Bytes received, or SR_EIO. */
static int64_t co_packet(struct ahci_port *p, const uint8_t *packet, struct iov v)
{
    struct ahci_request r = {.kind = AHCI_PACKET, .packet = packet, .v = v};
    int rc = co_ahci_request(p, &r);
    return rc ? rc : (int64_t)r.received;
}

static int co_sense(struct ahci_port *p, struct sense *s)
{
    const uint8_t packet[16] = {[0] = SCSI_REQUEST_SENSE, [4] = SENSE_BYTES};
    uint8_t data[SENSE_BYTES] __attribute__((aligned(8))) = {0};
    struct seg seg;
    int64_t n = co_packet(p, packet, iov_one(&seg, data, sizeof(data)));
    if (n < 14)
        return SR_EIO;
    *s = (struct sense){.key = data[2] & 15, .asc = data[12], .ascq = data[13]};
    return 0;
}

/* MMC-6, 6.6: asked without waiting for an event. What the sense said, where a drive does not know
 * that command. */
static bool co_tray_open(struct ahci_port *p, const struct sense *s)
{
    const uint8_t packet[16] = {
        [0] = SCSI_EVENT_STATUS, [1] = EVENT_POLLED, [4] = EVENT_MEDIA, [8] = EVENT_BYTES};
    uint8_t data[EVENT_BYTES] __attribute__((aligned(8))) = {0};
    struct seg seg;
    if (co_packet(p, packet, iov_one(&seg, data, sizeof(data))) == sizeof(data) &&
        (data[2] & 7) == EVENT_CLASS_MEDIA)
        return data[5] & EVENT_TRAY_OPEN;
    return s->asc == ASC_NO_MEDIUM && s->ascq == ASCQ_TRAY_OPEN;
}

static int co_capacity(struct ahci_port *p)
{
    const uint8_t packet[16] = {[0] = SCSI_READ_CAPACITY};
    uint8_t data[CAPACITY_BYTES] __attribute__((aligned(8))) = {0};
    struct seg seg;
    if (co_packet(p, packet, iov_one(&seg, data, sizeof(data))) != sizeof(data))
        return SR_EIO;
    uint64_t last = get_be32(data);
    if (get_be32(data + 4) != p->id.block_size) {
        ahci_port_say(p, "a medium with blocks of %u bytes: not used", get_be32(data + 4));
        return SR_ENOTSUP;
    }
    p->disk.size = (last + 1) * p->id.block_size;
    return 0;
}

static void set_door(struct ahci_port *p, enum ahci_door door)
{
    static const char *const text[] = {[DOOR_MEDIUM] = "a medium",
                                       [DOOR_CLOSED] = "no medium, tray closed",
                                       [DOOR_OPEN] = "no medium, tray open"};
    if (door != p->door)
        ahci_port_say(p, "%s", text[door]);
    p->door = door;
    if (door != DOOR_MEDIUM)
        p->disk.size = 0;
}

static int co_look(struct ahci_port *p, bool *ready)
{
    const uint8_t packet[16] = {[0] = SCSI_TEST_UNIT_READY};
    struct sense s = {0};
    *ready = false;
    for (unsigned i = 0; i < TRIES; i++) {
        if (!co_packet(p, packet, (struct iov){0})) {
            *ready = !co_capacity(p);
            set_door(p, *ready ? DOOR_MEDIUM : DOOR_CLOSED);
            return 0;
        }
        if (co_sense(p, &s))
            return SR_EIO;
        if (s.key != SENSE_ATTENTION)
            break;
    }
    set_door(p, co_tray_open(p, &s) ? DOOR_OPEN : DOOR_CLOSED);
    return 0;
}

int co_ahci_cd_medium(struct ahci_port *p, bool *ready)
{
    co_mutex_lock(&p->packet_lock);
    int rc = co_look(p, ready);
    co_mutex_unlock(&p->packet_lock);
    return rc;
}

static int co_read(struct ahci_port *p, uint64_t off, struct iov v)
{
    uint8_t packet[16] = {[0] = SCSI_READ_12};
    struct sense s;
    put_be32(packet + 2, (uint32_t)(off / p->id.block_size));
    put_be32(packet + 6, (uint32_t)(v.len / p->id.block_size));
    for (unsigned i = 0; i < TRIES; i++) {
        int64_t n = co_packet(p, packet, v);
        if (n >= 0)
            return n == (int64_t)v.len ? 0 : SR_EIO;
        if (co_sense(p, &s))
            return SR_EIO;
        if (s.key == SENSE_NOT_READY || s.asc == ASC_MEDIUM_CHANGE)
            break;
        if (s.key != SENSE_ATTENTION)
            return SR_EIO;
    }
    bool ready;
    co_look(p, &ready);
    return SR_EIO;
}

int co_ahci_cd_read(struct ahci_port *p, uint64_t off, struct iov v)
{
    co_mutex_lock(&p->packet_lock);
    int rc = co_read(p, off, v);
    co_mutex_unlock(&p->packet_lock);
    return rc;
}
